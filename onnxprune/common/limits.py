"""Limits of what this process may take while it reads what strangers wrote."""

import contextlib
import itertools
import signal
import sys
import threading
import time
from collections.abc import Iterator

import psutil

from onnxprune.common.environment import available_memory

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_lock = threading.RLock()
_CALLS = 50  # between looks at the time, which take longer than most


@contextlib.contextmanager
def memory_limited() -> Iterator[None]:
    """Within the block, taking more memory than is available now raises a MemoryError, and the system kills nothing.

    What a file says of its sizes may be a lie, which shows when it is unpacked. Other threads have the same limit.
    """
    if resource is None:
        yield
        return
    with _lock:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = psutil.Process().memory_info().vms + available_memory()
        for bound in (soft, hard):
            limit = limit if bound == resource.RLIM_INFINITY else min(limit, bound)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class _Late(BaseException):
    """Passes what catches any Exception."""


@contextlib.contextmanager
def time_limited(seconds: float) -> Iterator[None]:
    """Within the block, code in Python that takes more of the processor's time than this is interrupted.

    Native code is not: it is looked at between its calls. Outside the main thread and where the system has no timer, so
    that each call is looked at, there is no limit under a profiler, which does that too.

    Raises:
        TimeoutError: it took longer.
    """
    main = threading.current_thread() is threading.main_thread()
    timer = main and hasattr(signal, "setitimer") and signal.getsignal(signal.SIGPROF) == signal.SIG_DFL
    try:
        with _timer(seconds) if timer else _looks(seconds):
            yield
    except _Late:
        raise TimeoutError(f"it takes over {seconds:g} s") from None


@contextlib.contextmanager
def _timer(seconds: float) -> Iterator[None]:
    """Interrupts by a signal: again and again, since in a destructor its exception is lost."""
    running = True

    def late(*_: object) -> None:
        if running:
            raise _Late

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.1)
    try:
        yield
    finally:
        running = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)  # and so is one that is on its way, which would end the process
        signal.signal(signal.SIGPROF, signal.SIG_DFL)


@contextlib.contextmanager
def _looks(seconds: float) -> Iterator[None]:
    """Interrupts a call; what is called takes half as long again."""
    if sys.getprofile() is not None:
        yield
        return
    end = time.process_time() + seconds
    calls = itertools.count()

    def look(*_: object) -> None:
        if next(calls) % _CALLS == 0 and time.process_time() > end:
            raise _Late

    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)
