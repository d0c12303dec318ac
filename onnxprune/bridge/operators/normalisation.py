"""Normalisations."""

from torch import Tensor
from torch.nn import functional as F

from onnxprune.bridge.operators.call import Call, Value, operator, tensor, together


@operator("BatchNormalization")
def _batch_norm(call: Call, data: Tensor, *rest: Value) -> Tensor:
    if call.attribute("training_mode", 0):
        raise call.refused("training_mode")
    scale, shift, mean, variance = (tensor(value, data) for value in rest if value is not None)
    return F.batch_norm(data, mean, variance, scale, shift, training=False, eps=call.attribute("epsilon", 1e-5))


@operator("LayerNormalization")
def _layer_norm(call: Call, data: Tensor, scale: Value, shift: Value = None) -> Tensor:
    axis = call.attribute("axis", -1) % data.dim()
    shape = data.shape[axis:]
    weight = tensor(scale, data)  # type: ignore[arg-type]
    bias = None if shift is None else tensor(shift, data).expand(shape)
    return F.layer_norm(data, shape, weight.expand(shape), bias, call.attribute("epsilon", 1e-5))


@operator("RMSNormalization")
def _rms_norm(call: Call, data: Tensor, scale: Value) -> Tensor:
    shape = data.shape[call.attribute("axis", -1) % data.dim() :]
    weight = tensor(scale, data).expand(shape)  # type: ignore[arg-type]
    return F.rms_norm(data, shape, weight, call.attribute("epsilon", 1e-5))


@operator("InstanceNormalization")
def _instance_norm(call: Call, data: Tensor, scale: Value, shift: Value) -> Tensor:
    _, weight, bias = together(data, scale, shift)
    return F.instance_norm(data, weight=weight, bias=bias, eps=call.attribute("epsilon", 1e-5))


@operator("GroupNormalization")
def _group_norm(call: Call, data: Tensor, scale: Value, shift: Value) -> Tensor:
    _, weight, bias = together(data, scale, shift)
    groups = call.attribute("num_groups")
    if len(weight) == groups != data.shape[1]:  # before opset 21: one for each group
        weight, bias = (part.repeat_interleave(data.shape[1] // groups) for part in (weight, bias))
    return F.group_norm(data, groups, weight, bias, call.attribute("epsilon", 1e-5))


@operator("LRN")
def _response_norm(call: Call, data: Tensor) -> Tensor:
    return F.local_response_norm(
        data,
        call.attribute("size"),
        call.attribute("alpha", 1e-4),
        call.attribute("beta", 0.75),
        call.attribute("bias", 1.0),
    )
