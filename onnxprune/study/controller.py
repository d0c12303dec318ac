"""The main controller: runs a plan's bases and points, and derives the table."""

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

from onnxprune.common.errors import BusyError, InputError, RunError, StorageError, just_written
from onnxprune.common.files import make_folder, write_text
from onnxprune.common.output import plural, silenced
from onnxprune.common.progress import Reporter, Verbosity, waiting
from onnxprune.results import store
from onnxprune.results.task import RetryPolicy
from onnxprune.settings.point import BASES, Point
from onnxprune.settings.sweep import Sweep
from onnxprune.study import former, soundness
from onnxprune.study.alignment import with_measured_step
from onnxprune.study.estimate import check_room
from onnxprune.study.executors import EXECUTORS, Executor, make_settings
from onnxprune.study.feasibility import check_prunable
from onnxprune.study.jobs import Job, Materials
from onnxprune.study.pool import POSSIBLE, worker_count
from onnxprune.study.reuse import Reused
from onnxprune.study.tracking import Tracking

if TYPE_CHECKING:
    import pandas as pd

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


def run_sweep(
    plan: Sweep,
    runs: Path = DEFAULT_RUNS,
    data_dir: Path | None = None,
    *,
    retry_failed: bool = False,
    verbosity: Verbosity = Verbosity.NORMAL,
    track: Sequence[str] = (),
    workers: int | None = None,
    executor: str = "local",
    executor_settings: Any = None,
    others: Literal["refuse", "replace", "keep"] = "refuse",
    said: set[str] | None = None,
) -> Outcome:
    """Runs every point of the plan that `runs` does not have yet, and writes the tables.

    A point that fails is recorded in its folder and listed in the outcome; the others go on. One that failed before is
    only listed, unless `retry_failed`. Points that another process is running are waited for, at the end.

    Args:
        track: names of the trackers that get every finished point.
        workers: processes that run points side by side; 1: this one alone; default: as many as pay. On a cluster: the
            points that run at a time.
        executor: who runs bases and points, a name of `EXECUTORS`.
        executor_settings: its own, as `onnxprune.study.cluster.ClusterSettings` for "ray"; None: its defaults.
        others: what is done where the plan's folder has points that the plan has not, of a former study of its name.
        said: notes that need not be said again; those that are said are added. None: none.

    Raises:
        InputError: the data cannot be had, or the device, the cluster or a tracker is not there, or no workers are
            possible, or networks cannot be pruned as points ask, or start from weights that do not fit, or the folder
            has points of another study.
        RunError: disk or memory do not suffice for the plan, or its folder was removed meanwhile.
        StorageError: results cannot be written any more.
    """
    kind = EXECUTORS[executor]
    if kind.here:
        _check_machine(plan, workers)
    folder = runs / plan.name
    plan = with_measured_step(plan, None if others == "replace" else folder, verbosity)
    # before anything is written or trained: most mistakes show here
    materials = Materials(data_dir, verbosity)
    points = {folder / point.point_id(materials.dataset(point).checksum): point for point in plan.points}
    named = {path.name: point for path, point in points.items()}
    if others == "refuse":
        former.refuse(folder, named, plan.points)
    missing = [point for path, point in points.items() if not (path / store.METRICS).exists()]
    count = 0 if not kind.here else worker_count(missing) if workers is None else min(workers, len(missing))
    check_possible(missing, materials, runs, max(1, count), verbosity)
    tracking = Tracking(track, folder)
    if executor_settings is None:
        executor_settings = make_settings(executor, {})
    with contextlib.ExitStack() as stack:
        made = resolve_name(kind.make)(executor_settings, plan.points, materials, count if kind.here else workers)
        running = stack.enter_context(made)
        _begin(folder, plan, named if others == "replace" else None)
        bases = {point.base_id(materials.dataset(point).checksum) for point in plan.points}
        reporter = stack.enter_context(Reporter(len(bases) + len(points), verbosity))
        sweep = _RunningSweep(runs, materials, running, reporter, tracking, set() if said is None else said)
        sweep.say((*_reused(points, runs, materials, here=kind.here), *(materials.notes if missing else ())))
        if missing and reporter.live:
            reporter.say("Ctrl-C keeps everything finished; only the bases and points in progress start over.")
        busy = sweep.run(points, RetryPolicy(retry_failed, wait=False))
        if busy:
            reporter.say(f"waiting for another process, which runs {plural(len(busy), 'point')}")
            sweep.run(busy, RetryPolicy(retry_failed, wait=True))
        for problem in tracking.problems:
            reporter.say(problem)
    with store.claimed(folder / store.SPEC), just_written():
        from onnxprune.results.tables import write_tables

        return Outcome(folder, write_tables(folder, reporter.say), sweep.failures)


def _check_machine(plan: Sweep, workers: int | None) -> None:
    """Sees that this machine can run a plan as it is asked to.

    Raises:
        InputError: it cannot.
    """
    if workers is not None and workers > 1 and not POSSIBLE:
        raise InputError("--workers: this system cannot suspend a process while another is timing; use --workers 1")
    with silenced():
        from onnxprune.training.device import select_device

    for device in {point.device for point in plan.points}:
        select_device(device)


def _begin(folder: Path, plan: Sweep, alone: Collection[str] | None) -> None:
    """Makes a folder the plan's.

    Args:
        alone: names of the folders of points that stay, the others are removed; None: all stay.
    """
    make_folder(folder)
    with store.claimed(folder / store.SPEC):
        store.remove_partial(folder)
        if alone is not None:
            former.remove(former.others(folder, alone))
        write_text(folder / store.SPEC, plan.to_toml())


def check_possible(
    points: Sequence[Point], materials: Materials, runs: Path, workers: int, verbosity: Verbosity
) -> None:
    """Sees that points can be run, before anything is trained or removed for them.

    Raises:
        InputError: their data do not suffice, or a network cannot be pruned as they ask.
        RunError: disk or memory do not suffice.
    """
    with waiting("checking that the networks can be pruned", verbosity):
        soundness.check(points, materials)
        check_room(points, runs, workers)
        check_prunable(points, materials)


def _reused(points: Mapping[Path, Point], runs: Path, materials: Materials, *, here: bool) -> list[str]:
    """What is said of points, folder -> point, and bases that are there already; of other machines nothing is known."""
    found = Reused()
    bases = {runs / BASES / point.base_id(materials.dataset(point).checksum): point for point in points.values()}
    for folder, point in (*bases.items(), *points.items()) if here else ():
        record = store.finished_record(folder)
        if record is not None:
            found.look(folder.name, record, point.device)
    return found.lines()


@dataclass(frozen=True)
class _RunningSweep:
    """A sweep that is being run; `failures` has the name of each base and point that failed, with the reason, and
    `said` the notes that were said."""

    runs: Path
    materials: Materials
    executor: Executor
    reporter: Reporter
    tracking: Tracking
    said: set[str]
    failures: dict[str, str] = field(default_factory=dict)

    def say(self, lines: Iterable[str]) -> None:
        """Each once."""
        for line in lines:
            if line not in self.said:
                self.said.add(line)
                self.reporter.say(line)

    def run(self, points: Mapping[Path, Point], retry: RetryPolicy) -> dict[Path, Point]:
        """Runs points, those of a base after it; returns those that another process is running.

        Args:
            points: folder -> point, those of a base next to each other.
        """
        busy: dict[Path, Point] = {}
        groups: dict[str, list[Job]] = {}
        for folder, point in points.items():
            dataset = self.materials.dataset(point)
            base_id = point.base_id(dataset.checksum)
            if base_id not in groups:
                self.say(soundness.notes_of_base(point, dataset))
            self.say(soundness.notes_of_point(point, dataset))
            job = Job(folder, point, self.runs, self.materials.data_dir, retry)
            groups.setdefault(base_id, []).append(job)
        for done, problem in self.executor.run(groups, retry, self.reporter):
            if isinstance(problem, StorageError):
                raise problem
            if isinstance(done, str):
                self._failed(f"base {done}", done, problem)
                self.failures.update({job.folder.name: f"its base {done} failed" for job in groups[done]})
            elif problem is None:
                record = store.finished_record(done.folder)
                if record is not None:
                    self.say(soundness.notes_of_result(done.point, record["metrics"]))
                    self.tracking.point(done.folder, done.point.settings(), record)
            elif isinstance(problem, BusyError):
                busy[done.folder] = done.point
            else:
                self._failed(f"point {done.folder.name}", done.folder.name, problem)
        return busy

    def _failed(self, title: str, name: str, problem: RunError | None) -> None:
        self.failures[name] = str(problem)
        self.reporter.begin(title)
        self.reporter.end(f"FAILED: {problem}")
