"""Jobs side by side, each in a process of its own with its own few threads.

The processes are those of `onnxprune.study.worker`. While one is timing, the others are suspended, so that nothing else
of the run works. A worker that dies takes nothing with it: its job is done once more by another one.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from onnxprune.common.environment import available_memory, usable_cores
from onnxprune.common.errors import RunError
from onnxprune.common.files import make_folder
from onnxprune.common.processes import signal_of, start
from onnxprune.common.progress import Listener
from onnxprune.results import store
from onnxprune.settings.point import Point
from onnxprune.study.estimate import estimate
from onnxprune.study.jobs import Job
from onnxprune.study.worker import ERRORS

POSSIBLE = os.name == "posix"  # elsewhere no process can be suspended

_POINTS_EACH = 4  # fewer are not worth the seconds in which a worker imports its libraries

_PROCESS_BYTES = 2**30  # data and libraries of a worker

_TRIES = 2  # of a job whose worker dies

_SECONDS_TO_END = 5


def worker_count(points: Sequence[Point]) -> int:
    """How many workers pay for points on this machine: no more than cores, memory and points allow; 0: none."""
    if not points or not POSSIBLE or any(point.device == "cuda" for point in points):
        return 0
    cores = min(psutil.cpu_count(logical=False) or usable_cores(), usable_cores())
    by_cores = cores // max(max(point.threads, point.devices) for point in points)
    by_memory = available_memory() // (estimate(points).memory_bytes + _PROCESS_BYTES)
    count = min(by_cores, by_memory, len(points) // _POINTS_EACH)
    return count if count > 1 else 0


class Pool:
    """Workers, as a context manager; they start at once, importing what they need while the caller goes on."""

    def __init__(self, count: int, listener: Listener) -> None:
        self._listener = listener
        self._events: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()
        self._workers = [_Worker(self._events) for _ in range(count)]
        self._timing: deque[_Worker] = deque()  # the first has the machine, the others wait for it
        self._deaths: Counter[Path] = Counter()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            worker.wait()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, RunError | None]]:
        """Does the jobs; yields each when it is over with its error, None where it is done."""
        waiting = deque(jobs)
        while True:
            self._begin(waiting)
            if all(worker.job is None for worker in self._workers):
                return
            worker, event = self._events.get()
            if event is None:
                worker.dead = True
                self._withdraw(worker)
                lost, worker.job = worker.job, None
                if lost is not None and self._again(lost, worker.ending()):
                    waiting.appendleft(lost)
                elif lost is not None:
                    yield lost, self._lose(lost, worker.ending())
            elif "tell" in event:
                self._tell(*event["tell"])
            elif "timing" in event:
                if event["timing"]:
                    self._ask(worker)
                else:
                    self._withdraw(worker)
            elif worker.job is not None:
                done, worker.job = worker.job, None
                yield done, None if event["over"] is None else ERRORS[event["over"][0]](event["over"][1])

    def _begin(self, waiting: deque[Job]) -> None:
        """Gives a job to each worker that has none; in place of a dead one there is a new one."""
        for number, worker in enumerate(self._workers):
            if waiting and worker.job is None:
                if worker.dead:
                    self._workers[number] = worker = _Worker(self._events)
                    worker.suspend(bool(self._timing))  # it is let go on when that has ended
                worker.begin(waiting.popleft())

    def _again(self, job: Job, ending: str) -> bool:
        """Whether a job whose worker died is to be done once more."""
        self._deaths[job.folder] += 1
        if self._deaths[job.folder] == _TRIES:
            return False
        self._listener.say(f"point {job.folder.name}: {ending}; it is run again")
        return True

    def _tell(self, name: str, method: str, arguments: list[Any]) -> None:
        self._listener.begin(name)
        getattr(self._listener, method)(*arguments)

    def _lose(self, job: Job, ending: str) -> RunError:
        reason = f"{ending}, {_TRIES} times: perhaps there is not enough memory; --workers 1 takes the least"
        with store.claimed(make_folder(job.folder)):
            store.write_error(job.folder, reason, "")
        return RunError(reason)

    def _ask(self, worker: "_Worker") -> None:
        """The worker needs the machine."""
        self._timing.append(worker)
        if self._timing[0] is worker:
            self._grant()

    def _grant(self) -> None:
        """Gives the machine to the first that waits for it."""
        while self._timing:
            for worker in self._workers:
                worker.suspend(worker is not self._timing[0])
            if self._timing[0].send({"go": True}):
                return
            self._timing.popleft()
        for worker in self._workers:
            worker.suspend(False)

    def _withdraw(self, worker: "_Worker") -> None:
        """The worker does not need the machine, or not any more."""
        if worker in self._timing:
            first = self._timing[0] is worker
            self._timing.remove(worker)
            if first:
                self._grant()


class _Worker:
    """A worker as its caller sees it; `job` is what it is doing."""

    def __init__(self, events: "queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]]") -> None:
        self.job: Job | None = None
        self.dead = False
        self._suspended = False
        self._events = events
        self._process = start(
            "onnxprune.study.worker:serve",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what goes wrong comes back as an event
            text=True,
            # Ctrl-C is the caller's; and the system ends a stopped member of a group that loses its parent
            process_group=0,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with contextlib.suppress(ValueError):  # the last line of one that was killed
                self._events.put((self, json.loads(line)))
        self._process.wait()
        self._events.put((self, None))

    def begin(self, job: Job) -> None:
        self.job = job
        # the network's code is found there as it is here
        self.send({"job": job.to_json(), "path": [place for place in sys.path if isinstance(place, str)]})

    def send(self, message: dict[str, Any]) -> bool:
        """Whether it went out; to one that has died it does not, which an event tells as well."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError:
            return False
        return True

    def suspend(self, suspended: bool) -> None:
        """Stops the process, or lets it go on."""
        if suspended != self._suspended:
            self._suspended = suspended
            self._process.send_signal(signal.SIGSTOP if suspended else signal.SIGCONT)  # nothing to one that is dead

    def ending(self) -> str:
        """How a dead one died."""
        code = self._process.returncode
        signal_name = signal_of(code)
        return (
            f"its process ended with exit code {code}"
            if signal_name is None
            else f"its process was killed ({signal_name})"
        )

    def end(self) -> None:
        """Makes it end; what it is in the middle of is dropped."""
        self.suspend(False)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            if self.job is None:
                self._process.stdin.close()  # it has nothing to put in order, which would take a second
            else:
                self._process.terminate()

    def wait(self) -> None:
        """Until it has ended."""
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
