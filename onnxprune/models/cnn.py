"""A small convolutional network: convolution, pooling, fully connected."""

from collections import OrderedDict

from torch import nn


def build(input_shape: tuple[int, int, int], classes: int, batch_norm: bool = False) -> nn.Module:
    channels, height, width = input_shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (inputs, outputs) in enumerate([(channels, 32), (32, 64)], start=1):
        layers[f"conv{index}"] = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=not batch_norm)
        if batch_norm:
            layers[f"norm{index}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{index}"] = nn.ReLU()
        layers[f"pool{index}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(64 * (height // 4) * (width // 4), 128)
    layers["relu3"] = nn.ReLU()
    layers["classifier"] = nn.Linear(128, classes)
    return nn.Sequential(layers)
