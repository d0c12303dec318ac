"""`rerun`: is a result the same when it is made again?"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxprune.commands.console import echo, prose
from onnxprune.commands.options import DATA_DIR, PathName, machine_readable, print_rows, warn
from onnxprune.common.temporary import temporary_folder

if TYPE_CHECKING:
    from onnxprune.study.rerun import Repetition


@click.command()
@click.argument("folder", type=PathName(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--out",
    type=PathName(path_type=Path, file_okay=False),
    help="New folder to keep the rerun in  [default: a temporary one].",
)
@DATA_DIR
@machine_readable
def rerun(folder: Path, out: Path | None, data_dir: Path | None, output: str | None) -> None:
    """Run a point or a sweep again and check that the results are the same.

    FOLDER is the folder of a point or of a sweep. Only its settings are reused; the base is trained again. In the same
    environment accuracy, loss, counts, masks and weights must be bit-identical. In another one, accuracies may differ
    by 1 point, losses by 10 % or 0.02, counts by 1 %, and 10 % of the masks. Timings are shown as ratios and are not
    checked. The exit code is 1 if anything differs by more.

    \b
    Examples:
      onnxprune rerun experiments/runs/demo
      onnxprune rerun experiments/runs/demo/cnn-digits-b256-weight-l1-s50-seed0-1d0c3e0b
    """
    from onnxprune.study.rerun import rerun as run_again

    with temporary_folder() as temporary:
        repetitions = run_again(folder, out or Path(temporary), data_dir, warn)
    if output is not None:
        rows = [{**dataclasses.asdict(found), "reproduced": found.reproduced} for found in repetitions]
        print_rows(rows, output)
    else:
        _print(repetitions)
    if not all(found.reproduced for found in repetitions):
        sys.exit(1)


def _print(repetitions: "list[Repetition]") -> None:
    for found in repetitions:
        verdict = "reproduced" if found.reproduced else "DIFFERS"
        exactness = ", bit for bit" if not found.differences else ", within tolerances" if found.reproduced else ""
        times = "".join(
            f", {label} {found.ratios[column]:.2f}x the time"
            for column, label in (("training_seconds", "training"), ("latency_ms_median", "latency"))
            if column in found.ratios
        )
        echo(f"{verdict}{exactness}{times}: {found.folder}")
        for name, text in found.differences.items():
            prose(f"  {'beyond tolerance: ' if found.changes and name in found.beyond else ''}{name}: {text}")
    changes = {line for found in repetitions for line in (f"{name}: {text}" for name, text in found.changes.items())}
    for line in sorted(changes):
        prose(f"environment: {line}")
    count = sum(found.reproduced for found in repetitions)
    exact = sum(not found.differences for found in repetitions)
    echo(f"{count} of {len(repetitions)} reproduced, {exact} of them bit for bit.")
