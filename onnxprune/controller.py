"""The main controller: runs a plan's bases and points, and derives the table."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune import store
from onnxprune.chatter import hushed
from onnxprune.data import Dataset, load
from onnxprune.errors import BusyError, RunError, StorageError
from onnxprune.estimate import check_room
from onnxprune.models import MODELS
from onnxprune.progress import Reporter, Verbosity
from onnxprune.spec import Point, Sweep
from onnxprune.step import Rules
from onnxprune.tracking import Tracking

if TYPE_CHECKING:
    import pandas as pd

    from onnxprune.base import Base

DEFAULT_RUNS = Path("experiments/runs")


@dataclass(frozen=True)
class Outcome:
    """A sweep that was run.

    Attributes:
        folder: where its results are.
        table: one row a finished point.
        failures: folder of a failed base or point -> reason.
    """

    folder: Path
    table: "pd.DataFrame"
    failures: dict[str, str]


def load_for(point: Point, data_dir: Path | None) -> Dataset:
    """The data of a point, padded to what its model needs."""
    return load(point.dataset, data_dir, point.train_limit).padded(MODELS[point.model].minimum_size)


def run_sweep(
    plan: Sweep,
    runs: Path = DEFAULT_RUNS,
    data_dir: Path | None = None,
    *,
    retry_failed: bool = False,
    verbosity: Verbosity = Verbosity.NORMAL,
    track: Sequence[str] = (),
) -> Outcome:
    """Runs every point of the plan that `runs` does not have yet, and writes the tables.

    A point that fails is recorded in its folder and listed in the outcome; the others go on. One that failed before is
    only listed, unless `retry_failed`. Points that another process is running are waited for, at the end.

    Args:
        track: names of the trackers that get every finished point.

    Raises:
        InputError: the data cannot be had, or the device or a tracker is not there.
        RunError: disk or memory do not suffice for the plan.
        StorageError: results cannot be written any more.
    """
    with hushed():
        from onnxprune.training import select_device

    for device in {point.device for point in plan.points}:
        select_device(device)
    # before anything is written or trained: most mistakes show here
    checksums = {_data_settings(point): "" for point in plan.points}
    for point in plan.points:
        if not checksums[_data_settings(point)]:
            checksums[_data_settings(point)] = load_for(point, data_dir).checksum
    folder = runs / plan.name
    points = {folder / point.point_id(checksums[_data_settings(point)]): point for point in plan.points}
    check_room([point for path, point in points.items() if not (path / store.METRICS).exists()], runs)
    tracking = Tracking(track, folder)
    store.make_folder(folder)
    with store.claimed(folder / store.SPEC):
        store.remove_partial(folder)
        store.write_text(folder / store.SPEC, plan.to_toml())
    failures: dict[str, str] = {}
    bases = len({tuple(point.base_settings().items()) for point in plan.points})
    with Reporter(bases + len(points), verbosity) as reporter:
        busy = _run_points(points, runs, data_dir, reporter, tracking, Rules(retry_failed, wait=False), failures)
        if busy:
            reporter.say(f"{len(busy)} points are being run by another process: waiting for it")
            _run_points(busy, runs, data_dir, reporter, tracking, Rules(retry_failed, wait=True), failures)
        for problem in tracking.problems:
            reporter.say(problem)
    with store.claimed(folder / store.SPEC):
        return Outcome(folder, store.write_tables(folder), failures)


def _run_points(
    points: Mapping[Path, Point],
    runs: Path,
    data_dir: Path | None,
    reporter: Reporter,
    tracking: Tracking,
    rules: Rules,
    failures: dict[str, str],
) -> dict[Path, Point]:
    """Runs points in order, each in its folder; returns those that another process is running.

    Args:
        failures: gets the name of each base and point that failed, with the reason.
    """
    with hushed():
        from onnxprune.base import ensure_base
        from onnxprune.point import run_point

    busy: dict[Path, Point] = {}
    dataset: Dataset | None = None
    loaded: tuple[Any, ...] = ()
    base: Base | None = None
    base_id = ""
    for folder, point in points.items():
        if dataset is None or _data_settings(point) != loaded:
            dataset, loaded = load_for(point, data_dir), _data_settings(point)
        if point.base_id(dataset.checksum) != base_id:
            base, base_id = None, point.base_id(dataset.checksum)
            _say_full_batch(point, dataset, reporter)
            try:
                # all points need it
                base = ensure_base(point, dataset, runs, reporter, dataclasses.replace(rules, wait=True))
            except StorageError:
                raise
            except RunError as error:
                failures[base_id] = str(error)
                reporter.end(f"FAILED: {error}")
        if base is None:
            failures[folder.name] = f"its base {base_id} failed"
            continue
        try:
            tracking.point(folder, point.settings(), run_point(point, base, dataset, folder, reporter, rules))
        except BusyError:
            busy[folder] = point
        except StorageError:
            raise
        except RunError as error:
            failures[folder.name] = str(error)
            reporter.end(f"FAILED: {error}")
    return busy


def _data_settings(point: Point) -> tuple[Any, ...]:
    return (point.dataset, point.train_limit, MODELS[point.model].minimum_size)


def _say_full_batch(point: Point, dataset: Dataset, reporter: Reporter) -> None:
    if point.batch_size > len(dataset.train):
        reporter.say(
            f"batch size {point.batch_size:,} is more than the {len(dataset.train):,} training images: "
            "every update uses them all"
        )
