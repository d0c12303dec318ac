"""Points side by side in processes: the same results as one after the other, whatever happens to a process."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import faults
import pandas as pd
import psutil
import pytest
import warm

from onnxprune.common.errors import RunError
from onnxprune.common.progress import Reporter, Verbosity
from onnxprune.results import store
from onnxprune.results.task import RetryPolicy
from onnxprune.settings.point import Point
from onnxprune.settings.sweep import Sweep
from onnxprune.study import pool as workers
from onnxprune.study.controller import run_sweep
from onnxprune.study.jobs import Job, Materials, longest_first
from onnxprune.study.pool import Pool, worker_count

PLAN = Sweep.parse({**faults.SETTINGS, "technique": "weight,neuron", "sparsity": [0, 50, 90]})


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one process."""
    runs = tmp_path_factory.mktemp("alone")
    assert not run_sweep(PLAN, runs, workers=1, verbosity=Verbosity.QUIET).failures
    return runs


class Watcher(Reporter):
    """Does something once, when the first of the workers is in a stage."""

    def __init__(self, stage: str, action: Any, times: int = 1) -> None:
        super().__init__(0, Verbosity.QUIET)
        self._stage, self._action, self._times = stage, action, times
        self.lines: list[str] = []

    def stage(self, what: str) -> None:
        if what == self._stage and self._times:
            self._times -= 1
            self._action()

    def say(self, line: str) -> None:
        self.lines.append(line)


def jobs_in(runs: Path, points: list[Point]) -> list[Job]:
    """Jobs on the base that `runs` has already."""
    checksum = Materials(None).dataset(points[0]).checksum
    return [Job(runs / "s" / point.point_id(checksum), point, runs, None, RetryPolicy()) for point in points]


def test_the_largest_networks_come_first_and_what_is_one_network_last(tmp_path: Path) -> None:
    plan = Sweep.parse({**faults.SETTINGS, "technique": "structured,weight,neuron", "sparsity": [0, 20, 90, 100]})
    order = [(job.point.technique, job.point.sparsity) for job in longest_first(jobs_in(tmp_path, plan.points))]
    whole = [("structured", 0), ("weight", 20), ("weight", 90)]
    smaller = [("structured", 20), ("neuron", 20), ("structured", 90), ("neuron", 90)]
    nothing = [("structured", 100), ("weight", 0), ("weight", 100), ("neuron", 0), ("neuron", 100)]
    assert order == [*whole, *smaller, *nothing]


def test_the_table_does_not_depend_on_the_number_of_workers(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "start", warm.Fresh)
    outcome = run_sweep(PLAN, tmp_path, workers=2, verbosity=Verbosity.QUIET)
    assert not outcome.failures
    assert not faults.leftovers(tmp_path)
    pd.testing.assert_frame_equal(faults.untimed(tmp_path), faults.untimed(alone))
    assert set(outcome.table["training_threads"]) == {1}
    again = run_sweep(PLAN, tmp_path, workers=2, verbosity=Verbosity.QUIET)
    assert again.table.equals(outcome.table), "what was done is done again"


@pytest.mark.slow  # five processes that import PyTorch
def test_a_worker_that_dies_costs_nothing_and_one_that_always_dies_its_point(alone: Path, tmp_path: Path) -> None:
    jobs = jobs_in(alone, PLAN.points)
    victims: list[str] = []

    def kill() -> None:
        worker = next(worker for worker in pool._workers if worker.job is not None)
        assert worker.job is not None
        victims.append(worker.job.folder.name)
        os.kill(worker._process.pid, signal.SIGKILL)

    listener = Watcher("pruning", kill)
    with Pool(2, listener) as pool:
        errors = {job.folder.name: error for job, error in pool.run(jobs)}
    assert len(victims) == 1
    assert errors == {job.folder.name: None for job in jobs}
    assert any(f"{victims[0]}: its process was killed (SIGKILL)" in line for line in listener.lines)
    assert all(store.finished_record(job.folder) for job in jobs)

    lasting = [Job(tmp_path / "s" / job.folder.name, job.point, alone, None, RetryPolicy()) for job in jobs[:1]]
    with Pool(1, Watcher("pruning", kill, times=2)) as pool:
        ((job, error),) = pool.run(lasting)
    assert isinstance(error, RunError)
    assert "2 times" in str(error)
    assert store.recorded_error(job.folder) == str(error)


def test_while_one_is_timing_the_others_stand_still(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "start", warm.Fresh)
    plan = Sweep.parse({**PLAN.values, "latency_seconds": 0.2})
    stopped: list[int] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.is_set():
            states = [psutil.Process(worker._process.pid).status() for worker in pool._workers]
            stopped.append(states.count(psutil.STATUS_STOPPED))
            time.sleep(0.001)

    jobs = [
        Job(tmp_path / job.folder.name, job.point, alone, None, RetryPolicy()) for job in jobs_in(alone, plan.points)
    ]
    with Pool(2, Reporter(0, Verbosity.QUIET)) as pool:
        thread = threading.Thread(target=sample)
        thread.start()
        errors = [error for _, error in pool.run(jobs)]
        ended.set()
        thread.join()
    assert errors == [None] * len(jobs)
    assert stopped.count(1) > 0
    assert stopped.count(2) == 0
    records = [store.finished_record(job.folder) for job in jobs]
    assert all(record is not None and record["metrics"]["latency_runs"] >= 40 for record in records)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_workers_end_with_their_caller(number: int, tmp_path: Path) -> None:
    process = faults.start([*faults.arguments(tmp_path, latency_seconds=0.5), "--workers=2"], tmp_path / "log.txt")
    while not list(tmp_path.glob("slp-*/*/model.onnx")):
        time.sleep(0.01)
        assert process.is_alive(), (tmp_path / "log.txt").read_text()
    children = [child for child in psutil.Process(process.pid).children() if "serve" in "".join(child.cmdline())]
    assert len(children) == 2
    os.kill(process.pid, number)
    assert faults.ended(process) == (130 if number == signal.SIGINT else -number)
    _, alive = psutil.wait_procs(children, 10)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    if number == signal.SIGINT:
        assert not faults.leftovers(tmp_path)


def test_as_many_workers_as_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(count: int, **changes: Any) -> list[Point]:
        return [Sweep.one_point({"model": "slp", "sparsity": share, **changes}).points[0] for share in range(count)]

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 4)
    monkeypatch.setattr(workers, "available_memory", lambda: 2**40)
    assert [worker_count(points(count)) for count in (0, 1, 7, 8, 12, 80)] == [0, 0, 0, 2, 3, 4]
    assert worker_count(points(80, threads=2)) == 2
    assert worker_count(points(80, threads=4)) == 0
    assert worker_count(points(80, device="cuda")) == 0
    monkeypatch.setattr(workers, "available_memory", lambda: 5 * 2**29)
    assert worker_count(points(80)) == 2


def test_a_worker_in_the_place_of_a_dead_one_stands_still_while_another_is_timing(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, bool]] = []

    class Silent(workers._Worker):
        made = 0

        def __init__(self, events: Any) -> None:
            self.job, self.dead, self.number = None, False, Silent.made
            Silent.made += 1

        def send(self, message: dict[str, Any]) -> bool:
            return True

        def suspend(self, suspended: bool) -> None:
            told.append((self.number, suspended))

        def ending(self) -> str:
            return "killed"

    monkeypatch.setattr(workers, "_Worker", Silent)
    pool = Pool(2, Reporter(0, Verbosity.QUIET))
    timing, dying = pool._workers
    for event in ((timing, {"timing": True}), (dying, None), (timing, {"over": None})):
        pool._events.put(event)
    results = pool.run(jobs_in(alone, PLAN.points)[:2])
    next(results)
    assert (2, True) in told, "the new one runs while the first is timing"
