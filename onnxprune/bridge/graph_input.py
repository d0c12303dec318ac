"""The input of an ONNX graph that takes images."""

import numpy as np

from onnxprune.common.errors import InputError
from onnxprune.graph.images import ImageInput, Layout
from onnxprune.graph.network import Network


def image_input(network: Network, where: str) -> ImageInput:
    """The one input of a network.

    Raises:
        InputError: there are several, or it takes no 32-bit numbers.
    """
    values = list(network.model.graph.input)
    if len(values) != 1 or not values[0].type.HasField("tensor_type"):
        raise InputError(f"{where}: expected one input, the images; it has {len(values)}")
    image = ImageInput.of_value(values[0])
    if image.kind != np.float32:
        raise InputError(f"{where}: its input {image.name!r} is {image.kind}: a study needs a float32 input")
    return image


def image_layout(image: ImageInput, shape: tuple[int, int, int], where: str) -> Layout:
    """How images of this shape (C, H, W) are laid out for an input.

    Raises:
        InputError: they do not fit it.
    """
    try:
        return image.layout(shape)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
