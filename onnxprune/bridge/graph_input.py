"""A trained file that takes images, and its input."""

import functools
from pathlib import Path

import numpy as np

from onnxprune.common.errors import InputError
from onnxprune.graph.images import ImageInput, Layout
from onnxprune.graph.network import Network, read
from onnxprune.models.onnx_file import digest
from onnxprune.runtime.probe import probe
from onnxprune.runtime.sizes import SECONDS_TO_OPEN


def read_tried(path: Path) -> Network:
    """The network of a file that a helper process has opened, once for as long as the file stays the same.

    Raises:
        InputError: it cannot be read or opened.
    """
    _open(path, digest(str(path)))
    return read(path)


@functools.lru_cache
def _open(path: Path, _content: str) -> None:
    probe(path, seconds=SECONDS_TO_OPEN)


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
