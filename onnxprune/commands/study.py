"""`sweep`, `run` and `results`: the study."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.commands.console import echo
from onnxprune.commands.options import DATA_DIR, RUNS, WORKERS, executor, warn
from onnxprune.commands.points import PointCommand
from onnxprune.commands.report import PAGE

if TYPE_CHECKING:
    import pandas as pd

    from onnxprune.common.progress import Verbosity
    from onnxprune.settings.sweep import Sweep


class _OnePointCommand(PointCommand):
    several = False


@dataclass(frozen=True)
class _How:
    """The options of every command that runs something."""

    out: Path
    data_dir: Path | None
    retry_failed: bool
    quiet: bool
    verbose: bool
    as_json: bool
    as_csv: bool
    track: str | None
    workers: int | None
    executor: str
    executor_settings: Any

    @property
    def verbosity(self) -> "Verbosity":
        """How much is told meanwhile."""
        from onnxprune.common.progress import Verbosity

        return Verbosity.QUIET if self.quiet else Verbosity.VERBOSE if self.verbose else Verbosity.NORMAL


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], _How]:
    """The settings of points that are given, and how they are run."""
    how = _How(**{field.name: options.pop(field.name) for field in fields(_How)})
    for first, second in (("as_json", "as_csv"), ("quiet", "verbose")):
        if getattr(how, first) and getattr(how, second):
            names = [f"--{name.removeprefix('as_')}" for name in (first, second)]
            raise click.UsageError(f"{names[0]} and {names[1]} exclude each other")
    return {name: value for name, value in options.items() if value is not None}, how


def _folders(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that runs something."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON."),
        click.option("--csv", "as_csv", is_flag=True, help="Print the rows as CSV."),
        click.option("--track", metavar="NAMES", help="Hand every point to mlflow or tensorboard; both with a comma."),
        click.option("--quiet", is_flag=True, help="No progress: only results and errors."),
        click.option("--verbose", is_flag=True, help="Tell what each step is doing."),
        DATA_DIR,
        RUNS,
        WORKERS,
        click.option("--retry-failed", is_flag=True, help="Run again what failed before; otherwise it is only listed."),
    ):
        command = option(command)
    return executor(command)


@click.command(cls=PointCommand)
@click.argument("spec", required=False, type=click.Path(path_type=Path))
@click.option("--name", help="Name of the results' folder  [default: made of the settings].")
@click.option("--seeds", help="Run seeds 0 to N-1; the table shows mean and standard deviation.", metavar="N")
@click.option(
    "--controls",
    metavar="NAMES",
    help="The same points as controls too: random, layerwise-random, scratch; with commas.",
)
@click.option(
    "--adaptive", is_flag=True, default=None, help="Short for --schedule adaptive: as far as --max-drop allows."
)
@click.option("--dry-run", is_flag=True, help="Print the plan and its counted cost, run nothing.")
@_folders
def sweep(spec: Path | None, dry_run: bool, **options: Any) -> None:
    """Run a study: every combination of the values given.

    SPEC is a TOML file with the same settings; options override it. The same command again goes on where it stopped;
    what failed is only listed again, unless --retry-failed.

    \b
    Examples:
      onnxprune sweep --model cnn --dataset fmnist
      onnxprune sweep --model slp,cnn --batch-size 32,256 --sparsity 50,75,87.5
      onnxprune sweep experiments/demo.toml --dry-run
    """
    from onnxprune.settings.sweep import Sweep

    given, how = _split(options)
    plan = Sweep.read(spec, given) if spec else Sweep.parse(given)
    if dry_run:
        _print_plan(plan, how)
        return
    _end(_run(plan, how, report=True))


@click.command(cls=_OnePointCommand)
@_folders
def run(**options: Any) -> None:
    """Run one point.

    \b
    Example:
      onnxprune run --model cnn --technique structured --sparsity 50
    """
    from onnxprune.settings.sweep import Sweep

    given, how = _split(options)
    _end(_run(Sweep.one_point(given), how))


def _run(plan: "Sweep", how: _How, report: bool = False) -> dict[str, str]:
    """Runs, prints, and writes the page if asked for; gives the failures."""
    from onnxprune.study.controller import run_sweep

    outcome = run_sweep(
        plan,
        how.out,
        how.data_dir,
        retry_failed=how.retry_failed,
        verbosity=how.verbosity,
        track=how.track.split(",") if how.track else (),
        workers=how.workers,
        executor=how.executor,
        executor_settings=how.executor_settings,
    )
    print_table(outcome.folder, outcome.table, how.as_json, how.as_csv)
    if not how.quiet:
        echo(f"Results: {outcome.folder} (results.csv, results.parquet, an ONNX file a point)", err=True)
    if report and len(outcome.table):
        page = outcome.folder / PAGE
        write_report(outcome.folder, page)
        if not how.quiet:
            echo(f"Report: {page}", err=True)
    return outcome.failures


def write_report(folder: Path, page: Path) -> None:
    """Writes the page of a sweep."""
    from onnxprune.report.page import write
    from onnxprune.report.sources import read

    write(read([folder]), page)


def _end(failures: dict[str, str]) -> None:
    """Exits with 1 where something failed."""
    _print_failures(failures)
    if failures:
        sys.exit(1)


def _print_failures(failures: dict[str, str]) -> None:
    if failures:
        echo(f"{len(failures)} failed:", err=True)
    for name, reason in failures.items():
        echo(f"  {name}: {reason}", err=True)


def _print_plan(plan: "Sweep", how: _How) -> None:
    from onnxprune.study.estimate import estimate

    cost = estimate(plan.points, how.verbosity)
    if how.as_json:
        rows = [point.settings() for point in plan.points]
        echo(json.dumps({"name": plan.name, "cost": asdict(cost), "points": rows}, indent=1))
        return
    for point in plan.points:
        echo(" ".join(f"{key}={value}" for key, value in point.settings().items()))
    echo(
        f"{cost.points} points from {cost.bases} base(s): at most {cost.training_images:,} training images "
        f"and {cost.training_flops / 1e12:.3g} TFLOPs of training (1 MAC = 2 FLOPs; networks that shrink take less), "
        f"up to {cost.disk_bytes / 1e6:,.0f} MB on disk."
    )


def print_table(folder: Path, table: "pd.DataFrame", as_json: bool, as_csv: bool) -> None:
    """Prints the rows of a sweep to stdout."""
    from onnxprune.commands.tables import print_claims, print_headlines, print_results
    from onnxprune.common.cells import csv_of

    if as_json:
        echo(table.to_json(orient="records", indent=1))
    elif as_csv:
        echo(csv_of(table), nl=False)
    elif len(table):
        print_results(table)
        print_claims(table, folder)
        print_headlines(folder)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the rows as CSV.")
def results(folder: Path, as_json: bool, as_csv: bool) -> None:
    """Print the table of a sweep, finished or still running."""
    from onnxprune.results.store import failures, result_table

    table = result_table(folder, warn)
    _print_failures(failures(folder))
    if not len(table):
        echo(f"{folder} has no finished point yet.", err=True)
    print_table(folder, table, as_json, as_csv)
