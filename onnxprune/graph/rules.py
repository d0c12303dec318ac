"""How ONNX's operators hand on channels: one rule an operator; what has no rule freezes what it reads.

A rule looks at the labels of a node's inputs and sets those of its outputs. On the way it records which constants are
cut with them, what of the node depends on how many are left, and the MACs that fall.
"""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from onnx import NodeProto

from onnxprune.graph.channels import Channels, Follower, Labels
from onnxprune.graph.macs import OPERATORS, Site
from onnxprune.graph.network import attribute
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.tensors import Shape

Rule = Callable[[Follower, NodeProto], None]

_ACROSS = "{} looks across them"


def _same(follower: Follower, node: NodeProto) -> None:
    """Element by element on the first input."""
    found = follower.channels.get(node.input[0])
    if found is not None:
        for name in node.output:
            if name and len(follower.shapes[name]) == len(follower.shapes[node.input[0]]):
                follower.set(name, found.axis, found.labels)


def _channelwise(*along: int) -> Rule:
    """On axis 1, each channel for itself, with constants of one number a channel at these positions."""

    def rule(follower: Follower, node: NodeProto) -> None:
        labels = follower.of(node.input[0], 1)
        for position in along:
            follower.cut(position, 0, labels, "along")
        follower.set(node.output[0], 1, labels)

    return rule


def _elementwise(follower: Follower, node: NodeProto) -> None:
    """All inputs broadcast against each other: what meets is tied, and constants are cut along."""
    shape = follower.shapes[node.output[0]]
    own_axes = {
        position: follower.channels[name].axis + len(shape) - len(follower.shapes[name])
        for position, name in enumerate(node.input)
        if name in follower.channels
    }
    if not own_axes or attribute(node, "broadcast") is not None:
        follower.freeze_all(node.input, f"{operator_type(node)} is not understood in this opset")
        return
    axis = next(iter(own_axes.values()))
    names = [name for position, name in enumerate(node.input) if own_axes.get(position) == axis]
    labels = follower.channels[names[0]].labels
    for name in names[1:]:
        follower.tie(labels, follower.channels[name].labels)
    stays = np.any([follower.channels[name].labels == 0 for name in names], axis=0)
    for position, name in enumerate(node.input):
        if not name or own_axes.get(position) == axis:
            continue
        place = axis - (len(shape) - len(follower.shapes[name]))
        if position in own_axes:
            follower.freeze(follower.channels[name].labels, "they meet channels of another axis")
        if place < 0 or follower.shapes[name][place] == 1:
            continue
        if follower.is_constant(name):
            follower.cut(position, place, labels, "along")
        else:
            follower.freeze(labels, f"they meet {name!r}, whose channels stay")
            stays[:] = True
    follower.set(node.output[0], axis, np.where(stays, 0, labels))


def _conv(follower: Follower, node: NodeProto) -> None:
    weight = follower.constant(node.input[1])
    if weight is None:
        follower.freeze_all(node.input, "the weights are computed")
        return
    groups = attribute(node, "group", 1)
    outputs, per_group = weight.shape[:2]
    taken = follower.of(node.input[0], 1)
    if per_group == 1 and groups > 1:
        made = np.repeat(taken, outputs // groups)
        follower.cut(1, 0, made, "along")
        follower.cut(2, 0, made, "along")
        follower.rewrite("group", 0, taken)
        follower.product(product_macs(follower, node)[0], made)
    else:
        read = follower.tie_rows(taken.reshape(groups, per_group))
        made = np.tile(follower.units(outputs // groups), groups)
        follower.cut(1, 1, read, "consumer")
        follower.cut(1, 0, made, "producer")
        follower.cut(2, 0, made, "producer")
        follower.product(product_macs(follower, node)[0], made, read)
    follower.set(node.output[0], 1, made)


def _conv_transpose(follower: Follower, node: NodeProto) -> None:
    weight = follower.constant(node.input[1])  # (in, out / groups, ...)
    if weight is None:
        follower.freeze_all(node.input, "the weights are computed")
        return
    groups = attribute(node, "group", 1)
    per_group = weight.shape[1]
    taken = follower.of(node.input[0], 1)
    if groups > 1 and weight.shape[0] == groups:
        made = np.repeat(taken, per_group)
        follower.cut(1, 0, taken, "along")
        follower.cut(2, 0, made, "along")
        follower.rewrite("group", 0, taken)
        follower.product(product_macs(follower, node)[0], taken)
    elif groups > 1:
        tied = follower.tie_rows(taken.reshape(groups, -1))
        units = follower.units(per_group)
        made = np.tile(units, groups)
        follower.cut(1, 0, np.tile(tied, groups), "consumer")
        follower.cut(1, 1, units, "producer")
        follower.cut(2, 0, made, "producer")
        follower.product(product_macs(follower, node)[0], units, tied)
    else:
        made = follower.units(per_group)
        follower.cut(1, 0, taken, "consumer")
        follower.cut(1, 1, made, "producer")
        follower.cut(2, 0, made, "producer")
        follower.product(product_macs(follower, node)[0], made, taken)
    follower.set(node.output[0], 1, made)


def _gemm(follower: Follower, node: NodeProto) -> None:
    weight = follower.constant(node.input[1])
    if weight is None or attribute(node, "transA", 0) or attribute(node, "broadcast") is not None:
        follower.freeze_all(node.input, "Gemm is understood with constant weights on its right only")
        return
    taken = follower.of(node.input[0], 1)
    inner = 1 if attribute(node, "transB", 0) else 0
    made = follower.units(weight.shape[1 - inner])
    follower.cut(1, inner, taken, "consumer")
    follower.cut(1, 1 - inner, made, "producer")
    bias = follower.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if bias is not None and bias.ndim and bias.shape[-1] > 1:
        follower.cut(2, -1, made, "producer")
    elif bias is None and len(node.input) > 2 and node.input[2]:
        follower.freeze_all([node.input[2]], "a bias that is computed")
        follower.freeze(made, "a bias that is computed")
    follower.product(product_macs(follower, node)[0], made, taken)
    follower.set(node.output[0], 1, made)


def _matmul(follower: Follower, node: NodeProto) -> None:
    left, right = (follower.constant(name) for name in node.input)
    if right is not None and right.ndim == 2 and len(follower.shapes[node.input[0]]) > 1:
        _product_with_constant(follower, node, 0, -1)
    elif left is not None and left.ndim == 2 and len(follower.shapes[node.input[1]]) > 1:
        _product_with_constant(follower, node, 1, -2)
    elif left is None and right is None:
        _product_of_two(follower, node)
    else:
        follower.freeze_all(node.input, "a MatMul with a stack of constant matrices")


def _product_with_constant(follower: Follower, node: NodeProto, data: int, inner: int) -> None:
    """x @ W (the data first, contracted over its last axis), or W @ x (over its last but one)."""
    position = 1 - data
    weight = follower.network.weights[node.input[position]]
    taken = follower.of(node.input[data], inner)
    # of W, the axis that the sum runs over is the first in x @ W and the last in W @ x
    reading = 0 if data == 0 else 1
    made = follower.units(weight.shape[1 - reading])
    follower.cut(position, reading, taken, "consumer")
    follower.cut(position, 1 - reading, made, "producer")
    follower.product(product_macs(follower, node)[0], made, taken)
    follower.set(node.output[0], inner, made)


def _product_of_two(follower: Follower, node: NodeProto) -> None:
    """Of two computed tensors (..., M, K) and (..., K, N): attention."""
    first, second = node.input
    ranks = [len(follower.shapes[name]) for name in node.input]
    if min(ranks) < 2:
        follower.freeze_all(node.input, "a product with a vector")
        return
    macs = product_macs(follower, node)[0]
    result = len(follower.shapes[node.output[0]])
    found = [follower.channels.get(name) for name in node.input]
    at = [None if part is None else part.axis - rank for part, rank in zip(found, ranks, strict=True)]
    sums = (at[0] == -1, at[1] == -2)
    if any(sums):
        labels = [follower.of(name, axis) for name, axis in ((first, -1), (second, -2))]
        follower.tie(*labels)
        stays = (labels[0] == 0) | (labels[1] == 0)
        for position, axis in enumerate((-1, -2)):
            follower.contract(position, axis + ranks[position], np.where(stays, 0, labels[position]))
        follower.product(macs, np.where(stays, 0, labels[0]))
        return
    kept = [(position, axis) for position, axis in enumerate(at) if axis is not None]
    if len(kept) == 2 and at[0] != at[1]:  # rows of the one, columns of the other
        follower.freeze_all([first], "they meet channels of another axis")
        kept = kept[1:]
    if not kept:
        follower.product(macs)
        return
    position, axis = kept[0]
    labels_kept = follower.channels[node.input[position]].labels
    if axis not in (-1, -2):  # one of the stacked matrices
        other = node.input[1 - position]
        place = axis + ranks[1 - position]
        if place >= 0 and follower.shapes[other][place] > 1:
            own = follower.of(other, place)
            follower.tie(labels_kept, own)
            labels_kept = np.where(own == 0, 0, labels_kept)
    follower.product(macs, labels_kept)
    follower.set(node.output[0], axis + result, labels_kept)


def _einsum(follower: Follower, node: NodeProto) -> None:
    """Axes of one letter go together; those of a letter that the result lacks are summed over."""
    macs = sum(product_macs(follower, node))
    terms, arrow, result = attribute(node, "equation", b"").decode().replace(" ", "").partition("->")
    axes = terms.split(",")
    own = [(name, term) for name, term in zip(node.input, axes, strict=True) if name in follower.channels]
    if not arrow or any("." in term or len(set(term)) < len(term) for term in (*axes, result)):
        follower.freeze_all(node.input, "an Einsum of this form is not understood")
        follower.product(macs)
        return
    factors = []
    kept: tuple[str, Labels] | None = None
    for letter in dict.fromkeys(term[follower.channels[name].axis] for name, term in own):
        places = [(number, term.index(letter)) for number, term in enumerate(axes) if letter in term]
        computed = [(number, axis) for number, axis in places if not follower.is_constant(node.input[number])]
        parts = [follower.of(node.input[number], axis) for number, axis in computed]
        if len({follower.shapes[node.input[number]][axis] for number, axis in places}) > 1:
            for part in parts:
                follower.freeze(part, "they are broadcast by an Einsum")
            continue
        labels = follower.tie_rows(np.stack(parts))
        for number, axis in places:
            if (number, axis) not in computed:
                follower.cut(number, axis, labels, "along" if letter in result else "consumer")
            elif letter not in result:
                follower.contract(number, axis, labels)
        factors.append(labels)
        if letter in result and kept is None:
            kept = letter, labels
        elif letter in result:
            follower.freeze(labels, "they meet channels of another axis")
    follower.product(macs, *factors)
    if kept is not None:
        follower.set(node.output[0], result.index(kept[0]), kept[1])


def _recurrent(gates: int) -> Rule:
    """LSTM, GRU, RNN: the inputs, and the hidden units, which both directions lose together."""

    def rule(follower: Follower, node: NodeProto) -> None:
        weights = [follower.constant(name) for name in node.input[1:3]]
        if any(weight is None for weight in weights) or attribute(node, "layout", 0):
            follower.freeze_all(node.input, "the weights are computed, or the layout is the second one")
            return
        taken = follower.of(node.input[0], 2)
        hidden = weights[1].shape[2]  # type: ignore[union-attr]
        made = follower.units(hidden)
        follower.cut(1, 2, taken, "consumer")
        follower.cut(1, 1, np.tile(made, gates), "producer")
        follower.cut(2, 1, np.tile(made, gates), "producer")
        follower.cut(2, 2, made, "consumer")
        follower.cut(3, 1, np.tile(made, 2 * gates), "producer")
        follower.cut(5, 2, made, "along")
        follower.cut(6, 2, made, "along")
        follower.cut(7, 1, np.tile(made, 3), "along")
        follower.rewrite("hidden_size", 0, made)
        for macs, factors in zip(product_macs(follower, node), ((made, taken), (made, made)), strict=True):
            follower.product(macs, *factors)
        for name, axis in zip(node.output, (3, 2, 2), strict=False):
            follower.set(name, axis, made)

    return rule


def _transpose(follower: Follower, node: NodeProto) -> None:
    found = follower.channels.get(node.input[0])
    if found is not None:
        rank = len(follower.shapes[node.input[0]])
        order = list(attribute(node, "perm", list(range(rank))[::-1]))
        follower.set(node.output[0], order.index(found.axis), found.labels)


def _reshape(follower: Follower, node: NodeProto) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: only the axes that are merged or split with the channels matter."""
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    source, result = follower.shapes[node.input[0]], follower.shapes[node.output[0]]
    block = _block(source, result, found.axis)
    if block is None:
        follower.freeze(found.labels, "the reshape is not understood")
        return
    before, after = block
    if follower.other is not None:
        other = _block(follower.other[node.input[0]], follower.other[node.output[0]], found.axis)
        if other != block:
            follower.freeze(found.labels, "the reshape depends on free sizes")
            return
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
    # what differs along one axis alone can go; of several axes the one that leaves the most units
    chosen = max(varying, key=lambda axis: (_distinct(spread, axis), spread.shape[axis], axis), default=None)
    rows = None if chosen is None else _rows(spread, chosen)
    if merged and rows is not None and chosen is not None and follower.other is not None:
        elsewhere, made = (follower.other[name] for name in (node.input[0], node.output[0]))
        if not np.array_equal(rows, _rows(_spread(found, elsewhere, made, before, after), chosen)):
            rows = None
    if rows is None or chosen is None:
        follower.freeze(found.labels, "they are merged with an axis of free size")
        return
    labels = follower.tie_rows(rows)
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
    target = follower.constant(node.input[1]) if len(node.input) > 1 else None
    if target is None:
        follower.freeze(labels, "the sizes of a reshape are computed")
        return False
    entry = int(target[axis])
    before, after = follower.shapes[node.input[0]], follower.shapes[node.output[0]]
    copied = entry == 0 and not attribute(node, "allowzero", 0) and axis == source_axis and before[axis] == after[axis]
    if axis != source_axis and source_axis < len(target) and int(target[source_axis]) == 0:
        follower.freeze(labels, "their number is copied by a reshape")
        return False
    if entry != -1 and not copied:
        follower.rewrite("sizes", 1, labels, element=axis)
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
        elif follower.is_constant(name):
            follower.cut(position, place, labels, "along")
        else:
            follower.freeze(labels, f"they meet {name!r}, whose channels stay")
            return
    follower.set(node.output[0], place, labels)


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


def _slice(follower: Follower, node: NodeProto) -> None:
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    rank, size = len(follower.shapes[node.input[0]]), len(found.labels)
    parts = slice_parts(node, follower.network.weights, rank)
    if parts is None:
        follower.freeze(found.labels, "the bounds of a slice are computed")
        return
    bounds = parts.get(found.axis)
    if bounds is None:
        follower.set(node.output[0], found.axis, found.labels)
        return
    start, stop, step = slice(*bounds).indices(size)
    if step != 1:
        follower.freeze(found.labels, "a slice takes every other one of them")
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
        follower.freeze(found.labels, "they are picked by indices that are computed")
    elif indices.ndim == 0:
        follower.freeze(found.labels[[int(indices)]], "a single channel is taken out of them")
        follower.rewrite("gather", 1, found.labels)
    else:
        follower.rewrite("gather", 1, found.labels)
        follower.set_part(node.output[0], axis, found.labels[indices])


def _pad(follower: Follower, node: NodeProto) -> None:
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    rank = len(follower.shapes[node.input[0]])
    by_attribute = len(node.input) < 2
    pads = attribute(node, "pads") if by_attribute else follower.constant(node.input[1])
    axes: Sequence[int] | np.ndarray | None = range(rank)
    if len(node.input) > 3 and node.input[3]:
        axes = follower.constant(node.input[3])
    if pads is None or axes is None:
        follower.freeze(found.labels, "the pads are computed")
        return
    axes = [int(axis) % rank for axis in axes]
    before = after = 0
    if found.axis in axes:
        element = axes.index(found.axis)
        before, after = int(pads[element]), int(pads[element + len(axes)])
    mixes = by_attribute or attribute(node, "mode", b"constant") != b"constant"
    if min(before, after) < 0 or (before + after > 0 and mixes):
        follower.freeze(found.labels, "the pads mix them")
        return
    around = follower.new(before), follower.new(after)
    if before or after:
        follower.rewrite("pad", 1, *around, element=element)
    follower.set(node.output[0], found.axis, np.concatenate([around[0], found.labels, around[1]]))


def _pool(follower: Follower, node: NodeProto) -> None:
    labels = follower.of(node.input[0], 1)
    if len(node.output) > 1 and node.output[1]:
        follower.freeze(labels, "their places in the whole tensor are used")
    follower.set(node.output[0], 1, labels)


def _reduce(follower: Follower, node: NodeProto) -> None:
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    rank = len(follower.shapes[node.input[0]])
    given = attribute(node, "axes")
    if given is None and len(node.input) > 1 and node.input[1]:
        constant = follower.constant(node.input[1])
        if constant is None:
            follower.freeze(found.labels, "the axes of a reduction are computed")
            return
        given = constant.tolist()
    if not given and attribute(node, "noop_with_empty_axes", 0):
        given = []
    elif not given:
        given = list(range(rank))
    _over(follower, node, [axis % rank for axis in given], bool(attribute(node, "keepdims", 1)))


def _over(follower: Follower, node: NodeProto, axes: Sequence[int], keeps: bool) -> None:
    """An operator that looks across these axes: channels on another one pass."""
    found = follower.channels[node.input[0]]
    if found.axis in axes:
        follower.freeze(found.labels, _ACROSS.format(operator_type(node)))
        return
    for name in node.output:
        if name:
            shift = 0 if keeps else sum(axis < found.axis for axis in axes)
            follower.set(name, found.axis - shift, found.labels)


def _across(default: int, keeps: str | None = None) -> Rule:
    """An operator that looks across the axis of its attribute."""

    def rule(follower: Follower, node: NodeProto) -> None:
        if node.input[0] in follower.channels:
            axis = attribute(node, "axis", default) % len(follower.shapes[node.input[0]])
            _over(follower, node, [axis], keeps is None or bool(attribute(node, keeps, 1)))

    return rule


def _across_the_rest(follower: Follower, node: NodeProto) -> None:
    """LayerNormalization and the like: across their axis and all after it."""
    if node.input[0] in follower.channels:
        rank = len(follower.shapes[node.input[0]])
        _over(follower, node, range(attribute(node, "axis", -1) % rank, rank), True)


def _softmax(follower: Follower, node: NodeProto) -> None:
    """Before opset 13 across the axis and all after it, by default from axis 1."""
    if node.input[0] in follower.channels:
        rank = len(follower.shapes[node.input[0]])
        old = follower.opset < 13
        axis = attribute(node, "axis", 1 if old else -1) % rank
        _over(follower, node, range(axis, rank) if old else [axis], True)


def _batch_normalization(follower: Follower, node: NodeProto) -> None:
    if attribute(node, "training_mode", 0) or any(node.output[1:]):
        follower.freeze_all(node.input, "a BatchNormalization in training mode")
    else:
        _channelwise(1, 2, 3, 4)(follower, node)


def _group_normalization(follower: Follower, node: NodeProto) -> None:
    """Statistics are those of a group of channels, which goes as a whole."""
    labels = follower.of(node.input[0], 1)
    groups = attribute(node, "num_groups")
    tied = follower.tie_rows(labels.reshape(groups, -1).T)
    each = np.repeat(tied, len(labels) // groups)
    for position in (1, 2):
        follower.cut(position, 0, each, "along")
    follower.rewrite("num_groups", 0, tied)
    follower.set(node.output[0], 1, each)


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
        if not follower.is_constant(names[3]):
            follower.freeze(found.labels, "the sizes of a Resize are computed")
            return
        follower.rewrite("sizes", 3, found.labels, element=axes.index(found.axis))
    follower.set(node.output[0], found.axis, found.labels)


def _expand(follower: Follower, node: NodeProto) -> None:
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    target = follower.constant(node.input[1])
    axis = found.axis + len(follower.shapes[node.output[0]]) - len(follower.shapes[node.input[0]])
    if target is None:
        follower.freeze(found.labels, "the sizes of an Expand are computed")
        return
    place = axis - len(follower.shapes[node.output[0]]) + len(target)
    if place >= 0 and target[place] != 1:
        follower.rewrite("sizes", 1, found.labels, element=place)
    follower.set(node.output[0], axis, found.labels)


def _tile(follower: Follower, node: NodeProto) -> None:
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    repeats = follower.constant(node.input[1])
    if repeats is None or len(repeats) != len(follower.shapes[node.input[0]]):
        follower.freeze(found.labels, "the repeats of a Tile are computed")
        return
    follower.set(node.output[0], found.axis, np.tile(found.labels, int(repeats[found.axis])))


def _depth_to_space(follower: Follower, node: NodeProto) -> None:
    labels = follower.of(node.input[0], 1)
    block = attribute(node, "blocksize") ** 2
    by_column = attribute(node, "mode", b"DCR") == b"CRD"
    rows = labels.reshape(-1, block).T if by_column else labels.reshape(block, -1)
    follower.set(node.output[0], 1, follower.tie_rows(rows))


def _space_to_depth(follower: Follower, node: NodeProto) -> None:
    labels = follower.of(node.input[0], 1)
    follower.set(node.output[0], 1, np.tile(labels, attribute(node, "blocksize") ** 2))


def _mean_variance(follower: Follower, node: NodeProto) -> None:
    if node.input[0] in follower.channels:
        rank = len(follower.shapes[node.input[0]])
        _over(follower, node, [axis % rank for axis in attribute(node, "axes", [0, 2, 3])], True)


def product_macs(follower: Follower, node: NodeProto) -> list[int]:
    """MACs of each product that a node computes, for the traced batch.

    Raises:
        UnknownShapeError: a shape that they depend on is not known.
    """
    shapes = [[follower.shapes.get(name) for name in names] for names in (node.input, node.output)]
    return [product.macs for product in OPERATORS[operator_type(node)].products(Site(node, *shapes))]


_SAME = (
    "Abs Acos Acosh Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Floor Gelu HardSigmoid "
    "HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh "
    "Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu com.microsoft.Gelu com.microsoft.QuickGelu"
)
_ELEMENTWISE = (
    "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor "
    "com.microsoft.BiasGelu com.microsoft.FastGelu"
)
_POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool"
_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"

RULES: dict[str, Rule] = {
    **dict.fromkeys(_SAME.split(), _same),
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_POOLS.split(), _pool),
    **dict.fromkeys((f"Reduce{name}" for name in _REDUCTIONS.split()), _reduce),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _across_the_rest),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    "ArgMax": _across(0, "keepdims"),
    "ArgMin": _across(0, "keepdims"),
    "BatchNormalization": _batch_normalization,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Einsum": _einsum,
    "Expand": _expand,
    "GRU": _recurrent(3),
    "GroupNormalization": _group_normalization,
    "Gather": _gather,
    "Gemm": _gemm,
    "InstanceNormalization": _channelwise(1, 2),
    "LSTM": _recurrent(4),
    "LpNormalization": _across(-1),
    "MatMul": _matmul,
    "MeanVarianceNormalization": _mean_variance,
    "Pad": _pad,
    "RNN": _recurrent(1),
    "Resize": _resize_image,
    "Shape": _shape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Tile": _tile,
    "TopK": _across(-1),
    "Transpose": _transpose,
    "Upsample": _resize_image,
    **dict.fromkeys(("GridSample", "MaxRoiPool", "RoiAlign"), _channelwise()),
}

# of these, all inputs may have channels; of others, the first alone
SEVERAL = frozenset(
    "BatchNormalization Concat Conv ConvTranspose Einsum GRU Gemm GroupNormalization InstanceNormalization LSTM MatMul "
    f"RNN {_ELEMENTWISE}".split()
)
