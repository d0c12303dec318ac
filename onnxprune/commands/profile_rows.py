"""Profiles of several files as rows of one table."""

import json
import os
from collections.abc import Iterable, Sequence
from fnmatch import filter as filter_names
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.commands.cells import MISSING
from onnxprune.commands.console import echo
from onnxprune.common.errors import InputError
from onnxprune.common.files import is_folder
from onnxprune.common.output import plural

if TYPE_CHECKING:
    from onnxprune.analysis.profiling import Profile


def onnx_files(paths: Iterable[Path]) -> tuple[list[Path], InputError | None]:
    """The files among the paths, and those named *.onnx in the folders among them and below; and an error where some
    of these cannot be listed.

    Raises:
        InputError: a folder holds none.
    """
    found: list[Path] = []
    refused: list[OSError] = []
    for path in paths:
        within, before = [path], len(refused)
        if is_folder(path):
            walk = os.walk(path, onerror=refused.append)
            within = sorted(Path(folder, name) for folder, _, names in walk for name in filter_names(names, "*.onnx"))
            if not within and len(refused) == before:
                raise InputError(f"{path}: there is no .onnx file in it")
        found += within
    files = list(dict.fromkeys(found))
    if not refused:
        return files, None
    first, *others = sorted(f"{error.filename}: cannot be listed: {error.strerror}" for error in refused)
    return files, InputError(first + (f"; nor can {plural(len(others), 'other folder')}" if others else ""))


def print_rows(profiles: Sequence["Profile"], output: str | None) -> None:
    """Prints a row a file, as a table, "json" or "csv"."""
    from onnxprune.commands.columns import columns, csv_text

    rows = [_row(found) for found in profiles]
    if output == "json":
        echo(json.dumps(rows, indent=1))
    elif output == "csv":
        echo(csv_text(rows) if rows else "", nl=False)
    elif rows:
        timed = any(row["latency_ms_median"] is not None for row in rows)
        times = [">median ms", ""] if timed else []
        headings = [">params", ">bytes", ">MACs", ">activations", ">batch", *times, "model"]
        bounds = [found.counts.bound for found in profiles]
        echo(columns(headings, [_cells(row, bound, timed) for row, bound in zip(rows, bounds, strict=True)]))


def _row(found: "Profile") -> dict[str, Any]:
    counts = found.counts
    first = found.latencies[0] if found.latencies else None
    return {
        "model": str(found.path),
        "batch": found.batch,
        "params": counts.params,
        "nonzero_params": counts.nonzero_params,
        "file_bytes": counts.file_bytes,
        "macs": counts.macs,
        "effective_macs": counts.effective_macs,
        "complete": counts.complete,
        "exact": counts.exact,
        "peak_activation_bytes": counts.peak_activation_bytes,
        "latency_ms_median": first and first.latency.median_ms,
        "busy": first and first.disturbance.busy,
        "not_measured": "; ".join(found.missing) or None,
    }


def _cells(row: dict[str, Any], bound: str, timed: bool) -> list[str]:
    def number(name: str) -> str:
        return MISSING if row[name] is None else f"{row[name]:,}"

    return [
        number("params"),
        number("file_bytes"),
        bound + number("macs"),
        number("peak_activation_bytes"),
        number("batch"),
        *(_times(row) if timed else ()),
        row["model"],
    ]


def _times(row: dict[str, Any]) -> list[str]:
    median = row["latency_ms_median"]
    return [MISSING if median is None else f"{median:.3f}", "busy" if row["busy"] else ""]
