"""Pixels of folders of pictures, kept in the user's cache so that they are decoded once."""

import contextlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import platformdirs

from onnxprune.common.errors import StorageError
from onnxprune.common.files import replacing

_MOST = 10  # files that are kept, those that were used last


def folder() -> Path:
    """Where they are: under `$ONNXPRUNE_CACHE`, else in the user's cache."""
    return Path(os.environ.get("ONNXPRUNE_CACHE") or platformdirs.user_cache_path("onnxprune")) / "pictures"


def kept(key: str) -> dict[str, np.ndarray] | None:
    """The arrays that were kept under a key; None where there are none, or not all of them intact."""
    path = _path(key)
    try:
        with np.load(path, allow_pickle=False) as file:  # the archive has a checksum of each array
            arrays = {name: file[name] for name in file.files}
        os.utime(path)  # used now
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError):
        return None
    return arrays


def keep(key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Keeps arrays under a key, whole or not at all, and drops what was used longest ago.

    Raises:
        StorageError: they cannot be written.
    """
    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError.of(path.parent, error) from error
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    with contextlib.suppress(OSError):  # another process drops them too
        files = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in files[_MOST:]:
            old.unlink(missing_ok=True)


def _path(key: str) -> Path:
    return folder() / f"{key}.npz"
