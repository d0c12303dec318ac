"""A way around a fault of oneDNN, by which PyTorch computes convolutions on processors.

The gradient of a strided 1x1 convolution of few channels, in channels-last layout, is written past its buffer: below 8
input channels with AVX2, below 16 with AVX-512 (github.com/uxlfoundation/oneDNN/issues/6035). The process dies of it,
or goes on with other numbers. Shortcuts of pruned residual networks are such layers.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_BLOCK = 16  # channels, the wider of the two


def strides_taken_first(network: nn.Module) -> AbstractContextManager[Any]:
    """Within the block such convolutions take every n-th pixel first and convolve without a stride: the same sums.

    Whoever calls for them: a network may take a layer's weights and stride, and convolve itself.
    """
    return _StridesFirst() if any(map(may_be_at_fault, network.parameters())) else nullcontext()


class _StridesFirst(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        called = _convolved if function is torch.conv2d else function
        return called(*arguments, **(keywords or {}))


def _convolved(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    *others: Any,
    **named: Any,
) -> Tensor:
    """As `torch.conv2d`, whose names these are."""
    down, across = stride if isinstance(stride, tuple | list) else (stride, stride)
    if (down, across) != (1, 1) and may_be_at_fault(weight) and padding in (0, (0, 0), [0, 0], "valid"):
        input, stride = input[..., ::down, ::across], 1
    return torch.conv2d(input, weight, bias, stride, padding, *others, **named)


def may_be_at_fault(weight: Tensor) -> bool:
    """Whether a strided convolution by this weight (outputs, inputs of a group, height, width) may meet the fault."""
    return weight.dim() == 4 and weight.shape[2:] == (1, 1) and weight.shape[1] < _BLOCK
