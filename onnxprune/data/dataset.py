"""Images and labels, ready for use: split, and held in memory as uint8."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxprune.common.errors import InputError
from onnxprune.data.arrays import checked
from onnxprune.data.download import default_data_dir, find_arrays
from onnxprune.data.npz import read_npz
from onnxprune.data.registry import DATASETS, canonical_name

VALIDATION_SHARE = 0.1

VALIDATION_MOST = 5_000


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
        name: canonical name, or the file's stem.
        train: what networks are trained on; `validation`: for decisions; `test`: for reported numbers.
        classes: their names, by label.
        mean, std: per channel, of the training images scaled to [0, 1].
        checksum: SHA-256 of all images and labels above.
        available_train: training images before they were limited.
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


def load(name: str, data_dir: Path | None = None, train_limit: int | None = None) -> Dataset:
    """Loads a dataset by name or from an .npz file.

    The validation split is a tenth of the training images, at most 5,000, the same ones whatever the seed of an
    experiment; the others keep the file's order, and `train_limit` keeps the first of them.

    Raises:
        InputError: no such dataset, or it cannot be found, downloaded or trusted; or `train_limit` is below 1.
    """
    name = canonical_name(name)
    if train_limit is not None and train_limit < 1:
        raise InputError(f"train limit of {train_limit}: expected at least 1 training image")
    if name.endswith(".npz"):
        arrays = checked(read_npz(Path(name)), name)
        title, classes = Path(name).stem, tuple(str(label) for label in range(int(arrays[1].max()) + 1))
    else:
        arrays = find_arrays(name, data_dir or default_data_dir())
        title, classes = name, DATASETS[name].classes
    x_train, y_train, x_test, y_test = arrays
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
        name=title,
        **splits,
        classes=classes,
        mean=mean,
        std=std,
        checksum=_checksum(splits),
        available_train=available,
    )


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


def _checksum(splits: dict[str, Split]) -> str:
    digest = hashlib.sha256()
    for split in splits.values():
        for array in (split.images, split.labels):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
