"""Convolutions and pooling: what looks at windows of places, and at all places."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from onnxprune.bridge.operators.call import Call, Value, operator, padded, tensor
from onnxprune.graph.windows import same_pads


def _spatial(call: Call, data: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and (begin..., end...) pads of a window over the places of `data` (N, C, places...)."""
    count = len(kernel)
    strides = list(call.attribute("strides", [1] * count))
    dilations = list(call.attribute("dilations", [1] * count))
    pads = list(call.attribute("pads", [0] * 2 * count))
    automatic = call.attribute("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        begins, ends = same_pads(data.shape[2:], kernel, strides, dilations, automatic)
        pads = begins + ends
    return strides, dilations, pads


@operator("Conv")
def _convolve(call: Call, data: Tensor, weight: Value, bias: Value = None) -> Tensor:
    """Conv of one, two or three dimensions."""
    kernel = tensor(weight, data)  # type: ignore[arg-type]
    strides, dilations, pads = _spatial(call, data, kernel.shape[2:])
    run: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[kernel.dim() - 3]
    half = len(pads) // 2
    if pads[:half] != pads[half:]:
        data, pads = padded(data, pads), [0] * 2 * half
    shift = None if bias is None else tensor(bias, data)
    return run(data, kernel, shift, strides, pads[:half], dilations, call.attribute("group", 1))


@operator("ConvTranspose")
def _convolve_transposed(call: Call, data: Tensor, weight: Value, bias: Value = None) -> Tensor:
    kernel = tensor(weight, data)  # type: ignore[arg-type]
    if call.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or call.attribute("output_shape"):
        raise call.refused("auto_pad or output_shape")
    strides, dilations, pads = _spatial(call, data, kernel.shape[2:])
    half = len(pads) // 2
    extra = list(call.attribute("output_padding", [0] * half))
    run: Callable[..., Tensor] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[kernel.dim() - 3]
    if pads[:half] != pads[half:]:
        raise call.refused("pads that differ between the two sides")
    shift = None if bias is None else tensor(bias, data)
    return run(data, kernel, shift, strides, pads[:half], extra, call.attribute("group", 1), dilations)


@operator("MaxPool")
def _max_pool(call: Call, data: Tensor) -> Tensor:
    kernel = list(call.attribute("kernel_shape"))
    strides, dilations, pads = _spatial(call, data, kernel)
    half, ceil = len(kernel), bool(call.attribute("ceil_mode", 0))
    run: Callable[..., Tensor] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[half - 1]
    if pads[:half] != pads[half:] or any(2 * pad > size for pad, size in zip(pads, kernel, strict=False)):
        data, pads = padded(data, pads, -math.inf), [0] * 2 * half
    return run(data, kernel, strides, pads[:half], dilations, ceil)


@operator("AveragePool")
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
    whole = run(padded(data, pads), kernel, strides, 0, ceil)
    if counted:
        return whole
    inside = torch.ones_like(data[:1, :1])
    return whole / run(padded(inside, pads), kernel, strides, 0, ceil)


def _places(data: Tensor) -> list[int]:
    return list(range(2, data.dim()))


for _name, _function in {
    "GlobalAveragePool": lambda call, data: data.mean(_places(data), keepdim=True),
    "GlobalMaxPool": lambda call, data: data.amax(_places(data), keepdim=True),
}.items():
    operator(_name)(_function)
