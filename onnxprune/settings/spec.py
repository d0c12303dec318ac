"""What is to be run: one point, or a sweep over several values of some of a point's fields.

The fields of `Point` are the single declaration of every setting: the command line's options, the keys of a spec
file and the arguments of the Python functions are all read off them.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import reprlib
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from onnxprune.common.errors import InputError
from onnxprune.common.registry import Registry
from onnxprune.data import dataset as data
from onnxprune.models import MODELS
from onnxprune.settings.vocabulary import CONTROLS, GRANULARITIES, SCHEDULES, TECHNIQUES, resolve_criterion

SCHEMA = 3  # part of every id: raised when the same settings come to mean another result
MAX_POINTS = 100_000
MAX_NAME = 100  # characters: with what ids add it stays below the 255 that file systems allow
MAX_SPEC_BYTES = 1_000_000
BASES = "bases"  # beside the sweeps' folders, so no sweep's name
IMAGENET = "imagenet"  # weights that torchvision has
STEMS = Registry("stem", {"imagenet": "7x7 stride 2, then pooling", "small": "3x3 stride 1"})
PRECISIONS = Registry(
    "precision",
    {
        "fp32": "single precision",
        "bf16": "bfloat16 where PyTorch's autocast has it; weights stay fp32",
        "fp16": "float16 likewise, with scaled losses",
    },
)
DEVICES = Registry("device", {"cpu": "the processor", "cuda": "an NVIDIA GPU"})
AUGMENTATIONS: Registry[frozenset[str]] = Registry(
    "augmentation",
    {
        "none": frozenset(),
        "crop": frozenset({"crop"}),
        "flip": frozenset({"flip"}),
        "crop+flip": frozenset({"crop", "flip"}),
    },
)


# what decides a base, beside the model's own options
_BASE = (
    "model",
    "dataset",
    "batch_size",
    "seed",
    "epochs",
    "learning_rate",
    "augment",
    "precision",
    "train_limit",
    "weights",
    "freeze_features",
    "devices",
    "device",
)
BASE_FIELDS = (*_BASE, *dict.fromkeys(option for _, model in MODELS.items() for option in model.options))


def content_hash(value: Any) -> str:
    """Eight hex digits of the SHA-256 of a JSON value in canonical form."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def _integer(low: int, high: int = 10**9) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        number = _number(value)
        if number != int(number) or not low <= number <= high:
            raise InputError(f"expected a whole number from {low} to {high:,}, got {_shown(value)}")
        return int(number)

    return parse


def _real(low: float, high: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        number = _number(value)
        if not low <= number <= high:
            raise InputError(f"expected a number from {low:g} to {high:g}, got {_shown(value)}")
        return number

    return parse


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"expected a number, got {_shown(value)}")
    return number


def _shown(value: Any) -> str:
    """A value as an error message shows it: on one line, and no more of it than one can read."""
    return reprlib.repr(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"expected true or false, got {_shown(value)}")
    return value


def _name(registry: Registry[Any]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        return registry.canonical(_text(value))

    return parse


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > 1000:
        raise InputError(f"expected a name, got {_shown(value)}")
    return value


def _optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else parse(value)


def _setting(default: Any, help: str, parse: Callable[[Any], Any], axis: bool = False) -> Any:
    """A field of a point: its default, its help text, its check, and whether a sweep may take several values."""
    return dataclasses.field(default=default, metadata={"help": help, "parse": parse, "axis": axis})


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network, trained, pruned and measured: one row of the results.

    `Sweep` builds them, checked and normalised; the help text of each field says what it is.
    """

    model: str = _setting("cnn", "network: " + ", ".join(MODELS), _name(MODELS), axis=True)
    dataset: str = _setting(
        "digits",
        "data: " + ", ".join(data.DATASETS) + ", or FILE.npz with x_train, y_train, x_test, y_test",
        lambda value: data.canonical_name(_text(value)),
        axis=True,
    )
    batch_size: int = _setting(256, "training batch; more than the training images means all", _integer(1), axis=True)
    technique: str = _setting("weight", "what is removed: " + ", ".join(TECHNIQUES), _name(TECHNIQUES), axis=True)
    criterion: str = _setting(
        None, "how importance is judged; each technique has its default", _optional(_text), axis=True
    )
    schedule: str = _setting("one-shot", "when: " + ", ".join(SCHEDULES), _name(SCHEDULES), axis=True)
    granularity: str = _setting("unit", "what structured removes: unit or layer", _name(GRANULARITIES), axis=True)
    sparsity: float = _setting(
        50.0, "percent of prunable units to remove; with schedule adaptive, at most", _real(0, 100), axis=True
    )
    control: str = _setting(
        "none", "what takes the place of the criterion's choice: " + ", ".join(CONTROLS), _name(CONTROLS), axis=True
    )
    seed: int = _setting(0, "decides initialisation, data order and random criteria", _integer(0), axis=True)
    # None here and in `criterion` stands for the model's and the technique's default; a plan's points have none left
    epochs: int = _setting(
        None, "training epochs of the base; each model has its default", _optional(_integer(0, 100_000))
    )
    finetune_epochs: int = _setting(None, "epochs after pruning; likewise", _optional(_integer(0, 100_000)))
    learning_rate: float = _setting(
        None, "peak rate at batch 256 and up, scaled by sqrt(batch/256) below; likewise", _optional(_real(1e-9, 1e6))
    )
    finetune_learning_rate: float = _setting(None, "the same for fine-tuning", _optional(_real(1e-9, 1e6)))
    rounds: int = _setting(
        None,
        "steps of iterative, agp, linear, lottery and adaptive; each has its default",
        _optional(_integer(1, 1000)),
    )
    rewind_epoch: int = _setting(0, "epoch of the base that lottery takes weights back to; 0: before it", _integer(0))
    max_drop: float = _setting(1.0, "points of validation accuracy that adaptive may lose", _real(0, 100))
    distill: float = _setting(
        0.0, "share of the fine-tuning loss that is learning the base's answers; 0: labels alone", _real(0, 1)
    )
    recalibrate: bool = _setting(False, "estimate BatchNorm's statistics anew after one-shot pruning", _flag)
    compensate: bool = _setting(
        False, "add what removed units still said, constants after BatchNorm, to biases; one-shot", _flag
    )
    keep_dead: bool = _setting(
        False, "leave units in the exported file that can be left out without changing its answers", _flag
    )
    weights: str | None = _setting(
        None,
        "start from weights instead of chance: FILE of safetensors or of a PyTorch state dict, such as a base's "
        "checkpoint; or imagenet (densenet121)",
        _optional(_text),
    )
    freeze_features: bool = _setting(False, "train the classifier of the base alone", _flag)
    augment: str = _setting(
        "none", "random changes of training images: " + ", ".join(AUGMENTATIONS), _name(AUGMENTATIONS)
    )
    precision: str = _setting(
        "fp32",
        "of training: fp32, bf16 or fp16 (autocast; weights and all that is measured stay fp32), faster on processors "
        "and GPUs that have it; fp16 is for GPUs, without which it is far slower",
        _name(PRECISIONS),
    )
    train_limit: int | None = _setting(None, "train on the first N images only", _optional(_integer(1)))
    hidden: int = _setting(128, "hidden units of the slp; 0: none", _integer(0, 1_000_000))
    batch_norm: bool = _setting(False, "BatchNorm in the cnn", _flag)
    stem: str = _setting("imagenet", "first layers of densenet121: imagenet or small", _name(STEMS))
    channel_align: int = _setting(
        16,
        "kept channels of layers of 32 or more are a multiple of this, or of its half where less than one would be "
        "left; 1: any number",
        _integer(1, 1024),
    )
    threads: int = _setting(
        1, "processor threads of a point; a base gets all cores, and points are run side by side", _integer(1, 1024)
    )
    devices: int = _setting(
        1,
        "processes that train a network together, each on a GPU of its own or on a share of the processor's threads; "
        "the result is the same but for rounding, with BatchNorm about the same",
        _integer(1, 64),
    )
    device: str = _setting("cpu", "where training and inference run: cpu or cuda", _name(DEVICES))
    latency_batch: int = _setting(32, "images per timed inference", _integer(1, 1_000_000))
    latency_threads: int = _setting(1, "threads of timed inference", _integer(1, 1024))
    latency_seconds: float = _setting(
        1.0,
        "seconds of timing a point at most, less where its speedup is known to 2 %; 0: no timing",
        _real(0, 86_400),
    )

    @property
    def model_options(self) -> dict[str, Any]:
        """The settings that the model's `build` takes."""
        return {name: getattr(self, name) for name in MODELS[self.model].options}

    @property
    def dataset_title(self) -> str:
        """The dataset's name, or the stem of its file, shortened to what a folder's name can hold."""
        if not self.dataset.endswith(".npz"):
            return self.dataset
        return Path(self.dataset).stem.encode()[:MAX_NAME].decode(errors="ignore")

    def base_settings(self) -> dict[str, Any]:
        """The settings that decide the base: equal ones share it."""
        return {name: getattr(self, name) for name in _BASE} | self.model_options

    def settings(self) -> dict[str, Any]:
        """The settings that decide the point's result; those without effect on it are left out."""
        names = [
            "technique",
            "criterion",
            "schedule",
            "sparsity",
            "control",
            "keep_dead",
            "threads",
            "latency_batch",
            "latency_threads",
            "latency_seconds",
        ]
        names += SCHEDULES[self.schedule].settings
        if TECHNIQUES[self.technique].unit == "channel":
            names += ["granularity"]
        shrinks = TECHNIQUES[self.technique].unit == "channel" and self.granularity == "unit"
        if shrinks or not self.keep_dead:
            names += ["channel_align"]
        return self.base_settings() | {name: getattr(self, name) for name in names}

    @property
    def epochs_after_base(self) -> float:
        """Epochs of training that the point takes beside those of its base."""
        if self.control == "scratch":
            return self.epochs + self.finetune_epochs
        if "finetune_epochs" in SCHEDULES[self.schedule].settings:
            return self.finetune_epochs
        return self.epochs * (self.rounds or 1) + self.rewind_epoch

    def base_id(self, checksum: str) -> str:
        """Readable name and hash of all that decides the base, the data's checksum included."""
        title = f"{self.model}-{self.dataset_title}-b{self.batch_size}-seed{self.seed}"
        return f"{title}-{content_hash([SCHEMA, checksum, self.base_settings(), *_weights_digest(self.weights)])}"

    def point_id(self, checksum: str) -> str:
        """Readable name and hash of all that decides the point, the data's checksum included."""
        title = (
            f"{self.model}-{self.dataset_title}-b{self.batch_size}-{self.technique}-{self.criterion}"
            f"-s{self.sparsity:g}-seed{self.seed}"
        )
        return f"{title}-{content_hash([SCHEMA, checksum, self.settings(), *_weights_digest(self.weights)])}"

    def problems(self) -> list[str]:
        """Why these settings make no sense together; empty where they do."""
        model, technique = MODELS[self.model], TECHNIQUES[self.technique]
        found = []
        schedule = SCHEDULES[self.schedule]
        if technique.unit not in schedule.units:
            able = ", ".join(name for name, entry in TECHNIQUES.items() if entry.unit in schedule.units)
            found.append(
                f"schedule '{self.schedule}' moves single weights about: it is not for technique '{self.technique}', "
                f"but for {able}"
            )
        elif self.granularity not in schedule.granularities:
            able = ", ".join(name for name, entry in SCHEDULES.items() if self.granularity in entry.granularities)
            found.append(
                f"schedule '{self.schedule}' is not for granularity '{self.granularity}', because whole layers cannot "
                f"be zero in place, but {able} are"
            )
        if self.schedule == "movement" and self.devices > 1:
            found.append("schedule 'movement' trains in one process, because NNI does it: expected --devices 1")
        if self.schedule == "movement" and self.precision == "fp16":
            found.append("schedule 'movement' is not for precision 'fp16', whose scaled losses its scores cannot take")
        if self.schedule == "movement" and self.finetune_epochs == 0:
            found.append("schedule 'movement' needs training to see what moves: expected --finetune-epochs above 0")
        if self.control in ("random", "layerwise-random") and schedule.criteria:
            found.append(f"control '{self.control}' is not for schedule '{self.schedule}', which is its own criterion")
        elif self.control == "scratch" and self.schedule != "one-shot":
            found.append(f"control 'scratch' is not for schedule '{self.schedule}' but for one-shot")
        elif self.control == "layerwise-random" and not schedule.controls:
            able = ", ".join(name for name, entry in SCHEDULES.items() if entry.controls)
            found.append(
                f"control '{self.control}' is not for schedule '{self.schedule}', which decides several times, but for "
                f"{able}"
            )
        if self.rewind_epoch and self.epochs is not None and self.rewind_epoch > self.epochs:
            found.append(
                f"rewind_epoch: expected at most the {self.epochs} epochs of the base, got {self.rewind_epoch}"
            )
        if self.weights is not None:
            found += _problems_of_weights(self)
        if self.granularity not in technique.granularities:
            found.append(f"granularity '{self.granularity}' is not for technique '{self.technique}' but for structured")
        if self.granularity == "layer" and not model.removable_layers:
            able = ", ".join(name for name, entry in MODELS.items() if entry.removable_layers)
            found.append(
                f"granularity 'layer' is not for model '{self.model}', whose layers all are needed, but {able}"
            )
        if technique.unit == "channel" and self.model == "slp" and self.hidden == 0:
            found.append(
                f"technique '{self.technique}' has nothing to prune in slp with --hidden 0: its only layer is the "
                "classifier, whose output units are the classes; use weight or unstructured"
            )
        if self.criterion == "slim" and not (model.batch_norm or ("batch_norm" in model.options and self.batch_norm)):
            found.append(
                f"criterion 'slim' needs BatchNorm, which {self.model} lacks; use cnn --batch-norm or densenet121"
            )
        return found


def _problems_of_weights(point: Point) -> list[str]:
    if point.weights == IMAGENET:
        if point.model == "densenet121" and point.stem == "imagenet":
            return []
        return ["weights 'imagenet' are for densenet121 with --stem imagenet"]
    if not Path(str(point.weights)).is_file():
        return [f"weights: no such file {_shown(point.weights)}; or 'imagenet' for densenet121"]
    return []


def _weights_digest(weights: str | None) -> list[str]:
    """What ids say of a file of weights: its content, wherever it is."""
    if weights is None or weights == IMAGENET:
        return []
    path = Path(weights)
    try:
        return [_digest(path, path.stat().st_mtime_ns)]
    except OSError as error:
        raise InputError(f"cannot read the weights {path}: {error.strerror}") from None


@functools.cache
def _digest(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# what a sweep runs over where nothing else is asked for
STUDY = {"technique": list(TECHNIQUES), "sparsity": [float(percent) for percent in range(0, 101, 10)]}
FIELDS = {field.name: field for field in dataclasses.fields(Point)}
SHORTHANDS = ("seeds", "controls", "adaptive")
AXES = tuple(name for name, field in FIELDS.items() if field.metadata["axis"])


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
        seeds 0, 1, 2; `controls` for `control` with "none" before them; `adaptive = true` for that schedule. `name` is
        the name of the results' folder; by default it is made of the settings. Without technique or sparsity it is all
        techniques, or 0 to 100 % in tens.

        Raises:
            InputError: listing everything that is wrong, a line each.
        """
        study = dict(STUDY)
        if values.get("adaptive") is True or values.get("schedule") in ("adaptive", ["adaptive"]):
            study["sparsity"] = [100.0]  # it finds its own
        return cls._build({**study, **values})

    @classmethod
    def one_point(cls, values: Mapping[str, Any]) -> "Sweep":
        """The sweep that has one point only, of these settings.

        Raises:
            InputError: settings that are wrong, or those of several points.
        """
        plan = cls._build(values)
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
                errors.append(f"unknown setting {_shown(key)}" + (f": did you mean '{close[0]}'?" if close else ""))
                continue
            errors += _collect(key, _parse_into, parsed, key, value)
        errors += _collect("name", _check_name, values.get("name"))
        points = [] if errors else _product(parsed, errors)
        if not errors:
            errors += _unused_options(parsed, points)
        if errors:
            raise InputError("\n".join(dict.fromkeys(errors)))
        kept = {key: found if key in AXES else found[0] for key, found in parsed.items()}
        return cls(values.get("name") or _default_name(kept, points), kept, points)

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
        if "seed" in overrides or "seeds" in overrides:
            values = {key: value for key, value in values.items() if key not in ("seed", "seeds")}
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
    """What the action complains of, with the setting it is about; empty where it does not."""
    try:
        action(*arguments)
    except InputError as error:
        return [f"{key}: {error}"]
    return []


def _expand_seeds(given: dict[str, Any]) -> None:
    if "seed" in given:
        raise InputError("expected either seeds or seed, got both")
    given["seed"] = list(range(_integer(1, 10_000)(given.pop("seeds"))))


def _expand_controls(given: dict[str, Any]) -> None:
    if "control" in given:
        raise InputError("expected either controls or control, got both")
    asked = given.pop("controls")
    given["control"] = list(dict.fromkeys(["none", *_parse_values("control", asked)]))


def _expand_adaptive(given: dict[str, Any]) -> None:
    if _flag(given.pop("adaptive")):
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
    if isinstance(value, str):
        pieces: list[Any] = [piece.strip() for piece in value.split(",")]
    else:
        pieces = list(value) if isinstance(value, list | tuple) else [value]
    if not pieces:
        raise InputError("expected at least one value, got none")
    found: dict[Any, None] = {}  # ordered, each value once
    for piece in pieces:
        several = key == "sparsity" and isinstance(piece, str) and ":" in piece
        found |= dict.fromkeys(_percent_range(piece) if several else [parse(piece)])
        if len(found) > MAX_POINTS:
            raise InputError(f"expected at most {MAX_POINTS:,} values")
    return list(found)


def _percent_range(text: str) -> list[float]:
    """The percentages of `FROM:TO:STEP`, both ends included."""
    parts = text.split(":")
    if len(parts) != 3:
        raise InputError(f"expected FROM:TO:STEP, as 0:100:10, got {_shown(text)}")
    start, stop = (_real(0, 100)(part) for part in parts[:2])
    step = _real(0.001, 100)(parts[2])
    if stop < start:
        raise InputError(f"expected FROM no greater than TO, got {_shown(text)}")
    return [round(start + index * step, 6) for index in range(int((stop - start) / step + 1e-9) + 1)]


def _check_name(name: Any) -> None:
    if name is None:
        return
    fits = isinstance(name, str) and 0 < len(name) <= MAX_NAME and set(name) <= _NAME_CHARACTERS
    if not fits or name.startswith("."):
        raise InputError(
            f"expected up to {MAX_NAME} letters, digits, '-', '_' and '.', not starting with '.', got {_shown(name)}"
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
        found = point.problems()
        errors += found or _collect("criterion", _add_resolved, points, point)
    return points


def _add_resolved(points: list[Point], point: Point) -> None:
    recipe = dataclasses.asdict(MODELS[point.model].recipe)
    points.append(
        dataclasses.replace(
            point,
            criterion=resolve_criterion(point.technique, point.criterion, point.granularity, point.schedule),
            **_rounds(point),
            **{name: default for name, default in recipe.items() if getattr(point, name) is None},
        )
    )


def _rounds(point: Point) -> dict[str, Any]:
    """The schedule's own where the point leaves them open; none where it has none."""
    default = SCHEDULES[point.schedule].rounds
    return {"rounds": default and (point.rounds or default)}


def _unused_options(parsed: Mapping[str, list[Any]], points: list[Point]) -> list[str]:
    """Options of models that none of the sweep's models has."""
    owners = {option: name for name, model in MODELS.items() for option in model.options}
    used = {option for point in points for option in MODELS[point.model].options}
    read = {name for point in points for name in SCHEDULES[point.schedule].settings}
    of_schedules = {name: entry for entry in SCHEDULES for name in SCHEDULES[entry].settings}
    schedules = ", ".join(dict.fromkeys(point.schedule for point in points))
    unread = [
        f"{name}: it is read by {', '.join(entry for entry in SCHEDULES if name in SCHEDULES[entry].settings)}, which "
        f"{schedules} is not"
        for name in parsed
        if name in of_schedules and name not in read and not name.startswith("finetune")
    ]
    return unread + [
        f"{option}: it is an option of {owners[option]}, which this plan does not run"
        for option in parsed
        if option in owners and option not in used
    ]


def _default_name(values: Mapping[str, Any], points: list[Point]) -> str:
    models = "+".join(dict.fromkeys(point.model for point in points))
    datasets = "+".join(dict.fromkeys(point.dataset_title for point in points))
    clean = "".join(
        letter if letter in _NAME_CHARACTERS else "_" for letter in f"{models}-{datasets}".replace("+", "_")
    )
    return f"{clean.lstrip('.')[: MAX_NAME - 9]}-{content_hash([SCHEMA, [point.settings() for point in points]])}"
