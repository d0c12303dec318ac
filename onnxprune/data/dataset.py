"""Images and labels, ready for use: split, and held in memory as uint8."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxprune.common.errors import InputError
from onnxprune.common.progress import Verbosity
from onnxprune.data.arrays import checked
from onnxprune.data.download import default_data_dir, find_arrays
from onnxprune.data.npz import read_npz
from onnxprune.data.registry import DATASETS, canonical_name, is_folder, title_of
from onnxprune.data.source import OwnData

VALIDATION_SHARE = 0.1

VALIDATION_MOST = 5_000

_STAND_INS = 16  # made-up images


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W), uint8, and their labels (N,), int64."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A dataset ready for use.

    Attributes:
        name: canonical name, or the file's stem, or the folder's name.
        train: what networks are trained on; `validation`: for decisions; `test`: for reported numbers.
        classes: their names, by label.
        mean, std: per channel, of the training images scaled to [0, 1].
        checksum: SHA-256 of all images and labels above, and of the names that a user gave the classes.
        available_train: training images before they were limited.
        own_shape: (C, H, W) of the images of a user's own data, before any border; None of a dataset with a name.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checksum: str
    available_train: int
    own_shape: tuple[int, int, int] | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def padded(self, size: int) -> "Dataset":
        """The dataset with black borders where images are smaller than `size` by `size`; mean and std as before."""
        _, height, width = self.input_shape
        missing = [max(0, size - side) for side in (height, width)]
        if not any(missing):
            return self
        border = ((0, 0), (0, 0), *((gap // 2, gap - gap // 2) for gap in missing))
        train, validation, test = (
            Split(np.pad(split.images, border), split.labels) for split in (self.train, self.validation, self.test)
        )
        return dataclasses.replace(self, train=train, validation=validation, test=test)


def load(
    name: str,
    data_dir: Path | None = None,
    train_limit: int | None = None,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    verbosity: Verbosity = Verbosity.QUIET,
) -> Dataset:
    """Loads a dataset by name, from an .npz file or from a folder of pictures.

    The validation split is a tenth of the training images, at most 5,000, the same ones whatever the seed of an
    experiment; the others keep the file's order, and `train_limit` keeps the first of them.

    Args:
        size: (height, width) that the pictures of a folder are brought to; None: their own.
        channels: of those; None: what they have.
        verbosity: whether people are told how the reading of a folder gets on.

    Raises:
        InputError: no such dataset, or it cannot be found, downloaded or trusted; or `train_limit` is below 1.
    """
    name = canonical_name(name)
    if train_limit is not None and train_limit < 1:
        raise InputError(f"train limit of {train_limit}: expected at least 1 training image")
    if size is not None and not is_folder(name):
        raise InputError(f"{name}: only the pictures of a folder are brought to a size")
    given = None if name in DATASETS else _own(name, size, channels, verbosity)
    x_train, y_train, x_test, y_test = (
        find_arrays(name, data_dir or default_data_dir()) if given is None else given.arrays
    )
    if given is None:
        classes = DATASETS[name].classes
    else:
        classes = given.classes or tuple(str(label) for label in range(int(y_train.max()) + 1))
    shuffled = np.random.default_rng(0).permutation(len(y_train))
    held_out = min(VALIDATION_MOST, max(1, int(VALIDATION_SHARE * len(y_train))))
    validation, train = np.sort(shuffled[:held_out]), np.sort(shuffled[held_out:])
    available = len(train)
    train = train[:train_limit]
    splits = {
        "train": Split(x_train[train], y_train[train]),
        "validation": Split(x_train[validation], y_train[validation]),
        "test": Split(x_test, y_test),
    }
    mean, std = _statistics(splits["train"].images)
    if 0 in std:
        raise InputError(f"{name}: all pixels of a channel of the training images are the same")
    return Dataset(
        name=title_of(name),
        **splits,
        classes=classes,
        mean=mean,
        std=std,
        checksum=_checksum(splits, None if given is None else given.classes),
        available_train=available,
        own_shape=None if given is None else x_train.shape[1:],
    )


def stand_in(name: str) -> Dataset:
    """Random images of the shape and classes of a dataset that has a name, which need not be there."""
    info = DATASETS[name]
    rng = np.random.default_rng(0)
    labels = np.arange(max(2, min(len(info.classes), _STAND_INS)))
    images = rng.integers(0, 256, (len(labels), *info.shape), np.uint8)
    split = Split(images, labels)
    mean, std = _statistics(images)
    return Dataset(name, split, split, split, info.classes, mean, std, "", info.train_images)


def _own(name: str, size: tuple[int, int] | None, channels: int | None, verbosity: Verbosity) -> OwnData:
    if not is_folder(name):
        given = read_npz(Path(name))
    else:
        from onnxprune.data import collection, folder, tables  # Pillow is for pictures only

        source = tables if tables.are_in(Path(name)) else folder
        given = collection.read(source.listed(Path(name)), size, channels, verbosity)
    return OwnData(checked(given.arrays, name, classes=given.classes), given.classes)


def _statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1], by histograms: exact, and no copy as floats."""
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), 1_000):  # bincount widens what it is given to 8 bytes a pixel
            counts += np.bincount(images[start : start + 1_000, channel].ravel(), minlength=256)
        share = counts / counts.sum()
        mean = float(share @ values)
        means.append(mean)
        deviations.append(float(np.sqrt(share @ (values - mean) ** 2)))
    return tuple(means), tuple(deviations)


def _checksum(splits: dict[str, Split], classes: tuple[str, ...] | None) -> str:
    digest = hashlib.sha256()
    if classes is not None:
        digest.update(json.dumps(classes).encode())
    for split in splits.values():
        for array in (split.images, split.labels):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
