"""`plot`: a figure of a sweep for a paper."""

from pathlib import Path

import click

from onnxprune.commands.console import echo
from onnxprune.commands.options import warn


@click.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option(
    "--x", default="achieved_sparsity", show_default=True, metavar="COLUMN", help="Across: a column of results.csv."
)
@click.option("--y", default="accuracy", show_default=True, metavar="COLUMN", help="Upwards: likewise.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="Figure to write; .pdf, .svg or .png decides the format.",
)
def plot(sweep: Path, x: str, y: str, out: Path) -> None:
    """Draw a figure of a sweep for a paper.

    One column of the results against another, as wide as a column of a paper. A curve for each technique, with 95 %
    intervals; several seeds give their mean and a band of one standard deviation. Networks that have collapsed may lie
    beyond the axis. Fonts are embedded.

    \b
    Examples:
      onnxprune plot experiments/runs/demo --x achieved_sparsity --y accuracy --out accuracy.pdf
      onnxprune plot experiments/runs/demo --x macs --y latency_ms_paired --out latency.svg
    """
    from onnxprune.report.figures import plot as draw

    draw(sweep, x, y, out, warn)
    echo(out)
