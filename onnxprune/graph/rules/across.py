"""What looks across an axis, as sums and normalisations do: channels on another one pass."""

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from onnxprune.graph.follower import Follower
from onnxprune.graph.network import attribute
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.rules.elementwise import channelwise
from onnxprune.graph.rules.table import Table

RULES = Table()

_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"


@RULES.of(*(f"Reduce{name}" for name in _REDUCTIONS.split()))
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


@RULES.of("ArgMax", "ArgMin")
def _place_of_extreme(follower: Follower, node: NodeProto) -> None:
    _across_one(follower, node, 0, bool(attribute(node, "keepdims", 1)))


@RULES.of("LpNormalization", "TopK")
def _along_the_last(follower: Follower, node: NodeProto) -> None:
    _across_one(follower, node, -1)


@RULES.of("LayerNormalization", "RMSNormalization")
def _across_the_rest(follower: Follower, node: NodeProto) -> None:
    """Across their axis and all after it."""
    if node.input[0] in follower.channels:
        rank = len(follower.shapes[node.input[0]])
        _over(follower, node, range(attribute(node, "axis", -1) % rank, rank), True)


@RULES.of("Softmax", "LogSoftmax", "Hardmax")
def _softmax(follower: Follower, node: NodeProto) -> None:
    """Before opset 13 across the axis and all after it, by default from axis 1."""
    if node.input[0] in follower.channels:
        rank = len(follower.shapes[node.input[0]])
        old = follower.opset < 13
        axis = attribute(node, "axis", 1 if old else -1) % rank
        _over(follower, node, range(axis, rank) if old else [axis], True)


@RULES.of("MeanVarianceNormalization")
def _mean_variance(follower: Follower, node: NodeProto) -> None:
    if node.input[0] in follower.channels:
        rank = len(follower.shapes[node.input[0]])
        _over(follower, node, [axis % rank for axis in attribute(node, "axes", [0, 2, 3])], True)


@RULES.of("BatchNormalization", several=True)
def _batch_normalization(follower: Follower, node: NodeProto) -> None:
    if attribute(node, "training_mode", 0) or any(node.output[1:]):
        follower.freeze_all(node.input, "a BatchNormalization in training mode")
    else:
        channelwise(follower, node, 1, 2, 3, 4)


@RULES.of("InstanceNormalization", several=True)
def _instance_normalization(follower: Follower, node: NodeProto) -> None:
    channelwise(follower, node, 1, 2)


@RULES.of("GroupNormalization", several=True)
def _group_normalization(follower: Follower, node: NodeProto) -> None:
    """Statistics are those of a group of channels, which goes as a whole."""
    labels = follower.of(node.input[0], 1)
    groups = attribute(node, "num_groups")
    tied = follower.tie_rows(labels.reshape(groups, -1).T)
    each = np.repeat(tied, len(labels) // groups)
    for position in (1, 2):  # before opset 21 one number a group
        follower.cut(position, 0, tied if follower.opset < 21 else each, "along")
    follower.rewrite("num_groups", 0, tied)
    follower.set(node.output[0], 1, each)


def _across_one(follower: Follower, node: NodeProto, default: int, keeps: bool = True) -> None:
    """Across the axis of the attribute."""
    if node.input[0] in follower.channels:
        axis = attribute(node, "axis", default) % len(follower.shapes[node.input[0]])
        _over(follower, node, [axis], keeps)


def _over(follower: Follower, node: NodeProto, axes: Sequence[int], keeps: bool) -> None:
    """An operator that looks across these axes: channels on another one pass."""
    found = follower.channels[node.input[0]]
    if found.axis in axes:
        follower.freeze(found.labels, f"{operator_type(node)} looks across them")
        return
    for name in node.output:
        if name:
            shift = 0 if keeps else sum(axis < found.axis for axis in axes)
            follower.set(name, found.axis - shift, found.labels)
