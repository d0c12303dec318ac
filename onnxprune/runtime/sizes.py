"""How much a file of a stranger may take, by its size."""

from pathlib import Path

from onnxprune.runtime.helper import GIB

SECONDS = 4.0  # of the processor, for what is done once with a small file
SECONDS_TO_OPEN = 30.0  # likewise, where long work comes next
MEMORY = 17 * GIB // 10  # resident bytes, likewise
MOST_MEMORY = 4 * GIB  # of a run whose tensors are known to be large


def reading_seconds(size: int) -> float:
    """Seconds of the processor that reading and counting files of so many bytes may take."""
    return 9 + size / 1e6


def timing_limit(seconds: float) -> float:
    """Seconds of the processor that a measurement of so many may take, with what it does at least."""
    return 55 + 2 * seconds


def run_memory(size: int, peak: int | None) -> int:
    """Bytes that a run may take, by those of the file and those that are known to be alive at a time."""
    return max(MEMORY, min(MOST_MEMORY, GIB // 2 + 3 * (peak or 0))) + 4 * size


def bytes_around(path: Path) -> int:
    """Of the file and those beside it, which may hold its external data."""
    try:
        return sum(file.stat().st_size for file in path.parent.iterdir() if file.stem.startswith(path.stem))
    except OSError:
        return 0
