"""DenseNet-121 (Huang et al. 2017, arXiv 1608.06993) as torchvision builds it, and the removal of its dense layers."""

import re
from typing import Any

import torch
from torch import nn

from onnxprune.common.torchvision import torchvision_module

_DENSE_LAYER = re.compile(r"features\.denseblock\d+\.denselayer\d+")


def build(input_shape: tuple[int, int, int], classes: int, stem: str = "imagenet") -> nn.Module:
    """The network for images (C, H, W); `stem` is "imagenet" (7x7 stride 2, pooling) or "small" (3x3 stride 1)."""
    network: Any = torchvision_module().models.densenet121(num_classes=classes)
    channels = input_shape[0]
    features = network.features
    if stem == "small":
        features.conv0 = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
        del features.pool0
    else:
        features.conv0 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(features.conv0.weight)
    built: nn.Module = network
    return built


def removable_layers(network: nn.Module) -> list[str]:
    """Names of the dense layers: each adds channels to its block's concatenation, and each can be left out."""
    return [name for name, _ in network.named_modules() if _DENSE_LAYER.fullmatch(name)]


def remove_layers(network: Any, names: set[str]) -> None:
    """Takes whole dense layers out of `network`, in place, as if their outputs had never been concatenated.

    Every consumer of the block's concatenation (the later dense layers, then the transition, or the last BatchNorm
    with the classifier) loses the inputs that the removed layers fed.
    """
    features = network.features
    blocks = [name for name, _ in features.named_children() if name.startswith("denseblock")]
    for number, block_name in enumerate(blocks, start=1):
        block = getattr(features, block_name)
        kept: list[torch.Tensor] = []  # for every concatenated tensor: its channels' fate, True = still there
        first = next(iter(block.values()))
        kept.append(torch.ones(first.norm1.num_features, dtype=torch.bool))
        for layer_name, layer in list(block.items()):
            stays = f"features.{block_name}.{layer_name}" not in names
            if stays:
                _keep_inputs(layer.norm1, layer.conv1, torch.cat(kept))
            else:
                del block[layer_name]
            kept.append(torch.full((layer.conv2.out_channels,), stays))
        inputs = torch.cat(kept)
        if number < len(blocks):
            transition = getattr(features, f"transition{number}")
            _keep_inputs(transition.norm, transition.conv, inputs)
        else:
            _keep_inputs(features.norm5, network.classifier, inputs)


def _keep_inputs(norm: nn.BatchNorm2d, layer: nn.Conv2d | nn.Linear, keep: torch.Tensor) -> None:
    """Narrows a BatchNorm and the layer it feeds to the channels in `keep` (C,), a boolean mask."""
    index = keep.nonzero().squeeze(1).to(norm.weight.device)
    for name in ("weight", "bias"):
        setattr(norm, name, nn.Parameter(getattr(norm, name).detach()[index].clone()))
    for name in ("running_mean", "running_var"):
        setattr(norm, name, getattr(norm, name)[index].clone())
    norm.num_features = len(index)
    layer.weight = nn.Parameter(layer.weight.detach()[:, index].clone())
    if isinstance(layer, nn.Conv2d):
        layer.in_channels = len(index)
    else:
        layer.in_features = len(index)
