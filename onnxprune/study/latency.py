"""The columns of a row that a clock decides: base and pruned file timed in turn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.analysis.verdict import beyond_theory
from onnxprune.runtime.timing import compare

LATENCY_COLUMNS = (
    "latency_ms_median", "latency_ms_p90", "latency_runs", "base_latency_ms_median", "speedup", "speedup_low",
    "speedup_high", "speedup_noise", "speedup_beyond_theory", "timing_load_average", "timing_other_cores",
    "timing_disturbed",
)  # fmt: skip


def latency_columns(
    base: Path,
    model: Path,
    input_shape: Sequence[int],
    settings: Mapping[str, Any],
    theoretical: float | None,
) -> dict[str, Any]:
    """Times the files; the caller holds the timing lock.

    Args:
        input_shape: of one image.
        settings: of the point: `device` and those of latency; without `latency_seconds` nothing is timed, and every
            column is None.
        theoretical: MACs of the base / of the model; None where those cannot be compared.

    Raises:
        InputError: a file does not run on these images.
    """
    if not settings["latency_seconds"]:
        return dict.fromkeys(LATENCY_COLUMNS)
    found = compare(
        base,
        model,
        input_shape,
        settings["latency_batch"],
        device=settings["device"],
        threads=settings["latency_threads"],
        seconds=settings["latency_seconds"],
    )
    low, high = found.interval
    return {
        "latency_ms_median": found.other.median_ms,
        "latency_ms_p90": found.other.p90_ms,
        "latency_runs": found.other.runs,
        "base_latency_ms_median": found.base.median_ms,
        "speedup": found.speedup,
        "speedup_low": low,
        "speedup_high": high,
        "speedup_noise": found.noise,
        "speedup_beyond_theory": None if theoretical is None else beyond_theory(low, theoretical, found.noise),
        "timing_load_average": found.disturbance.load,
        "timing_other_cores": found.disturbance.others,
        "timing_disturbed": found.disturbance.busy,
    }
