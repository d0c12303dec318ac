"""`sensitivity`: accuracy against sparsity, one layer at a time."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click

from onnxprune.commands.console import echo
from onnxprune.commands.options import DATA_DIR, RUNS, PathName, machine_readable, print_rows
from onnxprune.commands.points import PointCommand

_SPARSITIES = "10:90:10"


class _SensitivityCommand(PointCommand):
    several = False
    basics = ("images", "figure")

    def fields(self) -> Collection[str]:
        from onnxprune.settings.point import BASE_FIELDS

        return {*BASE_FIELDS, "technique", "criterion"}


@click.command(cls=_SensitivityCommand)
@click.option(
    "--sparsity",
    default=_SPARSITIES,
    show_default=True,
    metavar="VALUES",
    help="Percent of a layer's units to remove; several with commas, or FROM:TO:STEP.",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    metavar="N",
    help="Use only N images of the validation split  [default: all].",
)
@click.option(
    "--figure",
    type=PathName(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw a heat map too; .pdf, .svg or .png decides the format.",
)
@DATA_DIR
@RUNS
@click.option("--quiet", is_flag=True, help="No progress: only results and errors.")
@machine_readable
def sensitivity(
    images: int | None,
    figure: Path | None,
    data_dir: Path | None,
    out: Path,
    quiet: bool,
    output: str | None,
    **options: Any,
) -> None:
    """Measure accuracy against sparsity, one layer at a time.

    Units are removed from one layer of the trained base, nothing is fine-tuned, and accuracy is taken on the validation
    split. What costs least can be pruned most.

    \b
    Examples:
      onnxprune sensitivity --model cnn --technique structured --figure sensitivity.png
      onnxprune sensitivity --model densenet121 --dataset cifar10 --technique weight --sparsity 50,90 --images 500
    """
    from onnxprune.commands.answers import layers_by_sparsity, print_sensitivity, quality_of_layers
    from onnxprune.common.output import silenced
    from onnxprune.common.progress import Verbosity, waiting
    from onnxprune.settings.sweep import Sweep

    plan = Sweep.parse({"technique": "weight"} | {name: value for name, value in options.items() if value is not None})
    if figure is not None:
        from onnxprune.report.figures import check_format

        check_format(figure)
    verbosity = Verbosity.QUIET if quiet else Verbosity.NORMAL
    with waiting("loading PyTorch and NNI", verbosity), silenced():
        from onnxprune.study.sensitivity import sensitivity as accuracies

    found = accuracies(plan, out, data_dir, images, verbosity)
    if output is not None:
        print_rows([dataclasses.asdict(entry) for entry in found], output)
    else:
        print_sensitivity(found)
    if figure is not None:
        from onnxprune.report.figures import heat_map

        first = plan.points[0]
        title = f"{first.model} on {first.dataset_title}, {first.technique} ({first.criterion})"
        heat_map(layers_by_sparsity(found), title, f"{quality_of_layers(found).name} lost (points)", figure)
        echo(f"Figure: {figure}", err=True)
