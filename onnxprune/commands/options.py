"""Options that several commands have."""

import functools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from onnxprune.commands.console import echo, prose
from onnxprune.common.errors import InputError, one_line
from onnxprune.common.output import printable

if TYPE_CHECKING:
    import numpy as np

Shapes = dict[str, tuple[int, ...]]


class FloatRange(click.FloatRange):
    """Numbers within a range, of which NaN is none: click lets it pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is not a number", param, ctx)
        return found


class PathName(click.Path):
    """A path; an empty one, as an unset variable of a shell gives, is none: click lets it pass, as the folder we are
    in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("expected a path, got an empty one", param, ctx)
        return super().convert(value, param, ctx)


DATA_DIR = click.option(
    "--data-dir",
    type=PathName(path_type=Path, file_okay=False),
    help="Folder of the datasets  [default: $ONNXPRUNE_DATA, else a cache folder].",
)
RUNS = click.option(
    "--out",
    type=PathName(path_type=Path, file_okay=False),
    default=Path("experiments/runs"),
    show_default=True,
    help="Folder that results go under.",
)
NAME = click.option(
    "--name",
    metavar="NAME",
    help="Folder under --out that the results go to  [default: named after the settings].",
)
REPLACE = click.option(
    "--replace", is_flag=True, help="Remove the points of a former study of this --name that had other settings."
)
SEEDS = click.option(
    "--seeds", metavar="N", help="Seeds 0 to N-1, or a list such as 3,7; results are their mean and standard deviation."
)
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Show the plan, its cost, and whether every network can be pruned; run nothing."
)
WHERE = "Keep only rows that match: technique=structured, 'sparsity <= 50', model!=slp. May be repeated."
WORKERS = click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Points to run at the same time, each in its own process  [default: as many as speed it up].",
)


def executor(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where points run, as arguments `executor`, its name, and `executor_settings`."""
    from onnxprune.study.executors import EXECUTORS, make_settings

    @functools.wraps(command)
    def inner(*arguments: Any, executor: str, address: str | None, gpus_per_point: float | None, **rest: Any) -> Any:
        options = {"address": address, "gpus_per_point": gpus_per_point}
        given = {name: value for name, value in options.items() if value is not None}
        if given and not EXECUTORS[executor].settings:
            raise click.UsageError("--address and --gpus-per-point are for --executor ray")
        settings = make_settings(executor, given) if given else None
        return command(*arguments, executor=executor, executor_settings=settings, **rest)

    for option in (
        click.option(
            "--gpus-per-point",
            type=FloatRange(0, min_open=True),
            metavar="SHARE",
            help="With Ray and --device cuda: how much of a GPU a point gets; 0.25: four share one  [default: 1].",
        ),
        click.option(
            "--address",
            metavar="URL",
            help=(
                "Address of a running Ray cluster, such as ray://host:10001, or auto  [default: start one on this "
                "machine]."
            ),
        ),
        click.option(
            "--executor",
            type=click.Choice(list(EXECUTORS)),
            default="local",
            show_default=True,
            help="Where points run: " + ", or ".join(kind.summary for _, kind in EXECUTORS.own()) + ".",
        ),
    ):
        inner = option(inner)
    return inner


def _picture_size(ctx: click.Context, option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    from onnxprune.settings.values import height_and_width

    if text is None:
        return None
    try:
        height, width = map(int, height_and_width(text).split("x"))
    except InputError as error:
        raise InputError(f"--image-size: {error}") from None
    return height, width


IMAGE_SIZE = click.option(
    "--image-size",
    metavar="SIZE",
    callback=_picture_size,
    help="HEIGHTxWIDTH that pictures of a folder are resized to, or one number for both.",
)
DEVICE = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Device to run on."
)
THREADS = click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads  [default: one per core].")


class GivenInputs(NamedTuple):
    """Input name -> shape, and input name -> values."""

    shapes: Shapes
    values: "dict[str, np.ndarray]"


def _given_inputs(ctx: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> GivenInputs:
    given = GivenInputs({}, {})
    for text in texts:
        name, values, rest = "", {}, text
        if text.endswith(".npz") and "=" not in text:
            values = _arrays(Path(text))
        else:
            rest, equals, numbers = text.rpartition("=") if "=" in text else (text, "", "")
            name, _, sizes = rest.rpartition(":")
            if re.fullmatch(r"[1-9]\d{0,9}(x[1-9]\d{0,9})*", sizes) is None:
                name, sizes = (rest, "") if equals else ("", "")
            if not name:
                raise click.BadParameter(f"expected {_FORMS}, got {text!r}")
            if equals:
                values = {name: _numbers(text, numbers)}
            if sizes and name in given.shapes:
                raise click.BadParameter(f"{name!r} is given twice")
            if sizes:
                given.shapes[name] = tuple(int(size) for size in sizes.split("x"))
        for key, value in values.items():
            if key in given.values:
                raise click.BadParameter(f"{key!r} is given twice")
            given.values[key] = value
    return given


def _numbers(text: str, numbers: str) -> "np.ndarray":
    """One number for all elements, or a list of them."""
    import numpy as np

    try:
        found = json.loads(f"[{numbers.lower()}]")
        return np.asarray(found[0] if len(found) == 1 else found) if found else np.asarray(None)
    except ValueError:
        raise click.BadParameter(f"expected {_FORMS}, got {text!r}") from None


def _arrays(path: Path) -> "dict[str, np.ndarray]":
    from onnxprune.data.npz import array_names, read_arrays

    try:
        return read_arrays(path, array_names(path))
    except InputError as error:
        raise click.BadParameter(f"{path} cannot be read as an .npz file: {one_line(error)}") from None


_FORMS = "NAME:SIZES like input:1x3x224x224, NAME=VALUE like sr=16000, or FILE.npz"

INPUTS = click.option(
    "--input",
    "inputs",
    metavar="INPUT",
    multiple=True,
    callback=_given_inputs,
    help="NAME:SIZES gives the shape of an input that the file leaves open: input:1x3x224x224. NAME=VALUE gives "
    "values in place of random ones: sr=16000, lengths=3,5. FILE.npz gives arrays by input name. May be "
    "repeated.",
)


def _batch_sizes(ctx: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    if re.fullmatch(r" *[1-9]\d{0,6} *(, *[1-9]\d{0,6} *)*", text) is None:
        raise click.BadParameter(f"expected numbers from 1 to 9,999,999 with commas between them, got {text!r}")
    return tuple(dict.fromkeys(int(piece) for piece in text.split(",")))


BATCH_SIZES = click.option(
    "--batch-size",
    "batch_sizes",
    metavar="NUMBERS",
    callback=_batch_sizes,
    help="Batch sizes, separated by commas: 1,32  [default: the one fixed in the file, else 1].",
)
SECONDS = click.option(
    "--seconds",
    type=FloatRange(0.01, 3600),
    default=3.0,
    show_default=True,
    help="Seconds per latency measurement.",
)


def _decimals(ctx: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(float(piece) for piece in text.split(","))
        if not all(map(math.isfinite, numbers)):
            raise ValueError
    except ValueError:
        raise InputError(f"--{option.name}: expected numbers with commas between them, got {text!r}") from None
    return numbers


MEAN = click.option(
    "--mean",
    metavar="NUMBERS",
    callback=_decimals,
    help=(
        "Mean of pixels in [0, 1]: one number, or one per channel, separated by commas  [default: from the file's "
        "metadata]."
    ),
)
STD = click.option(
    "--std", metavar="NUMBERS", callback=_decimals, help="Standard deviation of pixels in [0, 1], given like --mean."
)


def check_measured(model: Path) -> None:
    """Refuses a point's model that is not the one that was measured; other files pass, and nothing is imported.

    Raises:
        InputError: its SHA-256 is not the one in the record beside it.
    """
    if model.is_file() and (model.parent / "metrics.json").exists():  # where it may not be looked at, it is named
        from onnxprune.results.store import check_measured as check

        check(model)


def warn(line: str) -> None:
    """Prints a line to stderr, whatever is in it."""
    prose(printable(line), err=True)


def one_form(**forms: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options of which one can be given, by their names with their help; an argument `output` of the command: the name
    of the one that is, or None."""

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def inner(*arguments: Any, **options: Any) -> Any:
            given = [name for name in forms if options.pop(f"as_{name}")]
            if len(given) > 1:
                raise click.UsageError(f"--{given[0]} and --{given[1]} exclude each other")
            return command(*arguments, output=given[0] if given else None, **options)

        for name in reversed(forms):
            inner = click.option(f"--{name}", f"as_{name}", is_flag=True, help=forms[name])(inner)
        return inner

    return decorated


machine_readable = one_form(json="Print as JSON.", csv="Print as CSV.")


def print_rows(rows: Sequence[Mapping[str, Any]], output: str) -> None:
    """Prints rows as "json" or "csv" to stdout."""
    from onnxprune.commands.columns import csv_text

    if output == "csv":
        echo(csv_text(rows) if rows else "", nl=False)
    else:
        echo(json.dumps(rows, indent=1))
