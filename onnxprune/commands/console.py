"""What commands print: whatever is in it, nothing moves the cursor, colours or hides anything on a terminal."""

from typing import Any

import click

from onnxprune.common.output import printable_lines


def echo(text: Any = "", *, err: bool = False, nl: bool = True) -> None:
    """Prints lines to stdout, or to stderr; characters that are not printable are escaped."""
    click.echo(printable_lines(str(text)), err=err, nl=nl)
