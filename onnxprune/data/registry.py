"""The datasets that have a name: a file and a line here each, or an entry point of another package; and users' own."""

import os
from pathlib import Path

from onnxprune.common import files
from onnxprune.common.errors import InputError
from onnxprune.common.registry import Registry
from onnxprune.data import cifar, digits, idx
from onnxprune.data.source import DatasetInfo

DATASETS: Registry[DatasetInfo] = Registry(
    "dataset",
    {
        "digits": digits.DIGITS,
        "mnist": idx.MNIST,
        "fmnist": idx.FASHION_MNIST,
        "cifar10": cifar.CIFAR10,
        "cifar100": cifar.CIFAR100,
    },
    aliases={"fashion-mnist": "fmnist"},
    group="onnxprune.datasets",
)


def canonical_name(name: str) -> str:
    """A dataset's canonical name; the path of an .npz file as it is, that of a folder without what says nothing.

    A word without a separator is a folder only where no dataset has that name.

    Raises:
        InputError: no dataset has that name, and there is no such folder.
    """
    if name.endswith(".npz"):
        return name
    separators = {os.sep, os.altsep or os.sep}
    is_path = name in (".", "..") or bool(separators & set(name))
    if not is_path:
        try:
            return DATASETS.canonical(name)
        except InputError as error:
            if not (name and files.is_folder(Path(name))):
                raise InputError(f"{error} Your own data: FILE.npz, or a FOLDER of pictures.") from None
    elif not files.is_folder(Path(name)):
        what = "a file of another kind" if Path(name).is_file() else "no such folder"
        raise InputError(f"dataset {name}: {what}; expected FILE.npz, or a FOLDER of pictures")
    path = Path(name)
    if path.name in ("", ".."):  # results are named after it
        path = path.resolve()
    return f".{os.sep}{path}" if len(path.parts) == 1 and is_named(str(path)) else str(path)


def is_folder(name: str) -> bool:
    """Whether a canonical name is that of a folder of pictures."""
    return not name.endswith(".npz") and name not in DATASETS


def title_of(name: str) -> str:
    """What to call the dataset of a canonical name: a user's own as its file or folder, without what that is in."""
    if name.endswith(".npz"):
        return Path(name).stem
    return Path(name).name if is_folder(name) else name


def is_named(name: str) -> bool:
    """Whether a dataset has that name, or an alias of it."""
    try:
        DATASETS.canonical(name)
    except InputError:
        return False
    return True
