"""One process at a time measures latency."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from onnxprune.common.files import locked, read_json, user_lock, write_json
from onnxprune.common.output import printable

_LONGEST = 4500.0  # seconds of a measurement
_PATIENCE = 1.0  # seconds before it is said that, and for whom, one waits


@contextlib.contextmanager
def timing_lock(say: Callable[[str], None] = lambda line: None) -> Iterator[bool]:
    """Waits until no other onnxprune process of this user is timing, and keeps others waiting meanwhile.

    The system drops the lock when the process ends, however it ends. A process that is stopped is not waited for: it
    does not run, so that it disturbs nothing; nor is one that has been timing for longer than can be asked for. The
    lock does not nest within a process.

    Args:
        say: gets a line, once, where this takes longer than a second.

    Yields:
        Whether it is ours; False where another process has it that is not waited for.
    """
    lock = user_lock("timing")
    owner = lock.with_suffix(".json")  # beside it: who holds the lock, and since when
    told = False
    with contextlib.ExitStack() as stack:
        mine = stack.enter_context(locked(lock, wait=_PATIENCE))
        while not mine:
            holder = _holder(owner)
            if holder is not None and holder.stopped:
                say(f"process {holder.process} has been timing since {holder.since}, and is stopped: not waited for")
                break
            if holder is not None and time.monotonic() > holder.begun + _LONGEST:
                say(f"process {holder.process} has been timing since {holder.since}, far too long: not waited for")
                break
            if not told:
                who = f"process {holder.process}, since {holder.since}" if holder else "another process"
                say(f"waiting for the timing of {who}")
                told = True
            mine = stack.enter_context(locked(lock, wait=_PATIENCE))
        if mine:
            # by the clock that nobody can set, which is that of all processes
            write_json(owner, {"process": os.getpid(), "since": time.strftime("%H:%M:%S"), "begun": time.monotonic()})
            stack.callback(owner.unlink, missing_ok=True)
        yield mine


class _Holder(NamedTuple):
    process: int
    since: str
    begun: float  # seconds of `time.monotonic`
    stopped: bool


def _holder(owner: Path) -> _Holder | None:
    """Who holds the lock, where that can be told."""
    found = read_json(owner)
    if not isinstance(found, dict):
        return None
    try:
        number, since, begun = (
            int(found["process"]),
            printable(str(found["since"])),
            float(found.get("begun", math.inf)),
        )
        return _Holder(number, since, begun, psutil.Process(number).status() == psutil.STATUS_STOPPED)
    except (KeyError, TypeError, ValueError, OverflowError, psutil.Error):
        return None
