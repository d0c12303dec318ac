"""Models without their weights, for onnx's native code, which takes none over 2 GiB."""

from math import prod
from typing import Any

from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto, helper


def without_weights(model: ModelProto) -> ModelProto:
    """A copy in which large initializers are inputs: onnx's native code takes no model over 2 GiB."""
    light = ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            copy_field(light, field, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            copy_field(light.graph, field, value)
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if not is_large(tensor):
            light.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def copy_field(message: Message, field: FieldDescriptor, value: Any) -> None:
    """Adds to a message the field of another."""
    if field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def is_large(tensor: TensorProto) -> bool:
    """True for weights; shapes, indices and the like, whose values shape inference reads, are smaller."""
    return prod(tensor.dims) > 1024 or tensor.data_location == TensorProto.EXTERNAL
