"""Long work on a file of a stranger: in the helper process, with progress and a limit for each step."""

import os
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import psutil

from onnxprune.common.errors import InputError
from onnxprune.runtime.execution import CannotRunError
from onnxprune.runtime.helper import GIB, Limits, guarded, refusals, say, stage
from onnxprune.runtime.sizes import bytes_around

Advance = Callable[[str, int, int], None]  # told what is being done, how much of it is done, and how much there is
_SECONDS = 120.0  # of the processor, for a step of a small file
_SECONDS_A_MEGABYTE = 2.0  # beside that
_LARGEST_FILE = 64 * GIB  # of those between steps


def silent(what: str, done: int, total: int) -> None:
    """Nobody is told."""


def work_in_helper(function: str, path: Path, *arguments: Any, advance: Advance | None = None) -> Any:
    """What a function gives that works on a file in the helper process.

    It may take as much memory as there is: how much it needs follows from the samples.

    Args:
        function: "module:function"; called with the path, the arguments and, where there is `advance`, what to tell its
            steps.
        arguments: what can be pickled, as the result.

    Raises:
        InputError: its process crashed, or went beyond a limit.
        OnnxpruneError: the function did.
    """
    limits = Limits(psutil.virtual_memory().total, os.cpu_count() or 1, False, _LARGEST_FILE)
    with refusals(path):
        asked = (function, path, arguments, advance is not None)
        return guarded(f"{__name__}:answer", *asked, limits=limits, tell=advance or silent)


def answer(function: str, path: Path, arguments: tuple[Any, ...], has_steps: bool) -> Any:
    """The other side of `work_in_helper`."""
    seconds = _SECONDS + _SECONDS_A_MEGABYTE * bytes_around(path) / 1e6

    def advance(what: str, done: int, total: int) -> None:
        stage(what, seconds, quiet=True)  # some steps time, or wait for others who do
        say(what, done, total)

    advance("reading the file", 0, 1)
    try:
        return resolve_name(function)(path, *arguments, *([advance] if has_steps else []))
    except CannotRunError as error:
        raise InputError(f"{path}: {error}") from error
