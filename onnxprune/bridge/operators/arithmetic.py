"""Sums, products, reductions and functions of single elements."""

from collections.abc import Callable

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F

from onnxprune.bridge.operators.call import Call, Value, number, numbers, operator, tensor, together


def _elementwise(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda call, *values: function(*together(*values))


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """An operator of any number of inputs, by one of two."""

    def run(call: Call, *values: Value) -> Tensor:
        first, *others = together(*values)
        for other in others:
            first = function(first, other)
        return first

    return run


@operator("Div")
def _divide(call: Call, first: Value, second: Value) -> Tensor:
    one, other = together(first, second)
    return one / other if one.is_floating_point() else torch.div(one, other, rounding_mode="trunc")


@operator("Mean")
def _mean(call: Call, *values: Value) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*together(*values))).mean(0)


@operator("Gemm")
def _gemm(call: Call, first: Value, second: Value, third: Value = None) -> Tensor:
    left, right, *rest = together(first, second, third)
    left = left.t() if call.attribute("transA", 0) else left
    right = right.t() if call.attribute("transB", 0) else right
    found = call.attribute("alpha", 1.0) * (left @ right)
    return found + call.attribute("beta", 1.0) * rest[0] if rest else found


def _axes(call: Call, data: Tensor, given: Value) -> list[int]:
    """The axes that a reduction goes over: of its input or attribute, or all."""
    found = call.attribute("axes") if given is None else numbers(given)
    if not found:
        return [] if call.attribute("noop_with_empty_axes", 0) else list(range(data.dim()))
    return [axis % data.dim() for axis in found]


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    def run(call: Call, data: Tensor, axes: Value = None) -> Tensor:
        over = _axes(call, data, axes)
        return function(data, over, bool(call.attribute("keepdims", 1))) if over else data

    return run


def _product(data: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        data = data.prod(axis, keepdim=keep)
    return data


def _arg(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda call, data: function(data, call.attribute("axis", 0), keepdim=bool(call.attribute("keepdims", 1)))


def _softmax(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(call: Call, data: Tensor) -> Tensor:
        axis = call.attribute("axis", -1 if call.opset >= 13 else 1)
        if call.opset >= 13:
            return function(data, dim=axis)
        axis %= data.dim()
        return (
            function(data.flatten(axis), dim=-1).view(data.shape) if axis else function(data.flatten(), 0).view_as(data)
        )

    return run


@operator("Clip", numbers=(1, 2))
def _clip(call: Call, data: Tensor, low: Value = None, high: Value = None) -> Tensor:
    limits = [call.attribute(name) if value is None else number(value) for name, value in (("min", low), ("max", high))]
    return data.clamp(*limits) if limits != [None, None] else data


@operator("Gelu")
def _gelu(call: Call, data: Tensor) -> Tensor:
    return F.gelu(data, approximate=call.attribute("approximate", "none"))


@operator("PRelu")
def _prelu(call: Call, data: Tensor, slope: Value) -> Tensor:
    return torch.where(data < 0, data * tensor(slope, data), data)  # type: ignore[arg-type]


@operator("HardSigmoid")
def _hard_sigmoid(call: Call, data: Tensor) -> Tensor:
    return (call.attribute("alpha", 0.2) * data + call.attribute("beta", 0.5)).clamp(0, 1)


_TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


@operator("Cast")
def _cast(call: Call, data: Tensor) -> Tensor:
    kind = _TYPES.get(call.attribute("to"))
    if kind is None:
        raise call.refused(f"type {TensorProto.DataType.Name(call.attribute('to'))}")
    return data.to(kind)


@operator("Einsum")
def _einsum(call: Call, *values: Value) -> Tensor:
    found: Tensor = torch.einsum(call.attribute("equation"), *together(*values))
    return found


@operator("Where")
def _where(call: Call, condition: Value, first: Value, second: Value) -> Tensor:
    chosen, one, other = together(condition, first, second)
    return torch.where(chosen, one, other)


_ALPHA, _GAMMA = 1.6732631921768188, 1.0507010221481323  # of Selu, where its node does not say others

for _name, _function in {
    "ReduceL1": _reduction(lambda data, axes, keep: data.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduction(lambda data, axes, keep: data.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceLogSumExp": _reduction(lambda data, axes, keep: torch.logsumexp(data, axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda data, axes, keep: data.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda data, axes, keep: data.mean(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda data, axes, keep: data.amin(axes, keepdim=keep)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(lambda data, axes, keep: data.sum(axes, keepdim=keep)),
    "ReduceSumSquare": _reduction(lambda data, axes, keep: data.square().sum(axes, keepdim=keep)),
}.items():
    operator(_name, numbers=(1,))(_function)

for _name, _function in {
    "Abs": _elementwise(torch.abs),
    "Add": _elementwise(torch.add),
    "And": _elementwise(torch.logical_and),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "Ceil": _elementwise(torch.ceil),
    "Celu": lambda call, data: F.celu(data, call.attribute("alpha", 1.0)),
    "Cos": _elementwise(torch.cos),
    "Elu": lambda call, data: F.elu(data, call.attribute("alpha", 1.0)),
    "Equal": _elementwise(torch.eq),
    "Erf": _elementwise(torch.erf),
    "Exp": _elementwise(torch.exp),
    "Floor": _elementwise(torch.floor),
    "Greater": _elementwise(torch.gt),
    "GreaterOrEqual": _elementwise(torch.ge),
    "HardSwish": lambda call, data: F.hardswish(data),
    "LeakyRelu": lambda call, data: F.leaky_relu(data, call.attribute("alpha", 0.01)),
    "Less": _elementwise(torch.lt),
    "LessOrEqual": _elementwise(torch.le),
    "Log": _elementwise(torch.log),
    "LogSoftmax": _softmax(torch.log_softmax),
    "MatMul": _elementwise(torch.matmul),
    "Max": _folded(torch.maximum),
    "Min": _folded(torch.minimum),
    "Mish": lambda call, data: F.mish(data),
    "Mul": _elementwise(torch.mul),
    "Neg": _elementwise(torch.neg),
    "Not": _elementwise(torch.logical_not),
    "Or": _elementwise(torch.logical_or),
    "Pow": _elementwise(torch.pow),
    "Reciprocal": _elementwise(torch.reciprocal),
    "Relu": lambda call, data: F.relu(data),
    "Round": _elementwise(torch.round),
    "Selu": lambda call, data: call.attribute("gamma", _GAMMA) * F.elu(data, call.attribute("alpha", _ALPHA)),
    "Sigmoid": _elementwise(torch.sigmoid),
    "Sign": _elementwise(torch.sign),
    "Sin": _elementwise(torch.sin),
    "Softmax": _softmax(torch.softmax),
    "Softplus": lambda call, data: F.softplus(data),
    "Softsign": lambda call, data: F.softsign(data),
    "Sqrt": _elementwise(torch.sqrt),
    "Sub": _elementwise(torch.sub),
    "Sum": _folded(torch.add),
    "Swish": lambda call, data: data * torch.sigmoid(call.attribute("alpha", 1.0) * data),
    "Tanh": _elementwise(torch.tanh),
}.items():
    operator(_name)(_function)
