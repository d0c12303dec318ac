"""`deploy`: the best model of a sweep, under constraints."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.commands.options import machine_readable, print_rows

if TYPE_CHECKING:
    from onnxprune.delivery.deployment import Choice, Deployed

_DROP = 1.0


@click.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    metavar="POINTS",
    help=f"Percentage points of validation accuracy that may be lost  [default: {_DROP:g}, none with --min-accuracy].",
)
@click.option("--min-accuracy", type=click.FloatRange(0, 100), metavar="PERCENT", help="Least validation accuracy.")
@click.option("--min-speedup", type=click.FloatRange(min=0), metavar="RATIO", help="Least measured speedup.")
@click.option("--max-latency-ms", type=click.FloatRange(min=0), metavar="MS", help="Highest median latency of a batch.")
@click.option("--max-bytes", type=click.IntRange(min=0), metavar="N", help="Largest ONNX file.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
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
    help="Write a file too that takes pixels and gives probabilities: preprocessing in the graph.",
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
    """Copy the best model of a sweep, with a model card.

    The best is the fastest measured (the one of the fewest MACs where nothing was timed) of those that satisfy every
    constraint; among equally fast ones, that of the highest validation accuracy. Test accuracy is reported but not used
    to choose. A sweep of several models or datasets gives one for each pair.

    \b
    Examples:
      onnxprune deploy experiments/runs/demo
      onnxprune deploy experiments/runs/demo --max-drop 0.5 --min-speedup 2 --bake --license apache-2.0
    """
    from onnxprune.common.errors import RunError
    from onnxprune.delivery import deployment

    if max_drop is None and limits["min_accuracy"] is None:
        max_drop = _DROP
    wanted = deployment.constraints(max_drop=max_drop, **limits)
    entries, misses = [], []
    for table in deployment.studies(sweep, wanted):
        try:
            choice = deployment.choose(table, wanted)
        except RunError as error:
            misses.append(str(error))
            continue
        deployed = deployment.deploy(choice, sweep, out, layout, bake=bake, license=license)
        entries.append(deployed.entry)
        if output is None:
            _print(choice, deployed, [constraint.text for constraint in wanted])
    if output is not None and entries:
        print_rows(entries, output)
    if misses:
        raise RunError("\n".join(misses))


def _print(choice: "Choice", deployed: "Deployed", wanted: list[str]) -> None:
    row, entry = choice.row, deployed.entry
    fastest = "the fastest" if choice.by == "speedup" else "the one of the fewest MACs"
    tied = f" (of {choice.tied} equally good, that of the highest validation accuracy)" if choice.tied > 1 else ""
    click.echo(
        f"{deployed.name}: {fastest} of the {choice.candidates} of {choice.points} models with {' and '.join(wanted)}"
        f"{tied}\n"
    )
    lines = [
        ("accuracy on the test set, %", "accuracy", "{:.2f}"),
        ("validation accuracy, used to choose, %", "validation_accuracy", "{:.2f}"),
        ("MACs an image", "macs", "{:,}"),
        ("bytes", "file_bytes", "{:,}"),
    ]
    if entry["speedup"] is not None:
        batch = f"median latency of a batch of {row['latency_batch']}, ms"
        lines.append((batch, "latency_ms_median", "{:.3f}"))
    wide = max(len(title) for title, _, _ in lines)
    click.echo(f"{'':{wide}}  {'this':>12}  {'base':>12}")
    for title, column, form in lines:
        click.echo(f"{title:{wide}}  {form.format(row[column]):>12}  {form.format(row[f'base_{column}']):>12}")
    if entry["speedup"] is not None:
        click.echo(f"{'measured speedup':{wide}}  {row['speedup']:12.2f}")
    click.echo()
    for path in deployed.files:
        click.echo(f"{path}")
    click.echo(f"\nTo compare it with its base again:\n{deployed.compare}")
