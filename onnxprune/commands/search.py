"""`search`: the highest sparsity that loses no more than allowed."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from onnxprune.commands.options import (
    DATA_DIR,
    DRY_RUN,
    NAME,
    REPLACE,
    RUNS,
    SEEDS,
    WORKERS,
    FloatRange,
    machine_readable,
    print_rows,
    warn,
)
from onnxprune.commands.plan import print_plan
from onnxprune.commands.points import PointCommand
from onnxprune.common.progress import Verbosity, waiting

_PREFIX = "search-"  # of the names of folders


class _SearchCommand(PointCommand):
    basics = ("max_drop", "step")

    def fields(self) -> set[str]:
        from onnxprune.settings.point import FIELDS

        return FIELDS.keys() - {"sparsity"}


@click.command(cls=_SearchCommand)
@click.option(
    "--max-drop",
    type=FloatRange(0, 100),
    default=1.0,
    show_default=True,
    metavar="POINTS",
    help="Percentage points of validation accuracy that may be lost.",
)
@click.option(
    "--step",
    type=click.IntRange(1, 50),
    default=1,
    show_default=True,
    metavar="PERCENT",
    help="Try only multiples of this sparsity.",
)
@NAME
@REPLACE
@SEEDS
@DRY_RUN
@DATA_DIR
@RUNS
@WORKERS
@click.option("--quiet", is_flag=True, help="No progress: only results and errors.")
@machine_readable
def search(
    max_drop: float,
    step: int,
    data_dir: Path | None,
    out: Path,
    workers: int | None,
    replace: bool,
    dry_run: bool,
    quiet: bool,
    output: str | None,
    **options: Any,
) -> None:
    """Find the highest sparsity that loses no more than allowed.

    Bisects, for each technique, over points that are run as in a sweep; those that a sweep under --out has finished
    with the same settings are not run again. The validation split decides; test accuracy is reported but not used to
    choose.

    \b
    Examples:
      onnxprune search --model cnn --dataset fmnist --max-drop 1.0
      onnxprune search --model cnn --technique structured --max-drop 0.5 --seeds 3 --step 5
    """
    from onnxprune.settings.point import MAX_NAME
    from onnxprune.settings.sweep import Sweep

    given = {name: value for name, value in options.items() if value is not None}
    plan = Sweep.parse({**given, "sparsity": 50})
    if "name" not in given:  # the one of these settings is that of `run` and `sweep` at 50 %
        plan = dataclasses.replace(plan, name=f"{_PREFIX}{plan.name[len(_PREFIX) - MAX_NAME :]}")
    verbosity = Verbosity.QUIET if quiet else Verbosity.NORMAL
    with waiting("loading PyTorch and NNI", verbosity):
        from onnxprune.study.search import search as bisect

    if dry_run:
        searched = (step, max_drop)
        print_plan(plan, out, data_dir, verbosity, workers=workers, output=output, replace=replace, searched=searched)
        return
    found = bisect(
        plan,
        max_drop,
        out,
        data_dir,
        step=step,
        verbosity=verbosity,
        workers=workers,
        replace=replace,
        say=warn,
    )
    if output is not None:
        rows = [dataclasses.asdict(entry) for entry in found]
        print_rows([{**row.pop("settings"), **row} for row in rows], output)
        return
    from onnxprune.commands.answers import print_search

    print_search(found, max_drop)
