"""Images and labels, ready for use: split, and held in memory as uint8."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxprune.common.environment import available_memory
from onnxprune.common.errors import InputError
from onnxprune.common.output import plural
from onnxprune.common.progress import Verbosity, tell_once
from onnxprune.data.arrays import checked
from onnxprune.data.download import default_data_dir, find_arrays
from onnxprune.data.npz import read_npz
from onnxprune.data.registry import DATASETS, canonical_name, is_folder, title_of
from onnxprune.data.source import OwnData

VALIDATION_SHARE = 0.1

VALIDATION_MOST = 5_000

_STAND_INS = 16  # made-up images
_SAMPLE = 1  # tells the numbers that a seed draws for a sample from those that it draws for other ends


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W), uint8, and their labels (N,), int64: zeros where there are none."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, count: int | None) -> "Split":
        """So many of them, always the same, in their order; None, or more than there are: all.

        Not the first ones: a file may be sorted by class.
        """
        if count is None or count >= len(self):
            return self
        kept = np.sort(np.random.default_rng(0).permutation(len(self))[:count])
        return Split(self.images[kept], self.labels[kept])


@dataclass(frozen=True)
class Dataset:
    """A dataset ready for use.

    Attributes:
        name: canonical name, or the file's stem, or the folder's name.
        train: what networks are trained on; `validation`: for decisions; `test`: for reported numbers.
        classes: their names, by label; none where there are no labels.
        mean, std: per channel, of the training images scaled to [0, 1].
        checksum: SHA-256 of all images and labels, and of the names that a user gave the classes; of a sample, of that
            and of which training images are in it.
        available_train: training images before some were sampled.
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
    def labelled(self) -> bool:
        """Whether it has labels, by which there is an accuracy."""
        return bool(self.classes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def sampled(self, count: int | None, seed: int) -> "Dataset":
        """The dataset with a stratified sample of the training images, which the seed decides; None: with all of them.

        Classes keep their shares, to one image, and have at least one where there are as many; images keep their order.
        Of one seed, a larger sample has the images of a smaller one, but for that rounding.

        Raises:
            InputError: a count below 1, or a channel without any contrast in the sample.
        """
        if count is not None and count < 1:
            raise InputError(f"train limit of {count}: expected at least 1 training image")
        if count is None or count >= len(self.train):
            return self
        kept = _stratified(self.train.labels, count, seed)
        train = Split(self.train.images[kept], self.train.labels[kept])
        mean, std = _statistics(train.images, self.name)
        checksum = hashlib.sha256(self.checksum.encode() + kept.tobytes()).hexdigest()
        return dataclasses.replace(self, train=train, mean=mean, std=std, checksum=checksum)

    def padded(self, height: int, width: int) -> "Dataset":
        """The dataset with black borders where images are lower or narrower than that; mean and std as before.

        Raises:
            InputError: it would not fit the memory.
        """
        channels, *sides = self.input_shape
        missing = [max(0, least - side) for least, side in zip((height, width), sides, strict=True)]
        if not any(missing):
            return self
        height, width = (gap + side for gap, side in zip(missing, sides, strict=True))
        images = len(self.train) + len(self.validation) + len(self.test)
        needed = images * channels * height * width
        if needed > available_memory():
            raise InputError(
                f"{self.name}: {images:,} images padded to {height:,}x{width:,} (height x width) take "
                f"{needed / 1e9:,.1f} GB of memory, {available_memory() / 1e9:,.1f} GB are available"
            )
        border = ((0, 0), (0, 0), *((gap // 2, gap - gap // 2) for gap in missing))
        train, validation, test = (
            Split(np.pad(split.images, border), split.labels) for split in (self.train, self.validation, self.test)
        )
        return dataclasses.replace(self, train=train, validation=validation, test=test)


def load(
    name: str,
    data_dir: Path | None = None,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    verbosity: Verbosity = Verbosity.QUIET,
) -> Dataset:
    """Loads a dataset by name, from an .npz file or from a folder of pictures.

    The validation split is a tenth of the training images, at most 5,000, the same ones whatever the seed of an
    experiment; the others keep the file's order.

    Args:
        size: (height, width) that the pictures of a folder are brought to; None: their own.
        channels: of those; None: what they have.
        verbosity: whether people are told how the reading of a folder gets on, and which classes no test image is of.

    Raises:
        InputError: no such dataset, or it cannot be found, downloaded or trusted.
    """
    name = canonical_name(name)
    if size is not None and not is_folder(name):
        raise InputError(f"{name}: --image-size works with folders of pictures only")
    given = None if name in DATASETS else _own(name, size, channels, verbosity)
    x_train, y_train, x_test, y_test = (
        find_arrays(name, data_dir or default_data_dir()) if given is None else given.arrays
    )
    if given is None:
        classes = DATASETS[name].classes
    else:
        named = given.classes
        classes = tuple(str(label) for label in range(int(y_train.max()) + 1)) if named is None else named
        there = set(y_test.tolist())
        lacking = [each for label, each in enumerate(classes) if label not in there]
        if lacking and verbosity > Verbosity.QUIET:
            more = f" and of {plural(len(lacking) - 1, 'other')}" if lacking[1:] else ""
            tell_once(
                name, f"Note: {name}: no test image is of class {lacking[0]!r}{more}: accuracy says nothing of that"
            )
    shuffled = np.random.default_rng(0).permutation(len(y_train))
    held_out = min(VALIDATION_MOST, max(1, int(VALIDATION_SHARE * len(y_train))))
    validation, train = np.sort(shuffled[:held_out]), np.sort(shuffled[held_out:])
    splits = {
        "train": Split(x_train[train], y_train[train]),
        "validation": Split(x_train[validation], y_train[validation]),
        "test": Split(x_test, y_test),
    }
    mean, std = _statistics(splits["train"].images, name)
    return Dataset(
        name=title_of(name),
        **splits,
        classes=classes,
        mean=mean,
        std=std,
        checksum=_checksum(splits, None if given is None else given.classes),
        available_train=len(train),
        own_shape=None if given is None else x_train.shape[1:],
    )


def stand_in(name: str) -> Dataset:
    """Random images of the shape and classes of a dataset that has a name, which need not be there."""
    info = DATASETS[name]
    rng = np.random.default_rng(0)
    labels = np.arange(max(2, min(len(info.classes), _STAND_INS)))
    images = rng.integers(0, 256, (len(labels), *info.shape), np.uint8)
    split = Split(images, labels)
    mean, std = _statistics(images, name)
    return Dataset(name, split, split, split, info.classes, mean, std, "", info.train_images)


def _own(name: str, size: tuple[int, int] | None, channels: int | None, verbosity: Verbosity) -> OwnData:
    if not is_folder(name):
        given = read_npz(Path(name))
    else:
        from onnxprune.data import collection, folder, tables  # Pillow is for pictures only

        source = tables if tables.are_in(Path(name)) else folder
        given = collection.read(source.listed(Path(name)), size, channels, verbosity)
    return OwnData(checked(given.arrays, name, classes=given.classes), given.classes)


def _stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Positions of a sample of `count` images, in order."""
    classes, sizes = np.unique(labels, return_counts=True)
    least = np.minimum(1, sizes) if count >= len(classes) else np.zeros_like(sizes)
    wanted = np.maximum(least, count * sizes / len(labels))
    shares = np.maximum(least, np.floor(wanted)).astype(int)
    while shares.sum() > count:  # classes that have one image more than their share
        shares[np.argmax(np.where(shares > least, shares - wanted, -np.inf))] -= 1
    largest = np.argsort(shares - wanted, kind="stable")[: count - shares.sum()]
    shares[largest] += 1
    random = np.random.default_rng([seed, _SAMPLE])
    kept = [
        random.permutation(np.flatnonzero(labels == label))[:share]
        for label, share in zip(classes, shares, strict=True)
    ]
    return np.sort(np.concatenate(kept))


def _statistics(images: np.ndarray, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in [0, 1], by histograms: exact, and no copy as floats.

    Raises:
        InputError: a channel without any contrast.
    """
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
    if 0 in deviations:
        raise InputError(f"{name}: all pixels of a channel of the training images are the same")
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
