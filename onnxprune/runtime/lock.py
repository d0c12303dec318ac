"""One process at a time measures latency."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from onnxprune.common.files import locked


@contextlib.contextmanager
def timing_lock() -> Iterator[None]:
    """Waits until no other onnxprune process of this user is timing, and keeps others waiting meanwhile.

    The system drops the lock when the process ends, however it ends. It does not nest within a process.
    """
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""  # on Windows the folder is the user's own
    with locked(Path(tempfile.gettempdir()) / f"onnxprune-timing{user}.lock"):
        yield
