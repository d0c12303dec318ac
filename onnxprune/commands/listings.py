"""`models`, `datasets` and `techniques`: what there is."""

import json

import click


def _print_listing(rows: list[dict[str, str]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    widths = [max(len(row[key]) for row in rows) for key in rows[0]]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row.values(), widths, strict=True)).rstrip())


_listing = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


@click.command()
@_listing
def models(as_json: bool) -> None:
    """List the models."""
    from onnxprune.models import MODELS

    rows = [
        {
            "name": name,
            "title": model.title,
            "summary": model.summary,
            "recipe": f"trains {model.recipe.epochs} epochs at {model.recipe.learning_rate:g}, "
            f"fine-tunes {model.recipe.finetune_epochs} at {model.recipe.finetune_learning_rate:g}",
        }
        for name, model in MODELS.items()
    ]
    _print_listing(rows, as_json)


@click.command()
@_listing
def datasets(as_json: bool) -> None:
    """List the datasets."""
    from onnxprune.data import DATASETS

    rows = [
        {
            "name": name,
            "title": entry.title,
            "shape": "x".join(map(str, entry.shape)),
            "classes": f"{len(entry.classes)} classes",
        }
        for name, entry in DATASETS.items()
    ]
    _print_listing(rows, as_json)


@click.command()
@_listing
def techniques(as_json: bool) -> None:
    """List the techniques, the criteria and the schedules."""
    from onnxprune.pruning import CRITERIA, SCHEDULES, TECHNIQUES

    if as_json:
        click.echo(
            json.dumps(
                {
                    "techniques": {name: vars(entry) for name, entry in TECHNIQUES.items()},
                    "criteria": {name: vars(entry) for name, entry in CRITERIA.items()},
                    "schedules": dict(SCHEDULES.items()),
                },
                indent=1,
            )
        )
        return
    click.echo("Techniques (what is removed):")
    _print_listing(
        [
            {
                "name": f"  {name}",
                "summary": entry.summary,
                "criteria": f"criteria: {', '.join(entry.criteria)}",
            }
            for name, entry in TECHNIQUES.items()
        ],
        as_json=False,
    )
    click.echo("\nCriteria (how importance is judged; the lowest scores go):")
    _print_listing(
        [{"name": f"  {name}", "summary": entry.summary, "source": entry.source} for name, entry in CRITERIA.items()],
        as_json=False,
    )
    click.echo("\nSchedules (when):")
    _print_listing([{"name": f"  {name}", "summary": summary} for name, summary in SCHEDULES.items()], as_json=False)
