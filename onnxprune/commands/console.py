"""What commands print: whatever is in it, nothing moves the cursor, colours or hides anything on a terminal."""

import shutil
import sys
import textwrap
from typing import Any

import click

from onnxprune.common.output import printable_lines


def echo(text: Any = "", *, err: bool = False, nl: bool = True) -> None:
    """Prints lines to stdout, or to stderr; characters that are not printable are escaped."""
    click.echo(printable_lines(str(text)), err=err, nl=nl)


def terminal_width(*, err: bool = False) -> int | None:
    """Characters in a line of the terminal that stdout is, or stderr; None where it is none."""
    stream = sys.stderr if err else sys.stdout
    return shutil.get_terminal_size().columns if stream.isatty() else None


def prose(text: str, *, err: bool = False, indent: int = 2) -> None:
    """Prints lines that a terminal wraps between words; files and pipes get them as they are.

    Args:
        indent: of what a line is continued by, beyond its own.
    """
    width = terminal_width(err=err)
    echo("\n".join(line if width is None else _wrapped(line, width, indent) for line in text.split("\n")), err=err)


def _wrapped(line: str, width: int, indent: int) -> str:
    hanging = " " * (len(line) - len(line.lstrip()) + indent)
    # names of files stay whole
    lines = textwrap.wrap(
        line, width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False, replace_whitespace=False
    )
    return "\n".join(lines)
