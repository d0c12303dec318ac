"""What works element by element, or channel by channel, and hands on every channel as it is."""

import numpy as np
from onnx import NodeProto

from onnxprune.graph.follower import Follower
from onnxprune.graph.network import attribute
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.rules.table import Table

RULES = Table()

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


@RULES.of(*_SAME.split())
def _same(follower: Follower, node: NodeProto) -> None:
    """Element by element on the first input."""
    found = follower.channels.get(node.input[0])
    if found is not None:
        for name in node.output:
            if name and len(follower.shapes[name]) == len(follower.shapes[node.input[0]]):
                follower.set(name, found.axis, found.labels)


@RULES.of(*_ELEMENTWISE.split(), several=True)
def _elementwise(follower: Follower, node: NodeProto) -> None:
    """All inputs broadcast against each other: what meets is tied, and constants are cut along."""
    shape = follower.shapes[node.output[0]]
    own_axes = {
        position: follower.channels[name].axis + len(shape) - len(follower.shapes[name])
        for position, name in enumerate(node.input)
        if name in follower.channels
    }
    if not own_axes or attribute(node, "broadcast") is not None:
        follower.freeze_all(node.input, f"{operator_type(node)} is not supported in this opset")
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
        if follower.is_cuttable(name, place):
            follower.cut(position, place, labels, "along")
        else:
            follower.freeze(labels, f"they meet {name!r}, whose channels stay")
            stays[:] = True
    follower.set(node.output[0], axis, np.where(stays, 0, labels))


@RULES.of(*_POOLS.split())
def _pool(follower: Follower, node: NodeProto) -> None:
    labels = follower.of(node.input[0], 1)
    if len(node.output) > 1 and node.output[1]:
        follower.freeze(labels, "their places in the whole tensor are used")
    follower.set(node.output[0], 1, labels)


@RULES.of("GridSample", "MaxRoiPool", "RoiAlign")
def _sampled(follower: Follower, node: NodeProto) -> None:
    channelwise(follower, node)


def channelwise(follower: Follower, node: NodeProto, *along: int) -> None:
    """On axis 1, each channel for itself, with constants of one number a channel at these positions."""
    labels = follower.of(node.input[0], 1)
    for position in along:
        follower.cut(position, 0, labels, "along")
    follower.set(node.output[0], 1, labels)
