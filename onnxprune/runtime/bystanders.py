"""What else the machine did while something was timed."""

import os
import time
from dataclasses import dataclass

import numpy as np
import psutil

from onnxprune.common.output import plural

_MUCH_SPREAD = 0.3  # of the median

_SPARE = 0.25  # cores that a few background processes may use


@dataclass(frozen=True)
class Disturbance:
    """
    Attributes:
        others: cores that other processes kept busy meanwhile, on average.
        load: processes that ran or wanted to, on average over the last minute, this one's own included; None where
            the system does not tell.
        spread: of the middle half of the runs, relative to their median.
        busy: what was wrong, in words; None where nothing was.
    """

    others: float
    load: float | None
    spread: float
    busy: str | None


class Bystanders:
    """Watches other processes from when it is made."""

    def __init__(self) -> None:
        self._start = self._sample()

    def disturbance(self, times_ms: np.ndarray, threads: int) -> Disturbance:
        """What the timing of these runs (runs,), each on so many threads, had to bear."""
        seconds, everyone, own = (after - before for after, before in zip(self._sample(), self._start, strict=True))
        cores = os.cpu_count() or 1
        # the system counts in ticks: over a short while they may sum up to more than there is, or to less than nothing
        others = min(float(cores), max(0.0, (everyone - own) / seconds)) if seconds > 0 else 0.0
        low, median, high = np.percentile(times_ms, (25, 50, 75))
        spread = float((high - low) / median) if median > 0 else 0.0
        said = []
        if others > max(0, cores - threads) + _SPARE:
            said.append(f"other processes kept {others:.1f} of {plural(cores, 'core')} busy")
        if spread > _MUCH_SPREAD:
            said.append(f"the middle half of the runs spreads over {100 * spread:.0f} % of the median")
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        return Disturbance(others, load, spread, " and ".join(said) or None)

    def _sample(self) -> tuple[float, float, float]:
        """Seconds by the clock, of the processor by all processes, and by this one."""
        times = psutil.cpu_times()
        everyone = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        return time.monotonic(), everyone, time.process_time()
