"""`report`: sweeps as one page."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxprune.commands.console import echo
from onnxprune.commands.options import PathName, warn
from onnxprune.common.output import printable

if TYPE_CHECKING:
    from onnxprune.report.sources import Source

PAGE = "report.html"  # in a sweep's folder
_SECONDS = 5


@click.command()
@click.argument("sweeps", metavar="SWEEP...", nargs=-1, required=True, type=PathName(path_type=Path))
@click.option(
    "--out",
    type=PathName(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Page to write  [default: report.html in the folder of the first sweep].",
)
@click.option("--watch", is_flag=True, help="Rewrite the page as points finish, until all are done.")
def report(sweeps: tuple[Path, ...], out: Path | None, watch: bool) -> None:
    """Write a report page (HTML) of sweeps, finished or still running.

    It has figures, tables, the environment and links to the models, in one file that works offline in any browser.
    Several sweeps are compared with each other.

    \b
    Examples:
      onnxprune report experiments/runs/demo
      onnxprune report experiments/runs/demo --watch
      onnxprune report experiments/runs/l1 experiments/runs/taylor --out comparison.html
    """
    from onnxprune.report.page import write
    from onnxprune.report.sources import read

    page = out or sweeps[0] / PAGE
    if watch:
        _watch(list(sweeps), page)
    else:
        found = read(list(sweeps))
        for line in (line for source in found for line in source.left_out):
            warn(line)
        write(found, page)
    echo(page)


def _watch(sweeps: list[Path], page: Path) -> None:
    from onnxprune.report.page import write
    from onnxprune.report.sources import read
    from onnxprune.runtime.lock import timing_lock

    def say(line: str) -> None:
        if line not in told:
            told.add(line)
            echo(f"{line[0].upper()}{line[1:]}", err=True)

    told: set[str] = set()
    done = None
    say(f"looking every {_SECONDS} s for points that finished, until all are done; Ctrl-C ends it")
    while True:
        with timing_lock(say):  # a page that is made while the sweep is timing would spoil the latency
            sources = read(sweeps)
            before, done = done, [_done(source) for source in sources]
            finished = all(source.finished for source in sources)
            if done != before:
                write(sources, page, None if finished else _SECONDS)
                echo(f"{page}: " + "; ".join(done), err=True)
        if finished:
            return
        time.sleep(_SECONDS)


def _done(source: "Source") -> str:
    failed = f", {len(source.failures)} failed" if source.failures else ""
    left_out = "".join(f"; {printable(line)}" for line in source.left_out)
    return f"{source.name}: {len(source.table)} of {source.planned or '?'} done{failed}{left_out}"
