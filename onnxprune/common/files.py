"""Files that are there whole or not at all, and paths that one process at a time works on."""

import contextlib
import functools
import hashlib
import json
import os
import stat
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from onnxprune.common.errors import InputError, RunError, StorageError, name_too_long

PARTIAL = ".part"

_MOST_BYTES = 2**26  # of a JSON file
_MOST_DIGITS = 40  # of a whole number in it
_TICK = 2 * 10**9  # nanoseconds
_GZIP_LEVEL = 6  # what the command takes by itself
_GZIP_WINDOW = 31  # the largest, with gzip's header, which holds no name and no time here
_PIECE = 2**20


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` which takes its name when the block ends well, and vanishes otherwise; a
    link stays one.

    Raises:
        InputError: it is a device or a pipe, or its name is too long.
        StorageError: the disk is full, or the system does not let us write there.
    """
    path = path.resolve() if path.is_symlink() else path
    if not path.name:
        raise InputError(f"{path} is a folder: give the name of a file")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is a device or a pipe: give the name of a file")
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        with partial.open("r+b") as file:  # Windows syncs only what may be written
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise name_too_long(error, path) or StorageError.of(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # a name that is too long, or what the block has told of
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in a file, or None where there is no intact one, or one that no program of ours writes."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > _MOST_BYTES:  # a pipe or a device may never end
            return None
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def parse_json(text: str) -> Any:
    """A JSON value from anywhere.

    Raises:
        ValueError: it is none, or has a whole number of more digits than anything has that is counted.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_int=_whole_number)


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits):,} digits")
    return int(digits)


def is_folder(path: Path) -> bool:
    """Whether it is one; not where the system does not say, as of a name that is too long: reading it tells why."""
    try:
        return path.is_dir()
    except OSError:
        return False


def check_name(path: Path) -> None:
    """Sees that libraries can open a file, or files in a folder: onnxruntime, PyTorch and pyarrow take text for names.

    Raises:
        InputError: the name is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: the name is not UTF-8: choose another") from None


def check_is_file(path: Path) -> None:
    """Raises an InputError where it is no file, or there is nothing by that name."""
    if not path.is_file():
        raise InputError(f"{path}: {'not a file, but a folder or a device' if path.exists() else 'no such file'}")


def make_folder(path: Path) -> Path:
    """Creates a folder with its parents.

    Raises:
        InputError: its name is not UTF-8.
        RunError: the system does not let us, with its reason.
    """
    check_name(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create the folder {path}: {error.strerror}; choose another") from None
    return path


def digest(path: Path) -> str | None:
    """The SHA-256 of a file, None where it cannot be read or is none, as a pipe.

    It is taken once for as long as the file is the same to the system, whose time of its last change nobody can set.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            return None
        identity = _identity(about)
        if time.time_ns() - about.st_ctime_ns < _TICK:  # what changes within a tick of the clock bears the same time
            return _digest.__wrapped__(path, identity)
        return _digest(path, identity)
    except OSError:
        return None


def identities(paths: Iterable[Path]) -> list[tuple[int, ...] | None]:
    """What the system knows each file by, None for one that is not there: another after it was written or replaced."""
    found: list[tuple[int, ...] | None] = []
    for path in paths:
        try:
            found.append(_identity(path.stat()))
        except OSError:
            found.append(None)
    return found


def _identity(about: os.stat_result) -> tuple[int, ...]:
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


@functools.lru_cache(maxsize=10_000)
def _digest(path: Path, _known_by: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compressed_bytes(path: Path) -> int:
    """Bytes of a file after gzip at its default level, as packages and downloads have it."""
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    total = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            total += len(packer.compress(piece))
    return total + len(packer.flush())


def user_lock(name: str) -> Path:
    """A file to lock for what this user's processes do one at a time, wherever they run."""
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""  # on Windows the folder is the user's own
    return Path(tempfile.gettempdir()) / f"onnxprune-{name}{user}.lock"


@contextlib.contextmanager
def locked(path: Path, wait: float | bool = True) -> Iterator[bool]:
    """Keeps other processes out that lock the same file, during the block; the system ends the lock of a dead process.

    Args:
        wait: whether to wait for another process that has it, or for how many seconds.

    Yields:
        Whether it is ours; False where another process has it, and has been waited for long enough.

    Raises:
        StorageError: the system does not let us lock it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=(-1 if wait else 0) if isinstance(wait, bool) else wait)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise StorageError.of(path, error) from error
    try:
        yield True
    finally:
        lock.release()
