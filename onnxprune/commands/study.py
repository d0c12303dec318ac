"""`sweep`, `run` and `results`: the study."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.commands.console import echo, prose
from onnxprune.commands.options import (
    DATA_DIR,
    DRY_RUN,
    NAME,
    REPLACE,
    RUNS,
    SEEDS,
    WHERE,
    WORKERS,
    PathName,
    executor,
    one_form,
    warn,
)
from onnxprune.commands.plan import print_plan
from onnxprune.commands.points import PointCommand
from onnxprune.commands.report import PAGE
from onnxprune.common.errors import just_written
from onnxprune.common.progress import Verbosity, waiting

if TYPE_CHECKING:
    import pandas as pd

    from onnxprune.settings.sweep import Sweep


_ROWS = {"json": "Print the rows as JSON.", "csv": "Print the rows as CSV."}


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
    output: str | None
    track: str | None
    dry_run: bool
    workers: int | None
    executor: str
    executor_settings: Any

    @property
    def verbosity(self) -> Verbosity:
        """How much is told meanwhile."""
        return Verbosity.QUIET if self.quiet else Verbosity.VERBOSE if self.verbose else Verbosity.NORMAL


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], _How]:
    """The settings of points that are given, and how they are run."""
    how = _How(**{field.name: options.pop(field.name) for field in fields(_How)})
    if how.quiet and how.verbose:
        raise click.UsageError("--quiet and --verbose exclude each other")
    return {name: value for name, value in options.items() if value is not None}, how


def _folders(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that runs something."""
    for option in (
        one_form(**_ROWS),
        click.option("--track", metavar="NAME[,...]", help="Log every point to mlflow or tensorboard, or both."),
        click.option("--quiet", is_flag=True, help="No progress: only results and errors."),
        click.option("--verbose", is_flag=True, help="Show what each step does; with --dry-run, list all points."),
        DRY_RUN,
        DATA_DIR,
        RUNS,
        WORKERS,
        click.option(
            "--retry-failed", is_flag=True, help="Run again what failed before; by default it is only listed."
        ),
    ):
        command = option(command)
    return executor(command)


@click.command(cls=PointCommand)
@click.argument("spec", required=False, type=PathName(path_type=Path))
@NAME
@SEEDS
@click.option(
    "--controls", metavar="NAME[,...]", help="Comparisons to run beside each point: random, layerwise-random, scratch."
)
@click.option(
    "--adaptive", is_flag=True, default=None, help="Short for --schedule adaptive: as far as --max-drop allows."
)
@REPLACE
@_folders
def sweep(spec: Path | None, replace: bool, **options: Any) -> None:
    """Run a study: every combination of the values given.

    Options marked [,...] take several values, with commas between them. SPEC is a TOML file with the same settings;
    options override it. The same command again continues where it stopped.

    \b
    Examples:
      onnxprune sweep --model cnn --dataset fmnist
      onnxprune sweep --model slp,cnn --batch-size 32,256 --sparsity 50,75,87.5
      onnxprune sweep experiments/demo.toml --dry-run
    """
    from onnxprune.settings.sweep import Sweep

    given, how = _split(options)
    plan = Sweep.read(spec, given) if spec else Sweep.parse(given)
    if how.dry_run:
        _print_plan(plan, how, replace)
        return
    _end(_run(plan, how, report=True, replace=replace))


@click.command(cls=_OnePointCommand)
@NAME
@REPLACE
@_folders
def run(replace: bool, **options: Any) -> None:
    """Run one point: one network, pruned in one way by one amount.

    \b
    Examples:
      onnxprune run --model cnn --technique structured --sparsity 50
      onnxprune run --model mynet.py:Net --dataset mine.npz --dry-run
    """
    from onnxprune.settings.sweep import Sweep

    given, how = _split(options)
    plan = Sweep.one_point(given)
    if how.dry_run:
        _print_plan(plan, how, replace)
        return
    _end(_run(plan, how, replace=replace))


def _print_plan(plan: "Sweep", how: _How, replace: bool) -> None:
    print_plan(plan, how.out, how.data_dir, how.verbosity, workers=how.workers, output=how.output, replace=replace)


def _run(plan: "Sweep", how: _How, report: bool = False, replace: bool = False) -> dict[str, str]:
    """Runs, prints, and writes the page if asked for; gives the failures."""
    with waiting("loading PyTorch and NNI", how.verbosity):
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
        others="replace" if replace else "refuse",
    )
    with just_written():
        print_table(outcome.folder, outcome.table, how.output)
    if not how.quiet:
        prose(f"Results: {outcome.folder} (results.csv, results.parquet, one ONNX file per point)", err=True)
    if report and len(outcome.table):
        page = outcome.folder / PAGE
        with just_written():
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
    by_reason: dict[str, list[str]] = {}
    for name, reason in failures.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        prose(f"  {names[0]}{more}: {reason}", err=True)


def print_table(folder: Path, table: "pd.DataFrame", output: str | None) -> None:
    """Prints the rows of a sweep to stdout, as "json", as "csv", or for people."""
    from onnxprune.commands.tables import print_claims, print_headlines, print_results
    from onnxprune.common.spreadsheets import csv_of

    if output == "json":
        echo(table.to_json(orient="records", indent=1))
    elif output == "csv":
        echo(csv_of(table), nl=False)
    elif len(table):
        print_results(table)
        print_claims(table, folder)
        print_headlines(table, folder)


@click.command()
@click.argument("folder", type=PathName(path_type=Path))
@one_form(**_ROWS, latex="Print a table for a paper, with booktabs.", markdown="Print the same table as Markdown.")
@click.option("--where", multiple=True, metavar="CONDITION", help=WHERE)
def results(folder: Path, output: str | None, where: tuple[str, ...]) -> None:
    """Print the table of a sweep, finished or still running.

    \b
    Examples:
      onnxprune results experiments/runs/demo
      onnxprune results experiments/runs/demo --where technique=structured --where "speedup > 2" --latex
    """
    from onnxprune.results.conditions import select
    from onnxprune.results.store import failures
    from onnxprune.results.tables import result_table

    table = result_table(folder, warn)
    _print_failures(failures(folder))
    if not len(table):
        echo(f"{folder} has no finished point yet.", err=True)
    else:
        table = select(table, where)
    if output in ("latex", "markdown") and len(table):
        from onnxprune.commands import markup
        from onnxprune.commands.tables import paper_tables

        write = markup.latex if output == "latex" else markup.markdown
        echo("\n\n".join(write(found) for found in paper_tables(table)))
        return
    print_table(folder, table, output)
