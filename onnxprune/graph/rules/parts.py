"""What puts tensors together, takes parts of them, or repeats them."""

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from onnxprune.graph.follower import Follower
from onnxprune.graph.network import attribute
from onnxprune.graph.rules.table import Table

RULES = Table()


@RULES.of("Concat", several=True)
def _concat(follower: Follower, node: NodeProto) -> None:
    rank = len(follower.shapes[node.output[0]])
    axis = attribute(node, "axis", 1) % rank
    own = [name for name in node.input if name in follower.channels]
    if not own:
        return
    if any(follower.channels[name].axis == axis for name in own):
        parts = [
            follower.of(name, axis) if name in follower.channels else np.zeros(follower.shapes[name][axis], np.int64)
            for name in node.input
        ]
        follower.set(node.output[0], axis, np.concatenate(parts))
        return
    place = follower.channels[own[0]].axis
    labels = follower.channels[own[0]].labels
    for position, name in enumerate(node.input):
        if name in follower.channels:
            other = follower.of(name, place)
            follower.tie(labels, other)
            labels = np.where(other == 0, 0, labels)
        elif follower.is_cuttable(name, place):
            follower.cut(position, place, labels, "along")
        else:
            follower.freeze(labels, f"they meet {name!r}, whose channels stay")
            return
    follower.set(node.output[0], place, labels)


@RULES.of("Split")
def _split(follower: Follower, node: NodeProto) -> None:
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    axis = attribute(node, "axis", 0) % len(follower.shapes[node.input[0]])
    if axis != found.axis:
        for name in node.output:
            follower.set(name, found.axis, found.labels)
        return
    sizes = [follower.shapes[name][axis] for name in node.output]
    if len(node.input) > 1 and node.input[1] and not follower.is_constant(node.input[1]):
        follower.freeze(found.labels, "the sizes of a split are computed")
        return
    parts = np.split(found.labels, np.cumsum(sizes)[:-1])
    follower.rewrite("split", 1, *parts)
    for name, part in zip(node.output, parts, strict=True):
        follower.set_part(name, axis, part)


@RULES.of("Slice")
def _slice(follower: Follower, node: NodeProto) -> None:
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    rank, size = len(follower.shapes[node.input[0]]), len(found.labels)
    parts = slice_parts(node, follower.network.weights, rank)
    named = follower.constant(node.input[3]) if len(node.input) > 3 else None
    other = named is not None and found.axis not in named % rank
    if parts is None and not other:
        follower.freeze(found.labels, "the bounds of a slice are computed")
        return
    bounds = None if parts is None else parts.get(found.axis)
    if parts is None or bounds is None:
        follower.set(node.output[0], found.axis, found.labels)
        return
    start, stop, step = slice(*bounds).indices(size)
    if step != 1:
        taken = "reverses them" if step == -1 else f"takes one of every {abs(step)} of them"
        follower.freeze(found.labels, f"a slice {taken}")
        return
    kept = found.labels[start:stop]
    element = list(parts).index(found.axis)
    follower.rewrite("slice", 1, found.labels[:start], kept, found.labels[stop:], element=element)
    follower.set_part(node.output[0], found.axis, kept)


def slice_parts(node: NodeProto, weights: dict[str, np.ndarray], rank: int) -> dict[int, tuple[int, int, int]] | None:
    """Axis -> start, stop, step of a Slice of constant bounds, in the order of its inputs; None where they are not."""
    if len(node.input) == 1:  # before opset 10
        starts, stops = attribute(node, "starts"), attribute(node, "ends")
        axes, steps = attribute(node, "axes"), None
    else:
        names = [*node.input[1:], "", "", ""]
        if any(name and name not in weights for name in names):
            return None
        starts, stops, axes, steps = (weights[name].tolist() if name else None for name in names[:4])
    axes = axes or list(range(len(starts)))
    steps = steps or [1] * len(starts)
    return {axis % rank: bounds for axis, *bounds in zip(axes, starts, stops, steps, strict=True)}  # type: ignore[misc]


@RULES.of("Gather")
def _gather(follower: Follower, node: NodeProto) -> None:
    table = follower.constant(node.input[0])
    if table is not None and table.ndim == 2 and table.dtype.kind == "f" and attribute(node, "axis", 0) % 2 == 0:
        made = follower.units(table.shape[1])  # an embedding
        follower.cut(0, 1, made, "producer")
        follower.set(node.output[0], -1, made)
        return
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    shape, indices = follower.shapes[node.input[0]], follower.constant(node.input[1])
    axis = attribute(node, "axis", 0) % len(shape)
    if axis != found.axis:
        rank = len(follower.shapes[node.input[1]])
        follower.set(node.output[0], found.axis + (rank - 1 if axis < found.axis else 0), found.labels)
    elif indices is None or indices.ndim > 1:
        picked = "indices that are computed" if indices is None else "a matrix of indices"
        follower.freeze(found.labels, f"they are picked by {picked}")
    elif indices.ndim == 0:
        follower.freeze(found.labels[[int(indices)]], "a single channel is taken out of them")
        follower.rewrite("gather", 1, found.labels)
    else:
        follower.rewrite("gather", 1, found.labels)
        follower.set_part(node.output[0], axis, found.labels[indices])


@RULES.of("Pad")
def _pad(follower: Follower, node: NodeProto) -> None:
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    rank = len(follower.shapes[node.input[0]])
    by_attribute = len(node.input) < 2
    pads = attribute(node, "pads") if by_attribute else follower.sizes(node.input[1])
    axes: Sequence[int] | np.ndarray | None = range(rank)
    if len(node.input) > 3 and node.input[3]:
        axes = follower.constant(node.input[3])
    if axes is None:
        follower.freeze(found.labels, "the pads are computed")
        return
    axes = [int(axis) % rank for axis in axes]
    if found.axis not in axes:
        follower.set(node.output[0], found.axis, found.labels)
        return
    ends = axes.index(found.axis), axes.index(found.axis) + len(axes)
    before, after = (pads[end] for end in ends)
    if before is None or after is None:
        follower.freeze(found.labels, "the pads are computed")
        return
    mixes = by_attribute or attribute(node, "mode", b"constant") != b"constant"
    if min(before, after) < 0 or (before + after > 0 and mixes):
        follower.freeze(found.labels, "the pads mix them")
        return
    around = follower.new(before), follower.new(after)
    if not by_attribute:
        for end, labels in zip(ends, around, strict=True):
            follower.resize(1, end, labels)
    follower.set(node.output[0], found.axis, np.concatenate([around[0], found.labels, around[1]]))


@RULES.of("Tile")
def _tile(follower: Follower, node: NodeProto) -> None:
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    repeats = follower.sizes(node.input[1])
    count = repeats[found.axis] if len(repeats) == len(follower.shapes[node.input[0]]) else None
    if count is None:
        follower.freeze(found.labels, "the repeats of a Tile are computed")
        return
    follower.set(node.output[0], found.axis, np.tile(found.labels, count))
