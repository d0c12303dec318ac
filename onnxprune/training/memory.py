"""The most memory a process held during a stretch of work."""

import sys
from pathlib import Path
from types import TracebackType

import psutil

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class PeakMemory:
    """Context manager; after it, `peak_bytes` is the peak of resident memory inside it.

    Linux can reset its high-water mark, so that the figure is of the stretch alone. Elsewhere it is the peak since
    the process started, which can only be too high.
    """

    peak_bytes: int | None = None

    def __enter__(self) -> "PeakMemory":
        self._resettable = _STATUS.exists()
        if self._resettable:
            try:
                _CLEAR_REFS.write_text("5")
            except OSError:
                self._resettable = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._resettable:
            line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
            self.peak_bytes = int(line.split()[1]) * 1024
        elif resource is None:
            self.peak_bytes = psutil.Process().memory_info().peak_wset
        else:
            unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, the others kilobytes
            self.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
