"""Checks of what the public functions are called with, beside the settings that have their own (`Point`, and what is
asked of a file's pruning and quantisation)."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxprune.common.errors import InputError
from onnxprune.settings.training_words import DEVICES
from onnxprune.settings.values import (
    listed,
    name_in,
    optional,
    plain_text,
    real_number,
    shown,
    truth_value,
    whole_number,
)


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, in the types that the functions work with; those that are not known here as they are.

    Raises:
        InputError: a line for each that cannot be used.
    """
    found, problems = dict(given), []
    for name, parse in ARGUMENTS.items():
        try:
            found |= {name: parse(given[name])} if name in given else {}
        except InputError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise InputError("\n".join(problems))
    return found


def _path(value: Any) -> Path:
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise InputError(f"expected a path, got {shown(value)}")
    return Path(value)


def _several(parse: Callable[[Any], Any], example: str) -> Callable[[Any], tuple[Any, ...]]:
    def parsed(value: Any) -> tuple[Any, ...]:
        several = listed(value)
        if several is None:
            raise InputError(f"expected a list such as {example}, got {shown(value)}")
        return tuple(parse(each) for each in several)

    return parsed


def _by_name(parse: Callable[[Any], Any], example: str) -> Callable[[Any], dict[str, Any]]:
    def parsed(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise InputError(f"expected a dictionary of inputs by name such as {example}, got {shown(value)}")
        return {name: parse(each) for name, each in value.items()}

    return parsed


def _array(value: Any) -> Any:
    import numpy as np  # what only counts a file has no need of it

    try:
        return np.asarray(value)
    except ValueError:
        raise InputError(f"expected a number or an array, got {shown(value)}") from None


def _data(value: Any) -> Any:
    if isinstance(value, str | Path):
        return value
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise InputError(f"expected arrays by the names of the inputs, or a name, got {type(value).__name__}")
    return value


def _function(value: Any) -> Callable[..., Any]:
    if not callable(value):
        raise InputError(f"expected a function, got {shown(value)}")
    return value


_names = _several(plain_text, '["name"]')
_numbers = _several(real_number(-1e6, 1e6), "[0.5]")

ARGUMENTS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("path", "out"), _path),
    **dict.fromkeys(("spec", "output", "data_dir"), optional(_path)),
    **dict.fromkeys(("retry_failed", "replace", "latency", "per_node_time", "roofline"), truth_value),
    **dict.fromkeys(("dry_run", "dynamic"), truth_value),
    **dict.fromkeys(("track", "recovery", "keep"), _names),
    **dict.fromkeys(("executor", "technique", "type", "calibration"), plain_text),
    "device": name_in(DEVICES),
    **dict.fromkeys(("workers", "threads"), optional(whole_number(1, 1024))),
    **dict.fromkeys(("mean", "std"), optional(_numbers)),
    **dict.fromkeys(("say", "advance"), _function),
    "criterion": optional(plain_text),
    "data": optional(_data),
    "batch_sizes": _several(whole_number(1), "[1, 32]"),
    "shapes": optional(_by_name(_several(whole_number(0), "[1, 3, 32, 32]"), '{"input": [1, 3, 32, 32]}')),
    "values": optional(_by_name(_array, '{"input": 0.5}')),
    "seconds": real_number(0.01, 3600),
}
