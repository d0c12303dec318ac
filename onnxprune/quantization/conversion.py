"""The conversion of a prepared model, by onnxruntime's quantiser."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType

import onnx
from onnx import ModelProto

from onnxprune.common.errors import InputError, one_line
from onnxprune.common.output import silenced
from onnxprune.common.temporary import temporary_folder
from onnxprune.graph.network import Network, in_order, read
from onnxprune.graph.nodes import subgraphs, used_names
from onnxprune.quantization.calibration import calibrate, method
from onnxprune.quantization.preparation import Prepared
from onnxprune.quantization.settings import QuantizeSettings
from onnxprune.runtime.random_inputs import Inputs

# Products, and what lies between them: left in float32 it would have activations converted back and forth.
STATIC = (
    "Conv", "Gemm", "MatMul", "Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Mul",
    "Relu", "Reshape", "Sigmoid", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
# A Gemm has become a MatMul, and ConvInteger is several times slower than a convolution of floats.
DYNAMIC = ("LSTM", "MatMul")


def kinds_of(settings: QuantizeSettings) -> tuple[str, ...] | None:
    """Operators that are converted; None: all."""
    if settings.type == "float16":
        return None
    return DYNAMIC if settings.dynamic else STATIC


class Converter:
    """Converts a prepared model, with other layers left in float32 each time; its ranges are found once.

    Weights have 7 bits: with 8, processors without VNNI add pairs of products in 16 bits, which overflow and saturate
    (onnxruntime issues 5849, 6004, 12072), and a file is to answer alike wherever it is run.

    Args:
        batches: samples that tell ranges; none where they are not needed.
        path: of the file, for messages.
    """

    def __init__(self, prepared: Prepared, settings: QuantizeSettings, batches: Sequence[Inputs], path: Path) -> None:
        self._prepared = prepared
        self._settings = settings
        self._path = path
        self._folder = temporary_folder()
        place = Path(self._folder.name)
        self._model, self._ranges, self._made = place / "model.onnx", place / "ranges.json", place / "made.onnx"
        if settings.type == "int8":
            from onnxruntime.quantization.quant_utils import add_pre_process_metadata

            model = ModelProto()
            model.CopyFrom(prepared.model)
            add_pre_process_metadata(model)  # else the quantiser advises what has been done
            inferred = onnx.shape_inference.infer_shapes
            self._guarded(lambda: self._model.write_bytes(inferred(model).SerializeToString()))
        if settings.calibrated:
            self._guarded(lambda: calibrate(self._model, batches, settings.calibration, STATIC, self._ranges))

    def __enter__(self) -> Converter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def convert(self, keep: Collection[str] = (), only: str | None = None) -> Network:
        """The network in the other type.

        Args:
            keep: nodes of the prepared model that stay as they are, beside those that cannot be converted.
            only: the one node that is converted; None: all.

        Raises:
            InputError: onnxruntime's quantiser fails on it.
        """
        left = {layer.node for layer in self._prepared.layers if layer.obstacle is not None} | set(keep)
        convert = self._half if self._settings.type == "float16" else self._eight_bits
        self._guarded(lambda: convert(sorted(left), only))
        self._sort()
        found = read(self._made)
        del found.model.metadata_props[:]
        return found

    def _cutting_what_is_told(self) -> list[str]:
        """Nodes that cut off values that others see too, as outputs of the graph or in subgraphs: the quantiser gives
        what they read the range of what they give, as if nobody else read it."""
        model = onnx.load(self._model, load_external_data=False)
        seen = {value.name for value in model.graph.output}
        for node in model.graph.node:
            for inner in subgraphs(node):
                seen |= used_names(inner)
        return [node.name for node in model.graph.node if node.op_type in ("Relu", "Clip") and node.input[0] in seen]

    def _sort(self) -> None:
        """Puts nodes behind what they read: the quantiser overlooks what subgraphs take from outside."""
        model = onnx.load(self._made)
        nodes = in_order(list(model.graph.node))
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        onnx.save(model, self._made)

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            with silenced():
                work()
        except Exception as error:  # the quantiser raises anything
            raise InputError(f"{self._path}: onnxruntime's quantiser fails on it: {one_line(error)}") from error

    def _eight_bits(self, left: list[str], only: str | None) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static

        chosen = None if only is None else [only]
        common = {
            "per_channel": True,
            "reduce_range": True,
            "weight_type": QuantType.QInt8,
            "nodes_to_quantize": chosen,
            "nodes_to_exclude": left,
            "extra_options": {"DefaultTensorType": onnx.TensorProto.FLOAT},  # behind operators that onnx does not know
        }
        if self._settings.dynamic:
            quantize_dynamic(str(self._model), str(self._made), op_types_to_quantize=list(DYNAMIC), **common)
            return
        common["nodes_to_exclude"] = [*left, *self._cutting_what_is_told()]
        quantize_static(
            str(self._model),
            str(self._made),
            op_types_to_quantize=list(STATIC),
            activation_type=QuantType.QUInt8,
            calibrate_method=method(self._settings.calibration),
            calibration_cache_path=self._ranges,
            **common,
        )

    def _half(self, left: list[str], only: str | None) -> None:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        blocked = left
        if only is not None:
            blocked = [node.name for node in self._prepared.model.graph.node if node.name != only]
        model = ModelProto()
        model.CopyFrom(self._prepared.model)
        made = convert_float_to_float16(model, keep_io_types=True, node_block_list=blocked)
        self._made.write_bytes(made.SerializeToString())
