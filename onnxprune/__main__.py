"""Where the command line begins: `onnxprune`, which `python -m onnxprune` is too."""

import gc
import sys
from typing import NoReturn

from onnxprune.runtime import ahead

WITH_HELPER = ("compare", "evaluate", "predict", "profile", "prune", "quantize")  # commands that ask it first of all


def main() -> NoReturn:
    """Runs the command line and exits."""
    # Python's 700 would have what is imported, which stays, walked through again and again: a sixth of a short study
    gc.set_threshold(10_000)
    if len(sys.argv) > 2 and sys.argv[1] in WITH_HELPER and "--help" not in sys.argv:
        ahead.begin()
    from onnxprune.cli import main

    main()


if __name__ == "__main__":
    main()
