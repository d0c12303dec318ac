"""`retime`: the latencies of a sweep, measured again."""

from pathlib import Path

import click

from onnxprune.commands.console import echo
from onnxprune.commands.options import PathName, machine_readable
from onnxprune.commands.report import PAGE
from onnxprune.commands.study import print_table, write_report
from onnxprune.common.errors import just_written


@click.command()
@click.argument("sweep", type=PathName(path_type=Path))
@machine_readable
def retime(sweep: Path, output: str | None) -> None:
    """Measure the latencies of a sweep again.

    Times every point that was timed before, together with its base, one after the other, and rewrites the tables and
    the page; accuracies and models stay as they are. Meant for a sweep that was timed on a busy machine; needs the same
    machine and the same version of onnxruntime.

    \b
    Example:
      onnxprune retime experiments/runs/demo
    """
    from onnxprune.study.retime import retime as measure_again

    table = measure_again(sweep, lambda line: echo(line, err=True))
    with just_written():
        print_table(sweep, table, output)
        write_report(sweep, sweep / PAGE)
    echo(f"Report: {sweep / PAGE}", err=True)
