"""What integers an input may hold, where they are indices into tensors of known sizes."""

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from onnxprune.graph.evaluation import MAX_ELEMENTS, Evaluator
from onnxprune.graph.inferred import Inferred
from onnxprune.graph.macs import Site
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.tensors import Shape, constants

_KEEPING = {
    "Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
}  # fmt: skip


class _Line(NamedTuple):
    """Values that are at most `slope` times those of an input, plus `offset`."""

    slope: int = 1
    offset: int = 0

    def below(self, size: int) -> int:
        """What the input must stay below, so that the values do so of `size`."""
        return (size - 1 - self.offset) // self.slope + 1


Lines = Mapping[str, _Line]  # by the input
Values = Callable[[str], np.ndarray | None]


def index_limits(model: ModelProto, inferred: Inferred, inputs: Iterable[str]) -> dict[str, int]:
    """Input -> what its values must stay below, for those that are indices, as they are or after sums and products
    with numbers that depend on no data; not for those that none can be."""
    limits: dict[str, int] = {}
    _follow(model, model.graph, inferred, {name: {name: _Line()} for name in inputs}, lambda name: None, limits)
    return {name: limit for name, limit in limits.items() if limit > 0}


def _follow(
    model: ModelProto,
    graph: GraphProto,
    inferred: Inferred,
    known: Mapping[str, Lines],
    outer: Values,
    limits: dict[str, int],
) -> None:
    """Goes through a graph.

    Args:
        known: tensor -> what its values are of inputs.
        outer: values of the names outside.
    """
    own = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in constants(graph)
        if prod(tensor.dims) <= MAX_ELEMENTS and tensor.data_location != tensor.EXTERNAL
    }
    evaluator = Evaluator(graph.node, model.opset_import, own, inferred.shapes)

    def value(name: str) -> np.ndarray | None:
        found = evaluator.value(name)
        return outer(name) if found is None else found

    holds = dict(known)
    for index, node in enumerate(graph.node):
        for position, size in _indexed(node, inferred.shapes):
            for name, line in holds.get(node.input[position], {}).items() if position < len(node.input) else ():
                limits[name] = min(line.below(size), limits.get(name, line.below(size)))
        made = _made(node, holds, value)
        if made:
            holds |= dict.fromkeys(node.output, made)
        for attribute in node.attribute:
            body = inferred.bodies.get(index, {}).get(attribute.name)
            if body is not None:
                _follow(model, attribute.g, body, holds, value, limits)


def _made(node: NodeProto, holds: Mapping[str, Lines], value: Values) -> Lines:
    """What a node's outputs are of inputs."""
    kind = operator_type(node)
    if kind in _KEEPING:
        found: dict[str, _Line] = {}
        for name in node.input:
            for source, line in holds.get(name, {}).items():
                before = found.get(source, line)
                found[source] = _Line(max(before.slope, line.slope), max(before.offset, line.offset))
        return found
    if kind not in ("Add", "Mul", "Sub") or len(node.input) != 2:
        return {}
    first, second = node.input
    if first not in holds and kind != "Sub":
        first, second = second, first
    number = value(second) if first in holds else None
    if number is None or not number.size or number.dtype.kind not in "iu":
        return {}
    if kind == "Mul":
        factor = int(number.max())
        if number.min() < 1:
            return {}
        return {source: _Line(line.slope * factor, line.offset * factor) for source, line in holds[first].items()}
    more = int(number.max()) if kind == "Add" else -int(number.min())
    return {source: _Line(line.slope, line.offset + more) for source, line in holds[first].items()}


def _indexed(node: NodeProto, shapes: Mapping[str, Shape]) -> list[tuple[int, int]]:
    """Positions of the node's inputs that are indices, and the sizes of what they point into."""
    kind = operator_type(node)
    if kind in ("Gather", "GatherElements"):
        shape = shapes.get(node.input[0])
        axis = Site(node, [], []).attribute("axis", 0)
        return [(1, shape[axis])] if shape and -len(shape) <= axis < len(shape) else []
    if kind == "com.microsoft.EmbedLayerNormalization":
        tables = {0: 2, 1: 4}  # words and segments, and their tables
        found = {ids: shapes.get(node.input[table]) for ids, table in tables.items() if table < len(node.input)}
        return [(ids, shape[0]) for ids, shape in found.items() if shape]
    return []
