"""Folders for what lies on disk only while something works."""

import tempfile
from pathlib import Path

_parent: Path | None = None


def keep_temporary_folders_in(folder: Path) -> None:
    """From now on they are made there: another process removes them where this one is killed."""
    global _parent
    _parent = folder


def temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder that is removed with what is in it when it is closed."""
    return tempfile.TemporaryDirectory(prefix="onnxprune-", dir=_parent)
