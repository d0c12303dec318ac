"""The columns of a row that a clock decides: base and pruned file timed in turn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxprune.analysis.verdict import beyond_theory
from onnxprune.results import store
from onnxprune.runtime.timing import compare

_OF_EACH = ("latency_ms_median", "latency_ms_p90", "latency_runs", "speedup", "speedup_noise")
_SECOND = ("int8_", "base_int8_")  # prefixes of the columns of the files beside those of point and base
LATENCY_COLUMNS = (
    *_OF_EACH, "base_latency_ms_median", "speedup_low", "speedup_high", "speedup_beyond_theory", "timing_load_average",
    "timing_other_cores", "timing_disturbed", *(f"{prefix}{name}" for prefix in _SECOND for name in _OF_EACH),
)  # fmt: skip


def latency_columns(
    base: Path,
    point: Path,
    input_shape: Sequence[int],
    settings: Mapping[str, Any],
    theoretical: float | None,
) -> dict[str, Any]:
    """Times the files in two folders; the caller holds the timing lock.

    Args:
        base, point: the folders; the second file of each is timed in the same rounds where there is one.
        input_shape: of one image.
        settings: of the point: `device`, `also` and those of latency; without `latency_seconds` nothing is timed, and
            every column is None.
        theoretical: MACs of the base / of the model; None where those cannot be compared.

    Raises:
        InputError: a file does not run on these images.
    """
    files = {"": point / store.MODEL}
    if settings.get("also") == "int8":
        files |= dict(zip(_SECOND, (point / store.INT8_MODEL, base / store.INT8_MODEL), strict=True))
    columns = {name: None for name in LATENCY_COLUMNS if not name.startswith(_SECOND) or len(files) > 1}
    if not settings["latency_seconds"]:
        return columns
    there = {prefix: path for prefix, path in files.items() if path.is_file()}  # what cannot be quantised is not
    found = compare(
        base / store.MODEL,
        list(there.values()),
        input_shape,
        settings["latency_batch"],
        device=settings["device"],
        threads=settings["latency_threads"],
        seconds=settings["latency_seconds"],
    )
    each: dict[str, Any] = {}
    for prefix, timed in zip(there, found, strict=True):
        values = (timed.other.median_ms, timed.other.p90_ms, timed.other.runs, timed.speedup, timed.noise)
        each |= {f"{prefix}{name}": value for name, value in zip(_OF_EACH, values, strict=True)}
    pruned = found[0]
    low, high = pruned.interval
    return {
        **columns,
        **each,
        "base_latency_ms_median": pruned.base.median_ms,
        "speedup_low": low,
        "speedup_high": high,
        "speedup_beyond_theory": None if theoretical is None else beyond_theory(low, theoretical, pruned.noise),
        "timing_load_average": pruned.disturbance.load,
        "timing_other_cores": pruned.disturbance.others,
        "timing_disturbed": pruned.disturbance.busy,
    }
