"""What an ONNX file's own metadata say of its data and of how it was made."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onnxprune.common.errors import InputError
from onnxprune.common.files import parse_json
from onnxprune.common.output import plural, printable

NORMALISATION = "(pixel / 255 - mean) / std, per channel"  # the only one there is so far
# of a file's properties, those that are no longer true of another file that is made of it: what was measured, and,
# where that is pruned, how it was pruned
MEASURED = ("accuracy", "fidelity")
PRUNING = ("technique", "criterion", "schedule", "granularity", "sparsity", "control", "seed", "spec_hash")
MOST_VALUES = 2**26  # of an image: a side of 8,192 pixels, or 4,729 in colour
_LONGEST_NAME = 1_000  # characters of the name of a class


@dataclass(frozen=True)
class Normalisation:
    """(pixel / 255 - mean) / std, with one number for each channel, or one for all.

    Raises:
        InputError: lengths that differ, or a standard deviation that is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise InputError(f"{len(self.mean)} means but {len(self.std)} standard deviations")
        if min(self.std) <= 0:
            raise InputError(f"expected standard deviations above 0, got {min(self.std):g}")

    def check_channels(self, channels: int) -> None:
        """Raises an InputError where there is neither one number nor one for each of the channels."""
        if len(self.mean) not in (1, channels):
            raise InputError(f"{plural(len(self.mean), 'mean')} for images of {plural(channels, 'channel')}")


@dataclass(frozen=True)
class Metadata:
    """The properties that onnxprune writes into its files; None for one that a file lacks.

    Attributes:
        dataset: name of the data the model was trained on.
        classes: names of the outputs, in order.
        input_shape: (C, H, W) of an image.
        picture_shape: the same before any border, of a user's own data.
        normalisation: what is done to an image's pixels.
        technique, sparsity: how it was pruned, percent asked for; None for a dense model.
        accuracy: top-1 on the dataset's test set, percent.
        spec_hash: identifies the point of a sweep.
        problems: a line for each property that is there but cannot be used, and counts as missing.
    """

    dataset: str | None
    classes: tuple[str, ...] | None
    input_shape: tuple[int, int, int] | None
    picture_shape: tuple[int, int, int] | None
    normalisation: Normalisation | None
    technique: str | None
    sparsity: float | None
    accuracy: float | None
    spec_hash: str | None
    problems: tuple[str, ...]


def parse(properties: Mapping[str, str]) -> Metadata:
    """Reads the metadata_props of a file, which other programs may have written under the same names."""
    problems: list[str] = []

    def read(name: str, check: Callable[[str], Any]) -> Any:
        try:
            return check(properties[name]) if name in properties else None
        except (ValueError, OverflowError) as error:  # json.JSONDecodeError is one
            problems.append(f"its metadata '{name}' cannot be used: {printable(str(error))}")
        except RecursionError:
            problems.append(f"its metadata '{name}' cannot be used: nested too deeply")
        return None

    formula = read("normalisation", _formula)
    mean, std = read("mean", _numbers), read("std", _numbers)
    normalisation = None
    if mean and std and ("normalisation" not in properties or formula):
        try:
            normalisation = Normalisation(mean, std)
        except InputError as error:
            problems.append(f"its metadata 'mean' and 'std' cannot be used: {error}")
    return Metadata(
        dataset=read("dataset", _text),
        classes=read("classes", _names),
        input_shape=read("input_shape", _shape),
        picture_shape=read("picture_shape", _shape),
        normalisation=normalisation,
        technique=read("technique", _text),
        sparsity=read("sparsity", _number),
        accuracy=read("accuracy", _number),
        spec_hash=read("spec_hash", _text),
        problems=tuple(problems),
    )


def _text(text: str) -> str:
    if not text.isprintable() or len(text) > _LONGEST_NAME:
        raise ValueError(f"expected a text of printable characters, got {ascii(text)[:80]}")
    return text


def _formula(text: str) -> str:
    if text != NORMALISATION:
        raise ValueError(f"expected {NORMALISATION!r}, got {text[:80]!r}")
    return text


def _numbers(text: str) -> tuple[float, ...]:
    value = parse_json(text)
    if not isinstance(value, list) or not value or not all(_is_number(item) for item in value):
        raise ValueError(f"expected a list of numbers, got {text[:80]!r}")
    return tuple(float(item) for item in value)


def _number(text: str) -> float:
    value = parse_json(text)
    if not _is_number(value):
        raise ValueError(f"expected a number, got {text[:80]!r}")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(float(value))


def _names(text: str) -> tuple[str, ...]:
    value = parse_json(text)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise ValueError(f"expected a list of names, got {text[:80]!r}")
    strange = [name for name in value if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME]
    if strange:
        raise ValueError(
            f"expected names of up to {_LONGEST_NAME} printable characters, got {ascii(strange[0])[:_LONGEST_NAME]}"
        )
    return tuple(value)


def _shape(text: str) -> tuple[int, int, int]:
    value = parse_json(text)
    if not isinstance(value, list) or len(value) != 3 or not all(type(size) is int and size > 0 for size in value):
        raise ValueError(f"expected [channels, height, width], got {text[:80]!r}")
    if math.prod(value) > MOST_VALUES:
        raise ValueError(f"expected an image of up to {MOST_VALUES:,} numbers, got {text[:80]!r}")
    channels, height, width = value
    return channels, height, width
