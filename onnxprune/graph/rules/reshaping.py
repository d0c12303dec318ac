"""What orders or groups the elements of a tensor anew."""

from math import prod

import numpy as np
from onnx import NodeProto

from onnxprune.graph.channels import Channels, Labels
from onnxprune.graph.follower import Follower
from onnxprune.graph.network import attribute
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.rules.across import axes_across
from onnxprune.graph.rules.table import Table
from onnxprune.graph.tensors import Shape

RULES = Table()


@RULES.of("Transpose")
def _transpose(follower: Follower, node: NodeProto) -> None:
    found = follower.channels.get(node.input[0])
    if found is not None:
        rank = len(follower.shapes[node.input[0]])
        order = list(attribute(node, "perm", list(range(rank))[::-1]))
        follower.set(node.output[0], order.index(found.axis), found.labels)


@RULES.of("Squeeze", "Unsqueeze")
def _one(follower: Follower, node: NodeProto) -> None:
    """Axes of size one that go or come: they are named, but by a Squeeze that takes all there are."""
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    given = attribute(node, "axes")
    if len(node.input) > 1 and node.input[1]:
        given = follower.constant(node.input[1])
    elif given is None:
        shape = follower.shapes[node.input[0]]
        given = [axis for axis, size in enumerate(shape) if size == 1 and not follower.is_free(node.input[0], axis)]
    source, result = (len(follower.shapes[name]) for name in (node.input[0], node.output[0]))
    if given is None or abs(source - result) != len(given):
        follower.freeze(found.labels, f"the axes of {operator_type(node)} are computed, or depend on free sizes")
        return
    axes = {int(axis) % max(source, result) for axis in given}
    others = [axis for axis in range(max(source, result)) if axis not in axes]
    place = others.index(found.axis) if operator_type(node) == "Squeeze" else others[found.axis]
    follower.set(node.output[0], place, found.labels)


@RULES.of("Reshape", "Flatten")
def _reshape(follower: Follower, node: NodeProto) -> None:
    """Only the axes that are merged or split with the channels matter."""
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    runs = [(run[node.input[0]], run[node.output[0]]) for run in (follower.shapes, *follower.others)]
    source, result = runs[0]
    # which axes belong together cannot be told where sizes are one, or happen to be equal
    blocks = [_block(*run, found.axis) for run in sorted(runs, key=lambda run: run[0].count(1))]
    if None in blocks:
        follower.freeze(found.labels, "this reshape is not supported")
        return
    block = next((block for block in blocks if block and all(_is_block(*run, *block) for run in runs)), None)
    if block is None:
        follower.freeze(found.labels, "the reshape depends on free sizes")
        return
    before, after = block
    free = any(follower.is_free(node.input[0], axis) for axis in before)
    free |= any(follower.is_free(node.output[0], axis) for axis in after)
    merged = free and (len(before) > 1 or len(after) > 1)
    spread = _spread(found, source, result, before, after)
    varying = [axis for axis in range(spread.ndim) if (spread != np.take(spread, [0], axis)).any()]
    if not varying:
        follower.freeze(found.labels, "they go together, and a reshape needs them")
        return
    if merged:  # an axis of fixed size may still hold them, as the width of heads that are merged with the batch
        varying = [axis for axis in varying if not follower.is_free(node.output[0], after[0] + axis)]
    # what differs along one axis alone can go: one that nothing looks across, of several the one of the most units
    across = {axis - after[0] for reader in follower.readers(node.output[0]) for axis in axes_across(follower, reader)}
    chosen = max(
        varying, key=lambda axis: (axis not in across, _distinct(spread, axis), spread.shape[axis], axis), default=None
    )
    every = [spread, *(_spread(found, *run, before, after) for run in runs[1:] if merged)]
    rows = [] if chosen is None else [_rows(labels, chosen) for labels in every]
    if chosen is None or not all(np.array_equal(rows[0], other) for other in rows):
        follower.freeze(found.labels, "they are merged with an axis of free size")
        return
    labels = follower.tie_rows(rows[0])
    axis = after[0] + chosen
    if operator_type(node) == "Reshape" and not _resize(follower, node, axis, labels, found.axis):
        return
    follower.set(node.output[0], axis, labels)


def _spread(found: Channels, source: Shape, result: Shape, before: list[int], after: list[int]) -> np.ndarray:
    """Labels of every element of the axes `after` that a reshape makes of the axes `before`."""
    line = np.ones(len(before), np.int64)
    line[found.axis - before[0]] = -1
    sizes = [source[axis] for axis in before]
    return np.broadcast_to(found.labels.reshape(line), sizes).reshape([result[axis] for axis in after])


def _rows(labels: np.ndarray, axis: int) -> np.ndarray:
    """What there is along an axis (different rows, size of the axis)."""
    return np.unique(np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis]), axis=0)


def _distinct(labels: np.ndarray, axis: int) -> int:
    return len(np.unique(np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)[:, 0]))


def _resize(follower: Follower, node: NodeProto, axis: int, labels: Labels, source_axis: int) -> bool:
    """Notes that an element of a constant of sizes changes; False where that cannot be done."""
    target = follower.sizes(node.input[1]) if len(node.input) > 1 else None
    entry = None if target is None else target[axis]
    if target is None or entry is None:
        follower.freeze(labels, "the sizes of a reshape are computed")
        return False
    before, after = follower.shapes[node.input[0]], follower.shapes[node.output[0]]
    copied = entry == 0 and not attribute(node, "allowzero", 0) and axis == source_axis and before[axis] == after[axis]
    if axis != source_axis and source_axis < len(target) and target[source_axis] == 0:
        follower.freeze(labels, "their number is copied by a reshape")
        return False
    if entry != -1 and not copied:
        follower.resize(1, axis, labels)
    return True


def _block(source: Shape, result: Shape, axis: int) -> tuple[list[int], list[int]] | None:
    """The axes of source and result that a reshape merges or splits together with `axis`."""
    if 0 in source or prod(source) != prod(result):
        return None
    first = second = 0
    while first < len(source):
        before: list[int] = [first]
        after: list[int] = []
        left, right = source[first], 1
        first += 1
        while left != right or not after:
            if right < left or not after:
                if second == len(result):
                    break
                after.append(second)
                right *= result[second]
                second += 1
            else:
                if first == len(source):
                    return None
                before.append(first)
                left *= source[first]
                first += 1
        if axis in before:
            while second < len(result) and result[second] == 1:  # sizes of one belong to nobody
                second += 1
            return (before, after) if after else None
    return None


def _is_block(source: Shape, result: Shape, before: list[int], after: list[int]) -> bool:
    """Whether a reshape of these shapes makes the axes `after` of the axes `before`."""
    starts = prod(source[: before[0]]) == prod(result[: after[0]])
    return starts and prod(source[axis] for axis in before) == prod(result[axis] for axis in after)


@RULES.of("DepthToSpace")
def _depth_to_space(follower: Follower, node: NodeProto) -> None:
    labels = follower.of(node.input[0], 1)
    block = attribute(node, "blocksize") ** 2
    by_column = attribute(node, "mode", b"DCR") == b"CRD"
    rows = labels.reshape(-1, block).T if by_column else labels.reshape(block, -1)
    follower.set(node.output[0], 1, follower.tie_rows(rows))


@RULES.of("SpaceToDepth")
def _space_to_depth(follower: Follower, node: NodeProto) -> None:
    labels = follower.of(node.input[0], 1)
    follower.set(node.output[0], 1, np.tile(labels, attribute(node, "blocksize") ** 2))
