"""Checks of single values: each takes what a user gave and returns it in its own type, or says what was expected."""

import json
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.common.errors import InputError
from onnxprune.common.registry import Registry
from onnxprune.common.widths import AUTO

MOST_EXACT = 2**53  # of the whole numbers that a float holds


def whole_number(low: int, high: int = 10**9) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        number = finite_number(value)
        if number != int(number) or not low <= number <= high:
            raise InputError(f"expected a whole number from {low} to {high:,}, got {shown(value)}")
        return int(number)

    return parse


def channel_step(value: Any) -> int | str:
    """A number of channels, or "auto" for one that is to be measured."""
    return AUTO if value == AUTO else whole_number(1, 1024)(value)


def real_number(low: float, high: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        number = finite_number(value)
        if not low <= number <= high:
            raise InputError(f"expected a number from {low:g} to {high:g}, got {shown(value)}")
        return number

    return parse


def finite_number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"expected a number, got {shown(value)}")
    return number


def shown(value: Any) -> str:
    """A value as an error message shows it: on one line, and no more of it than one can read."""
    return reprlib.repr(value).replace("\n", " ")


def listed(value: Any) -> Sequence[Any] | None:
    """Several values: those of a list, tuple or range, or of an array or column; None where it is one, or a text."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else None


def take_numbers(settings: Any, parsers: Mapping[str, Callable[[Any], Any]]) -> list[str]:
    """Puts fields of a frozen dataclass in their own types, as numbers that came from numpy.

    Returns:
        A line for each that cannot be used.
    """
    problems = []
    for name, parse in parsers.items():
        try:
            object.__setattr__(settings, name, parse(getattr(settings, name)))
        except InputError as error:
            problems.append(f"{name}: {error}")
    return problems


def truth_value(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"expected true or false, got {shown(value)}")
    return value


def name_in(registry: Registry[Any]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        return registry.canonical(plain_text(value))

    return parse


def plain_text(value: Any) -> str:
    value = str(value) if isinstance(value, Path) else value
    if not isinstance(value, str) or not value.isprintable() or len(value) > 1000:
        raise InputError(f"expected a name, got {shown(value)}")
    return value


def height_and_width(value: Any) -> str:
    """HEIGHTxWIDTH of one number, which is both, or of two with an x between them."""
    sides = str(value).lower().split("x") if isinstance(value, str) else [value, value]
    try:
        height, width = (whole_number(1, 10_000)(side) for side in (sides * 2 if len(sides) == 1 else sides))
    except (InputError, ValueError):
        raise InputError(f"expected HEIGHTxWIDTH in pixels such as 32x48, or one number, got {shown(value)}") from None
    return f"{height}x{width}"


def optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else parse(value)


def arguments(value: Any) -> str:
    """A table of arguments, or the JSON text of one, as JSON in canonical form."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
        if not isinstance(found, dict):
            raise ValueError
        return json.dumps(found, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"expected a JSON object such as '{{\"width\": 64}}', got {shown(value)}") from None


def pixel_numbers(least: float) -> Callable[[Any], str]:
    """Makes one number, or one a channel, a text with commas."""

    def parse(value: Any) -> str:
        several = listed(value)
        pieces = value.split(",") if isinstance(value, str) else [value] if several is None else several
        return ",".join(f"{real_number(least, 1e6)(piece):.12g}" for piece in pieces)

    return parse
