"""`search`: the highest sparsity that loses no more than allowed."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from onnxprune.commands.options import DATA_DIR, RUNS, WORKERS, machine_readable, print_rows, warn
from onnxprune.commands.points import PointCommand


class _SearchCommand(PointCommand):
    def fields(self) -> set[str]:
        from onnxprune.settings.point import FIELDS

        return FIELDS.keys() - {"sparsity"}


@click.command(cls=_SearchCommand)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    metavar="POINTS",
    help="Points of validation accuracy that may be lost against the base.",
)
@click.option(
    "--step",
    type=click.IntRange(1, 50),
    default=1,
    show_default=True,
    metavar="PERCENT",
    help="Look at multiples of this sparsity only.",
)
@click.option("--name", help="Name of the results' folder  [default: made of the settings].")
@click.option("--seeds", help="Decide by the mean over seeds 0 to N-1.", metavar="N")
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
    quiet: bool,
    output: str | None,
    **options: Any,
) -> None:
    """Find the highest sparsity that loses no more than allowed.

    Bisects, for each technique, over points that are run as in a sweep; those that a sweep under --out has finished
    with the same settings are not run again. The validation split decides; test accuracy is only told.

    \b
    Examples:
      onnxprune search --model cnn --dataset fmnist --max-drop 1.0
      onnxprune search --model cnn --technique structured --max-drop 0.5 --seeds 3 --step 5
    """
    from onnxprune.common.progress import Verbosity
    from onnxprune.settings.sweep import Sweep
    from onnxprune.study.search import search as bisect

    given = {name: value for name, value in options.items() if value is not None}
    plan = Sweep.parse({**given, "sparsity": 50})
    verbosity = Verbosity.QUIET if quiet else Verbosity.NORMAL
    found = bisect(plan, max_drop, out, data_dir, step=step, verbosity=verbosity, workers=workers, say=warn)
    if output is not None:
        print_rows([dataclasses.asdict(entry) for entry in found], output)
        return
    from onnxprune.commands.tables import print_search

    print_search(found, max_drop)
