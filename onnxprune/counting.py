"""What an ONNX file costs to run and to store: MACs, parameters, operators, bytes."""

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxprune.errors import InputError
from onnxprune.onnxfile import Shape, constants, infer_shapes, input_shapes, load, one_line, operator_type


@dataclass(frozen=True)
class OpCount:
    """Nodes of one operator type, their MACs and their parameters; shared ones count at the first user."""

    count: int
    macs: int
    params: int


@dataclass(frozen=True)
class Counts:
    """
    Attributes:
        macs: multiply-accumulates of Conv, ConvTranspose, Gemm and MatMul, integer variants included, for `batch`
            samples. Biases are not counted; multiplications by padding are.
        effective_macs: those without the multiplications by zeros that a constant weight stores.
        flops: 2 * macs.
        params: elements of floating-point initializers, and of other constants that are the weight or bias of
            such an operator. Shapes and indices are no parameters.
        nonzero_params: those that are not zero (quantized ones: not at their zero point).
        file_bytes: of the file and of the external data it names.
        operators: operator type ("domain.Type" outside ONNX's own) -> its nodes, most MACs first.
        onnx_tool_ops: onnx-tool's total for `batch` samples, which also counts biases, activations, pooling and
            BatchNorm (31 an element); None where it cannot handle the file.
        onnx_tool_note: why it is None.
        uncounted: operator type -> number of nodes that may multiply outside `macs`: operators of other domains,
            and ONNX's recurrent ones, control flow and the like.
    """

    macs: int
    effective_macs: int
    flops: int
    params: int
    nonzero_params: int
    file_bytes: int
    operators: dict[str, OpCount]
    onnx_tool_ops: int | None
    onnx_tool_note: str | None
    uncounted: dict[str, int]

    @property
    def sparsity(self) -> float:
        """Percentage of the parameters that are zero; 0 where there are none."""
        return 100 * (1 - self.nonzero_params / self.params) if self.params else 0.0


@dataclass(frozen=True)
class _Operator:
    """An operator that is counted: positions of its inputs, and MACs from node, data, weight and output shapes."""

    macs: Callable[[NodeProto, Shape, Shape, Shape], int]
    data: int = 0
    weight: int = 1
    bias: int | None = None
    zero_point: int | None = None  # of the weight
    channel_axis: int = 0  # of the weight, for zero points that differ by channel


def _conv_macs(node: NodeProto, data: Shape, weight: Shape, output: Shape) -> int:
    return prod(output) * prod(weight[1:])  # weight (out, in / groups, *kernel)


def _conv_transpose_macs(node: NodeProto, data: Shape, weight: Shape, output: Shape) -> int:
    return prod(data) * prod(weight[1:])  # weight (in, out / groups, *kernel)


def _gemm_macs(node: NodeProto, data: Shape, weight: Shape, output: Shape) -> int:
    return prod(output) * data[0 if _attribute(node, "transA", 0) else 1]


def _matmul_macs(node: NodeProto, data: Shape, weight: Shape, output: Shape) -> int:
    return prod(output) * data[-1]


_OPERATORS = {
    "Conv": _Operator(_conv_macs, bias=2),
    "ConvInteger": _Operator(_conv_macs, zero_point=3),
    "ConvTranspose": _Operator(_conv_transpose_macs, bias=2),
    "Gemm": _Operator(_gemm_macs, bias=2),
    "MatMul": _Operator(_matmul_macs),
    "MatMulInteger": _Operator(_matmul_macs, zero_point=3, channel_axis=-1),
    "QLinearConv": _Operator(_conv_macs, weight=3, zero_point=5, bias=8),
    "QLinearMatMul": _Operator(_matmul_macs, weight=3, zero_point=5, channel_axis=-1),
}

# ONNX's own operators that multiply within, by an amount that data or an equation decides.
_NOT_COUNTED = {
    "Attention", "DFT", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "RNN", "STFT", "Scan", "SequenceMap",
}  # fmt: skip

# A constant keeps its number of elements and of zeros through these.
_KEEPING = {"Cast", "DequantizeLinear", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


def count(path: Path, batch: int = 1, input_shape: Sequence[int] | None = None) -> Counts:
    """Counts of the ONNX file for `batch` samples.

    Args:
        input_shape: of one sample, without the batch; needed where the file's one input leaves it open.

    Raises:
        InputError: not an ONNX file, or one whose shapes cannot be known.
    """
    model, file_bytes = load(path)
    inputs = input_shapes(path, model.graph, batch, input_shape)
    shapes = infer_shapes(path, model, inputs)
    weights = _Weights(model.graph)
    macs: Counter[str] = Counter()
    effective_macs = 0
    for node in model.graph.node:
        if operator_type(node) in _OPERATORS:
            dense = _macs(path, node, shapes)
            macs[operator_type(node)] += dense
            effective_macs += weights.effective(node, dense)
    nodes = Counter(operator_type(node) for node in model.graph.node)
    params = weights.params_by_type()
    ops, note = _onnx_tool_ops(model, inputs)  # last: it may change the model
    return Counts(
        macs=macs.total(),
        effective_macs=effective_macs,
        flops=2 * macs.total(),
        params=sum(weights.arrays[name].size for name in weights.params),
        nonzero_params=sum(weights.nonzero[name] for name in weights.params),
        file_bytes=file_bytes,
        operators={
            name: OpCount(nodes[name], macs[name], params[name])
            for name in sorted(nodes, key=lambda name: (-macs[name], name))
        },
        onnx_tool_ops=ops,
        onnx_tool_note=note,
        uncounted={name: n for name, n in sorted(nodes.items()) if name in _NOT_COUNTED or "." in name},
    )


class _Weights:
    """The constants of a graph: `arrays` by name, those that are parameters, and how many elements are not zero."""

    def __init__(self, graph: GraphProto) -> None:
        self._nodes = graph.node
        self._producers = {node.output[0]: node for node in graph.node if node.output}
        self.arrays = dict(constants(graph))
        self.params = {tensor.name for tensor in graph.initializer if _is_floating(tensor)}
        self.nonzero = {name: int(np.count_nonzero(array)) for name, array in self.arrays.items()}
        for node in graph.node:
            self._add_params_of(node)

    def _add_params_of(self, node: NodeProto) -> None:
        operator = _OPERATORS.get(operator_type(node))
        if operator is not None:
            for position in (operator.data, operator.weight, operator.bias):
                name = self._origin(node, position)
                if name is not None:
                    self.params.add(name)
            self._set_zero_point(node, operator.weight, operator.zero_point, operator.channel_axis)
        elif operator_type(node) == "DequantizeLinear":
            self._set_zero_point(node, 0, 2, _attribute(node, "axis", 1))

    def _set_zero_point(self, node: NodeProto, position: int, zero_position: int | None, axis: int) -> None:
        """Counts the weight's elements against the zero point that the node reads them with."""
        name, zero_name = self._origin(node, position), self._origin(node, zero_position)
        if name is None or zero_name is None:
            return
        array, zero = self.arrays[name], self.arrays[zero_name]
        if zero.size > 1 and zero.ndim == 1:
            zero = np.expand_dims(zero, [other for other in range(array.ndim) if other != axis % array.ndim])
        elif zero.size > 1:  # blocks along the axis
            zero = np.repeat(zero, -(-array.shape[axis] // zero.shape[axis]), axis)
            zero = zero.take(range(array.shape[axis]), axis)
        self.nonzero[name] = int(np.count_nonzero(array != zero))

    def _origin(self, node: NodeProto, position: int | None) -> str | None:
        """Name of the constant that the node's input at `position` is, or None."""
        if position is None or position >= len(node.input):
            return None
        name = node.input[position]
        while name not in self.arrays:
            producer = self._producers.get(name)
            if producer is None or operator_type(producer) not in _KEEPING:
                return None
            name = producer.input[0]
        return name

    def effective(self, node: NodeProto, macs: int) -> int:
        """MACs without those by stored zeros: each element of a weight takes part in equally many."""
        operator = _OPERATORS[operator_type(node)]
        for position in (operator.weight, operator.data):
            name = self._origin(node, position)
            if name is not None and self.arrays[name].size:
                return macs // self.arrays[name].size * self.nonzero[name]
        return macs

    def params_by_type(self) -> Counter[str]:
        """Elements of the parameters by type of the operator that uses them, each at its first user."""
        found: Counter[str] = Counter()
        left = set(self.params)
        for node in self._nodes:
            for position in range(1 if operator_type(node) in _KEEPING else 0, len(node.input)):
                name = self._origin(node, position)
                if name is not None and name in left:
                    left.remove(name)
                    found[operator_type(node)] += self.arrays[name].size
        return found


def _is_floating(tensor: TensorProto) -> bool:
    return TensorProto.DataType.Name(tensor.data_type).startswith(("FLOAT", "BFLOAT", "DOUBLE"))


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)


def _macs(path: Path, node: NodeProto, shapes: dict[str, Shape]) -> int:
    operator = _OPERATORS[operator_type(node)]
    names = (node.input[operator.data], node.input[operator.weight], node.output[0])
    missing = [name for name in names if name not in shapes]
    if missing:
        label = node.name or node.output[0]
        raise InputError(f"{path}: the shape of {missing[0]!r} at {node.op_type} {label!r} cannot be inferred")
    data, weight, output = (shapes[name] for name in names)
    return operator.macs(node, data, weight, output)


def _onnx_tool_ops(model: ModelProto, inputs: dict[str, Shape]) -> tuple[int | None, str | None]:
    """onnx-tool's total, or None and why. It prints, warns and even exits; nothing of that may leave here."""
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    silent = io.StringIO()
    try:
        with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import onnx_tool

            graph = onnx_tool.Model(model).graph
            graph.graph_reorder_nodes()
            graph.shape_infer(
                {
                    name: np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(types[name]))
                    for name, shape in inputs.items()
                }
            )
            graph.profile()
            return int(graph.macs[0]), None
    except (Exception, SystemExit) as error:
        return None, f"onnx-tool failed: {one_line(error)}"
