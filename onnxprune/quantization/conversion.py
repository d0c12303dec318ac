"""The conversion of a prepared model, by onnxruntime's quantiser."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnxprune.common.errors import InputError, one_line
from onnxprune.common.output import silenced
from onnxprune.common.temporary import temporary_folder
from onnxprune.graph.network import Network, attribute, in_order, live_nodes, made_in, read, reads
from onnxprune.graph.nodes import rename, subgraphs, used_names
from onnxprune.quantization.activation_products import read_floats
from onnxprune.quantization.calibration import calibrate, method
from onnxprune.quantization.preparation import Prepared
from onnxprune.quantization.settings import QuantizeSettings
from onnxprune.quantization.softmax import widen_scales
from onnxprune.runtime.random_inputs import Inputs

Made = TypeVar("Made")

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
        left = sorted({layer.node for layer in self._prepared.layers if layer.obstacle is not None} | set(keep))
        if self._settings.type == "float16":
            self._guarded(lambda: self._half(left, only))
        else:
            self._guarded(lambda: self._eight_bits(left, keep, only))
        return self._guarded(lambda: self._tidied(keep))

    def _cutting(self, keep: Collection[str]) -> list[str]:
        """Nodes that cut off values and have to stay. The quantiser leaves them out, and gives what they read the range
        of what they give: as if nobody else read it, though it may be an output of the graph or be read in a subgraph,
        and as if nobody needed what they give in floats, as a subgraph does, and a product of activations that is kept
        from 8 bits."""
        graph = onnx.load(self._model, load_external_data=False).graph
        constants = {tensor.name for tensor in graph.initializer}
        needed: set[str] = set()
        for node in graph.node:
            if node.name in keep and constants.isdisjoint(node.input[:2]):
                needed.update(node.input)
            for inner in subgraphs(node):
                needed |= used_names(inner)
        seen = needed | {value.name for value in graph.output}
        cutting = [node for node in graph.node if node.op_type in ("Relu", "Clip")]
        return [node.name for node in cutting if node.input[0] in seen or node.output[0] in needed]

    def _tidied(self, keep: Collection[str]) -> Network:
        """What was made, its nodes behind what they read, as the quantiser overlooks what subgraphs take from outside;
        products kept from 8 bits, and scales in reach of Softmax; without the operator sets that onnxruntime adds and
        nothing uses."""
        model = onnx.load(self._made)
        read_floats(model.graph, keep)
        nodes = live_nodes(in_order(list(model.graph.node)), [value.name for value in model.graph.output])
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        widen_scales(model.graph)
        domains = _domains(model.graph)
        opsets = [entry for entry in model.opset_import if entry.domain in domains]
        del model.opset_import[:]
        model.opset_import.extend(opsets)
        onnx.save(model, self._made)
        found = read(self._made)
        del found.model.metadata_props[:]
        return found

    def _guarded(self, work: Callable[[], Made]) -> Made:
        try:
            with silenced():
                return work()
        except Exception as error:  # the quantiser raises anything
            why = one_line(error).removeprefix(f"{self._made}: ")  # which nobody has seen
            raise InputError(f"{self._path}: onnxruntime's quantiser fails on it: {why}") from error

    def _eight_bits(self, left: list[str], keep: Collection[str], only: str | None) -> None:
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
        common["nodes_to_exclude"] = [*left, *self._cutting(keep)]
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

        model = ModelProto()
        model.CopyFrom(self._prepared.model)
        blocked = [*left, *(node.name for node in model.graph.node if _is_fused_wrongly(node))]
        if only is not None:
            blocked = [node.name for node in model.graph.node if node.name != only]
        made = convert_float_to_float16(model, keep_io_types=True, node_block_list=blocked)
        _widen_what_bodies_take(made.graph, blocked)
        # what several nodes in float32 read is converted for each of them, to the same name
        nodes = _with_casts_in_bodies(list({tuple(node.output): node for node in made.graph.node}.values()))
        del made.graph.node[:]
        made.graph.node.extend(nodes)
        self._made.write_bytes(made.SerializeToString())


def _widen_what_bodies_take(graph: GraphProto, nodes: Collection[str]) -> None:
    """Gives the bodies of these nodes, which stay in float32, what they take from outside in that type: onnxruntime's
    converter does so with the inputs of a node alone."""
    halves = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    halves |= {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    for node in [node for node in graph.node if node.name in nodes]:
        wide = {name: f"{name}_float32" for name in halves.intersection(reads(node))}
        for inner in subgraphs(node):
            rename(inner, wide)
        graph.node.extend(helper.make_node("Cast", [name], [wide[name]], to=TensorProto.FLOAT) for name in sorted(wide))


def _with_casts_in_bodies(nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes without the conversions of what bodies make, which are put into these: onnxruntime's converter leaves
    all of them in the main graph."""
    for body in [inner for node in nodes for inner in subgraphs(node)]:
        held = made_in(body) | {value.name for value in (*body.input, *body.initializer)}
        moved = [node for node in nodes if node.op_type == "Cast" and node.input[0] in held]
        nodes = [node for node in nodes if node not in moved]
        within = in_order(_with_casts_in_bodies([*body.node, *moved]))
        del body.node[:]
        body.node.extend(within)
    return nodes


def _is_fused_wrongly(node: NodeProto) -> bool:
    """Whether onnxruntime's MatmulTransposeFusion crashes on this node in float16 in front of a product, as it does on
    transpositions that put the first axis behind others: a recurrent layer with the batch first ends with one."""
    if node.op_type != "Transpose":
        return False
    perm = attribute(node, "perm", ())
    rest = [*range(1, len(perm) - 1)]
    return len(perm) > 2 and list(perm) in ([*rest, 0, len(perm) - 1], [*rest, len(perm) - 1, 0])


def _domains(graph: GraphProto) -> set[str]:
    """Of the graph's operators, those of subgraphs included; that of ONNX always."""
    domains = {"", "ai.onnx"}
    for node in graph.node:
        domains.add(node.domain)
        for inner in subgraphs(node):
            domains |= _domains(inner)
    return domains
