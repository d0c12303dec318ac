"""What reaches the user's terminal, and what does not: what other packages print goes to a log file, or nowhere."""

import contextlib
import ctypes
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TextIO


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Drops what is printed, warned or logged within the block, and what would reach stdout past Python: for imports,
    for a user's own code, and for tools whose complaints are not about the user's run."""
    with (
        Path(os.devnull).open("w") as nowhere,
        _led(nowhere, sys.__stdout__),
        _logging_to(logging.NullHandler()),  # without any, logging would make one that writes to a stream of this block
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Drops also what would reach stderr past Python within the block, as an exporter's graph."""
    with Path(os.devnull).open("w") as nowhere, _led(nowhere, sys.__stderr__), silenced():
        yield


@contextlib.contextmanager
def _led(file: IO[str], *streams: TextIO | None) -> Iterator[None]:
    """Within the block, what is written to these standard streams, by Python or past it, goes to a file."""
    _flush()
    with contextlib.ExitStack() as stack:
        for stream in streams:
            with contextlib.suppress(OSError, ValueError, AttributeError):  # it is closed, or there is none
                number = stream.fileno()  # type: ignore[union-attr]
                kept = os.dup(number)
                os.dup2(file.fileno(), number)
                stack.callback(os.close, kept)
                stack.callback(os.dup2, kept, number)
        stack.callback(_flush)  # before they lead to the terminal again
        yield


def _flush() -> None:
    """Lets go of what Python and C keep back of what was written to the standard streams."""
    for stream in (sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()  # type: ignore[union-attr]
    with contextlib.suppress(OSError, TypeError, AttributeError):  # Windows has no library without a name
        ctypes.CDLL(None).fflush(None)


@contextlib.contextmanager
def _logging_to(handler: logging.Handler) -> Iterator[None]:
    """Within the block this is the only handler of the root logger; those that others add there are gone after it."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, [handler]
    try:
        yield
    finally:
        root.handlers = before


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Sends what is printed, warned or logged within the block, by whatever library, to the end of a file; of what is
    written past Python, what would reach stdout: on stderr it is told meanwhile how far the work is."""
    with path.open("a", encoding="utf-8", buffering=1) as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        logging.captureWarnings(True)
        try:
            with (
                warnings.catch_warnings(),
                _led(file, sys.__stdout__),
                _logging_to(handler),
                contextlib.redirect_stdout(file),
                contextlib.redirect_stderr(file),
            ):
                warnings.simplefilter("default")  # `python -W error` is meant for the caller's own code
                yield
        finally:
            logging.captureWarnings(False)


def printable(text: str) -> str:
    """A text on one line: what moves the cursor, colours, ends a line or turns the direction of text is escaped.

    For what others wrote, as names in a file.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def printable_lines(text: str) -> str:
    """The same of a text of several lines and tabs, which stay."""
    if all(letter.isprintable() or letter in "\n\t" for letter in text):
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)


def plural(count: float, noun: str, ending: str = "s") -> str:
    """A number of things: "1 seed", "2,000 seeds", "0.5 points"."""
    number = f"{count:g}" if isinstance(count, float) else f"{count:,}"
    return f"{number} {noun}" + ("" if count == 1 else ending)
