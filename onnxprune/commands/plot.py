"""`plot`: a figure of sweeps for a paper."""

from pathlib import Path

import click

from onnxprune.commands.console import echo
from onnxprune.commands.options import WHERE, FloatRange, PathName, warn


@click.command()
@click.argument("sweeps", metavar="SWEEP...", nargs=-1, required=True, type=PathName(path_type=Path))
@click.option(
    "--x",
    default="achieved_sparsity",
    show_default=True,
    metavar="COLUMN",
    help="Column of results.csv for the horizontal axis.",
)
@click.option(
    "--y",
    metavar="COLUMN",
    help="Column for the vertical axis  [default: accuracy; without labels fidelity].",
)
@click.option("--where", multiple=True, metavar="CONDITION", help=WHERE)
@click.option("--log-x", is_flag=True, help="Logarithmic horizontal axis.")
@click.option("--log-y", is_flag=True, help="Logarithmic vertical axis.")
@click.option(
    "--width",
    type=FloatRange(1, 50),
    default=3.5,
    show_default=True,
    metavar="INCHES",
    help="Width of the figure; 3.5 is one column of a two-column page, 7 is both.",
)
@click.option(
    "--out",
    type=PathName(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Figure to write; .pdf, .svg or .png decides the format  [default: Y-over-X.pdf in the folder of the first "
    "sweep].",
)
def plot(
    sweeps: tuple[Path, ...],
    x: str,
    y: str | None,
    where: tuple[str, ...],
    log_x: bool,
    log_y: bool,
    width: float,
    out: Path | None,
) -> None:
    """Draw a figure of sweeps for a paper.

    One column of the results against another: a curve for each technique and sweep, with 95 % intervals. Several seeds
    give their mean and a band of one standard deviation. Lines show the unpruned network and, if the study has it, the
    0 % point, which was fine-tuned but not pruned. Networks that predict the same class for nearly every image are
    crosses at the frame if the horizontal axis is a sparsity, and are left out otherwise. Fonts are embedded; in SVG,
    text stays text.

    \b
    Examples:
      onnxprune plot experiments/runs/demo
      onnxprune plot experiments/runs/demo --x macs --y accuracy --log-x --where technique=structured,neuron
      onnxprune plot experiments/runs/l1 experiments/runs/taylor --x speedup --width 7 --out comparison.svg
    """
    from onnxprune.report.figures import plot as draw

    echo(draw(sweeps, x, y, out, where=where, log=(log_x, log_y), width=width, say=warn))
