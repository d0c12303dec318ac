"""Where results lie on disk, and how they get there whole or not at all.

    <runs>/bases/<base-id>/    config.json  metrics.json  model.onnx  checkpoint.safetensors  log.txt
    <runs>/<sweep>/            sweep.toml   results.csv   results.parquet
    <runs>/<sweep>/<point-id>/ config.json  metrics.json  model.onnx  masks.safetensors       log.txt

`metrics.json`, the record, is written last and holds the checksums of the files beside it: where they fit, the
base or point is done. `error.txt` is there instead of it where it failed. The tables are derived from the
points' files. Beside bases and points, `damaged/` keeps what was done and no longer fits its checksums, and
`.locks/` has a file for each folder that a process is or was working in.
"""

import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.common.errors import InputError
from onnxprune.common.files import PARTIAL, digest, locked, make_folder, read_json, replacing, write_json, write_text
from onnxprune.settings.point import FIELDS
from onnxprune.settings.vocabulary import CONTROLS, TECHNIQUES

if TYPE_CHECKING:
    import pandas as pd

CONFIG = "config.json"
METRICS = "metrics.json"
MODEL = "model.onnx"
CHECKPOINT = "checkpoint.safetensors"
MASKS = "masks.safetensors"
LOG = "log.txt"
ERROR = "error.txt"
SPEC = "sweep.toml"
TABLE = "results.parquet"
_DAMAGED = "damaged"
_LOCKS = ".locks"
_CHECKED = (CONFIG, MODEL, CHECKPOINT, MASKS)


@contextlib.contextmanager
def claimed(path: Path, wait: bool = True) -> Iterator[bool]:
    """Keeps other processes that claim it off a path during the block; the system ends the claim of a dead process.

    Yields:
        Whether it is ours; False only without `wait`, where another process has it.
    """
    with locked(make_folder(path.parent / _LOCKS) / f"{path.name}.lock", wait) as ours:
        yield ours


def begin(folder: Path, config: dict[str, Any]) -> None:
    """Empties a claimed folder of an earlier attempt's files, or creates it, and writes its config."""
    make_folder(folder)
    for path in folder.iterdir():
        if path.name in (*_CHECKED, METRICS, LOG, ERROR) or path.suffix == PARTIAL:
            path.unlink()
    write_json(folder / CONFIG, config)


def remove_partial(folder: Path) -> None:
    """Removes what dead processes left half-written in a folder whose files are claimed."""
    for path in folder.glob(f".*{PARTIAL}"):
        path.unlink()


def finish(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Writes the record of a base or point, with which it is done, and returns it."""
    record = {**record, "files": {name: digest(folder / name) for name in _CHECKED if (folder / name).is_file()}}
    write_json(folder / METRICS, record)
    return record


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a base or point, done or failed: name -> content."""
    names = (*_CHECKED, LOG, ERROR, METRICS)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def receive(folder: Path, files: Mapping[str, bytes]) -> None:
    """Puts the files of a base or point that was made elsewhere into a claimed folder; the record comes last."""
    begin(folder, {})
    for name in sorted(files, key=lambda name: name == METRICS):
        with replacing(folder / name) as partial:
            partial.write_bytes(files[name])


def finished_record(folder: Path) -> dict[str, Any] | None:
    """The record of a base or point that is done, None where there is none; the files beside it are not looked at."""
    record = read_json(folder / METRICS)
    parts = ("metrics", "environment")
    return record if isinstance(record, dict) and all(isinstance(record.get(part), dict) for part in parts) else None


def damaged_files(folder: Path, record: dict[str, Any]) -> list[str]:
    """Names of the files in a folder that do not fit the checksums in its record; all of a record without checksums."""
    checksums = record.get("files") or dict.fromkeys((CONFIG, MODEL))
    return [name for name, expected in checksums.items() if expected is None or digest(folder / name) != expected]


def set_aside(folder: Path) -> Path:
    """Moves a claimed folder into `damaged/` beside it and returns where it is now."""
    shelf = make_folder(folder.parent / _DAMAGED)
    places = (shelf / f"{folder.name}.{number}" for number in itertools.count(1))
    return folder.rename(next(place for place in places if not place.exists()))


def write_error(folder: Path, reason: str, trace: str) -> None:
    """Records that a base or point failed: the reason on the first line, then the traceback."""
    write_text(folder / ERROR, f"{reason}\n\n{trace}")


def recorded_error(folder: Path) -> str | None:
    """Why a base or point failed, None where that is not recorded."""
    try:
        return (folder / ERROR).read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        return None


def failures(sweep: Path) -> dict[str, str]:
    """Folder of each failed point of a sweep -> reason."""
    return {path.parent.name: recorded_error(path.parent) or "" for path in sorted(sweep.glob(f"*/{ERROR}"))}


def result_table(sweep: Path) -> "pd.DataFrame":
    """The finished points of a sweep's folder, one row each; whole numbers stay whole where values are missing.

    Rows of results.parquet are taken from there as long as the record of their point is older than that file.

    Raises:
        InputError: the folder is not a sweep's.
    """
    import pandas as pd

    if not (sweep / SPEC).is_file():
        raise InputError(f"{sweep} is not the folder of a sweep: it has no {SPEC}")
    known, derived = _derived_rows(sweep)
    kept, rows = [], []
    finished = dict(_finished_folders(sweep))
    for folder, written in finished.items():
        if folder in known.index and written < derived:
            kept.append(folder)
        elif row := _row(sweep / folder):
            rows.append(row)
    parts = [known.loc[kept].reset_index(drop=True)] if kept else []
    if rows or not kept:
        parts.append(pd.DataFrame(rows).convert_dtypes())
    # converted again: what is missing in one part, and so of no type there, is of one in the other
    table = pd.concat(parts, ignore_index=True).convert_dtypes() if len(parts) > 1 else parts[0]
    if not len(table):
        return table
    return _in_reading_order(_latest(table[parts[-1].columns], finished))


def _latest(table: "pd.DataFrame", written: Mapping[str, int]) -> "pd.DataFrame":
    """Of points of the same settings, made of other data or by another version, the one that was finished last.

    Args:
        written: folder -> when its record was, in nanoseconds.
    """
    ordered = table.assign(written=table["folder"].map(written)).sort_values("written", kind="stable")
    return table.loc[ordered.drop_duplicates([*FIELDS], keep="last").index]


def _derived_rows(sweep: Path) -> "tuple[pd.DataFrame, int]":
    """The rows of results.parquet by folder, and when, in nanoseconds; none where it is of other columns or damaged,
    or where pyarrow, which studies alone need, is not there."""
    import pandas as pd

    path = sweep / TABLE
    try:
        written = path.stat().st_mtime_ns
        table = pd.read_parquet(path)
    except (OSError, ValueError, ImportError):  # there is none, it is damaged, or there is no pyarrow
        return pd.DataFrame(), 0
    if not {*FIELDS, "folder"} <= {*table.columns}:
        return pd.DataFrame(), 0
    return table.convert_dtypes().set_index("folder", drop=False), written


def _finished_folders(sweep: Path) -> Iterator[tuple[str, int]]:
    """Name of each folder that has a record, and when that was written, in nanoseconds."""
    with os.scandir(sweep) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                # a Path for each would double the time that 100,000 points take
                yield entry.name, os.stat(f"{entry.path}/{METRICS}").st_mtime_ns  # noqa: PTH116


def _row(folder: Path) -> dict[str, Any] | None:
    config, record = read_json(folder / CONFIG), finished_record(folder)
    if config is None or record is None:
        return None
    settings = {name: config.get(name) for name in FIELDS}  # all of them: every table has the same columns
    return {**settings, **record["metrics"], **record["environment"], "folder": folder.name}


def _in_reading_order(table: "pd.DataFrame") -> "pd.DataFrame":
    """Sorted as people read them."""
    study = ["model", "dataset", "batch_size", "schedule"]
    keys = table[[*study, "technique", "criterion", "control", "sparsity", "seed", "folder"]]
    ranked = {"technique": list(TECHNIQUES), "control": list(CONTROLS)}
    keys = keys.assign(
        **{name: keys[name].map({value: rank for rank, value in enumerate(order)}) for name, order in ranked.items()}
    )
    return table.loc[keys.sort_values(list(keys.columns)).index].reset_index(drop=True)


def write_tables(sweep: Path) -> "pd.DataFrame":
    """Derives results.csv and results.parquet from the points of a claimed sweep and returns the table."""
    begun = time.time_ns()
    table = result_table(sweep)
    with replacing(sweep / "results.csv") as partial:
        table.to_csv(partial, index=False)
    with replacing(sweep / TABLE) as partial:
        table.to_parquet(partial, index=False)
        os.utime(partial, ns=(begun, begun))  # what has changed since then is not in it
    return table
