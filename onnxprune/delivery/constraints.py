"""Conditions on the models of a sweep."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from onnxprune.common.output import plural
from onnxprune.common.shares import within
from onnxprune.results.quality import quality_of

_LEAST = 1e-9  # of a scale
_POINTS = 10  # of accuracy missing are as bad as a speedup of 0, or twice the bytes or milliseconds


@dataclass(frozen=True)
class Constraint:
    """One condition on a row of the results.

    Attributes:
        text: the condition in words, on accuracy, which `Quality.said` makes those on fidelity.
        value: the row's value; NaN where it was not measured.
        shown: the format of that value.
        limit: what it may be at most, or at least where `sign` is -1.
        scale: a value beyond the limit by this much counts as missed by one.
    """

    text: str
    value: Callable[[Mapping[str, Any]], float]
    shown: str
    limit: float
    sign: int
    scale: float

    def excess(self, row: Mapping[str, Any]) -> float:
        """How far the row is beyond the limit; NaN where the value was not measured."""
        return self.sign * (float(self.value(row)) - self.limit) / self.scale

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether the row satisfies it; a value that was not measured does not."""
        return within(self.excess(row), 0.0)


def constraints(
    *,
    max_drop: float | None = None,
    min_accuracy: float | None = None,
    min_speedup: float | None = None,
    max_latency_ms: float | None = None,
    max_bytes: int | None = None,
) -> list[Constraint]:
    """The conditions that are asked for.

    Args:
        max_drop: percentage points of validation accuracy, or of fidelity without labels, below the base's.
        min_accuracy: validation accuracy, or fidelity without labels, percent.
        min_speedup: measured: the base's median latency over the model's.
        max_latency_ms: median latency of a batch, milliseconds.
        max_bytes: of the ONNX file.
    """
    found = []

    def add(limit: float | None, text: str, value: str | Callable[..., float], shown: str, sign: int = 1) -> None:
        if limit is not None:
            read = value if callable(value) else itemgetter(value)
            scale = _POINTS if "accuracy" in text else max(limit, _LEAST)
            found.append(Constraint(text.format(limit), read, shown, limit, sign, scale))

    add(
        max_drop,
        f"validation accuracy at most {plural(max_drop or 0, 'point')} below the base's",
        drop,
        "{:.2f} points below the base's",
    )
    add(min_accuracy, "validation accuracy at least {:g} %", validation, "validation accuracy {:.2f} %", -1)
    add(min_speedup, "speedup at least {:g}", "speedup", "speedup {:.2f}", -1)
    add(max_latency_ms, "latency at most {:g} ms", "latency_ms_paired", "latency {:.3f} ms")
    add(max_bytes, "at most {:,} bytes", "file_bytes", "{:,.0f} bytes")
    return found


def drop(row: Mapping[str, Any]) -> float:
    """Points of validation accuracy, or of fidelity without labels, that a row is below its base."""
    return float(row[f"base_validation_{quality_of(row).name}"]) - validation(row)


def validation(row: Mapping[str, Any]) -> float:
    """Validation accuracy of a row, or fidelity without labels, percent."""
    return float(row[f"validation_{quality_of(row).name}"])
