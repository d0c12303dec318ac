"""A way around a fault of oneDNN, by which PyTorch computes convolutions on processors.

The gradient of a strided 1x1 convolution of few channels, in channels-last layout, is written past its buffer: below 8
input channels with AVX2, below 16 with AVX-512 (github.com/uxlfoundation/oneDNN/issues/6035). The process dies of it,
or goes on with other numbers. Shortcuts of pruned residual networks are such layers.
"""

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn

_BLOCK = 16  # channels, the wider of the two


@contextlib.contextmanager
def strides_taken_first(network: nn.Module) -> Iterator[None]:
    """Within the block such layers take every n-th pixel first and convolve without a stride: the same sums."""
    with contextlib.ExitStack() as stack:
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and _at_fault(layer):
                stack.enter_context(_stride_taken_first(layer))
        yield


def _at_fault(layer: nn.Conv2d) -> bool:
    return (
        layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.padding in ((0, 0), "valid")
        and layer.in_channels // layer.groups < _BLOCK
    )


@contextlib.contextmanager
def _stride_taken_first(layer: nn.Conv2d) -> Iterator[None]:
    down, across = layer.stride

    def thinned(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        return inputs[0][..., ::down, ::across]

    hook = layer.register_forward_pre_hook(thinned)
    layer.stride = (1, 1)
    try:
        yield
    finally:
        layer.stride = (down, across)
        hook.remove()
