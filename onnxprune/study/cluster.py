"""Bases and points as tasks of a Ray cluster: a base first, then the points that start from it.

Data and bases travel through Ray's object store. A task works in a folder of its own on its node and hands back the
files it made; this process, the driver, alone writes results, claims folders and knows what is done. What a lost node
was doing Ray does again on another one. While a point is timed, the other points on its node are suspended.
"""

import contextlib
import logging
import os
import signal
import tempfile
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, SupportsFloat

import psutil

from onnxprune.common.errors import BusyError, InputError, RunError, StorageError
from onnxprune.common.progress import Listener
from onnxprune.common.quiet import hushed
from onnxprune.data.dataset import Dataset
from onnxprune.models import MODELS
from onnxprune.results import store
from onnxprune.results.step import Rules, done_before
from onnxprune.settings.spec import BASES, Point
from onnxprune.study.jobs import Job, Materials

with hushed():
    try:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    except ImportError:
        raise InputError("--executor ray needs Ray: pip install 'onnxprune[ray]'") from None

_RETRIES = 3  # of a task whose node or process is lost
_WAITING = 2  # tasks in flight for each that can run: nodes need not wait for the driver
_SECONDS_TO_NOTICE = 1.0  # that the process which is timing has died

Files = dict[str, bytes]
Events = list[tuple[str, tuple[Any, ...]]]


@dataclass(frozen=True)
class ClusterSettings:
    """Where and how points run.

    Attributes:
        address: of a running cluster, as "ray://host:10001" or "auto"; None: one of this machine alone, for this run.
        gpus_per_point: share of a GPU that a point on CUDA gets; 1 or more: GPUs of its own.
    """

    address: str | None = None
    gpus_per_point: float = 1.0


@dataclass
class _Made:
    """What a task hands back: the folder it worked in, what it told its listener, and its error, if any."""

    files: Files
    events: Events
    error: str | None


class _Recorder:
    """A listener in a task; the driver tells its own what was told, once the task is over."""

    def __init__(self) -> None:
        self.events: Events = []

    def begin(self, name: str) -> None:
        self.events.append(("begin", (name,)))

    def stage(self, what: str) -> None:
        pass  # over when the driver hears of it

    def training(self, done: int, updates: int, loss: SupportsFloat) -> None:
        pass

    def candidate(self, name: str, drop: float, gain: float) -> None:
        self.events.append(("candidate", (name, drop, gain)))

    def end(self, outcome: str) -> None:
        self.events.append(("end", (outcome,)))

    def say(self, line: str) -> None:
        self.events.append(("say", (line,)))


@dataclass
class _Running:
    """A task that was handed to Ray; its folder stays claimed until `claim` is closed."""

    folder: Path
    base_id: str
    job: Job | None  # None: the base
    claim: ExitStack


@dataclass
class _Group:
    """A base and the points that wait for it, or run."""

    jobs: deque[Job]
    first: Point
    runs: Path
    base: Any = None  # its files, in the object store
    dataset: Any = None  # likewise


class Cluster:
    """An executor, as a context manager.

    Claims stay with the driver: a folder is claimed when its task is handed to Ray, and until its files are there.

    Args:
        points: of the whole plan, to see beforehand that the cluster can run them.
        workers: tasks that are given to Ray at a time; None: as many as keep it busy.

    Raises:
        InputError: the cluster cannot be reached, or has not what the points need.
    """

    _listener: Listener

    def __init__(
        self,
        settings: ClusterSettings,
        points: Sequence[Point],
        materials: Materials,
        workers: int | None,
    ) -> None:
        self._settings = settings
        self._materials = materials
        self._data: dict[tuple[Any, ...], Any] = {}
        self._namespace = f"onnxprune-{uuid.uuid4().hex[:8]}"
        self._started = not ray.is_initialized()
        if self._started:
            _connect(settings.address)
        try:
            self._threads = _base_threads()
            self._check(points)
            cpus = ray.cluster_resources().get("CPU", 1)
            able = int(cpus // max(point.threads for point in points)) if points else 1
            self._most = workers or _WAITING * max(1, able)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in ray.util.list_named_actors(all_namespaces=True):
            if actor["namespace"] == self._namespace:
                with contextlib.suppress(ValueError):  # its node is gone
                    ray.kill(ray.get_actor(actor["name"], self._namespace))
        if self._started:
            ray.shutdown()

    def _check(self, points: Sequence[Point]) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus = max(node.get("CPU", 0) for node in nodes)
        asked = max((point.threads for point in points), default=1)
        if asked > cpus:
            raise InputError(f"--threads {asked}: no node of the cluster has more than {cpus:g} processors")
        self._threads = min(self._threads, int(cpus))
        if any(point.device == "cuda" for point in points):
            gpus = max(node.get("GPU", 0) for node in nodes)
            if gpus < max(1, self._settings.gpus_per_point):
                raise InputError(
                    f"--device cuda: no node of the cluster has {max(1, self._settings.gpus_per_point):g} GPU(s) for "
                    "Ray to give away; start nodes with --num-gpus, or use --device cpu"
                )

    def run(
        self, groups: Mapping[str, Sequence[Job]], rules: Rules, listener: Listener
    ) -> Iterator[tuple[str | Job, RunError | None]]:
        """Runs bases and their points; yields a base that failed, or a point that is over, with its error."""
        self._listener = listener
        states = {base_id: _Group(deque(jobs), jobs[0].point, jobs[0].runs) for base_id, jobs in groups.items()}
        bases = deque(states)
        ready: deque[str] = deque()
        running: dict[Any, _Running] = {}
        try:
            while bases or ready or running:
                while len(running) < self._most and (ready or bases):
                    if ready:
                        group = states[ready[0]]
                        job = group.jobs.popleft()
                        base_id = ready[0]
                        if not group.jobs:
                            ready.popleft()
                        over = self._begin(job, base_id, group, rules, running)
                        if over is not None:
                            yield job, over[0]
                    else:
                        base_id = bases.popleft()
                        problem = self._begin_base(base_id, states[base_id], rules, running)
                        if problem is not None:
                            yield base_id, problem
                        elif states[base_id].base is not None:
                            ready.append(base_id)
                if not running:
                    continue
                (reference,), _ = ray.wait(list(running), num_returns=1)
                task = running.pop(reference)
                group = states[task.base_id]
                problem = self._end(reference, task)
                if task.job is not None:
                    if not group.jobs and all(other.base_id != task.base_id for other in running.values()):
                        group.base = None  # the object store may forget it
                    yield task.job, problem
                elif problem is not None:
                    yield task.base_id, problem
                else:
                    group.base = ray.put(store.contents(task.folder))
                    ready.append(task.base_id)
        finally:
            for reference, task in running.items():
                ray.cancel(reference, force=True)
                task.claim.close()

    def _begin_base(self, base_id: str, group: _Group, rules: Rules, running: dict[Any, _Running]) -> RunError | None:
        """Hands a base to Ray, unless it is there already; returns why it cannot be had."""
        folder = group.runs / BASES / base_id
        group.dataset = self._dataset(group.first)
        claim = ExitStack()
        claim.enter_context(store.claimed(folder))
        try:
            record = done_before(folder, rules, self._listener)
        except RunError as error:
            claim.close()
            return error
        if record is not None:
            claim.close()
            self._tell([("begin", (f"base {base_id}",)), ("end", ("reused",))])
            group.base = ray.put(store.contents(folder))
            return None
        task = _base_task.options(
            num_cpus=max(self._threads, group.first.devices),
            num_gpus=group.first.devices if group.first.device == "cuda" else 0,
            max_retries=_RETRIES,
        )
        running[task.remote(group.first, group.dataset, self._threads)] = _Running(folder, base_id, None, claim)
        return None

    def _begin(
        self, job: Job, base_id: str, group: _Group, rules: Rules, running: dict[Any, _Running]
    ) -> tuple[RunError | None] | None:
        """Hands a point to Ray; where it is over already, returns its error, or None for none, in a tuple."""
        claim = ExitStack()
        if not claim.enter_context(store.claimed(job.folder, wait=rules.wait)):
            return (BusyError(f"another process is running {job.folder}"),)
        try:
            record = done_before(job.folder, rules, self._listener)
        except RunError as error:
            claim.close()
            return (error,)
        if record is not None:
            claim.close()
            self._tell([("begin", (f"point {job.folder.name}",)), ("end", ("already done",))])
            return (None,)
        task = _point_task.options(
            num_cpus=max(job.point.threads, job.point.devices),
            num_gpus=self._gpus(job.point),
            max_retries=_RETRIES,
        )
        reference = task.remote(job.point, job.folder.name, base_id, group.dataset, group.base, self._namespace)
        running[reference] = _Running(job.folder, base_id, job, claim)
        return None

    def _end(self, reference: Any, task: _Running) -> RunError | None:
        """Takes what a task made into its folder; returns its error."""
        with task.claim:
            try:
                made: _Made = ray.get(reference)
            except ray.exceptions.RayError as error:  # what the task itself raises comes back as `error`
                reason = f"lost by the cluster, {_RETRIES + 1} times: {' '.join(str(error).split())[:200]}"
                store.make_folder(task.folder)
                store.write_error(task.folder, reason, str(error))
                return RunError(reason)
            try:
                store.receive(task.folder, made.files)
            except OSError as error:
                return StorageError(
                    f"cannot write to {task.folder}: {error.strerror or error}; what is finished is kept, the same "
                    "command again goes on from there"
                )
        self._tell(made.events)
        return None if made.error is None else RunError(made.error)

    def _gpus(self, point: Point) -> float:
        if point.device != "cuda":
            return 0
        return self._settings.gpus_per_point if point.devices == 1 else point.devices

    def _tell(self, events: Events) -> None:
        for method, arguments in events:
            getattr(self._listener, method)(*arguments)

    def _dataset(self, point: Point) -> Any:
        """The data of a point in the object store, put there once."""
        settings = (point.dataset, point.train_limit, MODELS[point.model].minimum_size)
        if settings not in self._data:
            self._data[settings] = ray.put(self._materials.dataset(point))
        return self._data[settings]


def _connect(address: str | None) -> None:
    how: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
    try:
        with hushed():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **how)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"--address {address}: no Ray cluster can be reached there: {reason}") from None


def _base_threads() -> int:
    """Those that a base on this machine alone would get, so that its sums are the same."""
    with hushed():
        import torch
    return torch.get_num_threads()


# What runs on the nodes


@ray.remote
def _base_task(point: Point, dataset: Dataset, threads: int) -> _Made:
    with hushed():
        import torch

        from onnxprune.study.base import ensure_base
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as runs:
        folder = Path(runs) / BASES / point.base_id(dataset.checksum)
        return _made(folder, lambda listener: ensure_base(point, dataset, Path(runs), listener, Rules()))


@ray.remote
def _point_task(point: Point, name: str, base_id: str, dataset: Dataset, base: Files, namespace: str) -> _Made:
    with hushed():
        from onnxprune.study.point import run_point
    loaded = _load_base(point, base_id, dataset, base)
    gate = _gate(namespace)
    own = os.getpid()
    # never ray.get: Ray would count the task as waiting and start another one in its place meanwhile
    gate.register.remote(own)

    @contextlib.contextmanager
    def alone() -> Iterator[None]:
        gate.enter.remote(own).future().result()
        try:
            yield
        finally:
            gate.leave.remote(own)

    try:
        with tempfile.TemporaryDirectory(prefix="onnxprune-") as sweep:
            folder = Path(sweep) / name
            return _made(folder, lambda listener: run_point(point, loaded, dataset, folder, listener, Rules(), alone))
    finally:
        gate.unregister.remote(own)


def _made(folder: Path, work: Any) -> _Made:
    recorder = _Recorder()
    error = None
    try:
        work(recorder)
    except StorageError:
        raise  # of the node's disk: the task is tried elsewhere
    except RunError as caught:
        error = str(caught)
    return _Made(store.contents(folder), recorder.events, error)


_loaded: tuple[str, Any, tempfile.TemporaryDirectory[str]] | None = None


def _load_base(point: Point, base_id: str, dataset: Dataset, files: Files) -> Any:
    """The base, kept from task to task in a process: the next one mostly starts from the same."""
    global _loaded
    with hushed():
        from onnxprune.study.base import load_base
    if _loaded is None or _loaded[0] != base_id:
        runs = tempfile.TemporaryDirectory(prefix="onnxprune-base-")
        store.receive(Path(runs.name) / BASES / base_id, files)
        _loaded = (base_id, load_base(point, dataset, Path(runs.name)), runs)
    return _loaded[1]


class _Gate:
    """Of a node: lets one point at a time have its processors, and suspends the others meanwhile."""

    def __init__(self) -> None:
        import asyncio

        self._points: set[int] = set()
        self._free = asyncio.Lock()
        self._inside: int | None = None
        self._watch = asyncio.ensure_future(self._watching())

    async def register(self, process: int) -> None:
        self._points.add(process)

    async def unregister(self, process: int) -> None:
        self._points.discard(process)

    async def enter(self, process: int) -> None:
        await self._free.acquire()
        self._inside = process
        self._signal(signal.SIGSTOP)

    async def leave(self, process: int) -> None:
        if self._inside == process:
            self._signal(signal.SIGCONT)
            self._inside = None
            self._free.release()

    def _signal(self, number: int) -> None:
        for process in self._points - {self._inside}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    async def _watching(self) -> None:
        """Nobody stays suspended because the one inside has died."""
        import asyncio

        while True:
            await asyncio.sleep(_SECONDS_TO_NOTICE)
            self._points = {process for process in self._points if psutil.pid_exists(process)}
            if self._inside is not None and not psutil.pid_exists(self._inside):
                await self.leave(self._inside)


def _gate(namespace: str) -> Any:
    node = ray.get_runtime_context().get_node_id()
    return (
        ray.remote(_Gate)
        .options(
            num_cpus=0,
            name=f"gate-{node}",
            namespace=namespace,
            get_if_exists=True,
            lifetime="detached",
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        .remote()
    )
