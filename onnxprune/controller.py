"""The main controller: runs a plan's bases and points, and derives the table."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune import store
from onnxprune.chatter import hushed
from onnxprune.data import Dataset
from onnxprune.errors import BusyError, InputError, RunError, StorageError
from onnxprune.estimate import check_room
from onnxprune.jobs import Job, Materials, in_turn
from onnxprune.progress import Reporter, Verbosity
from onnxprune.spec import Point, Sweep
from onnxprune.step import Rules
from onnxprune.tracking import Tracking
from onnxprune.workers import POSSIBLE, Pool, worker_count

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_RUNS = Path("experiments/runs")

Run = Callable[[Sequence[Job]], Iterator[tuple[Job, RunError | None]]]


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


def run_sweep(
    plan: Sweep,
    runs: Path = DEFAULT_RUNS,
    data_dir: Path | None = None,
    *,
    retry_failed: bool = False,
    verbosity: Verbosity = Verbosity.NORMAL,
    track: Sequence[str] = (),
    workers: int | None = None,
) -> Outcome:
    """Runs every point of the plan that `runs` does not have yet, and writes the tables.

    A point that fails is recorded in its folder and listed in the outcome; the others go on. One that failed before is
    only listed, unless `retry_failed`. Points that another process is running are waited for, at the end.

    Args:
        track: names of the trackers that get every finished point.
        workers: processes that run points side by side; 1: this one alone; default: as many as pay.

    Raises:
        InputError: the data cannot be had, or the device or a tracker is not there, or no workers are possible.
        RunError: disk or memory do not suffice for the plan.
        StorageError: results cannot be written any more.
    """
    if workers is not None and workers > 1 and not POSSIBLE:
        raise InputError("--workers: this system cannot suspend a process while another is timing; use --workers 1")
    with hushed():
        from onnxprune.training import select_device

    for device in {point.device for point in plan.points}:
        select_device(device)
    # before anything is written or trained: most mistakes show here
    materials = Materials(data_dir)
    folder = runs / plan.name
    points = {folder / point.point_id(materials.dataset(point).checksum): point for point in plan.points}
    missing = [point for path, point in points.items() if not (path / store.METRICS).exists()]
    count = worker_count(missing) if workers is None else min(workers, len(missing))
    check_room(missing, runs, max(1, count))
    tracking = Tracking(track, folder)
    store.make_folder(folder)
    with store.claimed(folder / store.SPEC):
        store.remove_partial(folder)
        store.write_text(folder / store.SPEC, plan.to_toml())
    failures: dict[str, str] = {}
    bases = len({tuple(point.base_settings().items()) for point in plan.points})
    with contextlib.ExitStack() as stack:
        reporter = stack.enter_context(Reporter(bases + len(points), verbosity))
        run: Run = functools.partial(in_turn, materials=materials, listener=reporter)
        if count > 1:
            run = stack.enter_context(Pool(count, reporter)).run
        rules = Rules(retry_failed, wait=False)
        busy = _run_points(points, materials, runs, data_dir, run, reporter, tracking, rules, failures)
        if busy:
            reporter.say(f"{len(busy)} points are being run by another process: waiting for it")
            rules = Rules(retry_failed, wait=True)
            _run_points(busy, materials, runs, data_dir, run, reporter, tracking, rules, failures)
        for problem in tracking.problems:
            reporter.say(problem)
    with store.claimed(folder / store.SPEC):
        return Outcome(folder, store.write_tables(folder), failures)


def _run_points(
    points: Mapping[Path, Point],
    materials: Materials,
    runs: Path,
    data_dir: Path | None,
    run: Run,
    reporter: Reporter,
    tracking: Tracking,
    rules: Rules,
    failures: dict[str, str],
) -> dict[Path, Point]:
    """Runs points, those of a base after it; returns those that another process is running.

    Args:
        points: folder -> point, those of a base next to each other.
        failures: gets the name of each base and point that failed, with the reason.
    """
    with hushed():
        from onnxprune.base import ensure_base

    busy: dict[Path, Point] = {}
    for base_id, group in itertools.groupby(
        points.items(), lambda item: item[1].base_id(materials.dataset(item[1]).checksum)
    ):
        jobs = [Job(folder, point, runs, data_dir, rules) for folder, point in group]
        first = jobs[0].point
        _say_full_batch(first, materials.dataset(first), reporter)
        try:
            # all points need it
            ensure_base(first, materials.dataset(first), runs, reporter, dataclasses.replace(rules, wait=True))
        except StorageError:
            raise
        except RunError as error:
            failures[base_id] = str(error)
            reporter.end(f"FAILED: {error}")
            failures |= {job.folder.name: f"its base {base_id} failed" for job in jobs}
            continue
        for job, problem in run(jobs):
            if problem is None:
                record = store.finished_record(job.folder)
                if record is not None:
                    tracking.point(job.folder, job.point.settings(), record)
            elif isinstance(problem, BusyError):
                busy[job.folder] = job.point
            elif isinstance(problem, StorageError):
                raise problem
            else:
                failures[job.folder.name] = str(problem)
                reporter.begin(f"point {job.folder.name}")
                reporter.end(f"FAILED: {problem}")
    return busy


def _say_full_batch(point: Point, dataset: Dataset, reporter: Reporter) -> None:
    if point.batch_size > len(dataset.train):
        reporter.say(
            f"batch size {point.batch_size:,} is more than the {len(dataset.train):,} training images: "
            "every update uses them all"
        )
