"""The main controller: runs a plan's bases and points, and derives the table."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.common.errors import BusyError, InputError, RunError, StorageError
from onnxprune.common.files import make_folder, write_text
from onnxprune.common.output import silenced
from onnxprune.common.progress import Reporter, Verbosity
from onnxprune.data.dataset import Dataset
from onnxprune.results import store
from onnxprune.results.step import RetryPolicy
from onnxprune.settings.point import Point
from onnxprune.settings.sweep import Sweep
from onnxprune.study.estimate import check_room
from onnxprune.study.jobs import Job, Materials, in_turn
from onnxprune.study.pool import POSSIBLE, Pool, worker_count
from onnxprune.study.tracking import Tracking

if TYPE_CHECKING:
    import pandas as pd

    from onnxprune.study.cluster import Cluster, ClusterSettings

DEFAULT_RUNS = Path("experiments/runs")

Run = Callable[[Sequence[Job]], Iterator[tuple[Job, RunError | None]]]
Groups = Mapping[str, Sequence[Job]]  # name of a base -> the jobs that need it
# runs groups; yields the name of a base that failed, or a job that is over, with the error, None where it is done
Executor = Callable[[Groups, RetryPolicy], Iterator[tuple[str | Job, RunError | None]]]


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
    ray: "ClusterSettings | None" = None,
) -> Outcome:
    """Runs every point of the plan that `runs` does not have yet, and writes the tables.

    A point that fails is recorded in its folder and listed in the outcome; the others go on. One that failed before is
    only listed, unless `retry_failed`. Points that another process is running are waited for, at the end.

    Args:
        track: names of the trackers that get every finished point.
        workers: processes that run points side by side; 1: this one alone; default: as many as pay. On a cluster: the
            points that run at a time.
        ray: run on this Ray cluster instead of this machine.

    Raises:
        InputError: the data cannot be had, or the device, the cluster or a tracker is not there, or no workers are
            possible.
        RunError: disk or memory do not suffice for the plan.
        StorageError: results cannot be written any more.
    """
    if ray is None and workers is not None and workers > 1 and not POSSIBLE:
        raise InputError("--workers: this system cannot suspend a process while another is timing; use --workers 1")
    if ray is None:
        with silenced():
            from onnxprune.training.device import select_device

        for device in {point.device for point in plan.points}:
            select_device(device)
    # before anything is written or trained: most mistakes show here
    materials = Materials(data_dir)
    folder = runs / plan.name
    points = {folder / point.point_id(materials.dataset(point).checksum): point for point in plan.points}
    missing = [point for path, point in points.items() if not (path / store.METRICS).exists()]
    count = 0 if ray is not None else worker_count(missing) if workers is None else min(workers, len(missing))
    check_room(missing, runs, max(1, count))
    tracking = Tracking(track, folder)
    with contextlib.ExitStack() as stack:
        cluster = None if ray is None else stack.enter_context(_cluster(ray, plan.points, materials, workers))
        make_folder(folder)
        with store.claimed(folder / store.SPEC):
            store.remove_partial(folder)
            write_text(folder / store.SPEC, plan.to_toml())
        failures: dict[str, str] = {}
        bases = len({tuple(point.base_settings().items()) for point in plan.points})
        reporter = stack.enter_context(Reporter(bases + len(points), verbosity))
        if cluster is not None:
            execute: Executor = functools.partial(cluster.run, listener=reporter)
        else:
            run: Run = functools.partial(in_turn, materials=materials, listener=reporter)
            if count > 1:
                run = stack.enter_context(Pool(count, reporter)).run
            execute = functools.partial(_here, materials=materials, listener=reporter, run=run)
        arguments = (materials, runs, data_dir, execute, reporter, tracking)
        busy = _run_points(points, *arguments, RetryPolicy(retry_failed, wait=False), failures)
        if busy:
            reporter.say(f"{len(busy)} points are being run by another process: waiting for it")
            _run_points(busy, *arguments, RetryPolicy(retry_failed, wait=True), failures)
        for problem in tracking.problems:
            reporter.say(problem)
    with store.claimed(folder / store.SPEC):
        return Outcome(folder, store.write_tables(folder), failures)


def _cluster(
    settings: "ClusterSettings", points: Sequence[Point], materials: Materials, workers: int | None
) -> "Cluster":
    from onnxprune.study.cluster import Cluster

    return Cluster(settings, points, materials, workers)


def _run_points(
    points: Mapping[Path, Point],
    materials: Materials,
    runs: Path,
    data_dir: Path | None,
    execute: Executor,
    reporter: Reporter,
    tracking: Tracking,
    retry: RetryPolicy,
    failures: dict[str, str],
) -> dict[Path, Point]:
    """Runs points, those of a base after it; returns those that another process is running.

    Args:
        points: folder -> point, those of a base next to each other.
        failures: gets the name of each base and point that failed, with the reason.
    """
    busy: dict[Path, Point] = {}
    groups: dict[str, list[Job]] = {}
    for folder, point in points.items():
        base_id = point.base_id(materials.dataset(point).checksum)
        if base_id not in groups:
            _say_full_batch(point, materials.dataset(point), reporter)
        groups.setdefault(base_id, []).append(Job(folder, point, runs, data_dir, retry))
    for done, problem in execute(groups, retry):
        if isinstance(problem, StorageError):
            raise problem
        if isinstance(done, str):
            failures[done] = str(problem)
            reporter.begin(f"base {done}")
            reporter.end(f"FAILED: {problem}")
            failures |= {job.folder.name: f"its base {done} failed" for job in groups[done]}
        elif problem is None:
            record = store.finished_record(done.folder)
            if record is not None:
                tracking.point(done.folder, done.point.settings(), record)
        elif isinstance(problem, BusyError):
            busy[done.folder] = done.point
        else:
            failures[done.folder.name] = str(problem)
            reporter.begin(f"point {done.folder.name}")
            reporter.end(f"FAILED: {problem}")
    return busy


def _here(
    groups: Groups, retry: RetryPolicy, *, materials: Materials, listener: Reporter, run: Run
) -> Iterator[tuple[str | Job, RunError | None]]:
    """The executor of this machine: each base in this process, then its points."""
    with silenced():
        from onnxprune.study.base import ensure_base

    for base_id, jobs in groups.items():
        first = jobs[0]
        try:
            # all points need it
            dataset = materials.dataset(first.point)
            ensure_base(first.point, dataset, first.runs, listener, dataclasses.replace(retry, wait=True))
        except RunError as error:
            yield base_id, error
        else:
            yield from run(jobs)


def _say_full_batch(point: Point, dataset: Dataset, reporter: Reporter) -> None:
    if point.batch_size > len(dataset.train):
        reporter.say(
            f"batch size {point.batch_size:,} is more than the {len(dataset.train):,} training images: "
            "every update uses them all"
        )
