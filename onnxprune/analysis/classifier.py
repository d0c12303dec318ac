"""An ONNX file as a classifier of images: what it takes, and its logits."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from onnxprune.analysis.evaluation import as_logits
from onnxprune.common.errors import InputError
from onnxprune.graph.baking import BAKED
from onnxprune.graph.images import ImageInput
from onnxprune.graph.metadata import Metadata, Normalisation, parse
from onnxprune.runtime.probe import probe
from onnxprune.runtime.session import FLOATS, image_input, open_session, run_batched, scores_output

_MOST_VALUES = 2**22  # of a batch's images, 16 MiB: bounds the memory of large images
_MOST_IMAGES = 500


@dataclass(frozen=True)
class Classifier:
    """
    Attributes:
        image: its input.
        output_name: of the scores.
        batch: images it takes at once; None for any number.
    """

    path: Path
    session: onnxruntime.InferenceSession
    metadata: Metadata
    image: ImageInput
    output_name: str
    batch: int | None

    @property
    def shape(self) -> tuple[int | None, int | None, int | None]:
        """(C, H, W) of an image; None for a size that the file leaves open."""
        return self.image.shape

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
        return as_logits(found[:count])


def open_classifier(path: Path, *, device: str = "cpu", threads: int = 1) -> Classifier:
    """Opens an ONNX file under onnxruntime.

    Raises:
        InputError: it cannot be loaded, or does not classify images: it has not one float32 input of images, in
            whatever layout (`onnxprune.graph.images`), and an output (batch, classes).
    """
    probe(path, device=device, threads=threads)
    session = open_session(path, device=device, threads=threads)
    if BAKED in session.get_modelmeta().custom_metadata_map:
        raise InputError(f"{path}: it prepares pictures itself ('deploy --bake'): expected the plain file beside it")
    try:
        image, given = image_input(session), scores_output(session)
    except InputError as error:
        raise InputError(f"{path}: expected a classifier of images: {error}") from None
    taken = session.get_inputs()[0]
    if len(taken.shape) not in (2, 3, 4):
        raise InputError(
            f"{path}: expected a classifier of images with an input of (batch, channels, height, width), (batch, "
            f"height, width, channels), or rows or flattened ones; {taken.name!r} is {taken.type} of {taken.shape}"
        )
    if given.type not in FLOATS or len(given.shape) != 2:
        raise InputError(
            f"{path}: expected a classifier with an output of (batch, classes), "
            f"{given.name!r} is {given.type} of {given.shape}"
        )
    batch = taken.shape[0] if isinstance(taken.shape[0], int) else None
    metadata = parse(session.get_modelmeta().custom_metadata_map)
    return Classifier(path, session, metadata, image, str(given.name), batch)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes), float64."""
    logits = logits.astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def shape_text(shape: tuple[int | None, ...]) -> str:
    """(1, 28, None) is "1x28x?"."""
    return "x".join("?" if size is None else str(size) for size in shape)
