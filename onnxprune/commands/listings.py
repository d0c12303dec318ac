"""`models`, `datasets` and `techniques`: what there is."""

import math
from typing import TYPE_CHECKING, Any

import click

from onnxprune.commands.console import echo, prose, terminal_width
from onnxprune.commands.options import machine_readable, print_rows

if TYPE_CHECKING:
    from onnxprune.common.registry import Registry
    from onnxprune.models import Recipe


def _print_listing(rows: list[dict[str, str]], output: str | None) -> None:
    if output is not None:
        print_rows(rows, output)
        return
    widths = [max(len(row[key]) for row in rows) for key in rows[0]]
    narrow = (terminal_width() or math.inf) < sum(widths) + 2 * (len(widths) - 1)
    for name, *others in map(dict.values, rows):
        if narrow:
            indent = widths[0] + 2
            found = [name.ljust(widths[0]), "; ".join(filter(None, others))]
            prose("  ".join(found), indent=indent - (len(name) - len(name.lstrip())))
        else:
            texts = zip((name, *others), widths, strict=True)
            echo("  ".join(text.ljust(width) for text, width in texts).rstrip())


@click.command()
@machine_readable
def models(output: str | None) -> None:
    """List the models."""
    from onnxprune.models import MODELS

    rows = [
        {
            "name": name,
            "title": model.title,
            "summary": model.summary,
            "recipe": _training(model.recipe),
        }
        for name, model in MODELS.items()
    ]
    _print_listing(rows, output)


def _training(recipe: "Recipe") -> str:
    from onnxprune.settings.budget import EPOCH_UPDATES

    settling, share = recipe.settling_updates, recipe.share_with_norm
    return (
        f"trains {recipe.epochs} epochs at {recipe.learning_rate:g}, fine-tunes {recipe.finetune_epochs} at "
        f"{recipe.finetune_learning_rate:g}; more of fewer than {EPOCH_UPDATES} updates"
        + (f", or where fine-tuning has fewer than {settling}" if settling else "")
        + (f"; {share:g} of these rates with --batch-norm" if share != 1 else "")
    )


@click.command()
@machine_readable
def datasets(output: str | None) -> None:
    """List the datasets."""
    from onnxprune.data.registry import DATASETS

    rows = [
        {
            "name": name,
            "title": entry.title,
            "shape": "x".join(map(str, entry.shape)),
            "classes": f"{len(entry.classes)} classes",
        }
        for name, entry in DATASETS.items()
    ]
    _print_listing(rows, output)
    if output is None:
        prose(
            "\nYour own: FILE.npz with x_train, y_train, x_test, y_test (and classes: their names), or a FOLDER with "
            "a folder of pictures (PNG, JPEG) for each class, or with such folders in train/ and test/."
        )


@click.command()
@machine_readable
def techniques(output: str | None) -> None:
    """List the techniques, the criteria, the schedules and the controls."""
    from onnxprune.settings.vocabulary import CONTROLS, CRITERIA, SCHEDULES, TECHNIQUES, criteria_of

    if output is not None:
        kinds: dict[str, Registry[Any]] = {"technique": TECHNIQUES, "criterion": CRITERIA, "schedule": SCHEDULES}
        rows = [
            {
                "kind": kind,
                "name": name,
                "summary": entry.summary,
                "criteria": list(criteria_of(name)) if kind == "technique" else [],
                "source": getattr(entry, "source", None),
            }
            for kind, registry in kinds.items()
            for name, entry in registry.items()
        ]
        rows += [
            {"kind": "control", "name": name, "summary": text, "criteria": [], "source": None}
            for name, text in CONTROLS.items()
        ]
        print_rows(rows, output)
        return
    echo("Techniques (what is removed):")
    _print_listing(
        [
            {
                "name": f"  {name}",
                "summary": entry.summary,
                "criteria": f"criteria: {', '.join(criteria_of(name))}",
            }
            for name, entry in TECHNIQUES.items()
        ],
        output=None,
    )
    echo("\nCriteria (how importance is judged; the lowest scores go):")
    _print_listing(
        [{"name": f"  {name}", "summary": entry.summary, "source": entry.source} for name, entry in CRITERIA.items()],
        output=None,
    )
    echo("\nSchedules (when):")
    _print_listing(
        [{"name": f"  {name}", "summary": entry.summary, "source": entry.source} for name, entry in SCHEDULES.items()],
        output=None,
    )
    echo("\nControls (what a criterion is compared with):")
    _print_listing([{"name": f"  {name}", "summary": text} for name, text in CONTROLS.items()], output=None)
