"""What `--dry-run` prints: the plan of a study, what it costs and takes, and whether it can be run."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.commands.console import echo, prose
from onnxprune.common.errors import InputError
from onnxprune.common.output import plural
from onnxprune.common.progress import Verbosity, duration, waiting

if TYPE_CHECKING:
    from onnxprune.settings.point import Point
    from onnxprune.settings.sweep import Sweep
    from onnxprune.study.estimate import Estimate
    from onnxprune.study.forecast import Forecast


def print_plan(
    plan: "Sweep",
    runs: Path,
    data_dir: Path | None,
    verbosity: Verbosity,
    *,
    workers: int | None,
    output: str | None,
    replace: bool,
    searched: tuple[int, float] | None = None,
) -> None:
    """Prints a plan to stdout: its axes, and what it takes; each point only where much is to be told.

    Args:
        workers: processes that run them side by side; None: as many as pay.
        output: "json", or None for text.
        replace: whether points of another study in the plan's folder are removed when it is run, and not refused.
        searched: of a search the step of its sparsities, in percent, and the largest drop, in points: which points it
            runs is only found meanwhile, and they may be fewer.

    Raises:
        InputError: the points cannot be pruned as they ask, the plan's folder has points of another study, or the
            output is neither.
    """
    if output == "csv":
        raise InputError("--csv: with --dry-run a plan is printed as text, or with --json as JSON")
    with waiting("checking the plan", verbosity):
        from onnxprune.study import former
        from onnxprune.study.alignment import with_recorded_step
        from onnxprune.study.estimate import estimate
        from onnxprune.study.feasibility import check_prunable
        from onnxprune.study.finished import Finished
        from onnxprune.study.forecast import forecast
        from onnxprune.study.jobs import Materials
        from onnxprune.study.search import most_points, points_in

    folder = runs / plan.name
    plan = plan if replace else with_recorded_step(plan, folder)
    estimate(plan.points, verbosity)  # it reads pictures, with a line of its own
    with waiting("checking that the networks can be pruned, and how fast they train", verbosity):
        materials = Materials(data_dir, stand_ins=True)
        finished = Finished(runs, [folder] if searched is None else sorted(runs.glob("*/")), materials)
        if not replace:
            planned = plan.points if searched is None else points_in(plan, folder)
            former.refuse(folder, finished.names(planned), planned)
        check_prunable(plan.points, materials)
        points = plan.points if searched is None else most_points(plan, *searched, finished)
        cost = estimate(points)
        expected = forecast(points, finished, runs, workers)
    if output == "json":
        rows = [point.settings() for point in points]
        expectation = asdict(expected) | {"hours": expected.seconds / 3600}
        found = {"name": plan.name, "cost": asdict(cost), "expected": expectation, "notes": [*materials.notes]}
        echo(json.dumps({**found, "points": rows}, indent=1))
        return
    _print_axes(points, "" if searched is None else "sparsity")
    if verbosity == Verbosity.VERBOSE:
        for point in points:
            echo(" ".join(f"{key}={value}" for key, value in point.settings().items()))
        echo()
    for line in _lines(plan, cost, expected, runs, "" if searched is None else "at most "):
        echo(line)
    for note in materials.notes:
        prose(f"note      {note}")


def _print_axes(points: Sequence["Point"], unknown: str) -> None:
    """What most people set, where it is the same for all points, and what varies, a line each."""
    from onnxprune.settings.point import AXES, FIELDS

    values: dict[str, list[Any]] = {
        name: list(dict.fromkeys(getattr(point, name) for point in points)) for name in FIELDS if name != unknown
    }
    several = [name for name in AXES if len(values.get(name, ())) > 1]
    usual = ("model", "dataset", "batch_size", "technique", "schedule", "sparsity")
    fixed = [name for name in usual if name in values and name not in several]
    wide = max(map(len, [*several, *fixed]))
    for name in [*fixed, *several]:
        found = values[name]
        count = f"  ({len(found)})" if len(found) > 1 else ""
        echo(f"  {name:{wide}}  {_listed(found)}{count}")
    echo()


def _listed(values: Sequence[Any]) -> str:
    texts = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    return ", ".join(texts if len(texts) <= 12 else [*texts[:5], "...", *texts[-3:]])


def _lines(plan: "Sweep", cost: "Estimate", expected: "Forecast", runs: Path, most: str) -> list[str]:
    from onnxprune.common.environment import available_memory, free_disk

    workers = f", {expected.workers} at the same time" if expected.workers > 1 else ""
    done = f", {expected.done} of them done already" if expected.done else ""
    return [
        f"name      {plan.name}, in {runs / plan.name}",
        f"points    {most}{cost.points:,}{done}, from {plural(cost.bases, 'unpruned network')} (bases)",
        f"training  at most {cost.training_images:,} images, {cost.training_flops / 1e12:.3g} TFLOPs (1 MAC = 2 FLOPs; "
        "networks that shrink take less)",
        f"time      about {duration(expected.seconds)}{workers}, estimated from {expected.source}",
        f"disk      up to {cost.disk_bytes / 1e6:,.0f} MB, {free_disk(runs) / 1e6:,.0f} MB free",
        f"memory    about {cost.memory_bytes / 1e6:,.0f} MB for the largest network, beside data and libraries; "
        f"{available_memory() / 1e6:,.0f} MB available",
        "checked   every network can be exported and pruned as asked; nothing was trained, nothing was written",
    ]
