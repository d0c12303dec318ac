"""`clean`: disk that a sweep's models take."""

from pathlib import Path

import click

from onnxprune.commands.console import echo
from onnxprune.commands.options import FloatRange, PathName
from onnxprune.common.output import plural
from onnxprune.common.progress import MOST_DROP


@click.command()
@click.argument("sweep", type=PathName(path_type=Path))
@click.option(
    "--max-drop",
    type=FloatRange(min=0),
    default=MOST_DROP,
    show_default=True,
    metavar="POINTS",
    help="Keep the model that deploy would choose with this limit.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
def clean(sweep: Path, max_drop: float, dry_run: bool) -> None:
    """Remove the models of a sweep that are no longer needed.

    Kept: the tables, the page, every record, the unpruned networks (bases) and, for each model and dataset, the model
    that deploy would choose. Removed: models, masks and logs of the other points. The sweep still counts as done; to
    get a model back, delete the folder of its point and run the sweep again.

    \b
    Examples:
      onnxprune clean experiments/runs/demo --dry-run
      onnxprune clean experiments/runs/demo --max-drop 0.5
    """
    from onnxprune.common.errors import RunError
    from onnxprune.delivery.choice import choose, studies
    from onnxprune.delivery.constraints import constraints
    from onnxprune.study.cleaning import clean as remove
    from onnxprune.study.cleaning import leftovers

    wanted = constraints(max_drop=max_drop)
    try:
        chosen = [str(choose(table, wanted).row["folder"]) for table in studies(sweep, wanted)]
    except RunError as error:
        raise RunError(f"{error}; nothing was removed, as there is no model that deploy would choose") from None
    found = leftovers(sweep, chosen)
    size = sum(leftover.size for leftover in found)
    if not dry_run:
        remove(found)
    for folder in chosen:
        echo(f"kept: {sweep / folder}")
    echo(f"{'would free' if dry_run else 'freed'} {size / 1e6:,.1f} MB, of {plural(len(found), 'point')}")
