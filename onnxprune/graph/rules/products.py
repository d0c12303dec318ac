"""Products with weights, and of two computed tensors: convolutions, matrices, recurrent layers."""

import numpy as np
from onnx import NodeProto

from onnxprune.graph.channels import Labels
from onnxprune.graph.follower import Follower
from onnxprune.graph.network import attribute
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.rules.table import Table, product_macs

RULES = Table()

_GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}  # of a hidden unit


@RULES.of("Conv", several=True)
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


@RULES.of("ConvTranspose", several=True)
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


@RULES.of("Gemm", several=True)
def _gemm(follower: Follower, node: NodeProto) -> None:
    weight = follower.constant(node.input[1])
    if weight is None or attribute(node, "transA", 0) or attribute(node, "broadcast") is not None:
        follower.freeze_all(node.input, "Gemm is supported with constant weights on its right only")
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


@RULES.of("MatMul", several=True)
def _matmul(follower: Follower, node: NodeProto) -> None:
    left, right = (follower.constant(name) for name in node.input)
    if right is not None and right.ndim == 2 and len(follower.shapes[node.input[0]]) > 1:
        _product_with_constant(follower, node, 0, -1)
    elif left is not None and left.ndim == 2 and len(follower.shapes[node.input[1]]) > 1:
        _product_with_constant(follower, node, 1, -2)
    elif left is None and right is None:
        _product_of_two(follower, node)
    else:
        follower.freeze_all(node.input, "a MatMul with a constant that is no matrix")


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
        follower.tie(labels[0], labels[1])
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


@RULES.of("Einsum", several=True)
def _einsum(follower: Follower, node: NodeProto) -> None:
    """Axes of one letter go together; those of a letter that the result lacks are summed over."""
    macs = sum(product_macs(follower, node))
    terms, arrow, result = attribute(node, "equation", b"").decode().replace(" ", "").partition("->")
    axes = terms.split(",")
    own = [(name, term) for name, term in zip(node.input, axes, strict=True) if name in follower.channels]
    if not arrow or any("." in term or len(set(term)) < len(term) for term in (*axes, result)):
        follower.freeze_all(node.input, "an Einsum of this form is not supported")
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
            elif letter not in result and len(computed) == len(places):  # else the constant is masked
                follower.contract(number, axis, labels)
        factors.append(labels)
        if letter in result and kept is None:
            kept = letter, labels
        elif letter in result:
            follower.freeze(labels, "they meet channels of another axis")
    follower.product(macs, *factors)
    if kept is not None:
        follower.set(node.output[0], result.index(kept[0]), kept[1])


@RULES.of(*_GATES, several=True)
def _recurrent(follower: Follower, node: NodeProto) -> None:
    """The inputs, and the hidden units, which both directions lose together."""
    gates = _GATES[operator_type(node)]
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
