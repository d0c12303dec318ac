"""What runs on the nodes of a Ray cluster: bases and points as tasks, a gate on each node for what is timed, and a
register of who makes which network."""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import psutil

from onnxprune.common.errors import InputError, RunError, StorageError
from onnxprune.common.output import silenced
from onnxprune.common.sent_files import keep_sent
from onnxprune.common.temporary import temporary_folder
from onnxprune.data.dataset import Dataset
from onnxprune.results import store
from onnxprune.results.task import RetryPolicy
from onnxprune.settings.point import BASES, Point
from onnxprune.study.jobs import Job
from onnxprune.study.ray_library import NodeAffinitySchedulingStrategy, ray

_SECONDS_TO_NOTICE = 1.0  # that the process which is timing has died

Files = dict[str, bytes]

Events = list[tuple[str, tuple[Any, ...]]]


class MadeElsewhere(BaseException):
    """Ends a task whose network another point makes, or has made: the driver gives it again with what that made."""

    def __init__(self, identity: str, maker: str) -> None:
        super().__init__(identity, maker)
        self.identity, self.maker = identity, maker


@dataclass
class SentTwin:
    """A point that has made a network, as its twins are given it."""

    identity: str
    maker: str
    files: Files


@dataclass
class Made:
    """What a task hands back: the folder it worked in, what it told its listener, and its error, if any; or who makes
    its network."""

    files: Files
    events: Events
    error: str | None
    same_as: "MadeElsewhere | None" = None


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


@ray.remote
def base_task(point: Point, base_id: str, dataset: Dataset, sent: Files, threads: int) -> Made:
    keep_sent(sent)
    with silenced():
        import torch

        from onnxprune.study.base import ensure_base
    torch.set_num_threads(threads)
    with temporary_folder() as runs:
        folder = Path(runs) / BASES / base_id
        return _made(folder, lambda listener: ensure_base(point, dataset, Path(runs), listener, RetryPolicy()))


@ray.remote
def point_task(
    job: Job,
    base_id: str,
    dataset: Dataset,
    sent: Files,
    base: Files,
    twin: SentTwin | None,
    networks: Any,
    namespace: str,
) -> Made:
    keep_sent(sent)
    point = job.point
    with silenced():
        from onnxprune.study import twins
        from onnxprune.study.point import PointRun, run_point
    loaded = _load_base(point, base_id, dataset, base)
    gate = _gate(namespace)
    own = os.getpid()
    # never ray.get: Ray would count the task as waiting and start another one in its place meanwhile
    gate.register.remote(own)

    @contextlib.contextmanager
    def exclusive() -> Iterator[None]:
        gate.enter.remote(own).future().result()
        try:
            yield
        finally:
            gate.leave.remote(own)

    def find_twin(folder: Path, identity: str, claim: contextlib.ExitStack) -> twins.Twin | None:
        maker = networks.maker.remote(identity, folder.name).future().result()
        if maker != folder.name and (twin is None or twin.maker != maker):
            raise MadeElsewhere(identity, maker)
        return twins.find_twin(folder, identity, claim)

    try:
        with temporary_folder() as sweep:
            folder = Path(sweep) / job.folder.name
            if twin is not None:
                store.receive(folder.with_name(twin.maker), twin.files)
                twins.note_maker(folder.with_name(twin.maker), twin.identity)
            return _made(
                folder,
                lambda listener: run_point(
                    PointRun(point, loaded, dataset, folder, listener, exclusive, find_twin), RetryPolicy()
                ),
            )
    except MadeElsewhere as same:
        return Made({}, [], None, same)
    finally:
        gate.unregister.remote(own)


def _made(folder: Path, work: Any) -> Made:
    recorder = _Recorder()
    error = None
    try:
        work(recorder)
    except StorageError:
        raise  # of the node's disk: the task is tried elsewhere
    except (InputError, RunError) as caught:  # a module of the user's that is not installed on this node, say
        error = str(caught)
    return Made(store.contents(folder), recorder.events, error)


_loaded: tuple[str, Any, tempfile.TemporaryDirectory[str]] | None = None


def _load_base(point: Point, base_id: str, dataset: Dataset, files: Files) -> Any:
    """The base, kept from task to task in a process: the next one mostly starts from the same."""
    global _loaded
    with silenced():
        from onnxprune.study.base import load_base
    if _loaded is None or _loaded[0] != base_id:
        runs = temporary_folder()
        store.receive(Path(runs.name) / BASES / base_id, files)
        _loaded = (base_id, load_base(point, dataset, Path(runs.name)), runs)
    return _loaded[1]


class Networks:
    """Who makes which network.

    Args:
        makers: those known from before: identity of the network -> name of the point.
    """

    def __init__(self, makers: dict[str, str]) -> None:
        self._makers = makers

    def maker(self, identity: str, name: str) -> str:
        """The point that makes a network: the first that has asked."""
        return self._makers.setdefault(identity, name)

    def forget(self, name: str) -> None:
        """A point has failed: the next one that asks makes its network."""
        self._makers = {identity: maker for identity, maker in self._makers.items() if maker != name}


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
        if self._inside is not None:
            self._signal(signal.SIGSTOP)

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
