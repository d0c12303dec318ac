"""The network that a point starts from."""

from torch import nn

from onnxprune.bridge.coupling import heads
from onnxprune.data.dataset import Dataset
from onnxprune.models import MODELS
from onnxprune.settings.point import Point
from onnxprune.training.device import select_device
from onnxprune.training.transfer import load_weights


def build_network(point: Point, dataset: Dataset) -> nn.Module:
    """The network of a point before training, on the point's device: of random weights, which equal seeds make equal,
    or of those that it starts from.

    Raises:
        InputError: the weights do not fit the network.
        RunError: they cannot be downloaded.
    """
    model = MODELS[point.model]
    network = model.build(dataset.input_shape, len(dataset.classes), point.seed, **point.model_options)
    if point.weights is not None:
        load_weights(network, point.weights, dataset.classes, lambda: heads(network, dataset.input_shape))
    return network.eval().to(select_device(point.device))
