"""Strided 1x1 convolutions of few channels: oneDNN writes past their buffers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from onnxprune.training.strides import strides_taken_first


class Strides(TorchDispatchMode):
    """Notes those of each convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function is torch.ops.aten.convolution.default:
            self.seen.append(arguments[3])
        return function(*arguments, **(keywords or {}))


def called(layer: nn.Conv2d, images: Tensor) -> Tensor:
    return layer(images)


def by_name(layer: nn.Conv2d, images: Tensor) -> Tensor:
    return layer(input=images)


def by_its_weights(layer: nn.Conv2d, images: Tensor) -> Tensor:
    return F.conv2d(images, 2 * layer.weight, layer.bias, layer.stride, groups=layer.groups)


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 8, 1, 2), nn.Conv2d(6, 4, 1, (2, 3), groups=2, bias=False)])
@pytest.mark.parametrize("way", [called, by_name, by_its_weights])
def test_the_sums_are_the_same_without_a_stride(layer: nn.Conv2d, way: Callable[[nn.Conv2d, Tensor], Tensor]) -> None:
    images = torch.randn(3, layer.in_channels, 9, 10)  # not channels last: the fault is not met
    layer.weight.grad = None
    expected = way(layer, images)
    expected.square().sum().backward()
    gradient, layer.weight.grad = layer.weight.grad, None
    assert gradient is not None
    with strides_taken_first(nn.Sequential(layer)), Strides() as strides:
        found = way(layer, images)
    found.square().sum().backward()
    assert strides.seen == [[1, 1]]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(layer.weight.grad, gradient)


@pytest.mark.parametrize("layer", [nn.Conv2d(16, 8, 1, 2), nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(4, 8, 1, 2, padding=1)])
def test_other_layers_are_left_alone(layer: nn.Conv2d) -> None:
    with strides_taken_first(nn.Sequential(layer, nn.Conv2d(4, 4, 1))), Strides() as strides:
        layer(torch.randn(3, layer.in_channels, 9, 10))
    assert strides.seen == [[2, 2]]
