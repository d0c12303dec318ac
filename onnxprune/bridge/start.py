"""The network that a point starts from."""

from typing import Any

from torch import nn

from onnxprune.bridge.coupling import heads
from onnxprune.bridge.graph_builder import read_network
from onnxprune.data.dataset import Dataset
from onnxprune.models import MODELS, onnx_file
from onnxprune.settings.point import Point
from onnxprune.training.device import select_device
from onnxprune.training.transfer import load_weights


def make_network(
    name: str, input_shape: tuple[int, int, int], classes: int, seed: int, options: dict[str, Any]
) -> nn.Module:
    """A network by its model's name, in evaluation mode: untrained, or as it comes where that is trained.

    Args:
        options: the fields of a point that the model takes.

    Raises:
        InputError: it is the user's own, and cannot be built or read.
    """
    model = MODELS[name]
    if model.trained:
        return read_network(onnx_file.source(model.module), input_shape, classes)
    return model.build(input_shape, classes, seed, **options).eval()


def build_network(point: Point, dataset: Dataset) -> nn.Module:
    """The network of a point before training, on the point's device: of random weights, which equal seeds make equal,
    or of those that it starts from.

    Raises:
        InputError: the weights do not fit the network.
        RunError: they cannot be downloaded.
    """
    network = make_network(point.model, dataset.input_shape, len(dataset.classes), point.seed, point.model_options)
    if point.weights is not None:
        load_weights(network, point.weights, dataset.classes, lambda: heads(network, dataset.input_shape))
    return network.eval().to(select_device(point.device))
