"""Every error that onnxprune raises on purpose.

    OnnxpruneError
    |-- InputError    what the user gave cannot be used: exit code 2
    `-- RunError      a run that was asked for rightly failed: exit code 1
        |-- BusyError     another process is doing the same
        `-- StorageError  results cannot be written; nothing more is tried

A message says what is wrong, what was expected and what to do, in one line.
"""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from onnxprune.common.output import printable


class OnnxpruneError(Exception):
    """Base of all errors meant for the user; `exit_code` is what the command line exits with."""

    exit_code = 1


class InputError(OnnxpruneError):
    """A name, value or file that cannot be used."""

    exit_code = 2


class RunError(OnnxpruneError):
    """A run that failed on the way: training that diverged, an export that differs from its network."""


class BusyError(RunError):
    """Something that another process is doing just now."""


class StorageError(RunError):
    """A disk that takes no more results: it ends the whole run, and what is finished stays."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> "StorageError":
        """What the system said when something was written to `path`."""
        return cls(f"cannot write to {path}: {error.strerror or error}")


def name_too_long(error: OSError, path: Path | None = None) -> InputError | None:
    """The error of a file name that is longer than the system takes; None where the error is another.

    Args:
        path: that the user gave, where it is not the one that the system refused.
    """
    if error.errno != errno.ENAMETOOLONG:
        return None
    return InputError(f"{path or error.filename}: the name is too long for a file: give a shorter one")


def bad_path(error: OSError) -> InputError | None:
    """The error of a path that was given and cannot be used: its name is too long, or the system does not let us read
    or write there; None where the error is another, as a full disk."""
    if isinstance(error, PermissionError) and error.filename is not None:
        return InputError(f"{error.filename}: {error.strerror}: give a path that you may use")
    return name_too_long(error)


@contextlib.contextmanager
def just_written() -> Iterator[None]:
    """For reading what a run has just written: where that is no longer there, the run failed, the user gave nothing
    wrong.

    Raises:
        RunError: instead of an InputError.
    """
    try:
        yield
    except InputError as error:
        raise RunError(f"results were changed or removed meanwhile: {error}") from error


_MOST_CHARACTERS = 300  # names in a damaged file can be megabytes long


def one_line(error: BaseException) -> str:
    """Its message on one line, cut where it is long, or its type where there is none."""
    text = printable(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def described(error: BaseException) -> str:
    """The same; a crash, unlike an error meant for the user, says its type."""
    text = one_line(error)
    name = type(error).__name__
    return text if isinstance(error, OnnxpruneError) or text == name else f"{name}: {text}"


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, which says nothing of what was tried: PyTorch raises a RuntimeError."""
    words = ("DefaultCPUAllocator", "out of memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)
