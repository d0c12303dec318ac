"""Folders for what lies on disk only while something works."""

import functools
import glob
import os
import platform
import shutil
import tempfile
from pathlib import Path

import psutil

_parent: Path | None = None


def keep_temporary_folders_in(folder: Path) -> None:
    """From now on they are made there: another process removes them where this one is killed."""
    global _parent
    _parent = folder


def temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder that is removed with what is in it when it is closed; or, where the process is killed, when another one
    makes its first."""
    if _parent is None:
        _remove_orphans()
    return tempfile.TemporaryDirectory(prefix=f"{_prefix()}{os.getpid()}-", dir=_parent)


def _prefix() -> str:
    """Of those of this machine: processes of another one, which may share the folder, have numbers of their own."""
    machine = "".join(letter for letter in platform.node() if letter.isalnum())
    return f"onnxprune-{machine}-"


@functools.cache
def _remove_orphans() -> None:
    prefix = _prefix()
    for folder in Path(tempfile.gettempdir()).glob(f"{glob.escape(prefix)}*-*"):
        number = folder.name.removeprefix(prefix).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)  # that of another user stays
