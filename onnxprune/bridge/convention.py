"""How the images of a dataset become the inputs of a trained file: their size and their normalisation."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxprune.analysis.classifier import scores
from onnxprune.analysis.evaluation import as_logits, score
from onnxprune.bridge.graph_input import image_input, image_layout, read_tried
from onnxprune.common.errors import InputError
from onnxprune.data.dataset import Dataset, Split
from onnxprune.graph.metadata import Normalisation, parse
from onnxprune.graph.network import metadata, read
from onnxprune.models.onnx_file import digest

_IMAGES = 1000  # of the training split, on which normalisations are tried
_LEAST = 2.0  # times chance: less says that none of them is right

# of data that many networks are trained on, as their recipes have them
_PUBLISHED = {
    "mnist": ((0.1307,), (0.3081,)),
    "fmnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
# what was found for a file and data: the steps of a search ask again
_BATCH = 100
_tried: dict[tuple[Path, str, str, tuple[int, int, int]], tuple[Normalisation, str]] = {}
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Convention:
    """
    Attributes:
        dataset: with the mean and deviation that the file wants, and black borders where it takes larger images.
        note: a line on how the normalisation was found; "" where it is known.
    """

    dataset: Dataset
    note: str


def as_the_file_takes(path: Path, dataset: Dataset, mean: str | None, std: str | None) -> Convention:
    """The dataset for a file.

    Args:
        mean, std: one number or one a channel, with commas; None: those of the file's metadata or, where it has none,
            those usual ones with which it answers best on training images.

    Raises:
        InputError: the file does not take such images, or none of the usual normalisations is right.
    """
    network = read_tried(path)
    image = image_input(network, str(path))
    dataset = dataset.padded(*image.smallest)
    image_layout(image, dataset.input_shape, str(path))
    if mean is not None and std is not None:
        given = Normalisation(_numbers(mean), _numbers(std))
        return Convention(_normalised(path, dataset, given), "")
    recorded = parse(metadata(network.model)).normalisation
    if recorded is not None:
        return Convention(_normalised(path, dataset, recorded), "")
    if not dataset.labelled:
        raise InputError(
            f"{path}: its metadata do not say how images are normalised, and without labels the usual ways cannot be "
            "compared: give the --mean and --std it was trained with (for plain pixels / 255: --mean 0 --std 1)"
        )
    known = (path, digest(str(path)), dataset.checksum, dataset.input_shape)
    if known not in _tried:
        _tried[known] = _found(path, dataset)
    used, note = _tried[known]
    return Convention(_normalised(path, dataset, used), note)


def smallest_size(path: Path) -> tuple[int, int]:
    """Height and width below which images get a black border for a file; 1 where it takes any.

    Raises:
        InputError: the file cannot be read, or has several inputs.
    """
    return image_input(read(path), str(path)).smallest


def _found(path: Path, dataset: Dataset) -> tuple[Normalisation, str]:
    """The usual normalisation with which a file answers best, and a line that says so."""
    few = dataset.train.some(_IMAGES)
    usual = _usual(dataset)
    tried = {name: _score(path, few, candidate) for name, candidate in usual.items()}
    best = min(tried, key=lambda name: tried[name][1])
    used, accuracy = usual[best], tried[best][0]
    chance = 100 * float(np.bincount(few.labels).max()) / len(few)
    if accuracy < min(_LEAST * chance, (100 + chance) / 2):
        raise InputError(
            f"{path}: its metadata do not say how images are normalised, and with the usual ways it gets at most "
            f"{accuracy:.1f} % of {len(few):,} training images of {dataset.name} right: give the --mean and --std it "
            "was trained with"
        )
    listed = " and ".join(",".join(f"{number:g}" for number in part) for part in (used.mean, used.std))
    return used, (
        f"{path.name} does not say how images are normalised: of the usual ways, {best} (mean and std {listed}) "
        f"works best, with {accuracy:.1f} % of {len(few):,} training images right; --mean and --std choose another"
    )


def _usual(dataset: Dataset) -> dict[str, Normalisation]:
    """Normalisations by name, those that are likelier first."""
    found = {"pixels / 255": Normalisation((0.0,), (1.0,)), "-1 to 1": Normalisation((0.5,), (0.5,))}
    if dataset.name in _PUBLISHED:
        found[f"the one published for {dataset.name}"] = Normalisation(*_PUBLISHED[dataset.name])
    found["the one of the training images"] = Normalisation(dataset.mean, dataset.std)
    if dataset.input_shape[0] == 3:
        found["the one of ImageNet"] = Normalisation(*_IMAGENET)
    found["pixels from 0 to 255"] = Normalisation((0.0,), (1 / 255,))
    return found


def _score(path: Path, split: Split, normalisation: Normalisation) -> tuple[float, float]:
    """Accuracy in percent, and cross-entropy, which is infinite where answers are no numbers."""
    found = score(as_logits(scores(path, split.images, normalisation, _BATCH)), split.labels)
    return found.accuracy, found.cross_entropy if np.isfinite(found.cross_entropy) else np.inf


def _normalised(path: Path, dataset: Dataset, used: Normalisation) -> Dataset:
    channels = dataset.input_shape[0]
    try:
        used.check_channels(channels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    mean, std = (part * channels if len(part) == 1 else part for part in (used.mean, used.std))
    return replace(dataset, mean=mean, std=std)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(piece) for piece in text.split(","))
