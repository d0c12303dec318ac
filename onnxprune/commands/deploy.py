"""`deploy`: the best model of a sweep, under constraints."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.commands.console import echo, prose
from onnxprune.commands.options import FloatRange, PathName, machine_readable, print_rows, warn
from onnxprune.common.progress import MOST_DROP

if TYPE_CHECKING:
    from onnxprune.delivery.choice import Choice
    from onnxprune.delivery.deployment import Deployed


@click.command()
@click.argument("sweep", type=PathName(path_type=Path))
@click.option(
    "--max-drop",
    type=FloatRange(min=0),
    metavar="POINTS",
    help="Percentage points of validation accuracy that may be lost  "
    f"[default: {MOST_DROP:g}, none with --min-accuracy].",
)
@click.option("--min-accuracy", type=FloatRange(0, 100), metavar="PERCENT", help="Least validation accuracy.")
@click.option("--min-speedup", type=FloatRange(min=0), metavar="RATIO", help="Least measured speedup.")
@click.option("--max-latency-ms", type=FloatRange(min=0), metavar="MS", help="Highest median latency per batch, in ms.")
@click.option("--max-bytes", type=click.IntRange(min=0), metavar="N", help="Largest ONNX file.")
@click.option(
    "--out",
    type=PathName(path_type=Path, file_okay=False),
    default=Path("models"),
    show_default=True,
    help="Folder that the model goes to.",
)
@click.option(
    "--layout",
    type=click.Choice(["plain", "triton"]),
    default="plain",
    show_default=True,
    help="A file, or a Triton model repository.",
)
@click.option(
    "--bake",
    is_flag=True,
    help="Also write a file with the preprocessing in its graph: pixels in, probabilities out.",
)
@click.option(
    "--license", metavar="ID", help="Licence that the card states, such as apache-2.0  [default: not stated]."
)
@machine_readable
def deploy(
    sweep: Path,
    max_drop: float | None,
    out: Path,
    layout: Any,
    bake: bool,
    license: str | None,
    output: str | None,
    **limits: Any,
) -> None:
    """Copy the best model of a sweep, and write a model card.

    The best is the fastest model that meets every constraint: by measured speedup, or by MACs if nothing was timed or
    the timing noise is over 30 %. A speedup that MACs and noise do not explain is not gone by. Among equally fast ones,
    it is the one with the highest validation accuracy. Test accuracy is reported but not used to choose. With several
    seeds their means decide, and the file of the best seed is copied. A sweep of several models, datasets or batch
    sizes gives one model for each.

    \b
    Examples:
      onnxprune deploy experiments/runs/demo
      onnxprune deploy experiments/runs/demo --max-drop 0.5 --min-speedup 2 --bake --license apache-2.0
    """
    from onnxprune.common.errors import RunError
    from onnxprune.delivery import deployment
    from onnxprune.delivery.choice import choose, studies
    from onnxprune.delivery.constraints import constraints

    if max_drop is None and limits["min_accuracy"] is None:
        max_drop = MOST_DROP
    wanted = constraints(max_drop=max_drop, **limits)
    entries, misses = [], []
    for table in studies(sweep, wanted, warn):
        try:
            choice = choose(table, wanted)
        except RunError as error:
            misses.append(str(error))
            continue
        deployed = deployment.deploy(choice, sweep, out, layout, bake=bake, license=license)
        entries.append(deployed.entry)
        if output is None:
            _print(choice, deployed, [choice.quality.said(constraint.text) for constraint in wanted])
    if output is not None and entries:
        print_rows(entries, output)
    if misses:
        raise RunError("\n".join(misses))


def _alone(choice: "Choice") -> str:
    """What int8 without pruning would have given."""
    row = choice.alone
    assert row is not None
    speedup = "" if math.isnan(row["speedup"]) else f", measured speedup {row['speedup']:.2f}"
    quality = choice.quality
    lacks = (
        f"; it does not meet: {quality.said(' and '.join(choice.alone_lacks))}"
        if choice.alone_lacks
        else ("; it meets every constraint")
    )
    return (
        f"int8 alone, without pruning: {quality.name} {row[quality.name]:.2f} %, validation {quality.name} "
        f"{row[f'validation_{quality.name}']:.2f} %, {row['file_bytes']:,.0f} bytes{speedup}{lacks}"
    )


def _print(choice: "Choice", deployed: "Deployed", wanted: list[str]) -> None:
    from onnxprune.commands.columns import columns
    from onnxprune.delivery import headline

    row, entry = choice.row, deployed.entry
    fastest = "the fastest" if choice.by == "speedup" else "the one of the fewest MACs"
    quality = choice.quality.name
    prose(
        f"{deployed.name}: {fastest} of the {choice.candidates} of {choice.points} models with {' and '.join(wanted)}"
    )
    prose(f"{headline.removed(row)}; {headline.quality(row, len(choice.seeds))}")
    prose(choice.decided_on())
    for remark in choice.folded.remarks:
        prose(remark)
    for remark in deployed.remarks:
        prose(f"Note: {remark}.")
    echo()
    lines = [
        (f"{quality} on the test set, %", quality, "{:.2f}"),
        (f"validation {quality}, used to choose, %", f"validation_{quality}", "{:.2f}"),
        ("MACs an image", "macs", "{:,.0f}"),
        ("bytes", "file_bytes", "{:,.0f}"),
    ]
    if entry["speedup"] is not None:
        batch = f"median latency of a batch of {row['latency_batch']}, ms"
        lines += [(batch, "latency_ms_median", "{:.3f}"), ("measured speedup", "speedup", "{:.2f}")]
    several = len(choice.seeds) > 1
    rows = []
    for title, column, form in lines:
        base = "1" if column == "speedup" else form.format(row[f"base_{column}"])
        mean, deviation = choice.over_seeds(column)
        spread = "" if deviation is None else f"{form.format(mean)} ± {form.format(deviation)}"
        rows.append([title, form.format(row[column]), base, *([spread] if several else [])])
    echo(columns(["", ">this", ">base", *([">seeds"] if several else [])], rows))
    if choice.alone is not None and row["variant"] != "int8 alone":
        prose(f"\n{_alone(choice)}")
    echo()
    for path in deployed.files:
        echo(f"{path}")
    echo(f"\nTo compare it with its base again:\n{deployed.compare}")
