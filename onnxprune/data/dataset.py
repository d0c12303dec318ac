"""Images and labels: found, checked, split; held in memory as uint8.

Nothing here imports PyTorch unless a dataset must be downloaded or comes as torchvision's pickles.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import itertools
import math
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import platformdirs

from onnxprune.common.errors import InputError
from onnxprune.common.registry import Registry

VALIDATION_SHARE = 0.1
VALIDATION_MOST = 5_000
_DIGITS = tuple(str(digit) for digit in range(10))
_CIFAR100 = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard
    lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
    shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
    television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905 - a hundred quoted names are no easier to read
)

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x_train, y_train, x_test, y_test
ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")


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


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset before it is loaded.

    Attributes:
        title: its name in the literature.
        shape: (C, H, W) of an image.
        classes: their names, by label.
        train_images: images it trains on, validation and test set taken out.
        folder: where torchvision's files of it lie in the data folder; "" for one that needs no files.
        read: reads that folder.
        torchvision_name: torchvision's class that downloads it.
        mirrors: where it downloads from instead of its own addresses, some of which are not HTTPS.
    """

    title: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    train_images: int
    folder: str
    read: Callable[[Path], Arrays]
    torchvision_name: str = ""
    mirrors: tuple[str, ...] = ()


def _read_digits(_: Path) -> Arrays:
    """scikit-learn's 1,797 digits of 8x8 pixels (0 to 16), enlarged to 28x28; every class gives a fifth to the test."""
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    small = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.stack(
        [np.asarray(Image.fromarray(digit).resize((28, 28), Image.Resampling.BILINEAR)) for digit in small]
    )
    train, test = train_test_split(
        np.arange(len(images)), test_size=0.2, random_state=0, stratify=digits.target, shuffle=True
    )
    train, test = np.sort(train), np.sort(test)
    return images[train], digits.target[train], images[test], digits.target[test]


def _idx_reader(checksums: dict[str, str]) -> Callable[[Path], Arrays]:
    """Reads the four files of MNIST and its relatives; `checksums` are the MD5s of the packed ones."""

    def read(folder: Path) -> Arrays:
        x_train, y_train, x_test, y_test = (_read_idx(folder / name, checksum) for name, checksum in checksums.items())
        return x_train, y_train, x_test, y_test

    return read


def _read_idx(path: Path, checksum: str) -> np.ndarray:
    """The array of an IDX file, packed (checked by its MD5) or not (checked by its header and length)."""
    packed = path.with_name(path.name + ".gz")
    if packed.is_file():
        content = packed.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != checksum:
            raise InputError(f"{packed} is corrupt: its MD5 is not {checksum}; delete it to have it downloaded again")
        content = gzip.decompress(content)
    elif path.is_file():
        content = path.read_bytes()
    else:
        raise FileNotFoundError(path)
    dimensions = 3 if "images" in path.name else 1
    whole = len(content) >= 4 * (dimensions + 1)
    header = np.frombuffer(content[: 4 * (dimensions + 1)] if whole else b"", ">u4")
    if not whole or header[0] != 0x0800 + dimensions:
        raise InputError(f"{path} is corrupt: it does not begin as an IDX file of {dimensions} dimensions; delete it")
    shape = tuple(int(length) for length in header[1:])
    body = content[4 * (dimensions + 1) :]
    if len(body) != math.prod(shape):
        raise InputError(f"{path} is corrupt: {len(body):,} bytes of data where its header says {shape}; delete it")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _read_cifar10(folder: Path) -> Arrays:
    return _read_cifar("CIFAR10", folder)


def _read_cifar100(folder: Path) -> Arrays:
    return _read_cifar("CIFAR100", folder)


def _read_cifar(kind: str, folder: Path) -> Arrays:
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    from onnxprune.common.torchvision import torchvision_module

    dataset = getattr(torchvision_module().datasets, kind)
    splits = []
    for train in (True, False):
        try:
            # torchvision checks the MD5 of every file before it unpickles one
            split = dataset(str(folder.parent), train=train, download=False)
        except (RuntimeError, OSError):
            raise InputError(
                f"{folder} is corrupt: files are missing or their MD5s are wrong; delete it to have it downloaded again"
            ) from None
        splits.append((split.data, np.asarray(split.targets)))
    return (*splits[0], *splits[1])


DATASETS: Registry[DatasetInfo] = Registry(
    "dataset",
    {
        "digits": DatasetInfo(
            "scikit-learn's handwritten digits, enlarged; needs no download",
            (1, 28, 28),
            _DIGITS,
            1_294,
            "",
            _read_digits,
        ),
        "mnist": DatasetInfo(
            "MNIST",
            (1, 28, 28),
            _DIGITS,
            55_000,
            "MNIST/raw",
            _idx_reader(
                {
                    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
                    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
                    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
                }
            ),
            "MNIST",
            ("https://ossci-datasets.s3.amazonaws.com/mnist/",),
        ),
        "fmnist": DatasetInfo(
            "Fashion-MNIST",
            (1, 28, 28),
            ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
            55_000,
            "FashionMNIST/raw",
            _idx_reader(
                {
                    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
                    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
                    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
                }
            ),
            "FashionMNIST",
            ("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",),
        ),
        "cifar10": DatasetInfo(
            "CIFAR-10",
            (3, 32, 32),
            ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            45_000,
            "cifar-10-batches-py",
            _read_cifar10,
            "CIFAR10",
        ),
        "cifar100": DatasetInfo(
            "CIFAR-100",
            (3, 32, 32),
            _CIFAR100,
            45_000,
            "cifar-100-python",
            _read_cifar100,
            "CIFAR100",
        ),
    },
    aliases={"fashion-mnist": "fmnist"},
)


def canonical_name(name: str) -> str:
    """A dataset's canonical name; the path of an .npz file as it is.

    Raises:
        InputError: no dataset has that name.
    """
    if name.endswith(".npz"):
        return name
    try:
        return DATASETS.canonical(name)
    except InputError as error:
        raise InputError(f"{error} Your own data: FILE.npz.") from None


def default_data_dir() -> Path:
    """`$ONNXPRUNE_DATA`, else a folder in the user's cache."""
    return Path(os.environ.get("ONNXPRUNE_DATA") or _cache())


def _cache() -> Path:
    return platformdirs.user_cache_path("onnxprune") / "data"


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
        arrays = _check(_read_npz(Path(name)), name)
        title, classes = Path(name).stem, tuple(str(label) for label in range(int(arrays[1].max()) + 1))
    else:
        arrays = _find(name, data_dir or default_data_dir())
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


def _find(name: str, data_dir: Path) -> Arrays:
    """The arrays of a named dataset: torchvision's files, else `<name>.npz`, else downloaded."""
    info = DATASETS[name]
    folder, file = data_dir / info.folder, data_dir / f"{name}.npz"
    try:
        return _check(info.read(folder), str(folder), info)
    except FileNotFoundError:
        pass
    except InputError as error:
        if data_dir != _cache():  # a folder of the user's
            raise
        kept = _set_aside(folder)
        sys.stderr.write(f"{error}: kept as {kept}, downloaded again\n")
    if file.is_file():
        return _check(_read_npz(file), str(file), info)
    _download(info, name, data_dir)
    return _check(info.read(folder), str(folder), info)


def _set_aside(folder: Path) -> Path:
    """Renames a damaged folder and returns where it is now."""
    names = (folder.with_name(f"{folder.name}.damaged-{number}") for number in itertools.count(1))
    return folder.rename(next(name for name in names if not name.exists()))


def _download(info: DatasetInfo, name: str, data_dir: Path) -> None:
    """Has torchvision download a dataset into `data_dir`, whole or not at all; its progress bar goes to stderr.

    Files that are there already stay as they are.

    Raises:
        InputError: it cannot be downloaded; the message says what to do without a network.
    """
    from onnxprune.common.torchvision import torchvision_module

    missing = [folder for folder in (data_dir, *data_dir.parents) if not folder.exists()]
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir) as partial,
            contextlib.redirect_stdout(sys.stderr),
        ):
            kind = getattr(torchvision_module().datasets, info.torchvision_name)
            if info.mirrors:
                kind = type(info.torchvision_name, (kind,), {"mirrors": list(info.mirrors)})
            kind(partial, download=True)
            _move_missing(Path(partial) / info.folder, data_dir / info.folder)
    except (OSError, RuntimeError, HTTPException) as error:
        # torchvision lists the mirrors it tried; the cause is on the last line
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise InputError(
            f"dataset '{name}' is not in {data_dir} and cannot be downloaded ({reason}): put torchvision's files into "
            f"{data_dir / info.folder}, or {name}.npz into {data_dir}, name another folder with --data-dir, or work "
            "offline with --dataset digits"
        ) from None
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # not empty: the download succeeded
                folder.rmdir()


def _move_missing(source: Path, target: Path) -> None:
    """Moves the files of one folder into another, each whole, and replaces none."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if not (target / file.name).exists():
            file.replace(target / file.name)


def _read_npz(path: Path) -> Arrays:
    """The arrays of an .npz file under Keras's names, without unpickling anything.

    Raises:
        InputError: no such file, or not one of plain arrays with those names.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):  # NumPy would take it for a pickle and advise to load it unsafely
        raise InputError(f"{path} is not an .npz file: it is not a zip archive, or not all of one")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in ARRAY_NAMES if key not in file]
            if missing:
                raise InputError(f"{path} has no {', '.join(missing)}: expected the arrays {', '.join(ARRAY_NAMES)}")
            x_train, y_train, x_test, y_test = (file[key] for key in ARRAY_NAMES)
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is not an .npz file of plain arrays: {reason}") from None
    arrays = (x_train, y_train, x_test, y_test)
    for key, array in zip(ARRAY_NAMES, arrays, strict=True):
        if not isinstance(array, np.ndarray):  # NumPy gives other members of the archive as bytes
            raise InputError(f"{path}: {key} is not an array")
    return arrays


def _check(arrays: Arrays, source: str, info: DatasetInfo | None = None) -> Arrays:
    """Images as (N, C, H, W) uint8 and labels as (N,) int64.

    Images come as (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels. Where both ends could be the
    channels, the last is, as in Keras's own files. With `info` they must also be what that dataset is made of.

    Raises:
        InputError: naming `source` and what is wrong.
    """
    x_train, x_test = (
        _check_images(images, f"{source}: {key}") for images, key in ((arrays[0], "x_train"), (arrays[2], "x_test"))
    )
    y_train, y_test = (
        _check_labels(labels, f"{source}: {key}") for labels, key in ((arrays[1], "y_train"), (arrays[3], "y_test"))
    )
    for key, images, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(images) != len(labels):
            raise InputError(f"{source}: {len(images):,} images in x_{key} but {len(labels):,} labels in y_{key}")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise InputError(f"{source}: images of x_train are {x_train.shape[1:]}, those of x_test {x_test.shape[1:]}")
    if len(y_train) < 2:
        raise InputError(f"{source}: expected at least 2 training images, one to validate on, got {len(y_train)}")
    classes = int(y_train.max()) + 1
    if classes < 2:
        raise InputError(f"{source}: expected labels of at least 2 classes in y_train, got only 0")
    if int(y_test.max()) >= classes:
        raise InputError(f"{source}: y_test has label {int(y_test.max())}, which y_train has not")
    if classes > len(y_train):
        raise InputError(f"{source}: expected labels from 0 to the number of classes less one, got up to {classes - 1}")
    if info and x_train.shape[1:] != info.shape:
        raise InputError(f"{source}: images are {x_train.shape[1:]}, but {info.title} has {info.shape}; replace it")
    if info and classes > len(info.classes):
        raise InputError(f"{source}: labels go up to {classes - 1}, but {info.title} has {len(info.classes)} classes")
    return x_train, y_train, x_test, y_test


def _check_images(images: np.ndarray, what: str) -> np.ndarray:
    if images.dtype != np.uint8:
        raise InputError(f"{what} is {images.dtype}, expected uint8 (pixels 0 to 255)")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"{what} has shape {images.shape}, expected (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels"
        )
    if 0 in images.shape:
        raise InputError(f"{what} is empty: its shape is {images.shape}")
    return np.ascontiguousarray(images)


def _check_labels(labels: np.ndarray, what: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise InputError(f"{what} is {labels.dtype} of shape {labels.shape}, expected integers of shape (N,)")
    if not len(labels):
        raise InputError(f"{what} is empty")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > np.iinfo(np.int64).max:
        raise InputError(f"{what} has labels from {low} to {high}, expected 0 to the number of classes less one")
    return labels.astype(np.int64)
