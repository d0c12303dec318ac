"""What tables for people have in common: where they are printed, and how numbers are written in them."""

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from rich.console import Console

from onnxprune.results.quality import ACCURACY, FIDELITY, Quality

if TYPE_CHECKING:
    import pandas as pd

    from onnxprune.reduction.accuracy import Evidence

MISSING = "-"
SHORT = {ACCURACY: "acc", FIDELITY: "fidelity"}  # as headings have it
WIDE = 170  # characters, where there is no terminal


def int8_headings(quality: Quality) -> tuple[str, str, str]:
    """Of the columns on files in 8 bits, where there are such."""
    return f"int8 {SHORT[quality]}\n%", "int8\nbytes", "int8\nspeedup"


def terminal() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)


def spread(values: "pd.Series", digits: int = 2) -> str:
    """The mean, with the sample standard deviation where there are several values."""
    if values.isna().any():
        return MISSING
    text = f"{values.mean():.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {values.std():.{digits}f}"


def accuracy_rows(accuracy: Sequence[float], tested: "Evidence") -> list[list[str]]:
    """Of networks made from one another, a column each: accuracy with its interval, and what the last one changed.

    Args:
        accuracy: top-1, percent.
    """
    change = accuracy[-1] - accuracy[0]
    between = [MISSING] * (len(accuracy) - 1)
    noise = "" if tested.real else ", within noise"
    return [
        [f"accuracy, on {tested.images:,} test images", *(f"{percent:.2f} %" for percent in accuracy)],
        ["its 95 % interval", *(f"{low:.1f} to {high:.1f} %" for low, high in tested.intervals)],
        ["change, points", *between, f"{change:+.2f}{noise}"],
        ["its 95 % interval", *between, "{:+.2f} to {:+.2f}".format(*tested.change)],
    ]


def compact(number: float) -> str:
    """A count to four digits: 57829376 is "57.83M"; exact below 10,000."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= factor:
            return f"{number / (1e3 if unit == 'k' else factor):.4g}{unit}"
    return f"{number:.0f}"


def whole(number: Any) -> str:
    return f"{number:,}" if isinstance(number, Integral) else "?"
