"""Picture files through a classifier's ONNX file, by what its metadata say."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxprune.analysis.classifier import Classifier, softmax
from onnxprune.common.errors import InputError
from onnxprune.common.output import plural
from onnxprune.data.pictures import read_picture
from onnxprune.data.registry import DATASETS
from onnxprune.graph.metadata import MOST_VALUES

_TOP = 3


@dataclass(frozen=True)
class Prediction:
    """
    Attributes:
        size: (width, height) of the picture in its file, in pixels.
        top: the three classes of the highest probability, 0 to 1, and these, best first.
    """

    path: Path
    size: tuple[int, int]
    top: tuple[tuple[str, float], ...]


def picture_shape(classifier: Classifier) -> tuple[int, int, int]:
    """(C, H, W) that pictures are brought to, before any black border: the shape of the images it was trained on.

    Raises:
        InputError: neither the file's metadata nor its input say it, or they contradict each other.
    """
    shape = classifier.metadata.input_shape or tuple(size for size in classifier.shape if size is not None)
    if len(shape) != 3:
        raise InputError(f"{classifier.path}: neither its input nor its metadata say the size of its images")
    if not classifier.image.takes(shape):
        raise InputError(f"{classifier.path}: its metadata say images of {shape}, its input is {classifier.shape}")
    if math.prod(shape) > MOST_VALUES:
        raise InputError(f"{classifier.path}: takes images of {shape}, which no picture is")
    if shape[0] not in (1, 3):
        raise InputError(f"{classifier.path}: takes images of {shape[0]} channels, pictures have 1 or 3")
    known = classifier.metadata.picture_shape
    if known is None:  # a user's own data, which may have the name of another dataset, tell it
        known = {name: info.shape for name, info in DATASETS.items()}.get(classifier.metadata.dataset or "")
    # a model that needs larger images than its dataset has was trained on them with a border
    if known and known[0] == shape[0] and known[1] <= shape[1] and known[2] <= shape[2]:
        return known
    return shape


def predict(classifier: Classifier, paths: list[Path]) -> list[Prediction]:
    """What the file says of each picture.

    A picture becomes grayscale or RGB, as the file takes, and is resized to its images' size, whatever its
    proportions, by Pillow's antialiased bilinear filter.

    Raises:
        InputError: the file's metadata do not say how to prepare a picture; or a line for each picture that cannot be
            read.
    """
    metadata = classifier.metadata
    if metadata.normalisation is None or metadata.classes is None:
        missing = "normalisation" if metadata.normalisation is None else "classes"
        reason = (
            "; ".join(metadata.problems) or "the files of a sweep have them, and 'onnxprune evaluate' takes options"
        )
        raise InputError(f"{classifier.path}: its metadata do not say the {missing} ({reason})")
    shape = picture_shape(classifier)
    loaded, errors = [], []
    for path in paths:
        try:
            loaded.append(read_picture(path, shape))
        except InputError as error:
            errors.append(str(error))
    if errors:
        raise InputError("\n".join(errors))
    taken = metadata.input_shape or shape
    images = np.stack([bordered(pixels, taken, shape) for pixels, _ in loaded])
    logits = classifier.logits(images, metadata.normalisation)
    if logits.shape[1] != len(metadata.classes):
        raise InputError(
            f"{classifier.path}: answers with {plural(logits.shape[1], 'class', 'es')}, its metadata name "
            f"{len(metadata.classes)}"
        )
    if not np.isfinite(logits).all():
        raise InputError(f"{classifier.path}: its answer is not finite numbers: the model is damaged")
    probabilities = softmax(logits)
    return [
        Prediction(path, size, _top(row, metadata.classes))
        for path, (_, size), row in zip(paths, loaded, probabilities, strict=True)
    ]


def bordered(pixels: np.ndarray, taken: tuple[int, int, int], shape: tuple[int, int, int]) -> np.ndarray:
    """Pixels of `shape` (C, H, W) with the black border of `Dataset.padded` where a file takes more."""
    gaps = [have - size for have, size in zip(taken[1:], shape[1:], strict=True)]
    return np.pad(pixels, ((0, 0), *((gap // 2, gap - gap // 2) for gap in gaps)))


def _top(probabilities: np.ndarray, classes: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-probabilities, kind="stable")[:_TOP]
    return tuple((classes[index], float(probabilities[index])) for index in order)
