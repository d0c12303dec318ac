"""Which inputs and outputs of two files correspond, and how far apart what they give is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class OutputDifference:
    """Of the outputs on the same random input.

    Attributes:
        max_abs: the largest absolute difference; None where the outputs do not correspond.
        same_top1: share of the rows whose largest value is at the same place; None for outputs that are not (N, M).
        note: why there are no figures, or not for all outputs.
    """

    max_abs: float | None
    same_top1: float | None
    note: str | None


def pair_names(own: Sequence[str], theirs: Sequence[str]) -> dict[str, str]:
    """Own name -> theirs: the same one, or of those that only one side has, the one at the same place among them."""
    rest = iter([name for name in theirs if name not in own])
    paired = {name: name if name in theirs else next(rest, "") for name in own}
    return {name: other for name, other in paired.items() if other}


@np.errstate(all="ignore")  # outputs may be infinite, or differ by more than any number
def difference(
    base_names: Sequence[str], names: Sequence[str], base: Sequence[Any], other: Sequence[Any]
) -> tuple[OutputDifference, list[str]]:
    """How outputs differ, and which of them correspond by position, their names being different.

    Where one file has more outputs than the other, nothing tells which of other names correspond: they are left out.
    """
    partners = pair_names(names, base_names)
    notes = []
    if len(base) != len(other):
        partners = {name: name for name in partners if name in base_names}
        notes.append(f"its outputs are {len(other)}, the base's {len(base)}: compared by name, {len(partners)} in both")
        if not partners:
            return OutputDifference(None, None, notes[0]), []
    values = dict(zip(base_names, base, strict=True))
    found = dict(zip(names, other, strict=True))
    renamed = [f"{own!r} with {theirs!r}" for own, theirs in partners.items() if own != theirs]
    pairs = [
        (values[theirs], found[own])
        for own, theirs in sorted(partners.items(), key=lambda pair: base_names.index(pair[1]))
    ]
    shapes = [[getattr(value, "shape", None) for value in part] for part in zip(*pairs, strict=True)]
    if shapes[0] != shapes[1]:
        notes.append(f"outputs differ in shape: {shapes[0]} and {shapes[1]}")
        return OutputDifference(None, None, "; ".join(notes)), renamed
    numbers = [pair for pair in pairs if np.issubdtype(getattr(pair[0], "dtype", object), np.number)]
    if not numbers:
        return OutputDifference(None, None, "; ".join([*notes, "outputs are not numbers"])), renamed
    if len(numbers) < len(pairs):
        notes.append(f"no tensors of numbers, and not compared: {len(pairs) - len(numbers)} of {len(pairs)} outputs")
    differences = [_largest(a, b) for a, b in numbers if a.size]
    first, second = numbers[0]
    same = float((first.argmax(axis=1) == second.argmax(axis=1)).mean()) if first.ndim == 2 and first.size else None
    return OutputDifference(float(np.max(differences, initial=0.0)), same, "; ".join(notes) or None), renamed


def _largest(first: np.ndarray, second: np.ndarray) -> float:
    """Of the differences; equal values, those that are infinite or no numbers among them, differ by 0."""
    same = (first == second) | ((first != first) & (second != second))
    return float(np.where(same, 0.0, np.abs(first.astype(np.float64) - second)).max())
