"""MNIST and what came after it in its format, IDX."""

import gzip
import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from onnxprune.common.errors import InputError
from onnxprune.data.source import Arrays, DatasetInfo


def _reader(checksums: dict[str, str]) -> Callable[[Path], Arrays]:
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


MNIST = DatasetInfo(
    title="MNIST",
    shape=(1, 28, 28),
    classes=tuple("0123456789"),
    train_images=55_000,
    folder="MNIST/raw",
    read=_reader(
        {
            "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
        }
    ),
    torchvision_name="MNIST",
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/",),
)

FASHION_MNIST = DatasetInfo(
    title="Fashion-MNIST",
    shape=(1, 28, 28),
    classes=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    train_images=55_000,
    folder="FashionMNIST/raw",
    read=_reader(
        {
            "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
        }
    ),
    torchvision_name="FashionMNIST",
    mirrors=("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",),
)
