"""What reaches the user's terminal, and what does not: what other packages print goes to a log file, or nowhere."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Drops what is printed, warned or logged within the block: for imports and for tools whose complaints are not
    about the user's run."""
    root, nowhere = logging.getLogger(), logging.NullHandler()
    root.addHandler(nowhere)  # without any, logging would make one that writes to a stream of this block
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(nowhere)


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Sends what is printed, warned or logged within the block, by whatever library, to the end of a file."""
    with path.open("a", encoding="utf-8", buffering=1) as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        root = logging.getLogger()
        root.addHandler(handler)
        logging.captureWarnings(True)
        try:
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            logging.captureWarnings(False)
            root.removeHandler(handler)


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
