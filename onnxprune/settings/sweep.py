"""Several points: a sweep over some of the settings of a point, as a spec file or a command line gives them."""

import dataclasses
import itertools
import json
import math
import os
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from onnxprune.common.errors import InputError
from onnxprune.models import MODELS, OPTIONS, model_title
from onnxprune.settings.contradictions import contradictions
from onnxprune.settings.point import AXES, BASES, FIELDS, MAX_NAME, SCHEMA, Point, content_hash, told
from onnxprune.settings.values import listed, real_number, shown, truth_value, whole_number
from onnxprune.settings.vocabulary import SCHEDULES, TECHNIQUES, resolve_criterion

MAX_POINTS = 100_000

MAX_SPEC_BYTES = 1_000_000

# what a sweep runs over where nothing else is asked for
STUDY = {
    "technique": [name for name, _ in TECHNIQUES.own()],
    "sparsity": [float(percent) for percent in range(0, 101, 10)],
}

_RATES = ("learning_rate", "finetune_learning_rate")

SHORTHANDS = ("seeds", "controls", "adaptive")
# settings of which there can be one alone
_ONE_OF = ({"seed", "seeds"}, {"control", "controls"}, {"schedule", "adaptive"}, {"epochs", "updates"})


@dataclass(frozen=True)
class Sweep:
    """Several points: the product of the values of the axes.

    Attributes:
        name: of the folder its results go to.
        values: what was asked for, field -> value or list of values; other fields have their default.
        points: the plan, in the order it is run; the points of a base follow each other.
    """

    name: str
    values: dict[str, Any]
    points: list[Point]

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Sweep":
        """The sweep with these settings, as a spec file or a command line gives them.

        Axes take one value, a list, or a text with commas; `sparsity` also `FROM:TO:STEP`. `seeds = 3` stands for
        seeds 0, 1, 2, and `seeds = "3,7"` for those two; `controls` for `control` with "none" before them;
        `adaptive = true` for that schedule. `name` is the name of the results' folder; by default it is made of the
        settings. Without technique or sparsity it is all techniques, or 0 to 100 % in tens.

        Raises:
            InputError: listing everything that is wrong, a line each.
        """
        study = dict(STUDY)
        if values.get("adaptive") is True or _finds_sparsity(values.get("schedule")):
            study["sparsity"] = [100.0]
        return cls._build({**study, **values})

    @classmethod
    def one_point(cls, values: Mapping[str, Any]) -> "Sweep":
        """The sweep that has one point only, of these settings.

        Raises:
            InputError: settings that are wrong, or those of several points.
        """
        # written out: where a spec file leaves them open it means all
        plan = cls._build({**{name: FIELDS[name].default for name in STUDY}, **values})
        if len(plan.points) != 1:
            raise InputError(f"expected the settings of one point, got those of {len(plan.points)}: use sweep")
        return plan

    @classmethod
    def _build(cls, values: Mapping[str, Any]) -> "Sweep":
        given = {key: value for key, value in values.items() if key != "name"}
        errors: list[str] = []
        if "seeds" in given:
            errors += _collect("seeds", _expand_seeds, given)
        if "controls" in given:
            errors += _collect("controls", _expand_controls, given)
        if "adaptive" in given:
            errors += _collect("adaptive", _expand_adaptive, given)
        parsed: dict[str, list[Any]] = {}
        for key, value in given.items():
            if key not in FIELDS:
                close = get_close_matches(str(key)[:MAX_NAME], [*FIELDS, *SHORTHANDS, "name"], n=1)
                errors.append(f"unknown setting {shown(key)}" + (f": did you mean '{close[0]}'?" if close else ""))
                continue
            errors += _collect(key, _parse_into, parsed, key, value)
        errors += _collect("name", _check_name, values.get("name"))
        points = [] if errors else _product(parsed, errors)
        if not errors:
            errors += _unused_options(parsed, points)
        if errors:
            raise InputError("\n".join(dict.fromkeys(errors)))
        kept = {key: found if key in AXES else found[0] for key, found in parsed.items()}
        return cls(values.get("name") or _default_name(points), kept, points)

    @classmethod
    def read(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> "Sweep":
        """The sweep of a spec file (TOML), `overrides` taking precedence.

        Raises:
            InputError: no such file, not TOML, or settings that are wrong.
        """
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # reading a device or a pipe may never end
                raise InputError(f"cannot read the spec {path}: expected a file")
            if path.stat().st_size > MAX_SPEC_BYTES:
                raise InputError(f"{path} is no spec: expected at most {MAX_SPEC_BYTES:,} bytes")
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"cannot read the spec {path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:  # TOML and UTF-8 that is none, numbers of thousands of digits
            raise InputError(f"{path} is not a TOML file: {error}") from None
        overrides = overrides or {}
        replaced = {name for names in _ONE_OF if not names.isdisjoint(overrides) for name in names}
        values = {key: value for key, value in values.items() if key not in replaced}
        try:
            return cls.parse({**values, **overrides})
        except InputError as error:
            raise InputError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None

    def to_toml(self) -> str:
        """The spec file that says the same."""
        # JSON's texts, numbers, truth values and lists of them are TOML's too
        settings = {"name": self.name, **self.values}
        lines = [
            f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items() if value is not None
        ]
        return "\n".join(lines) + "\n"


def _collect(key: str, action: Callable[..., Any], *arguments: Any) -> list[str]:
    """What the action complains of, with the setting it is about, said once; empty where it does not."""
    try:
        action(*arguments)
    except InputError as error:
        return [str(error) if str(error).startswith(f"{key} ") else f"{key}: {error}"]
    return []


def _expand_seeds(given: dict[str, Any]) -> None:
    asked = given.pop("seeds")
    if "seed" in given:
        raise InputError("expected either seeds or seed, got both")
    several = listed(asked) is not None or (isinstance(asked, str) and "," in asked)
    given["seed"] = asked if several else list(range(whole_number(1, 10_000)(asked)))


def _expand_controls(given: dict[str, Any]) -> None:
    asked = given.pop("controls")
    if "control" in given:
        raise InputError("expected either controls or control, got both")
    given["control"] = list(dict.fromkeys(["none", *_parse_values("control", asked)]))


def _finds_sparsity(schedules: Any) -> bool:
    """Whether the one schedule that is asked for finds its own sparsity."""
    several = listed(schedules)
    name = several[0] if several is not None and len(several) == 1 else schedules
    return isinstance(name, str) and name in SCHEDULES and SCHEDULES[name].finds_sparsity


def _expand_adaptive(given: dict[str, Any]) -> None:
    if truth_value(given.pop("adaptive")):
        if "schedule" in given:
            raise InputError("expected either adaptive or schedule, got both")
        given["schedule"] = "adaptive"


def _parse_into(parsed: dict[str, list[Any]], key: str, value: Any) -> None:
    parsed[key] = _parse_values(key, value)


def _parse_values(key: str, value: Any) -> list[Any]:
    field = FIELDS[key]
    parse = field.metadata["parse"]
    if not field.metadata["axis"]:
        return [parse(value)]
    is_text = isinstance(value, str)
    if is_text and key in ("model", "dataset") and os.path.exists(value):  # noqa: PTH110 - Path's may raise
        pieces: Sequence[Any] = [value]  # a path, which may have commas
    elif is_text:
        pieces = [piece.strip() for piece in value.split(",")]
    else:
        several = listed(value)
        pieces = [value] if several is None else several
    if not pieces:
        raise InputError("expected at least one value, got none")
    found: dict[Any, None] = {}  # ordered, each value once
    for piece in pieces:
        is_range = key == "sparsity" and isinstance(piece, str) and ":" in piece
        found |= dict.fromkeys(_percent_range(piece) if is_range else [parse(piece)])
        if len(found) > MAX_POINTS:
            raise InputError(f"expected at most {MAX_POINTS:,} values")
    return list(found)


def _percent_range(text: str) -> list[float]:
    """The percentages of `FROM:TO:STEP`, with both ends where steps lead from one to the other."""
    parts = text.split(":")
    if len(parts) != 3:
        raise InputError(f"expected FROM:TO:STEP, as 0:100:10, got {shown(text)}")
    start, stop = (real_number(0, 100)(part) for part in parts[:2])
    step = real_number(0.001, 100)(parts[2])
    if stop < start:
        raise InputError(f"expected FROM no greater than TO, got {shown(text)}")
    return [round(start + index * step, 6) for index in range(int((stop - start) / step + 1e-9) + 1)]


def _check_name(name: Any) -> None:
    if name is None:
        return
    fits = isinstance(name, str) and 0 < len(name) <= MAX_NAME and set(name) <= _NAME_CHARACTERS
    if not fits or name.startswith("."):
        raise InputError(
            f"expected up to {MAX_NAME} letters, digits, '-', '_' and '.', not starting with '.', got {shown(name)}"
        )
    if name == BASES:
        raise InputError(f"'{BASES}' is the folder of all sweeps' bases: expected another name")


_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def _product(parsed: Mapping[str, list[Any]], errors: list[str]) -> list[Point]:
    """All combinations; what is wrong with any is added to `errors`."""
    count = math.prod(len(found) for found in parsed.values())
    if count > MAX_POINTS:
        errors.append(f"the plan has {count:,} points; at most {MAX_POINTS:,} can be run as one sweep")
        return []
    # the axes that make a base come first, so that a base's points are run one after the other
    order = [*("model", "dataset", "batch_size", "seed"), *(axis for axis in AXES)]
    keys = sorted(parsed, key=lambda key: order.index(key) if key in order else len(order))
    points: list[Point] = []
    for combination in itertools.product(*(parsed[key] for key in keys)):
        point = Point(**dict(zip(keys, combination, strict=True)))
        found = contradictions(point)
        errors += found or _collect("criterion", _add_resolved, points, point)
    return points


def _add_resolved(points: list[Point], point: Point) -> None:
    points.append(dataclasses.replace(point, criterion=_criterion(point), **_rounds(point), **_rates(point)))


def _criterion(point: Point) -> str:
    """What the point asks for, else its model's own where that is accepted, else its technique's."""
    own, schedule = MODELS[point.model].criterion, SCHEDULES[point.schedule]
    asked = point.criterion
    if asked is None and not schedule.criteria and own in TECHNIQUES[point.technique].criteria:
        asked = own
    return resolve_criterion(point.technique, asked, point.granularity, point.schedule)


def _rounds(point: Point) -> dict[str, Any]:
    """The schedule's own where the point leaves them open; none where it has none."""
    default = SCHEDULES[point.schedule].rounds
    return {"rounds": default and (point.rounds or default)}


def _rates(point: Point) -> dict[str, Any]:
    """The model's own where the point leaves them open."""
    recipe = MODELS[point.model].recipe
    share = recipe.share_with_norm if point.batch_norm else 1.0
    return {name: share * getattr(recipe, name) for name in _RATES if getattr(point, name) is None}


def _unused_options(parsed: Mapping[str, list[Any]], points: list[Point]) -> list[str]:
    """What is set and read by none of the plan's models or schedules, a line each."""
    used = {option for point in points for option in MODELS[point.model].options}
    read = {name for point in points for name in SCHEDULES[point.schedule].settings}
    known = dict(SCHEDULES.own()) | {point.schedule: SCHEDULES[point.schedule] for point in points}
    of_schedules = {name for entry in known.values() for name in entry.settings}
    schedules = ", ".join(dict.fromkeys(point.schedule for point in points))
    unread = []
    for setting in parsed:
        if setting in of_schedules and setting not in read:
            readers = ", ".join(name for name, entry in known.items() if setting in entry.settings)
            unread.append(f"{setting}: it is read by {readers}, which {schedules} is not")
    return unread + [
        f"{option}: it is an option of {OPTIONS[option]}, which this plan does not run"
        for option in parsed
        if option in OPTIONS and option not in used
    ]


def _default_name(points: list[Point]) -> str:
    models = "+".join(dict.fromkeys(model_title(point.model) for point in points))
    datasets = "+".join(dict.fromkeys(point.dataset_title for point in points))
    clean = "".join(
        letter if letter in _NAME_CHARACTERS else "_" for letter in f"{models}-{datasets}".replace("+", "_")
    )
    return f"{clean.lstrip('.')[: MAX_NAME - 9]}-{content_hash([SCHEMA, [told(point.settings()) for point in points]])}"
