"""Where results lie on disk, and how they get there whole or not at all.

    <runs>/bases/<base-id>/    config.json  metrics.json  model.onnx  right.npy  checkpoint.safetensors  log.txt
    <runs>/<sweep>/            sweep.toml   results.csv   results.parquet
    <runs>/<sweep>/<point-id>/ config.json  metrics.json  model.onnx  right.npy  masks.safetensors       log.txt

With `also = "int8"`, bases and points have a `model-int8.onnx` too. `metrics.json`, the record, is written last and
holds the checksums of the files beside it: where they fit, the base or point is done. `error.txt` is there instead of
it where it failed. The tables are derived from the points' files. Beside bases and points, `damaged/` keeps what was
done and no longer fits its checksums, and `.locks/` has a file for each folder that a process is or was working in.
"""

import contextlib
import itertools
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.common.environment import available_memory
from onnxprune.common.errors import InputError, RunError
from onnxprune.common.files import PARTIAL, digest, locked, make_folder, read_json, replacing, write_json, write_text
from onnxprune.common.output import printable
from onnxprune.common.parquet import unpacked_bytes
from onnxprune.common.spreadsheets import csv_of
from onnxprune.results import schema
from onnxprune.results.quality import ACCURACY, quality_of
from onnxprune.settings.point import BASES, FIELDS, Point
from onnxprune.settings.sweep import Sweep
from onnxprune.settings.vocabulary import CONTROLS, SCHEDULES, TECHNIQUES

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CONFIG = "config.json"
METRICS = "metrics.json"
MODEL = "model.onnx"
INT8_MODEL = "model-int8.onnx"
CHECKPOINT = "checkpoint.safetensors"
MASKS = "masks.safetensors"
RIGHT = "right.npy"
LOG = "log.txt"
ERROR = "error.txt"
SPEC = "sweep.toml"
TABLE = "results.parquet"
_DAMAGED = "damaged"
_LOCKS = ".locks"
_LONGEST_REASON = 2_000  # characters of why something failed
_WORDS = {"technique": {*TECHNIQUES}, "schedule": {*SCHEDULES}}  # settings by which a table is read
_CHECKED = (CONFIG, MODEL, INT8_MODEL, CHECKPOINT, MASKS, RIGHT)


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
    """Writes the record of a base or point, with which it is done, and returns it.

    Raises:
        RunError: it does not fit its schema: nobody would take it for done, and its row would be missing.
    """
    record = {**record, "files": {name: digest(folder / name) for name in _CHECKED if (folder / name).is_file()}}
    problem = schema.problem(json.loads(json.dumps(record)), schema.Record)
    if problem is not None:
        raise RunError(f"a fault of onnxprune: what was measured cannot be: {problem}")
    write_json(folder / METRICS, record)
    return record


def amend(folder: Path, record: dict[str, Any]) -> None:
    """Replaces the record of a base or point that is done and claimed; its files stay as they are."""
    write_json(folder / METRICS, record)


def write_right(folder: Path, right: "np.ndarray") -> None:
    """Keeps which test images (N,) a network gets right, a bit an image."""
    import numpy as np

    with replacing(folder / RIGHT) as partial, partial.open("wb") as file:
        np.save(file, np.packbits(right))


def right_images(folder: Path) -> "np.ndarray | None":
    """Which test images (N,) a point or base that is done gets right, bool; None where that was not kept, or is not
    what was measured: it has to fit its checksum and the accuracy in the record."""
    import numpy as np

    record = finished_record(folder) or {"metrics": {}}
    metrics, expected = record["metrics"], record.get("files", {}).get(RIGHT)
    images, accuracy = metrics.get("test_images"), metrics.get("accuracy", metrics.get("base_accuracy"))
    if not images or accuracy is None or expected is None or digest(folder / RIGHT) != expected:
        return None
    try:
        packed = np.load(folder / RIGHT, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError):  # the record may be as damaged as the file
        return None
    if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8 or packed.shape != (-(-images // 8),):
        return None
    right = np.unpackbits(packed, count=images).astype(bool)
    return right if right.sum() == round(accuracy * images / 100) else None


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
    """The record of a base or point that is done, None where there is none, or one that does not fit its schema; the
    files beside it are not looked at."""
    record = read_json(folder / METRICS)
    return record if schema.problem(record, schema.Record) is None else None


def damaged_files(folder: Path, record: dict[str, Any], *needed: str) -> list[str]:
    """Names of the files in a folder that do not fit the checksums in its record; all of a record without checksums.

    Args:
        needed: names of files that must have a checksum, unless they were removed by `clean`.
    """
    gone = [name for name in record.get("cleaned", ()) if not (folder / name).exists()]
    checksums = dict.fromkeys(name for name in needed if name not in gone) | (
        record.get("files") or dict.fromkeys((CONFIG, MODEL))
    )
    return [
        name
        for name, expected in checksums.items()
        if name not in _CHECKED or expected is None or digest(folder / name) != expected
    ]


def check_measured(model: Path) -> None:
    """Refuses a base's or point's model that is not the one that its record is about; other files pass.

    Raises:
        InputError: its SHA-256 is another.
    """
    if model.name not in (MODEL, INT8_MODEL) or not model.is_file() or not (model.parent / METRICS).is_file():
        return
    record = finished_record(model.parent)
    if record is None or record.get("files", {}).get(model.name) != digest(model):
        raise InputError(
            f"{model} is not the file that was measured: its SHA-256 is not that in {METRICS} beside it; run the study "
            "again, or copy the file elsewhere to look at it as it is"
        )


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
    if not (folder / ERROR).is_file():
        return None
    try:
        with (folder / ERROR).open(encoding="utf-8", errors="replace") as file:
            return printable(file.readline(_LONGEST_REASON).rstrip("\n"))
    except OSError:
        return None


def failures(sweep: Path) -> dict[str, str]:
    """Folder of each failed point of a sweep -> reason; points whose base failed have one, which was never made."""
    own = {path.parent.name: recorded_error(path.parent) or "" for path in sorted(sweep.glob(f"*/{ERROR}"))}
    return {**_failed_with_their_base(sweep), **own}


def _failed_with_their_base(sweep: Path) -> dict[str, str]:
    bases = [path.parent for path in (sweep.absolute().parent / BASES).glob(f"*/{ERROR}")]
    if not bases:
        return {}
    try:
        points = Sweep.read(sweep / SPEC).points
    except InputError:  # it may name files that are gone
        return {}
    finished = {_without_hash(name) for name, _ in _finished_folders(sweep)}  # since then, by other data
    found: dict[Point, tuple[str, str]] = {}
    for base in sorted(bases, key=lambda base: (base / ERROR).stat().st_mtime_ns):
        config = read_json(base / CONFIG)
        checksum = str(config.get("data_checksum")) if isinstance(config, dict) else ""
        for point in points:
            with contextlib.suppress(InputError):  # a file that decides the id is gone
                name = point.point_id(checksum)
                if point.base_id(checksum) == base.name and _without_hash(name) not in finished:
                    found[point] = (name, f"its base {base.name} failed: {recorded_error(base) or ''}")
    return dict(found.values())


def _without_hash(name: str) -> str:
    return name.rpartition("-")[0]


def result_table(sweep: Path, say: Callable[[str], None] = lambda line: None) -> "pd.DataFrame":
    """The finished points of a sweep's folder, one row each; whole numbers stay whole where values are missing.

    Rows of results.parquet are taken from there as long as the record of their point is older than that file.

    Args:
        say: gets a line for each folder that is left out because what is in it cannot be believed.

    Raises:
        InputError: the folder is not a sweep's.
    """
    import pandas as pd

    from onnxprune.results.derived import DERIVED, derive

    if not (sweep / SPEC).is_file():
        raise InputError(f"{sweep} is not the folder of a sweep: it has no {SPEC}")
    known, derived = _derived_rows(sweep)
    kept, rows = [], []
    finished = dict(_finished_folders(sweep))
    for folder, written in finished.items():
        if folder in known.index and written < derived:
            kept.append(folder)
        elif isinstance(found := _row(sweep / folder), str):
            say(f"{printable(folder)} is left out: {found}")
        else:
            rows.append(found)
    unchanged = known.loc[kept]
    own = [name for name in known.columns if name not in DERIVED]
    parts = [unchanged[own].reset_index(drop=True)] if kept else []
    if rows or not kept:
        parts.append(_typed(pd.DataFrame(rows)))
    # converted again: what is missing in one part, and so of no type there, is of one in the other
    table = _typed(pd.concat(parts, ignore_index=True)) if len(parts) > 1 else parts[0]
    if not len(table):
        return table
    # a type that only rows gave which are gone would stay: a table is the same, however it was read
    table = table.assign(**dict.fromkeys(table.columns[table.isna().all()], None))
    table = _in_reading_order(_latest(table[parts[-1].columns], finished))
    return derive(table, unchanged, lambda folder: right_images(sweep / folder))


def _latest(table: "pd.DataFrame", written: Mapping[str, int]) -> "pd.DataFrame":
    """Of points of the same settings, made of other data or by another version, the one that was finished last.

    Args:
        written: folder -> when its record was, in nanoseconds.
    """
    settings = table[[*FIELDS]]
    if not settings.duplicated().any():
        return table
    order = table["folder"].map(written).sort_values(kind="stable").index
    return table.loc[settings.loc[order].drop_duplicates(keep="last").index]


def _derived_rows(sweep: Path) -> "tuple[pd.DataFrame, int]":
    """The rows of results.parquet by folder, and when, in nanoseconds; none where it is of other columns or damaged,
    or where pyarrow, which studies alone need, is not there."""
    import pandas as pd

    path = sweep / TABLE
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or unpacked_bytes(path) > available_memory():
            return pd.DataFrame(), 0
        if about.st_mtime_ns > time.time_ns():  # the clock was set back: records made since then look older than it
            return pd.DataFrame(), 0
        table = _typed(pd.read_parquet(path))
    except (OSError, ValueError, ImportError):  # there is none, it is damaged, or there is no pyarrow
        return pd.DataFrame(), 0
    if not {*FIELDS, *schema.EVERY_ROW, "folder"} <= {*table.columns}:
        return pd.DataFrame(), 0
    kinds = {**schema.column_kinds(), **schema.setting_kinds(), "folder": str}
    if any(not _fits(table[name], kind) for name, kind in kinds.items() if name in table):
        return pd.DataFrame(), 0
    if not table["folder"].is_unique or any(not {*table[name].unique()} <= words for name, words in _WORDS.items()):
        return pd.DataFrame(), 0
    return table.set_index("folder", drop=False), about.st_mtime_ns


def _typed(table: "pd.DataFrame") -> "pd.DataFrame":
    """The table with columns that may lack values; a percentage is no whole number because all of its values are."""
    kinds = {**schema.column_kinds(), **schema.setting_kinds()}
    table = table.convert_dtypes()
    real = [name for name, kind in kinds.items() if kind is float and name in table and table[name].notna().any()]
    return table.astype(dict.fromkeys(real, "Float64"))


def _fits(column: "pd.Series", kind: type) -> bool:
    """Whether a column is of the kind that records give, or empty."""
    from pandas.api import types

    if kind is bool:
        fits = types.is_bool_dtype(column)
    else:
        fits = types.is_string_dtype(column) if kind is str else types.is_numeric_dtype(column)
    return fits or bool(column.isna().all())


def _finished_folders(sweep: Path) -> Iterator[tuple[str, int]]:
    """Name of each folder that has a record, and when that was written, in nanoseconds."""
    with os.scandir(sweep) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                # a Path for each would double the time that 100,000 points take
                yield entry.name, os.stat(f"{entry.path}/{METRICS}").st_mtime_ns  # noqa: PTH116


def _row(folder: Path) -> dict[str, Any] | str:
    """The row of a finished point, or what is wrong with its files."""
    config, record = read_json(folder / CONFIG), finished_record(folder)
    if record is None:
        return f"{METRICS}: {schema.problem(read_json(folder / METRICS), schema.Record)}"
    problem = schema.problem(config, schema.Config)
    if problem is None:
        unknown = [name for name, words in _WORDS.items() if config[name] not in words]
        problem = f"{unknown[0]} '{printable(config[unknown[0]])}' is not known" if unknown else None
    if problem is not None:
        return f"{CONFIG}: {problem}"
    if schema.problem(folder.name, schema.Text) is not None:
        return "its name cannot be printed"
    timed = record["metrics"].get("speedup") is not None
    judged = schema.WITH_LABELS if quality_of(record["metrics"]) is ACCURACY else schema.WITHOUT_LABELS
    needed = (*schema.EVERY_ROW, *judged, *(schema.TIMED if timed else ()))
    lacking = [name for name in needed if record["metrics"].get(name) is None]
    if lacking:
        return f"{METRICS} lacks {', '.join(lacking)}: it is of another version, or damaged; run the sweep again"
    settings = {name: config.get(name) for name in FIELDS}  # all of them: every table has the same columns
    measured = {**record["metrics"], **record["environment"]}
    known = {name: value for name, value in measured.items() if name in schema.column_kinds()}
    return {**settings, **dict.fromkeys(schema.SOME_ROWS), **known, "folder": folder.name}


def intact(table: "pd.DataFrame", sweep: Path, say: Callable[[str], None]) -> "pd.DataFrame":
    """The rows of a sweep's table whose files are those that were measured.

    Args:
        say: gets a line for each of the others, which are left out.
    """
    kept = []
    for folder in table["folder"] if len(table) else ():
        record = finished_record(sweep / folder)
        wrong = [METRICS] if record is None else damaged_files(sweep / folder, record, CONFIG, MODEL)
        if wrong:
            say(f"{folder} is left out: {', '.join(wrong)} is not what was measured; run the sweep again")
        else:
            kept.append(folder)
    return table[table["folder"].isin(kept)].reset_index(drop=True) if len(kept) < len(table) else table


def _in_reading_order(table: "pd.DataFrame") -> "pd.DataFrame":
    """Sorted as people read them."""
    study = ["model", "dataset", "batch_size", "schedule"]
    keys = table[[*study, "technique", "criterion", "control", "sparsity", "seed", "folder"]]
    ranked = {"technique": list(TECHNIQUES), "control": list(CONTROLS)}
    keys = keys.assign(
        **{name: keys[name].map({value: rank for rank, value in enumerate(order)}) for name, order in ranked.items()}
    )
    return table.loc[keys.sort_values(list(keys.columns)).index].reset_index(drop=True)


def write_tables(sweep: Path, say: Callable[[str], None] = lambda line: None) -> "pd.DataFrame":
    """Derives results.csv and results.parquet from the points of a claimed sweep and returns the table.

    Args:
        say: see `result_table`.
    """
    begun = time.time_ns()
    table = result_table(sweep, say)
    write_text(sweep / "results.csv", csv_of(table))
    with replacing(sweep / TABLE) as partial:
        table.to_parquet(partial, index=False)
        os.utime(partial, ns=(begun, begun))  # what has changed since then is not in it
    return table
