"""The table of a sweep: a row for each finished point, derived from the points' files and kept as a file of its own."""

import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from onnxprune.common.environment import available_memory
from onnxprune.common.errors import InputError
from onnxprune.common.files import read_json, replacing, write_text
from onnxprune.common.output import printable
from onnxprune.common.parquet import unpacked_bytes
from onnxprune.common.spreadsheets import csv_of
from onnxprune.results import schema
from onnxprune.results.quality import ACCURACY, quality_of
from onnxprune.results.store import (
    CONFIG,
    METRICS,
    MODEL,
    SPEC,
    TABLE,
    damaged_files,
    finished_folders,
    finished_record,
    right_images,
)
from onnxprune.settings.point import FIELDS
from onnxprune.settings.vocabulary import CONTROLS, SCHEDULES, TECHNIQUES

_WORDS = {"technique": {*TECHNIQUES}, "schedule": {*SCHEDULES}}  # settings by which a table is read


def result_table(sweep: Path, say: Callable[[str], None] = lambda line: None) -> pd.DataFrame:
    """The finished points of a sweep's folder, one row each; whole numbers stay whole where values are missing.

    Rows of results.parquet are taken from there as long as the record of their point is older than that file.

    Args:
        say: gets a line for each folder that is left out because what is in it cannot be believed.

    Raises:
        InputError: the folder is not a sweep's.
    """
    from onnxprune.results.derived import DERIVED, derive

    if not (sweep / SPEC).is_file():
        raise InputError(f"{sweep} is not the folder of a sweep: it has no {SPEC}")
    known, derived = _derived_rows(sweep)
    kept, rows = [], []
    finished = dict(finished_folders(sweep))
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


def _latest(table: pd.DataFrame, written: Mapping[str, int]) -> pd.DataFrame:
    """Of points of the same settings, made of other data or by another version, the one that was finished last.

    Args:
        written: folder -> when its record was, in nanoseconds.
    """
    settings = table[[*FIELDS]]
    if not settings.duplicated().any():
        return table
    order = table["folder"].map(written).sort_values(kind="stable").index
    return table.loc[settings.loc[order].drop_duplicates(keep="last").index]


def _derived_rows(sweep: Path) -> tuple[pd.DataFrame, int]:
    """The rows of results.parquet by folder, and when, in nanoseconds; none where it is of other columns or damaged,
    or where pyarrow, which studies alone need, is not there."""
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


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns that may lack values; a percentage is no whole number because all of its values are."""
    kinds = {**schema.column_kinds(), **schema.setting_kinds()}
    table = table.convert_dtypes()
    real = [name for name, kind in kinds.items() if kind is float and name in table and table[name].notna().any()]
    return table.astype(dict.fromkeys(real, "Float64"))


def _fits(column: pd.Series, kind: type) -> bool:
    """Whether a column is of the kind that records give, or empty."""
    from pandas.api import types

    if kind is bool:
        fits = types.is_bool_dtype(column)
    else:
        fits = types.is_string_dtype(column) if kind is str else types.is_numeric_dtype(column)
    return fits or bool(column.isna().all())


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


def intact(table: pd.DataFrame, sweep: Path, say: Callable[[str], None]) -> pd.DataFrame:
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


def _in_reading_order(table: pd.DataFrame) -> pd.DataFrame:
    """Sorted as people read them."""
    study = ["model", "dataset", "batch_size", "schedule"]
    keys = table[[*study, "technique", "criterion", "control", "sparsity", "seed", "folder"]]
    ranked = {"technique": list(TECHNIQUES), "control": list(CONTROLS)}
    keys = keys.assign(
        **{name: keys[name].map({value: rank for rank, value in enumerate(order)}) for name, order in ranked.items()}
    )
    return table.loc[keys.sort_values(list(keys.columns)).index].reset_index(drop=True)


def write_tables(sweep: Path, say: Callable[[str], None] = lambda line: None) -> pd.DataFrame:
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
