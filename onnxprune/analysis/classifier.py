"""An ONNX file as a classifier of images: what it takes, and its logits."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from onnxprune.analysis.evaluation import as_logits
from onnxprune.common.environment import available_memory
from onnxprune.common.errors import InputError
from onnxprune.common.files import identities
from onnxprune.common.output import plural
from onnxprune.graph.baking import BAKED
from onnxprune.graph.files import load
from onnxprune.graph.images import ImageInput
from onnxprune.graph.metadata import Metadata, Normalisation, parse
from onnxprune.runtime.helper import Limits, guarded, refusals, stage
from onnxprune.runtime.session import FLOATS, image_input, open_session, run_batched, scores_output
from onnxprune.runtime.sizes import SECONDS, bytes_around, run_memory

_MOST_VALUES = 2**22  # of a batch's images, 16 MiB: bounds the memory of large images
_MOST_IMAGES = 500
_COPIES = 8  # of a batch of bytes: as they are, as floats, normalised
_MOST_BYTES = 2**24  # of images that are handed over at once
_SECONDS_AN_IMAGE = 3  # of the processor, for the largest networks there are


@dataclass(frozen=True)
class Classifier:
    """
    Its session is in the helper process.

    Attributes:
        image: its input.
        output_name: of the scores.
        batch: images it takes at once; None for any number.
    """

    path: Path
    device: str
    threads: int
    metadata: Metadata
    image: ImageInput
    output_name: str
    batch: int | None

    @property
    def shape(self) -> tuple[int | None, int | None, int | None]:
        """(C, H, W) of an image; None for a size that the file leaves open."""
        return self.image.shape

    def check_batch(self, shape: tuple[int, ...]) -> None:
        """Raises an InputError where the file takes images of this shape (C, H, W) in larger batches alone than fit the
        memory."""
        if self.batch is not None and self.batch * math.prod(shape) > available_memory() // _COPIES:
            raise InputError(
                f"{self.path}: takes batches of {self.batch:,} images only, which do not fit the memory: export it "
                "with another batch size"
            )

    def logits(self, images: np.ndarray, normalisation: Normalisation) -> np.ndarray:
        """Logits (N, classes), float32, of uint8 images (N, C, H, W).

        A file that ends in a softmax gives probabilities; their logarithms are logits too.

        Raises:
            InputError: the file does not take such images, or no batches that fit the memory, or does not answer with
                a row of numbers for each.
        """
        normalisation.check_channels(images.shape[1])
        self.check_batch(images.shape[1:])
        count = len(images)
        size = self.batch or max(1, min(_MOST_IMAGES, _MOST_VALUES // math.prod(images.shape[1:])))
        if self.batch and count % self.batch:
            filler = np.zeros((-count % self.batch, *images.shape[1:]), np.uint8)
            images = np.concatenate([images, filler])
        found = scores(self.path, images, normalisation, size, device=self.device, threads=self.threads)
        if found.ndim != 2 or len(found) != len(images):
            raise InputError(f"{self.path}: answers with {list(found.shape)} to {plural(len(images), 'image')}")
        return as_logits(found[:count])


def scores(
    path: Path,
    images: np.ndarray,
    normalisation: Normalisation,
    batch: int,
    *,
    device: str = "cpu",
    threads: int = 1,
) -> np.ndarray:
    """What a file answers to uint8 images (N, C, H, W), float32 (N, classes), by the helper process.

    Raises:
        InputError: it does not take them, or goes beyond the limits.
    """
    size = bytes_around(path)
    part = batch * max(1, _MOST_BYTES // max(1, images[:batch].nbytes))  # images that are handed over at once
    pieces = []
    for start in range(0, len(images), part):
        some = images[start : start + part]
        limits = Limits(run_memory(size, some.nbytes * 4), threads, device == "cpu")
        seconds = SECONDS + size / 50e6 + _SECONDS_AN_IMAGE * len(some)
        how = (normalisation.mean, normalisation.std, batch, seconds)
        with refusals(path):
            pieces.append(guarded(f"{__name__}:scores_of", path, device, threads, some, *how, limits=limits))
    return np.concatenate(pieces)


def open_classifier(path: Path, *, device: str = "cpu", threads: int = 1) -> Classifier:
    """Opens an ONNX file under onnxruntime.

    Raises:
        InputError: it cannot be loaded, or does not classify images: it has not one float32 input of images, in
            whatever layout (`onnxprune.graph.images`), and an output (batch, classes).
    """
    size = bytes_around(path)
    limits = Limits(run_memory(size, None), threads, device == "cpu")
    with refusals(path):
        found: Classifier = guarded(
            f"{__name__}:looked_at", path, device, threads, SECONDS + size / 50e6, limits=limits
        )
    return found


def looked_at(path: Path, device: str, threads: int, seconds: float) -> Classifier:
    """The other side of `open_classifier`, in the helper process."""
    stage("opening it", seconds)
    model, _ = load(path)
    session = _session(path, device, threads)
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
    batch = next(value for value in model.graph.input if value.name == taken.name).type.tensor_type.shape.dim[0]
    metadata = parse(session.get_modelmeta().custom_metadata_map)
    return Classifier(path, device, threads, metadata, image, str(given.name), batch.dim_value or None)


def scores_of(
    path: Path,
    device: str,
    threads: int,
    images: np.ndarray,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch: int,
    seconds: float,
) -> np.ndarray:
    """The other side of `scores`, in the helper process: see `runtime.session.run_batched`."""
    stage(f"a run on {plural(len(images), 'image')}", seconds)
    return run_batched(_session(path, device, threads), images, mean, std, batch)


_open: dict[tuple[Any, ...], onnxruntime.InferenceSession] = {}


def _session(path: Path, device: str, threads: int) -> onnxruntime.InferenceSession:
    """Of the file as it is now; the latest one is kept."""
    known_by = (path, *identities([path]), device, threads)
    if known_by not in _open:
        _open.clear()
        _open[known_by] = open_session(path, device=device, threads=threads)
    return _open[known_by]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes), float64."""
    logits = logits.astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def shape_text(shape: tuple[int | None, ...]) -> str:
    """(1, 28, None) is "1x28x?"."""
    return "x".join("?" if size is None else str(size) for size in shape)
