"""Values that depend on constants and sizes alone: the integer part of a graph, from which shapes are made."""

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from math import prod

import numpy as np
from onnx import NodeProto, OperatorSetIdProto, TensorProto, helper, numpy_helper

from onnxprune.graph.macs import Site
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.tensors import Shape

MAX_ELEMENTS = 2**16  # of a value; sizes, indices and masks of real files have fewer

_MAX_WORK = 2**22  # elements of all values of one graph

_SIZES = {"Shape", "Size"}  # they read the shape of their input, not its values

_BY_DATA = {"Compress", "NonZero", "Unique"}  # their output has no more elements than their input, but how many?

_LOOPING = {"GatherND", "ScatterElements", "ScatterND"}  # onnx's reference goes through their elements one by one

_MAX_LOOPED = 2**11

_ARITHMETIC = {
    "Abs", "Add", "And", "ArgMax", "ArgMin", "BitShift", "Cast", "CastLike", "Ceil", "Clip", "Concat",
    "ConstantOfShape", "CumSum", "Div", "Equal", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather",
    "GatherElements", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min",
    "Mod", "Mul", "Neg", "Not", "OneHot", "Or", "Pad", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Reshape", "Round", "Sign", "Slice", "Split", "Sqrt", "Squeeze",
    "Sub", "Sum", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Upsample", "Where", "Xor",
    *_SIZES, *_BY_DATA, *_LOOPING,
}  # fmt: skip


class Evaluator:
    """Evaluates what is asked for, and what that needs, by NumPy or onnx's reference implementation.

    A value is known where it comes from constants and shapes by arithmetic, and is small: files are strangers', so the
    elements of each and of all are bounded.
    """

    def __init__(
        self,
        nodes: Iterable[NodeProto],
        opsets: Iterable[OperatorSetIdProto],
        known: Mapping[str, np.ndarray],
        shapes: Mapping[str, Shape],
    ) -> None:
        """
        Args:
            nodes: of the graph, in their order.
            known: name -> value, of constants.
            shapes: of the graph's tensors, to which the caller may add those that become known.
        """
        self._producers = {name: node for node in nodes for name in node.output if name}
        self._opsets = list(opsets)
        self._values: MutableMapping[str, np.ndarray | None] = dict(known)
        self._shapes = shapes
        self._work = 0

    def value(self, name: str) -> np.ndarray | None:
        """The value of a tensor; None where it depends on data, or is too large."""
        waiting = [name]
        while waiting:
            top = waiting[-1]
            node = self._producers.get(top)
            if top in self._values:
                waiting.pop()
            elif node is None or operator_type(node) not in _ARITHMETIC or not self._is_small(node):
                self._values[top] = None
            else:
                needed = () if operator_type(node) in _SIZES else node.input
                missing = [other for other in needed if other and other not in self._values]
                if missing:
                    waiting += missing
                else:
                    self._values.update(dict.fromkeys(filter(None, node.output)))
                    self._values.update(self._evaluate(node))
        return self._values[name]

    def learn(self, name: str, value: np.ndarray) -> None:
        """Takes in a value that was found by other means."""
        self._values[name] = value

    def origin(self, name: str) -> tuple[str, NodeProto | None]:
        """Where it is decided that the value of `name` is not known: the tensor, and the node it comes from.

        The node is None for an input of the graph.
        """
        for _ in range(len(self._producers)):
            node = self._producers.get(name)
            unknown = [other for other in node.input if other and self.value(other) is None] if node else []
            if node is None or operator_type(node) not in _ARITHMETIC - _SIZES or not unknown:
                break
            name = unknown[-1]
        return name, self._producers.get(name)

    def _is_small(self, node: NodeProto) -> bool:
        """Whether evaluating the node makes a bounded number of elements; they are known before it is done."""
        kind = operator_type(node)
        names = node.input[:1] if kind in _BY_DATA else [name for name in node.output if name]
        limit = _MAX_LOOPED if kind in _LOOPING else MAX_ELEMENTS
        shapes = [self._shapes.get(name) for name in names]
        return all(shape is not None and prod(shape) <= limit for shape in shapes) and self._work < _MAX_WORK

    def _evaluate(self, node: NodeProto) -> dict[str, np.ndarray]:
        feed: dict[str, np.ndarray] = {}
        for name in filter(None, node.input):
            value = self._values.get(name)
            if operator_type(node) in _SIZES:
                shape = self._shapes.get(name)
                value = None if shape is None else np.broadcast_to(np.float32(0), shape)  # a view of one element
            if value is None:
                return {}
            feed[name] = value
        names = [name for name in node.output if name]
        try:
            found = evaluated(node, self._opsets, feed)
        except Exception:  # whatever onnx's implementation makes of a stranger's node: its value is not known
            return {}
        values = {name: np.asarray(value) for name, value in zip(names, found, strict=True)}
        self._work += sum(value.size for value in values.values())
        return values


def evaluated(
    node: NodeProto, opsets: Iterable[OperatorSetIdProto], feed: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """The outputs of one node, those that it has a name for, by NumPy or onnx's reference implementation.

    Args:
        feed: values of its inputs, by name.

    Raises:
        Exception: whatever the implementation makes of values that do not fit.
    """
    plain = _PLAIN.get(operator_type(node)) if all(node.input) else None
    with np.errstate(all="ignore"):
        if plain is not None:
            return [np.asarray(plain(Site(node, [], []), *(feed[name] for name in node.input)))]
        from onnx.reference import ReferenceEvaluator

        names = [name for name in node.output if name]
        function = helper.make_function("", "one_node", list(feed), names, [node], list(opsets))
        return [np.asarray(value) for value in ReferenceEvaluator(function).run(None, dict(feed), attributes={})]


def _divide(site: Site, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if first.dtype.kind == "f":
        return np.divide(first, second)
    quotient = np.abs(first) // np.abs(second)  # integers are rounded towards zero
    return np.where((first < 0) ^ (second < 0), -quotient, quotient).astype(first.dtype)


def _unsqueeze(site: Site, array: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    places = site.attribute("axes", []) if axes is None else axes.tolist()
    return np.expand_dims(array, tuple(places))


def _slice(site: Site, array: np.ndarray, *bounds: np.ndarray) -> np.ndarray:
    given = [bound.tolist() for bound in bounds]  # before opset 10 attributes, without steps
    starts, ends, *rest = given or [site.attribute("starts", []), site.attribute("ends", [])]
    axes = rest[0] if rest else site.attribute("axes", range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    places = [slice(None)] * array.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        places[axis] = slice(start, end, step)
    return array[tuple(places)]


def _reshape(site: Site, array: np.ndarray, target: np.ndarray) -> np.ndarray:
    sizes = target.tolist()
    if not site.attribute("allowzero", 0):
        sizes = [array.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return array.reshape(sizes)


def _expand(site: Site, array: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.array(np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(target.tolist()))))


def _range(site: Site, start: np.ndarray, end: np.ndarray, step: np.ndarray) -> np.ndarray:
    length = max(0, int(np.ceil((end - start) / step)))
    return np.asarray(start + step * np.arange(length)).astype(start.dtype)


def _constant_of_shape(site: Site, target: np.ndarray) -> np.ndarray:
    value = site.attribute("value", None)
    return np.full(target.tolist(), 0 if value is None else numpy_helper.to_array(value).item(), _type_of(value))


def _type_of(value: TensorProto | None) -> np.dtype:
    return np.dtype(np.float32) if value is None else np.dtype(helper.tensor_dtype_to_np_dtype(value.data_type))


# The commonest, by NumPy: importing onnx's reference takes longer than counting most files.
_PLAIN: dict[str, Callable[..., np.ndarray]] = {
    "Add": lambda site, first, second: np.add(first, second),
    "Cast": lambda site, array: array.astype(helper.tensor_dtype_to_np_dtype(site.attribute("to", 0))),
    "Concat": lambda site, *arrays: np.concatenate(arrays, site.attribute("axis", 0)),
    "ConstantOfShape": _constant_of_shape,
    "Div": _divide,
    "Equal": lambda site, first, second: np.equal(first, second),
    "Expand": _expand,
    "Floor": lambda site, array: np.floor(array),
    "Gather": lambda site, array, places: np.take(array, places, site.attribute("axis", 0)),
    "Identity": lambda site, array: array,
    "Not": lambda site, array: np.logical_not(array),
    "Mul": lambda site, first, second: np.multiply(first, second),
    "Range": _range,
    "Reshape": _reshape,
    "Shape": lambda site, array: np.array(
        array.shape[site.attribute("start", 0) : site.attribute("end", None)], np.int64
    ),
    "Size": lambda site, array: np.array(array.size, np.int64),
    "Slice": _slice,
    "Sub": lambda site, first, second: np.subtract(first, second),
    "Transpose": lambda site, array: array.transpose(site.attribute("perm", None)),
    "Unsqueeze": _unsqueeze,
}
