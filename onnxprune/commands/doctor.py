"""`doctor`: will it run here?"""

import dataclasses
import sys
from pathlib import Path

import click

from onnxprune.commands.console import echo, prose
from onnxprune.commands.options import DATA_DIR, IMAGE_SIZE, PathName, machine_readable, print_rows


@click.command()
@click.option(
    "--out",
    type=PathName(path_type=Path, file_okay=False),
    default=Path("experiments/runs"),
    show_default=True,
    help="Folder that results will go under.",
)
@click.option("--dataset", help="Also check your own data: FILE.npz, or a FOLDER of pictures.")
@IMAGE_SIZE
@DATA_DIR
@machine_readable
def doctor(
    out: Path, dataset: str | None, image_size: tuple[int, int] | None, data_dir: Path | None, output: str | None
) -> None:
    """Check the installation, the data and the machine.

    Checks the versions of packages, the devices that onnxruntime can really use, the datasets, disk and memory. The
    exit code is 1 if something is broken.
    """
    from onnxprune.data.download import default_data_dir
    from onnxprune.study.doctor import examine

    findings = []
    for finding in examine(out, data_dir or default_data_dir(), dataset, image_size):
        findings.append(finding)
        if output is None:
            prose(f"{finding.state:6}  {finding.subject}: {finding.text}", indent=8)
    if output is not None:
        print_rows([dataclasses.asdict(finding) for finding in findings], output)
    broken = [finding.subject for finding in findings if finding.state == "broken"]
    if broken:
        echo(f"Broken: {', '.join(broken)}.", err=True)
        sys.exit(1)
    echo("Everything that is needed works.", err=True)
