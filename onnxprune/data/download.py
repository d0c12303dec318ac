"""Where the files of a named dataset are, or come from."""

import contextlib
import itertools
import os
import sys
import tempfile
from http.client import HTTPException
from pathlib import Path

import platformdirs

from onnxprune.common.errors import InputError
from onnxprune.data.arrays import checked
from onnxprune.data.npz import read_npz
from onnxprune.data.registry import DATASETS
from onnxprune.data.source import Arrays, DatasetInfo


def default_data_dir() -> Path:
    """`$ONNXPRUNE_DATA`, else a folder in the user's cache."""
    return Path(os.environ.get("ONNXPRUNE_DATA") or _cache_dir())


def _cache_dir() -> Path:
    return platformdirs.user_cache_path("onnxprune") / "data"


def find_arrays(name: str, data_dir: Path) -> Arrays:
    """The arrays of a named dataset: torchvision's files, else `<name>.npz`, else downloaded."""
    info = DATASETS[name]
    folder, file = data_dir / info.folder, data_dir / f"{name}.npz"
    try:
        return checked(info.read(folder), str(folder), info)
    except FileNotFoundError:
        pass
    except InputError as error:
        if data_dir != _cache_dir():  # a folder of the user's
            raise
        kept = _set_aside(folder)
        sys.stderr.write(f"{error}: kept as {kept}, downloaded again\n")
    if file.is_file():
        return checked(read_npz(file).arrays, str(file), info)
    _download(info, name, data_dir)
    return checked(info.read(folder), str(folder), info)


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
    if not info.torchvision_name:
        raise InputError(f"dataset '{name}' is not in {data_dir}: put its files into {data_dir / info.folder}")
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
