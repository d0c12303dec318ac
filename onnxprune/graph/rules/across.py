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

_KINDS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
_REDUCTIONS = [f"Reduce{kind}" for kind in _KINDS.split()]
_ACROSS_ONE = {"ArgMax": 0, "ArgMin": 0, "LpNormalization": -1, "TopK": -1}  # the axis where none is given
_ACROSS_THE_REST = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_SOFTMAX = ("Softmax", "LogSoftmax", "Hardmax")


def axes_across(follower: Follower, node: NodeProto) -> Sequence[int]:
    """The axes of its first input that an operator looks across; none where that is not known."""
    kind, rank = operator_type(node), len(follower.shapes.get(node.input[0], ()))
    given: Sequence[int] = []
    if kind in _REDUCTIONS:
        given = _reduced(follower, node) or []
    elif kind in _ACROSS_ONE:
        given = [attribute(node, "axis", _ACROSS_ONE[kind])]
    elif kind in _ACROSS_THE_REST:
        given = range(attribute(node, "axis", -1) % rank, rank)
    elif kind in _SOFTMAX:  # before opset 13 across the axis and all after it, by default from axis 1
        old = follower.opset < 13
        axis = attribute(node, "axis", 1 if old else -1) % rank
        given = range(axis, rank) if old else [axis]
    elif kind == "MeanVarianceNormalization":
        given = attribute(node, "axes", [0, 2, 3])
    elif kind == "InstanceNormalization":
        given = [axis for axis in range(rank) if axis != 1]
    return [axis % rank for axis in given]


def _reduced(follower: Follower, node: NodeProto) -> Sequence[int] | None:
    """The axes of a reduction; None where they are computed."""
    given = attribute(node, "axes")
    if given is None and len(node.input) > 1 and node.input[1]:
        constant = follower.constant(node.input[1])
        if constant is None:
            return None
        given = constant.tolist()
    if not given and not attribute(node, "noop_with_empty_axes", 0):
        return range(len(follower.shapes[node.input[0]]))
    return given or []


@RULES.of(*_REDUCTIONS, *_ACROSS_ONE, *_ACROSS_THE_REST, *_SOFTMAX, "MeanVarianceNormalization")
def _across(follower: Follower, node: NodeProto) -> None:
    """Channels on an axis that is looked across stay; those on another one pass."""
    found = follower.channels.get(node.input[0])
    if found is None:
        return
    if operator_type(node) in _REDUCTIONS and _reduced(follower, node) is None:
        follower.freeze(found.labels, "the axes of a reduction are computed")
        return
    axes = axes_across(follower, node)
    if found.axis in axes:
        follower.freeze(found.labels, f"{operator_type(node)} looks across them")
        return
    keeps = attribute(node, "keepdims", 1) or operator_type(node) not in (*_REDUCTIONS, "ArgMax", "ArgMin")
    for name in node.output:
        if name:
            shift = 0 if keeps else sum(axis < found.axis for axis in axes)
            follower.set(name, found.axis - shift, found.labels)


@RULES.of("com.microsoft.SkipLayerNormalization", "com.microsoft.SkipSimplifiedLayerNormalization", several=True)
def _normalised_sum(follower: Follower, node: NodeProto) -> None:
    """Across the last axis, which is that of channels wherever onnxruntime's optimiser puts it."""
    follower.freeze_all(node.input, f"{node.op_type} looks across them")


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
