"""A file that is made of another: where it may go, and how the two compare."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxprune.analysis.comparison import Entry, compare
from onnxprune.common.errors import InputError, name_too_long
from onnxprune.common.files import PARTIAL


def check_output(output: Path, files: Sequence[Path], purpose: str) -> None:
    """Raises an InputError where the output cannot be written, or would take the place of the input or its data.

    Args:
        files: the input, and those of its external data.
        purpose: what is done to the input: "prune".
    """
    try:
        if output.is_dir():
            raise InputError(f"{output}: is a folder: give the name of a file with -o")
        beside = output.with_name(f"{output.name}.data")  # where weights over 2 GiB would go
        if any(file.samefile(place) for place in (output, beside) if place.exists() for file in files):
            raise InputError(
                f"{output}: this is the file to {purpose}, or its external data: choose another name with -o"
            )
        if not output.parent.is_dir():
            raise InputError(f"{output.parent}: no such folder: create it, or choose another with -o")
        # the name that a file has while it is written is longer than its own
        tempfile.NamedTemporaryFile(prefix=f".{output.name}.", suffix=PARTIAL, dir=output.parent).close()
    except OSError as error:
        raise name_too_long(error, output) or InputError(
            f"{output.parent}: nothing can be written there ({error.strerror}): choose another folder with -o"
        ) from error


def compare_output(path: Path, output: Path, **how: Any) -> tuple[tuple[Entry, ...], str | None]:
    """Both files timed, see `onnxprune.analysis.comparison.compare`; or nothing, and why not: the file is there and
    checked, and that the two cannot be timed does not undo it."""
    try:
        return tuple(compare(path, [output], **how)), None
    except InputError as error:
        return (), str(error)
