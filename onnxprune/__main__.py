"""Where the command line begins: `onnxprune`, which `python -m onnxprune` is too."""

import gc
import io
import os
import sys
from typing import NoReturn

from onnxprune.runtime import ahead

WITH_HELPER = ("compare", "evaluate", "predict", "profile", "prune", "quantize")  # commands that ask it first of all
_LAST_STREAM = 2  # number of standard error


def main() -> NoReturn:
    """Runs the command line and exits."""
    _open_missing_streams()
    # Python's 700 would have what is imported, which stays, walked through again and again: a sixth of a short study
    gc.set_threshold(10_000)
    if len(sys.argv) > 2 and sys.argv[1] in WITH_HELPER and "--help" not in sys.argv:
        ahead.begin()
    from onnxprune.cli import main

    main()


def _open_missing_streams() -> None:
    """Leads nowhere what the caller has closed: else the next file that is opened would be taken for it."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= _LAST_STREAM:
        pass
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter gets a question mark


if __name__ == "__main__":
    main()
