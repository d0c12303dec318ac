"""An ONNX file as a classifier of images: what it takes, and its logits."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from onnxprune.common.errors import InputError
from onnxprune.graph.metadata import Metadata, Normalisation, parse
from onnxprune.runtime.probe import probe
from onnxprune.runtime.session import open_session, run_batched

_MOST_VALUES = 2**22  # of a batch's images, 16 MiB: bounds the memory of large images
_MOST_IMAGES = 500
_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


@dataclass(frozen=True)
class Classifier:
    """
    Attributes:
        shape: (C, H, W) of an image; None for a size that the file leaves open.
        batch: images it takes at once; None for any number.
    """

    path: Path
    session: onnxruntime.InferenceSession
    metadata: Metadata
    shape: tuple[int | None, ...]
    batch: int | None

    @property
    def input_name(self) -> str:
        """The name of its only input."""
        return str(self.session.get_inputs()[0].name)

    @property
    def output_name(self) -> str:
        """The name of its only output."""
        return str(self.session.get_outputs()[0].name)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether it takes images of this shape (C, H, W)."""
        return all(have in (None, want) for have, want in zip(self.shape, shape, strict=True))

    def logits(self, images: np.ndarray, normalisation: Normalisation) -> np.ndarray:
        """Logits (N, classes), float32, of uint8 images (N, C, H, W).

        A file that ends in a softmax gives probabilities; their logarithms are logits too.

        Raises:
            InputError: the file does not take such images, or does not answer with a row of numbers for each.
        """
        normalisation.check_channels(images.shape[1])
        count = len(images)
        size = self.batch or max(1, min(_MOST_IMAGES, _MOST_VALUES // math.prod(images.shape[1:])))
        if self.batch and count % self.batch:
            filler = np.zeros((-count % self.batch, *images.shape[1:]), np.uint8)
            images = np.concatenate([images, filler])
        found = run_batched(self.session, images, normalisation.mean, normalisation.std, size)
        if found.ndim != 2 or len(found) != len(images):
            raise InputError(f"{self.path}: answers with {list(found.shape)} to {len(images)} images")
        return _as_logits(found[:count])


def open_classifier(path: Path, *, device: str = "cpu", threads: int = 1) -> Classifier:
    """Opens an ONNX file under onnxruntime.

    Raises:
        InputError: it cannot be loaded, or does not classify images: it has not one float32 input (batch, channels,
            height, width) and one output (batch, classes).
    """
    probe(path, device=device, threads=threads)
    session = open_session(path, device=device, threads=threads)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"{path}: expected a classifier with one input and one output, it has {len(inputs)} and {len(outputs)}"
        )
    taken, given = inputs[0], outputs[0]
    if taken.type != "tensor(float)" or len(taken.shape) != 4:
        raise InputError(
            f"{path}: expected a classifier of images with an input tensor(float) of (batch, channels, height, width), "
            f"{taken.name!r} is {taken.type} of {taken.shape}"
        )
    if given.type not in _FLOATS or len(given.shape) != 2:
        raise InputError(
            f"{path}: expected a classifier with an output of (batch, classes), "
            f"{given.name!r} is {given.type} of {given.shape}"
        )
    batch, *shape = (size if isinstance(size, int) else None for size in taken.shape)
    metadata = parse(session.get_modelmeta().custom_metadata_map)
    return Classifier(path, session, metadata, tuple(shape), batch)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes), float64."""
    logits = logits.astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def shape_text(shape: tuple[int | None, ...]) -> str:
    """(1, 28, None) is "1x28x?"."""
    return "x".join("?" if size is None else str(size) for size in shape)


def _as_logits(found: np.ndarray) -> np.ndarray:
    # Logits that are all positive and add up to 1 in every row do not happen by chance.
    if (found >= 0).all() and np.allclose(found.sum(axis=1), 1, rtol=0, atol=1e-3):
        return np.asarray(np.log(np.maximum(found, np.finfo(np.float32).tiny)))
    return found
