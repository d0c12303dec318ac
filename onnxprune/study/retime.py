"""The latencies of a finished sweep measured again, as when the machine is calmer."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.analysis.classifier import open_classifier
from onnxprune.common.environment import describe
from onnxprune.common.errors import InputError, RunError, just_written
from onnxprune.common.files import read_json
from onnxprune.results import store
from onnxprune.results.tables import result_table, write_tables
from onnxprune.runtime.lock import timing_lock
from onnxprune.settings.point import BASES
from onnxprune.study.latency import LATENCY_COLUMNS, latency_columns

if TYPE_CHECKING:
    import pandas as pd


def retime(sweep: Path, say: Callable[[str], None] = lambda line: None) -> "pd.DataFrame":
    """Times every finished point of a sweep anew, and derives the tables, which it returns; nothing else of the results
    changes. Points whose models `clean` has removed keep their latencies.

    Args:
        say: gets a line a point, one for each that is left out because what is in its folder cannot be believed, and
            where another process is timing and has to be waited for.

    Raises:
        InputError: the folder is no sweep's or has no finished point, nothing in it was timed, all models are removed,
            or it was on another processor, GPU or onnxruntime.
        RunError: a file is not the one that was measured, or was removed meanwhile; points before it are timed anew.
    """
    table = result_table(sweep, say)
    if not len(table):
        raise InputError(f"{sweep} has no finished point that could be timed")
    timed = table[table["latency_seconds"] > 0]
    if not len(timed):
        raise InputError(f"{sweep} has no point that was timed: run the sweep with --latency-seconds above 0")
    folders = [folder for folder in timed["folder"] if not _is_cleaned(sweep / folder)]
    if not folders:
        raise InputError(f"{sweep} was cleaned: no model is left that could be timed; run the sweep again elsewhere")
    if len(folders) < len(timed):
        say(f"{len(timed) - len(folders)} of {len(timed)} points were cleaned: their latencies stay as they are")
    known: dict[str, dict[str, Any]] = {}
    for number, folder in enumerate(folders, 1):
        columns = _retime(sweep / folder, known, say)
        figures = f"{columns['latency_ms_median']:.3f} ms, speedup {columns['speedup']:.2f}"
        say(f"{number}/{len(folders)} {folder}: {figures}")
    with store.claimed(sweep / store.SPEC), just_written():
        return write_tables(sweep)


def _is_cleaned(folder: Path) -> bool:
    """Whether `clean` has removed the model of a point."""
    record = store.finished_record(folder) or {}
    return store.MODEL in record.get("cleaned", ()) and not (folder / store.MODEL).exists()


def _retime(folder: Path, known: dict[str, dict[str, Any]], say: Callable[[str], None]) -> dict[str, Any]:
    """Times a point and puts that into its record.

    Args:
        known: what was found for networks, by identity: the same one is timed once.
    """
    with store.claimed(folder):
        record, settings = store.finished_record(folder), read_json(folder / store.CONFIG)
        if record is None or settings is None:
            raise RunError(f"{folder} was removed meanwhile")
        metrics = record["metrics"]
        base = folder.parents[1] / BASES / metrics["base_id"]
        _check_machine(record["environment"], settings["device"])
        _check(base)
        _check(folder)
        identity = metrics.get("network_id", folder.name)
        columns = known.get(identity) or _measured(base, folder, settings, metrics, say)
        known[identity] = columns
        kept = {name: value for name, value in metrics.items() if name not in LATENCY_COLUMNS}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        store.amend(folder, {**record, "metrics": {**kept, **columns}, "timed": now})
        return columns


def _measured(
    base: Path, point: Path, settings: dict[str, Any], metrics: dict[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    model = point / store.MODEL
    shape = open_classifier(model).metadata.input_shape
    if shape is None:
        raise RunError(f"{model}: its metadata do not say what images it takes")
    with timing_lock(say):
        return latency_columns(base, point, shape, settings, metrics["theoretical_speedup"])


def _check_machine(then: dict[str, Any], device: str) -> None:
    """Sees that the row's environment stays that of its latency."""
    now = describe(device)
    for name in ("cpu", "gpu", "onnxruntime_version", "onnxruntime_gpu_version"):
        if then.get(name) != now[name]:
            raise InputError(
                f"the sweep was measured with {name} {then.get(name)}, here it is {now[name]}: time it where it was "
                "measured, or run it again here"
            )


def _check(folder: Path) -> None:
    """Sees that the files of a base or point are those that were measured."""
    record = store.finished_record(folder)
    if record is None or (damaged := store.damaged_files(folder, record)):
        what = "is not finished" if record is None else f"is damaged ({', '.join(damaged)})"
        raise RunError(f"{folder} {what}: run the sweep again, which makes it again")
