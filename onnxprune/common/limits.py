"""Limits of what this process may take while it reads what strangers wrote."""

import contextlib
import threading
from collections.abc import Iterator

import psutil

from onnxprune.common.environment import available_memory

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_lock = threading.RLock()


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
