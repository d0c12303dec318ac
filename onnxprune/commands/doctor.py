"""`doctor`: will it run here?"""

import dataclasses
import json
import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("experiments/runs"),
    show_default=True,
    help="Folder that results will go under.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the datasets  [default: $ONNXPRUNE_DATA, else a cache folder].",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(out: Path, data_dir: Path | None, as_json: bool) -> None:
    """Check the installation, the data and the machine.

    Packages against the versions that onnxprune needs, what onnxruntime really runs on, the datasets that are there,
    disk and memory. The exit code is 1 where something is broken.
    """
    from onnxprune.data import default_data_dir
    from onnxprune.doctor import examine

    findings = []
    for finding in examine(out, data_dir or default_data_dir()):
        findings.append(finding)
        if not as_json:
            click.echo(f"{finding.state:6}  {finding.subject}: {finding.text}")
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    broken = [finding.subject for finding in findings if finding.state == "broken"]
    if broken:
        click.echo(f"Broken: {', '.join(broken)}.", err=True)
        sys.exit(1)
    click.echo("All that is needed works.", err=True)
