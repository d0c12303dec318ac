"""Datasets as .npz files with Keras's array names."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from onnxprune.common.errors import InputError, one_line
from onnxprune.data.source import Arrays

ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path) -> Arrays:
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
        raise InputError(f"{path} is not an .npz file of plain arrays: {one_line(error)}") from None
    arrays = (x_train, y_train, x_test, y_test)
    for key, array in zip(ARRAY_NAMES, arrays, strict=True):
        if not isinstance(array, np.ndarray):  # NumPy gives other members of the archive as bytes
            raise InputError(f"{path}: {key} is not an array")
    return arrays
