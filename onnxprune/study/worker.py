"""A worker: this package in a fresh Python process, which takes jobs as lines of JSON on its standard input and
tells on its standard output what it does."""

import contextlib
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, SupportsFloat

from onnxprune.common.errors import BusyError, OnnxpruneError, RunError, StorageError, described
from onnxprune.common.output import silenced
from onnxprune.common.progress import SECONDS_BETWEEN
from onnxprune.study.jobs import Job, Materials, perform

ERRORS = {error.__name__: error for error in (BusyError, StorageError, RunError)}


class _Relay:
    """A listener in a worker: what it is told goes to the caller."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._name = ""
        self._told = 0.0

    def send(self, message: dict[str, Any]) -> None:
        self._channel.write(json.dumps(message) + "\n")
        self._channel.flush()

    def begin(self, name: str) -> None:
        self._name = name

    def stage(self, what: str) -> None:
        self._tell("stage", what)

    def training(self, done: int, updates: int, loss: SupportsFloat) -> None:
        now = time.monotonic()
        if now - self._told > SECONDS_BETWEEN:
            self._told = now
            self._tell("training", done, updates, float(loss))

    def candidate(self, name: str, drop: float, gain: float) -> None:
        self._tell("candidate", name, drop, gain)

    def end(self, outcome: str) -> None:
        self._tell("end", outcome)

    def say(self, line: str) -> None:
        self._tell("say", line)

    def _tell(self, method: str, *arguments: Any) -> None:
        self.send({"tell": [self._name, method, arguments]})


def serve() -> None:
    """The worker: does the jobs on standard input until that ends, which is when its caller does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is not for the caller
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(messages,), daemon=True).start()
    relay = _Relay(channel)
    materials: Materials | None = None
    gc.disable()  # what is imported stays: each collection would take a fifth of a second to walk through it
    with silenced():
        import onnxprune.study.point  # noqa: F401 - while there is no job yet
    gc.freeze()
    gc.enable()

    @contextlib.contextmanager
    def exclusive() -> Iterator[None]:
        relay.send({"timing": True})
        messages.get()  # the go
        try:
            yield
        finally:
            relay.send({"timing": False})

    while True:
        message = messages.get()
        job, sys.path[:] = Job.from_json(message["job"]), message["path"]
        materials = materials or Materials(job.data_dir)
        error = None
        try:
            perform(job, materials, relay, exclusive)
        except OnnxpruneError as caught:
            name = type(caught).__name__
            error = [name if name in ERRORS else RunError.__name__, str(caught)]
        except Exception as caught:  # it must not end the worker
            error = [RunError.__name__, described(caught)]
        relay.send({"over": error})


def _receive(messages: "queue.SimpleQueue[dict[str, Any]]") -> None:
    for line in sys.stdin:
        messages.put(json.loads(line))
    os._exit(1)  # the caller is gone: nothing is waited for any more
