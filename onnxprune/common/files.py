"""Files that are there whole or not at all, and paths that one process at a time works on."""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from onnxprune.common.errors import RunError, StorageError

PARTIAL = ".part"

_GZIP_LEVEL = 6  # what the command takes by itself
_GZIP_WINDOW = 31  # the largest, with gzip's header, which holds no name and no time here
_PIECE = 2**20


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` which takes its name when the block ends well, and vanishes otherwise.

    Raises:
        StorageError: the disk is full, or the system does not let us write there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise StorageError.of(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in a file, or None where there is no intact one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def make_folder(path: Path) -> Path:
    """Creates a folder with its parents.

    Raises:
        RunError: the system does not let us, with its reason.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create the folder {path}: {error.strerror}; choose another with --out") from None
    return path


def digest(path: Path) -> str | None:
    """The SHA-256 of a file, None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def compressed_bytes(path: Path) -> int:
    """Bytes of a file after gzip at its default level, as packages and downloads have it."""
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    total = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            total += len(packer.compress(piece))
    return total + len(packer.flush())


@contextlib.contextmanager
def locked(path: Path, wait: float | bool = True) -> Iterator[bool]:
    """Keeps other processes out that lock the same file, during the block; the system ends the lock of a dead process.

    Args:
        wait: whether to wait for another process that has it, or for how many seconds.

    Yields:
        Whether it is ours; False where another process has it, and has been waited for long enough.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=(-1 if wait else 0) if isinstance(wait, bool) else wait)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
