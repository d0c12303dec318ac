"""What integers an input may hold, where they are indices into tensors of known sizes."""

from collections.abc import Iterable, Mapping

from onnx import GraphProto, NodeProto

from onnxprune.graph.inferred import Inferred
from onnxprune.graph.macs import Site
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.tensors import Shape

_KEEPING = {
    "Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
}  # fmt: skip


def index_limits(graph: GraphProto, inferred: Inferred, inputs: Iterable[str]) -> dict[str, int]:
    """Input -> what its values must stay below, for those that are indices, as they are or only changed in form."""
    limits: dict[str, int] = {}
    _follow(graph, inferred, {name: {name} for name in inputs}, limits)
    return limits


def _follow(graph: GraphProto, inferred: Inferred, known: Mapping[str, set[str]], limits: dict[str, int]) -> None:
    """Goes through a graph.

    Args:
        known: tensor -> the inputs whose values it holds.
    """
    holds = dict(known)
    for index, node in enumerate(graph.node):
        for position, size in _indexed(node, inferred.shapes):
            for name in holds.get(node.input[position], ()) if position < len(node.input) else ():
                limits[name] = min(size, limits.get(name, size))
        if operator_type(node) in _KEEPING:
            origins = set().union(*(holds.get(name, set()) for name in node.input))
            holds |= dict.fromkeys(node.output, origins)
        for attribute in node.attribute:
            body = inferred.bodies.get(index, {}).get(attribute.name)
            if body is not None:
                _follow(attribute.g, body, holds, limits)


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
