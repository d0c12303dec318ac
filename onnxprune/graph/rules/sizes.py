"""What reads the size of a tensor, or changes it without a look at the channels."""

from onnx import NodeProto

from onnxprune.graph.follower import Follower
from onnxprune.graph.network import attribute
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.rules.parts import slice_parts
from onnxprune.graph.rules.table import Table

RULES = Table()


@RULES.of("Shape")
def _shape(follower: Follower, node: NodeProto) -> None:
    """Harmless where only the sizes of other axes are taken from it, as exporters do with the batch."""
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    rank = len(follower.shapes[node.input[0]])
    axes = list(range(rank))[slice(attribute(node, "start", 0), attribute(node, "end", rank))]
    if node.output[0] in follower.network.outputs:
        follower.freeze(found.labels, f"their number is the model's output {node.output[0]!r}")
    for reader in follower.readers(node.output[0]):
        taken = _taken(follower, reader, axes)
        if taken is None or found.axis in taken:
            follower.freeze(found.labels, "their number is used in a computation")
            return


def _taken(follower: Follower, reader: NodeProto, axes: list[int]) -> list[int] | None:
    """Of these sizes, those that a node takes; None where that cannot be told."""
    if operator_type(reader) == "Gather":
        indices = follower.constant(reader.input[1])
        return None if indices is None else [axes[index] for index in indices.ravel().tolist()]
    if operator_type(reader) == "Slice":
        parts = slice_parts(reader, follower.network.weights, 1)
        return None if parts is None else axes[slice(*parts.get(0, (None,)))]
    return None


@RULES.of("Resize", "Upsample")
def _resize_image(follower: Follower, node: NodeProto) -> None:
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    source, result = follower.shapes[node.input[0]], follower.shapes[node.output[0]]
    names = [*node.input, "", "", ""]
    axes = [axis % len(source) for axis in attribute(node, "axes", range(len(source)))]
    if source[found.axis] != result[found.axis]:
        follower.freeze(found.labels, "they are resized")
        return
    if operator_type(node) == "Resize" and names[3] and found.axis in axes:
        element = axes.index(found.axis)
        if follower.sizes(names[3])[element] is None:
            follower.freeze(found.labels, "the sizes of a Resize are computed")
            return
        follower.resize(3, element, found.labels)
    follower.set(node.output[0], found.axis, found.labels)


@RULES.of("Expand")
def _expand(follower: Follower, node: NodeProto) -> None:
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    target = follower.sizes(node.input[1])
    axis = found.axis + len(follower.shapes[node.output[0]]) - len(follower.shapes[node.input[0]])
    place = axis - len(follower.shapes[node.output[0]]) + len(target)
    if place >= 0 and target[place] is None:
        follower.freeze(found.labels, "the sizes of an Expand are computed")
        return
    if place >= 0 and target[place] != 1:
        follower.resize(1, place, found.labels)
    follower.set(node.output[0], axis, found.labels)
