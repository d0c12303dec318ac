"""Limits of what this process may take while it reads what strangers wrote."""

import contextlib
import ctypes
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
_BETWEEN = 0.05  # seconds between looks at the time


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


@contextlib.contextmanager
def time_limited(seconds: float) -> Iterator[None]:
    """Within the block, code in Python that takes more of the processor's time than this is interrupted.

    Native code is not: it is asked when it comes back.

    Raises:
        TimeoutError: it took longer.
    """
    worker = ctypes.c_ulong(threading.get_ident())
    end = time.process_time() + seconds
    done = threading.Event()
    late = False

    def watch() -> None:
        nonlocal late
        while not done.wait(_BETWEEN):
            if time.process_time() > end:  # again and again, where it catches whatever comes
                late = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(worker, ctypes.py_object(TimeoutError))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except TimeoutError:
        if not late:
            raise
    finally:
        while watcher.is_alive():
            with contextlib.suppress(TimeoutError):
                done.set()
                watcher.join()
                for _ in range(1000):  # one that was on its way arrives at a jump back
                    pass
    if late:
        raise TimeoutError(f"it takes over {seconds:g} s")
