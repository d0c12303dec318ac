"""ONNX's operators in PyTorch, so that a graph can be trained: what classifiers are made of.

Each is a function of a `Call` and the node's inputs: tensors; NumPy arrays for what is constant or follows from sizes;
None for an optional input that is not there. It returns a tensor, or a list of them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper
from torch import Tensor
from torch.nn import functional as F

from onnxprune.common.errors import InputError
from onnxprune.graph.network import label_of

Value = Tensor | np.ndarray | None

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


@dataclass(frozen=True)
class Call:
    """A node that is run.

    Attributes:
        attributes: name -> value; text as str.
        opset: version of ONNX's operators in its file.
    """

    node: NodeProto
    attributes: Mapping[str, Any]
    opset: int

    @classmethod
    def of(cls, node: NodeProto, opset: int) -> "Call":
        """The node, with its attributes read once."""
        found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        text = {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}
        return cls(node, text, opset)

    def attribute(self, name: str, default: Any = None) -> Any:
        """Its value, or the default where the node does not have it."""
        return self.attributes.get(name, default)

    def refused(self, what: str) -> InputError:
        """The error for a form of the operator that is not known here."""
        return InputError(f"node '{label_of(self.node)}': {self.node.op_type} with {what} cannot be run in PyTorch")


def _tensor(value: Tensor | np.ndarray, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.array(value)).to(like.device)


def _numbers(value: Value) -> list[Any]:
    """A tensor of sizes, places or limits as Python numbers."""
    assert value is not None
    found = value.tolist()
    return found if isinstance(found, list) else [found]


def _number(value: Value) -> Any:
    return _numbers(value)[0] if np.ndim(_numbers(value)[0]) == 0 else np.ravel(_numbers(value)).tolist()[0]


def _together(*values: Value) -> list[Tensor]:
    """All as tensors, on the device of those that are."""
    like = next(value for value in values if isinstance(value, Tensor))
    return [_tensor(value, like) for value in values if value is not None]


def _elementwise(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda call, *values: function(*_together(*values))


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """An operator of any number of inputs, by one of two."""

    def run(call: Call, *values: Value) -> Tensor:
        first, *others = _together(*values)
        for other in others:
            first = function(first, other)
        return first

    return run


def _divide(call: Call, first: Value, second: Value) -> Tensor:
    one, other = _together(first, second)
    return one / other if one.is_floating_point() else torch.div(one, other, rounding_mode="trunc")


def _mean(call: Call, *values: Value) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*_together(*values))).mean(0)


def _spatial(call: Call, data: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and (begin..., end...) pads of a window over the places of `data` (N, C, places...)."""
    count = len(kernel)
    strides = list(call.attribute("strides", [1] * count))
    dilations = list(call.attribute("dilations", [1] * count))
    pads = list(call.attribute("pads", [0] * 2 * count))
    automatic = call.attribute("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = [], []
        for size, window, stride, dilation in zip(data.shape[2:], kernel, strides, dilations, strict=True):
            missing = max(0, (-(-size // stride) - 1) * stride + dilation * (window - 1) + 1 - size)
            small, large = missing // 2, missing - missing // 2
            begins.append(small if automatic == "SAME_UPPER" else large)
            ends.append(large if automatic == "SAME_UPPER" else small)
        pads = begins + ends
    return strides, dilations, pads


def _padded(data: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    count = len(pads) // 2
    if not any(pads):
        return data
    flat = [amount for axis in reversed(range(count)) for amount in (pads[axis], pads[count + axis])]
    return F.pad(data, flat, value=value)


def convolve(call: Call, data: Tensor, weight: Value, bias: Value = None) -> Tensor:
    """Conv of one, two or three dimensions."""
    (kernel,) = _together(weight) if isinstance(weight, Tensor) else [_tensor(weight, data)]  # type: ignore[arg-type]
    strides, dilations, pads = _spatial(call, data, kernel.shape[2:])
    run: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[kernel.dim() - 3]
    half = len(pads) // 2
    if pads[:half] != pads[half:]:
        data, pads = _padded(data, pads), [0] * 2 * half
    shift = None if bias is None else _tensor(bias, data)
    return run(data, kernel, shift, strides, pads[:half], dilations, call.attribute("group", 1))


def _convolve_transposed(call: Call, data: Tensor, weight: Value, bias: Value = None) -> Tensor:
    kernel = _tensor(weight, data)  # type: ignore[arg-type]
    if call.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or call.attribute("output_shape"):
        raise call.refused("auto_pad or output_shape")
    strides, dilations, pads = _spatial(call, data, kernel.shape[2:])
    half = len(pads) // 2
    extra = list(call.attribute("output_padding", [0] * half))
    run: Callable[..., Tensor] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[kernel.dim() - 3]
    if pads[:half] != pads[half:]:
        raise call.refused("pads that differ between the two sides")
    shift = None if bias is None else _tensor(bias, data)
    return run(data, kernel, shift, strides, pads[:half], extra, call.attribute("group", 1), dilations)


def _gemm(call: Call, first: Value, second: Value, third: Value = None) -> Tensor:
    left, right, *rest = _together(first, second, third)
    left = left.t() if call.attribute("transA", 0) else left
    right = right.t() if call.attribute("transB", 0) else right
    found = call.attribute("alpha", 1.0) * (left @ right)
    return found + call.attribute("beta", 1.0) * rest[0] if rest else found


def _batch_norm(call: Call, data: Tensor, *rest: Value) -> Tensor:
    scale, shift, mean, variance = (_tensor(value, data) for value in rest if value is not None)
    return F.batch_norm(data, mean, variance, scale, shift, training=False, eps=call.attribute("epsilon", 1e-5))


def _layer_norm(call: Call, data: Tensor, scale: Value, shift: Value = None) -> Tensor:
    axis = call.attribute("axis", -1) % data.dim()
    shape = data.shape[axis:]
    weight = _tensor(scale, data)  # type: ignore[arg-type]
    bias = None if shift is None else _tensor(shift, data).expand(shape)
    return F.layer_norm(data, shape, weight.expand(shape), bias, call.attribute("epsilon", 1e-5))


def _rms_norm(call: Call, data: Tensor, scale: Value) -> Tensor:
    axis = call.attribute("axis", -1) % data.dim()
    return F.rms_norm(data, data.shape[axis:], _tensor(scale, data), call.attribute("epsilon", 1e-5))  # type: ignore[arg-type]


def _instance_norm(call: Call, data: Tensor, scale: Value, shift: Value) -> Tensor:
    _, weight, bias = _together(data, scale, shift)
    return F.instance_norm(data, weight=weight, bias=bias, eps=call.attribute("epsilon", 1e-5))


def _group_norm(call: Call, data: Tensor, scale: Value, shift: Value) -> Tensor:
    _, weight, bias = _together(data, scale, shift)
    groups = call.attribute("num_groups")
    if len(weight) == groups != data.shape[1]:  # before opset 21: one for each group
        weight, bias = (part.repeat_interleave(data.shape[1] // groups) for part in (weight, bias))
    return F.group_norm(data, groups, weight, bias, call.attribute("epsilon", 1e-5))


def _response_norm(call: Call, data: Tensor) -> Tensor:
    return F.local_response_norm(
        data,
        call.attribute("size"),
        call.attribute("alpha", 1e-4),
        call.attribute("beta", 0.75),
        call.attribute("bias", 1.0),
    )


def _max_pool(call: Call, data: Tensor) -> Tensor:
    kernel = list(call.attribute("kernel_shape"))
    strides, dilations, pads = _spatial(call, data, kernel)
    half, ceil = len(kernel), bool(call.attribute("ceil_mode", 0))
    run: Callable[..., Tensor] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[half - 1]
    if pads[:half] != pads[half:] or any(2 * pad > size for pad, size in zip(pads, kernel, strict=False)):
        data, pads = _padded(data, pads, -math.inf), [0] * 2 * half
    return run(data, kernel, strides, pads[:half], dilations, ceil)


def _average_pool(call: Call, data: Tensor) -> Tensor:
    kernel = list(call.attribute("kernel_shape"))
    strides, dilations, pads = _spatial(call, data, kernel)
    half, ceil = len(kernel), bool(call.attribute("ceil_mode", 0))
    counted = bool(call.attribute("count_include_pad", 0))
    if any(step != 1 for step in dilations):
        raise call.refused("dilations")
    run: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[half - 1]
    if pads[:half] == pads[half:] and not any(2 * pad > size for pad, size in zip(pads, kernel, strict=False)):
        return run(data, kernel, strides, pads[:half], ceil, counted)
    whole = run(_padded(data, pads), kernel, strides, 0, ceil)
    if counted:
        return whole
    inside = torch.ones_like(data[:1, :1])
    return whole / run(_padded(inside, pads), kernel, strides, 0, ceil)


def _places(data: Tensor) -> list[int]:
    return list(range(2, data.dim()))


def _axes(call: Call, data: Tensor, given: Value) -> list[int]:
    """The axes that a reduction goes over: of its input or attribute, or all."""
    found = call.attribute("axes") if given is None else _numbers(given)
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


def _clip(call: Call, data: Tensor, low: Value = None, high: Value = None) -> Tensor:
    limits = [
        call.attribute(name) if value is None else _number(value) for name, value in (("min", low), ("max", high))
    ]
    return data.clamp(*limits) if limits != [None, None] else data


def _gelu(call: Call, data: Tensor) -> Tensor:
    return F.gelu(data, approximate=call.attribute("approximate", "none"))


def _prelu(call: Call, data: Tensor, slope: Value) -> Tensor:
    return torch.where(data < 0, data * _tensor(slope, data), data)  # type: ignore[arg-type]


def _hard_sigmoid(call: Call, data: Tensor) -> Tensor:
    return (call.attribute("alpha", 0.2) * data + call.attribute("beta", 0.5)).clamp(0, 1)


def _reshape(call: Call, data: Tensor, target: Value) -> Tensor:
    sizes = _numbers(target)
    if not call.attribute("allowzero", 0):
        sizes = [data.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    return data.reshape(sizes)


def _flatten(call: Call, data: Tensor) -> Tensor:
    axis = call.attribute("axis", 1)
    axis = axis + data.dim() if axis < 0 else axis
    return data.reshape(math.prod(data.shape[:axis]), -1)


def _transpose(call: Call, data: Tensor) -> Tensor:
    return data.permute(call.attribute("perm", list(reversed(range(data.dim())))))


def _squeeze(call: Call, data: Tensor, axes: Value = None) -> Tensor:
    given = call.attribute("axes") if axes is None else _numbers(axes)
    return data.squeeze() if given is None else data.squeeze(tuple(given))


def _unsqueeze(call: Call, data: Tensor, axes: Value = None) -> Tensor:
    given = call.attribute("axes") if axes is None else _numbers(axes)
    for axis in sorted(axis % (data.dim() + len(given)) for axis in given):
        data = data.unsqueeze(axis)
    return data


def _concat(call: Call, *values: Value) -> Tensor:
    return torch.cat(_together(*values), call.attribute("axis"))


def _split(call: Call, data: Tensor, sizes: Value = None) -> list[Tensor]:
    axis, parts = call.attribute("axis", 0), len(call.node.output)
    given = call.attribute("split") if sizes is None else _numbers(sizes)
    return list(data.split(given or -(-data.shape[axis] // parts), axis))


def _slice(call: Call, data: Tensor, *rest: Value) -> Tensor:
    if rest:
        starts, ends, axes, steps = ([None if part is None else _numbers(part) for part in rest] + [None, None])[:4]
    else:
        starts, ends, axes, steps = call.attribute("starts"), call.attribute("ends"), call.attribute("axes"), None
    assert starts is not None and ends is not None
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = axes[place] % data.dim() if axes else place
        step = steps[place] if steps else 1
        size = data.shape[axis]
        if step > 0:
            data = data[(slice(None),) * axis + (slice(*slice(start, end, step).indices(size)),)]
        else:
            chosen = range(*slice(start, end if end > -size - 1 else None, step).indices(size))
            data = data.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64, device=data.device))
    return data


def _gather(call: Call, data: Value, places: Value) -> Tensor:
    table, index = _together(data, places)
    axis = call.attribute("axis", 0) % table.dim()
    index = torch.where(index < 0, index + table.shape[axis], index)
    found = table.index_select(axis, index.flatten())
    return found.reshape(*table.shape[:axis], *index.shape, *table.shape[axis + 1 :])


def _gather_elements(call: Call, data: Value, places: Value) -> Tensor:
    table, index = _together(data, places)
    axis = call.attribute("axis", 0) % table.dim()
    return table.gather(axis, torch.where(index < 0, index + table.shape[axis], index))


def _pad(call: Call, data: Tensor, pads: Value = None, value: Value = None, axes: Value = None) -> Tensor:
    amounts = call.attribute("pads") if pads is None else _numbers(pads)
    half = len(amounts) // 2
    which = [axis % data.dim() for axis in _numbers(axes)] if axes is not None else list(range(half))
    whole = [0] * 2 * data.dim()
    for place, axis in enumerate(which):
        whole[axis], whole[data.dim() + axis] = amounts[place], amounts[half + place]
    mode = call.attribute("mode", "constant")
    if mode == "constant":
        filler = call.attribute("value", 0.0) if value is None else _number(value)
        return _padded(data, whole, float(filler))
    flat = [amount for axis in reversed(range(data.dim())) for amount in (whole[axis], whole[data.dim() + axis])]
    while len(flat) > 2 and flat[-2:] == [0, 0] and len(flat) // 2 > data.dim() - 2:
        flat = flat[:-2]
    kinds = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    return F.pad(data, flat, kinds[mode])


def _expand(call: Call, data: Tensor, target: Value) -> Tensor:
    return data.expand(torch.broadcast_shapes(data.shape, tuple(_numbers(target))))


def _tile(call: Call, data: Tensor, repeats: Value) -> Tensor:
    return data.repeat(_numbers(repeats))


def _cast(call: Call, data: Tensor) -> Tensor:
    kind = _TYPES.get(call.attribute("to"))
    if kind is None:
        raise call.refused(f"type {TensorProto.DataType.Name(call.attribute('to'))}")
    return data.to(kind)


def _resize(call: Call, data: Tensor, *rest: Value) -> Tensor:
    scales, sizes = (list(rest) + [None] * 3)[1:3] if call.opset >= 11 else (rest[0], None)
    target = None
    if sizes is not None:
        target = _numbers(sizes)[-(data.dim() - 2) :]
    elif scales is not None and np.size(scales):
        target = [int(size * scale) for size, scale in zip(data.shape, _numbers(scales), strict=True)][2:]
    where = call.attribute("coordinate_transformation_mode", "half_pixel" if call.opset >= 11 else "asymmetric")
    mode = call.attribute("mode", "nearest")
    if target is None:
        raise call.refused("neither scales nor sizes")
    if mode == "nearest" and where == "asymmetric" and call.attribute("nearest_mode", "floor") == "floor":
        return F.interpolate(data, target, mode="nearest")
    if mode == "linear" and where in ("half_pixel", "pytorch_half_pixel", "align_corners") and data.dim() in (3, 4):
        kind = "linear" if data.dim() == 3 else "bilinear"
        return F.interpolate(data, target, mode=kind, align_corners=where == "align_corners")
    raise call.refused(f"mode {mode} and {where}")


def _depth_to_space(call: Call, data: Tensor) -> Tensor:
    block = call.attribute("blocksize")
    if call.attribute("mode", "DCR") == "CRD":
        return F.pixel_shuffle(data, block)
    count, channels, height, width = data.shape
    parts = data.view(count, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(count, channels // block**2, height * block, width * block)


def _space_to_depth(call: Call, data: Tensor) -> Tensor:
    block = call.attribute("blocksize")
    count, channels, height, width = data.shape
    parts = data.view(count, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(count, channels * block**2, height // block, width // block)


def _einsum(call: Call, *values: Value) -> Tensor:
    found: Tensor = torch.einsum(call.attribute("equation"), *_together(*values))
    return found


def _where(call: Call, condition: Value, first: Value, second: Value) -> Tensor:
    chosen, one, other = _together(condition, first, second)
    return torch.where(chosen, one, other)


def _recurrent(call: Call, order: Sequence[int], values: Sequence[Value]) -> tuple[Tensor, list[Tensor], int, bool]:
    """Data (time, batch, features), PyTorch's weights by direction, with the gates in its order, hidden size, biased.

    Args:
        order: where each of PyTorch's gates is among ONNX's.
    """
    data, weight, recurrence, bias = (list(values) + [None] * 4)[:4]
    if call.attribute("layout", 0) or call.attribute("direction", "forward") == "reverse" or call.attribute("clip"):
        raise call.refused("layout, direction or clip")
    if call.attribute("activations") and any(
        str(name, "utf8") not in ("Sigmoid", "Tanh") for name in call.attribute("activations")
    ):
        raise call.refused("other activations")
    steps, weights, recurrences = _together(data, weight, recurrence)
    hidden = recurrences.shape[2]

    def gates(block: Tensor) -> Tensor:
        parts = block.split(hidden)
        return torch.cat([parts[place] for place in order])

    found: list[Tensor] = []
    for direction in range(weights.shape[0]):
        found += [gates(weights[direction]), gates(recurrences[direction])]
        if bias is not None:
            both = _tensor(bias, steps)[direction].split(len(order) * hidden)
            found += [gates(part) for part in both]
    return steps, found, hidden, bias is not None


def _states(call: Call, steps: Tensor, directions: int, hidden: int, given: Value) -> Tensor:
    if given is None:
        return steps.new_zeros(directions, steps.shape[1], hidden)
    return _tensor(given, steps)


def _lstm(call: Call, *values: Value) -> list[Tensor]:
    steps, weights, hidden, biased = _recurrent(call, (0, 2, 3, 1), values)
    rest = (list(values) + [None] * 8)[4:8]
    if rest[0] is not None or rest[3] is not None or call.attribute("input_forget", 0):
        raise call.refused("sequence lengths, peepholes or input_forget")
    directions = len(weights) // (4 if biased else 2)
    states = [_states(call, steps, directions, hidden, given) for given in rest[1:3]]
    answers, last, cell = torch.lstm(steps, states, weights, biased, 1, 0.0, False, directions == 2, False)
    return [_by_direction(answers, directions), last, cell]


def _gru(call: Call, *values: Value) -> list[Tensor]:
    steps, weights, hidden, biased = _recurrent(call, (1, 0, 2), values)
    rest = (list(values) + [None] * 6)[4:6]
    if rest[0] is not None or not call.attribute("linear_before_reset", 0):
        raise call.refused("sequence lengths, or without linear_before_reset")
    directions = len(weights) // (4 if biased else 2)
    state = _states(call, steps, directions, hidden, rest[1])
    answers, last = torch.gru(steps, state, weights, biased, 1, 0.0, False, directions == 2, False)
    return [_by_direction(answers, directions), last]


def _by_direction(answers: Tensor, directions: int) -> Tensor:
    """(time, batch, directions * hidden) as ONNX has it, (time, directions, batch, hidden)."""
    time, count, width = answers.shape
    return answers.view(time, count, directions, width // directions).transpose(1, 2)


def _size(call: Call, data: Tensor) -> np.ndarray:
    return np.array(data.numel(), np.int64)


def _shape(call: Call, data: Tensor) -> np.ndarray:
    return np.array(data.shape[call.attribute("start", 0) : call.attribute("end")], np.int64)


# operator -> positions of the inputs that are sizes, places or limits and no data
NUMBERS: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "Expand": (1,),
    "Pad": (1, 2, 3),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"),
        (1,),
    ),
    "ReduceSumSquare": (1,),
}

OPERATORS: dict[str, Callable[..., Tensor | list[Tensor] | np.ndarray]] = {
    "Abs": _elementwise(torch.abs),
    "Add": _elementwise(torch.add),
    "And": _elementwise(torch.logical_and),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Ceil": _elementwise(torch.ceil),
    "Celu": lambda call, data: F.celu(data, call.attribute("alpha", 1.0)),
    "Clip": _clip,
    "Concat": _concat,
    "Conv": convolve,
    "ConvTranspose": _convolve_transposed,
    "Cos": _elementwise(torch.cos),
    "DepthToSpace": _depth_to_space,
    "Div": _divide,
    "Dropout": lambda call, data, *rest: data,
    "Einsum": _einsum,
    "Elu": lambda call, data: F.elu(data, call.attribute("alpha", 1.0)),
    "Equal": _elementwise(torch.eq),
    "Erf": _elementwise(torch.erf),
    "Exp": _elementwise(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _elementwise(torch.floor),
    "GRU": _gru,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda call, data: data.mean(_places(data), keepdim=True),
    "GlobalMaxPool": lambda call, data: data.amax(_places(data), keepdim=True),
    "Greater": _elementwise(torch.gt),
    "GreaterOrEqual": _elementwise(torch.ge),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda call, data: F.hardswish(data),
    "Identity": lambda call, data: data,
    "InstanceNormalization": _instance_norm,
    "LRN": _response_norm,
    "LSTM": _lstm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda call, data: F.leaky_relu(data, call.attribute("alpha", 0.01)),
    "Less": _elementwise(torch.lt),
    "LessOrEqual": _elementwise(torch.le),
    "Log": _elementwise(torch.log),
    "LogSoftmax": _softmax(torch.log_softmax),
    "MatMul": _elementwise(torch.matmul),
    "Max": _folded(torch.maximum),
    "MaxPool": _max_pool,
    "Mean": _mean,
    "Min": _folded(torch.minimum),
    "Mish": lambda call, data: F.mish(data),
    "Mul": _elementwise(torch.mul),
    "Neg": _elementwise(torch.neg),
    "Not": _elementwise(torch.logical_not),
    "Or": _elementwise(torch.logical_or),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _elementwise(torch.pow),
    "RMSNormalization": _rms_norm,
    "Reciprocal": _elementwise(torch.reciprocal),
    "ReduceL1": _reduction(lambda data, axes, keep: data.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduction(lambda data, axes, keep: data.square().sum(axes, keepdim=keep).sqrt()),
    "ReduceLogSumExp": _reduction(lambda data, axes, keep: torch.logsumexp(data, axes, keepdim=keep)),
    "ReduceMax": _reduction(lambda data, axes, keep: data.amax(axes, keepdim=keep)),
    "ReduceMean": _reduction(lambda data, axes, keep: data.mean(axes, keepdim=keep)),
    "ReduceMin": _reduction(lambda data, axes, keep: data.amin(axes, keepdim=keep)),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(lambda data, axes, keep: data.sum(axes, keepdim=keep)),
    "ReduceSumSquare": _reduction(lambda data, axes, keep: data.square().sum(axes, keepdim=keep)),
    "Relu": lambda call, data: F.relu(data),
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": _elementwise(torch.round),
    "Selu": lambda call, data: F.selu(data),
    "Shape": _shape,
    "Sigmoid": _elementwise(torch.sigmoid),
    "Sign": _elementwise(torch.sign),
    "Sin": _elementwise(torch.sin),
    "Size": _size,
    "Slice": _slice,
    "Softmax": _softmax(torch.softmax),
    "Softplus": lambda call, data: F.softplus(data),
    "Softsign": lambda call, data: F.softsign(data),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": _elementwise(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _elementwise(torch.sub),
    "Sum": _folded(torch.add),
    "Swish": lambda call, data: data * torch.sigmoid(call.attribute("alpha", 1.0) * data),
    "Tanh": _elementwise(torch.tanh),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
    "Where": _where,
}
