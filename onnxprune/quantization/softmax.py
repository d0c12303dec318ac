"""Scales of what Softmax gives in 8 bits, as onnxruntime's kernel needs them."""

import numpy as np
from onnx import GraphProto, numpy_helper

from onnxprune.graph.network import attribute

# onnxruntime draws conversions through these to the Softmax.
_MOVING = (
    "DequantizeLinear", "Flatten", "MaxPool", "QuantizeLinear", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
_BEFORE_OUTPUT = "_QuantizeLinear_Input"  # what the quantiser adds to the name of an output of the graph
_MOST_STEPS = 128  # up to the mean of what a Softmax gives: the kernel overflows, and gives 0, from e**5 = 148 on


def widen_scales(graph: GraphProto) -> None:
    """Makes those scales wider that are so small that onnxruntime's QLinearSoftmax gives 0 for the largest values.

    Small are those of a Softmax whose answers are much the same, as a gate's over a few branches.

    Args:
        graph: with the shapes of what Softmax gives, its nodes behind what they read; a size that is not known is taken
            to be 2, the least there is to choose from.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    dims = {value.name: value.type.tensor_type.shape.dim for value in (*graph.value_info, *graph.output)}
    least: dict[str, float] = {}
    for node in graph.node:
        if node.op_type == "Softmax":
            shape = dims.get(node.output[0].removesuffix(_BEFORE_OUTPUT), ())
            size = shape[attribute(node, "axis", -1)].dim_value if shape else 0
            least[node.output[0]] = 1 / (_MOST_STEPS * (size or 2))
        elif node.op_type in _MOVING and node.input[0] in least:
            least[node.output[0]] = least[node.input[0]]
            if node.op_type == "QuantizeLinear":
                scale = constants[node.input[1]]
                wide = np.maximum(numpy_helper.to_array(scale), np.float32(least[node.input[0]]))
                scale.CopyFrom(numpy_helper.from_array(wide, scale.name))
