"""Bases and points as tasks of a Ray cluster: a base first, then the points that start from it.

Data, bases and the user's own files travel through Ray's object store. A task works in a folder of its own on its node
and hands back the files it made; this process, the driver, alone writes results, claims folders and knows what is done.
What a lost node was doing Ray does again on another one. While a point is timed, the other points on its node are
suspended. A point whose network another one makes ends there, waits for that one, and is then given what it made.
"""

import contextlib
import logging
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from onnxprune.common.errors import BusyError, InputError, RunError, StorageError, one_line
from onnxprune.common.files import make_folder
from onnxprune.common.output import plural, silenced
from onnxprune.common.progress import Listener
from onnxprune.results import store
from onnxprune.results.task import RetryPolicy, done_before, unfinished
from onnxprune.settings.point import BASES, Point
from onnxprune.study.cluster_tasks import Events, Made, MadeElsewhere, Networks, SentTwin, base_task, point_task
from onnxprune.study.jobs import Job, Materials, check_unchanged, data_settings
from onnxprune.study.ray_library import ray
from onnxprune.study.twins import note_maker, noted_makers

_RETRIES = 3  # of a task whose node or process is lost

_WAITING = 2  # tasks in flight for each that can run: nodes need not wait for the driver


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
    sent: Any = None  # likewise: the user's own files that the settings name


class _Queue:
    """What Ray has not been given yet.

    Attributes:
        bases: those that no task was made of.
        ready: those that are there, of which points are left.
    """

    def __init__(self, groups: Mapping[str, Sequence[Job]]) -> None:
        self.groups = {base_id: _Group(deque(jobs), jobs[0].point, jobs[0].runs) for base_id, jobs in groups.items()}
        self.bases = deque(self.groups)
        self.ready: deque[str] = deque()

    @property
    def holds_some(self) -> bool:
        return bool(self.bases or self.ready)

    def next_point(self) -> tuple[str, Job]:
        """A point whose base is there, and that base."""
        base_id = self.ready[0]
        jobs = self.groups[base_id].jobs
        job = jobs.popleft()
        if not jobs:
            self.ready.popleft()
        return base_id, job

    def add(self, base_id: str, job: Job) -> None:
        """Once more, a point whose base is there."""
        self.groups[base_id].jobs.append(job)
        if base_id not in self.ready:
            self.ready.append(base_id)


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
    _twins: "_Twins"

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
                    f"--device cuda: no node of the cluster has {plural(max(1, self._settings.gpus_per_point), 'GPU')} "
                    "for Ray to give away; start nodes with --num-gpus, or use --device cpu"
                )

    def run(
        self, groups: Mapping[str, Sequence[Job]], retry: RetryPolicy, listener: Listener
    ) -> Iterator[tuple[str | Job, RunError | None]]:
        """Runs bases and their points; yields a base that failed, or a point that is over, with its error."""
        self._listener = listener
        queue = _Queue(groups)
        running: dict[Any, _Running] = {}
        self._twins = _Twins({job.folder.parent for jobs in groups.values() for job in jobs})
        try:
            while queue.holds_some or running:
                yield from self._fill(queue, retry, running)
                if running:
                    (reference,), _ = ray.wait(list(running), num_returns=1)
                    task = running.pop(reference)
                    yield from self._over(task, self._end(reference, task), queue, running)
        finally:
            for reference, task in running.items():
                ray.cancel(reference, force=True)
                task.claim.close()

    def _fill(
        self, queue: "_Queue", retry: RetryPolicy, running: dict[Any, _Running]
    ) -> Iterator[tuple[str | Job, RunError | None]]:
        """Hands tasks to Ray, as many as it is to have; yields what fails or is over without it."""
        while len(running) < self._most and queue.holds_some:
            if queue.ready:
                base_id, job = queue.next_point()
                over = self._begin(job, base_id, queue.groups[base_id], retry, running)
                if over is not None:
                    yield job, over[0]
            else:
                base_id = queue.bases.popleft()
                problem = self._begin_base(base_id, queue.groups[base_id], retry, running)
                if problem is not None:
                    yield base_id, problem
                elif queue.groups[base_id].base is not None:
                    queue.ready.append(base_id)

    def _over(
        self,
        task: _Running,
        problem: RunError | MadeElsewhere | None,
        queue: "_Queue",
        running: Mapping[Any, _Running],
    ) -> Iterator[tuple[str | Job, RunError | None]]:
        """What follows from a task that has ended; yields it, unless it waits for another one or is a base."""
        if task.job is not None:
            working = {other.folder for other in running.values()}
            for base_id, twin in self._twins.over(task.base_id, task.job, problem, working):
                queue.add(base_id, twin)
            if not isinstance(problem, MadeElsewhere):
                in_use = {*(other.base_id for other in running.values()), *self._twins.bases}
                group = queue.groups[task.base_id]
                if not group.jobs and task.base_id not in in_use:
                    group.base = None  # the object store may forget it
                yield task.job, problem
        elif isinstance(problem, RunError):
            yield task.base_id, problem
        else:
            queue.groups[task.base_id].base = ray.put(store.contents(task.folder))
            queue.ready.append(task.base_id)

    def _begin_base(
        self, base_id: str, group: _Group, retry: RetryPolicy, running: dict[Any, _Running]
    ) -> RunError | None:
        """Hands a base to Ray, unless it is there already; returns why it cannot be had."""
        folder = group.runs / BASES / base_id
        try:
            check_unchanged(group.first, self._materials, base_id=base_id)
            sent = {str(path): path.read_bytes() for path in group.first.source_files()}
            check_unchanged(group.first, self._materials, base_id=base_id)  # it is what was read
        except RunError as error:
            return error
        group.dataset, group.sent = self._dataset(group.first), ray.put(sent)
        claim = ExitStack()
        claim.enter_context(store.claimed(folder))
        try:
            record = done_before(folder, retry, self._listener)
        except RunError as error:
            claim.close()
            return error
        if record is not None:
            claim.close()
            self._tell([("begin", (f"base {base_id}",)), ("end", ("reused",))])
            group.base = ray.put(store.contents(folder))
            return None
        task = base_task.options(
            num_cpus=max(self._threads, group.first.devices),
            num_gpus=group.first.devices if group.first.device == "cuda" else 0,
            max_retries=_RETRIES,
        )
        reference = task.remote(group.first, base_id, group.dataset, group.sent, self._threads)
        running[reference] = _Running(folder, base_id, None, claim)
        return None

    def _begin(
        self, job: Job, base_id: str, group: _Group, retry: RetryPolicy, running: dict[Any, _Running]
    ) -> tuple[RunError | None] | None:
        """Hands a point to Ray; where it is over already, returns its error, or None for none, in a tuple."""
        claim = ExitStack()
        if not claim.enter_context(store.claimed(job.folder, wait=retry.wait)):
            return (BusyError(f"another process is running {job.folder}"),)
        try:
            record = done_before(job.folder, retry, self._listener)
        except RunError as error:
            claim.close()
            return (error,)
        if record is not None:
            claim.close()
            self._tell([("begin", (f"point {job.folder.name}",)), ("end", ("already done",))])
            return (None,)
        task = point_task.options(
            num_cpus=max(job.point.threads, job.point.devices),
            num_gpus=self._gpus(job.point),
            max_retries=_RETRIES,
        )
        twin, networks = self._twins.maker_of(job.folder), self._twins.networks
        data = (group.dataset, group.sent, group.base)
        reference = task.remote(job, base_id, *data, twin, networks, self._namespace)
        running[reference] = _Running(job.folder, base_id, job, claim)
        return None

    def _end(self, reference: Any, task: _Running) -> RunError | MadeElsewhere | None:
        """Takes what a task made into its folder; returns its error, or who makes its network."""
        with task.claim:
            try:
                made: Made = ray.get(reference)
            except ray.exceptions.RayError as error:  # what the task itself raises comes back as `error`
                reason = f"lost by the cluster, {_RETRIES + 1} times: {one_line(error)}"
                make_folder(task.folder)
                store.write_error(task.folder, reason, str(error))
                return RunError(reason)
            if made.same_as is not None:
                return made.same_as
            try:
                store.receive(task.folder, made.files)
                record = store.finished_record(task.folder)
                if task.job is not None and record is not None and "twin" not in record:
                    note_maker(task.folder, record["metrics"]["network_id"])
            except (OSError, StorageError) as error:
                return unfinished(task.folder, error)
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
        settings = data_settings(point)
        if settings not in self._data:
            self._data[settings] = ray.put(self._materials.dataset(point))
        return self._data[settings]


class _Twins:
    """Points whose network another point makes: they wait for that one.

    Args:
        sweeps: folders that the points are in.
    """

    def __init__(self, sweeps: Iterable[Path]) -> None:
        known = {identity: name for sweep in sweeps for identity, name in noted_makers(sweep).items()}
        # what one that is started again has forgotten is made once more, which is all
        how = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
        self.networks: Any = ray.remote(Networks).options(**how).remote(known)
        self._makers: dict[Path, MadeElsewhere] = {}
        self._waiting: dict[Path, list[tuple[str, Job]]] = {}

    @property
    def bases(self) -> set[str]:
        """Those that the waiting ones start from."""
        return {base_id for waiting in self._waiting.values() for base_id, _ in waiting}

    def maker_of(self, folder: Path) -> SentTwin | None:
        """The finished point that has made the network of another one, as far as is known."""
        same = self._makers.get(folder)
        if same is None or store.finished_record(folder.with_name(same.maker)) is None:
            return None
        return SentTwin(same.identity, same.maker, store.contents(folder.with_name(same.maker)))

    def over(
        self, base_id: str, job: Job, problem: RunError | MadeElsewhere | None, working: set[Path]
    ) -> list[tuple[str, Job]]:
        """Points that are to be given to Ray again, with the bases they start from, now that a task has ended.

        Args:
            working: folders of the tasks that have not.
        """
        if not isinstance(problem, MadeElsewhere):
            if problem is not None:
                self.networks.forget.remote(job.folder.name)
            return self._waiting.pop(job.folder, [])
        self._makers[job.folder] = problem
        maker = job.folder.with_name(problem.maker)
        if maker in working:
            self._waiting.setdefault(maker, []).append((base_id, job))
            return []
        if store.finished_record(maker) is None:  # it has failed, or its files were damaged and set aside
            self.networks.forget.remote(problem.maker)
        return [(base_id, job)]


def _connect(address: str | None) -> None:
    how: dict[str, Any] = {"address": address} if address else {"include_dashboard": False}
    try:
        with silenced():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **how)
    except (ConnectionError, ValueError, RuntimeError) as error:
        what = f"--address {address}: no Ray cluster can be reached there" if address else "Ray cannot be started here"
        raise InputError(f"{what}: {one_line(error)}") from None


def _base_threads() -> int:
    """Those that a base on this machine alone would get, so that its sums are the same."""
    with silenced():
        import torch
    return torch.get_num_threads()
