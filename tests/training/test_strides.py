"""Strided 1x1 convolutions of few channels: oneDNN writes past their buffers."""

import pytest
import torch
from torch import nn

from onnxprune.training.strides import strides_taken_first


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 8, 1, 2), nn.Conv2d(6, 4, 1, (2, 3), groups=2, bias=False)])
def test_the_sums_are_the_same_and_the_layer_is_as_before(layer: nn.Conv2d) -> None:
    stride = layer.stride
    images = torch.randn(3, layer.in_channels, 9, 10)  # not channels last: the fault is not met
    expected = layer(images)
    expected.square().sum().backward()
    gradient, layer.weight.grad = layer.weight.grad, None
    assert gradient is not None
    with strides_taken_first(nn.Sequential(layer)):
        assert layer.stride == (1, 1)
        found = layer(images)
        found.square().sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(layer.weight.grad, gradient)
    assert layer.stride == stride
    assert not layer._forward_pre_hooks


@pytest.mark.parametrize("layer", [nn.Conv2d(16, 8, 1, 2), nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, 2, 1)])
def test_other_layers_are_left_alone(layer: nn.Conv2d) -> None:
    stride = layer.stride
    with strides_taken_first(layer):
        assert layer.stride == stride
