"""Networks of your own that are trained already: FILE.onnx, from whatever framework."""

import functools
import hashlib
from pathlib import Path

from onnxprune.common.errors import InputError
from onnxprune.common.files import digest as digest_of
from onnxprune.common.sent_files import sent_or_here

_FILE = ".onnx"


def is_file(name: str) -> bool:
    """Whether a model's name is that of an ONNX file."""
    return name.lower().endswith(_FILE)


def source(name: str) -> Path:
    """The file.

    Raises:
        InputError: it is not there.
    """
    path = sent_or_here(name)
    if not path.is_file():
        raise InputError(f"model '{name}': {'not a file' if path.exists() else 'no such file'}")
    return path


def files(name: str) -> list[Path]:
    """The file, and those of its external data.

    Raises:
        InputError: it is not there, or cannot be read.
    """
    path = source(name)
    return _files(path, digest_of(path))


def digest(name: str) -> str:
    """The SHA-256 of the file, with its external data.

    Raises:
        InputError: it is not there, or cannot be read.
    """
    found = hashlib.sha256()
    for part in files(name):
        content = digest_of(part)
        if content is None:
            raise InputError(f"model '{name}': {part} cannot be read")
        found.update(bytes.fromhex(content))
    return found.hexdigest()


@functools.lru_cache
def _files(path: Path, _content: str | None) -> list[Path]:
    """The file and those of its external data, which its content says."""
    from onnxprune.graph.files import files_of

    return files_of(path)
