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
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from onnxprune.errors import InputError, RunError
from onnxprune.pruning import TECHNIQUES
from onnxprune.spec import FIELDS

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
PARTIAL = ".part"
_DAMAGED = "damaged"
_LOCKS = ".locks"
_CHECKED = (CONFIG, MODEL, CHECKPOINT, MASKS)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` which takes its name when the block ends well, and vanishes otherwise."""
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in a file, or None where there is no intact one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def make_folder(path: Path) -> Path:
    """Creates a folder with its parents.

    Raises:
        RunError: the system does not let us, with its reason.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create the folder {path}: {error.strerror}; choose another with --out") from None
    return path


@contextlib.contextmanager
def claimed(path: Path, wait: bool = True) -> Iterator[bool]:
    """Keeps other processes that claim it off a path during the block; the system ends the claim of a dead process.

    Yields:
        Whether it is ours; False only without `wait`, where another process has it.
    """
    lock = FileLock(make_folder(path.parent / _LOCKS) / f"{path.name}.lock")
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


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


def digest(path: Path) -> str | None:
    """The SHA-256 of a file, None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


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


def point_rows(sweep: Path) -> list[dict[str, Any]]:
    """One flat dictionary for each finished point of a sweep's folder, sorted as people read them.

    Raises:
        InputError: the folder is not a sweep's.
    """
    if not (sweep / SPEC).is_file():
        raise InputError(f"{sweep} is not the folder of a sweep: it has no {SPEC}")
    rows = []
    for config_path in sweep.glob(f"*/{CONFIG}"):
        config, record = read_json(config_path), finished_record(config_path.parent)
        if config is not None and record is not None:
            settings = {name: config.get(name) for name in FIELDS}  # all of them: every table has the same columns
            rows.append({**settings, **record["metrics"], **record["environment"], "folder": config_path.parent.name})
    techniques = list(TECHNIQUES)

    def reading_order(row: dict[str, Any]) -> tuple[Any, ...]:
        study = tuple(row[name] for name in ("model", "dataset", "batch_size", "schedule"))
        return (
            *study,
            techniques.index(row["technique"]),
            row["criterion"],
            row["sparsity"],
            row["seed"],
            row["folder"],
        )

    return sorted(rows, key=reading_order)


def result_table(sweep: Path) -> "pd.DataFrame":
    """The finished points of a sweep's folder, one row each; whole numbers stay whole where values are missing.

    Raises:
        InputError: the folder is not a sweep's.
    """
    import pandas as pd

    return pd.DataFrame(point_rows(sweep)).convert_dtypes()


def write_tables(sweep: Path) -> "pd.DataFrame":
    """Derives results.csv and results.parquet from the points of a claimed sweep and returns the table."""
    table = result_table(sweep)
    with replacing(sweep / "results.csv") as partial:
        table.to_csv(partial, index=False)
    with replacing(sweep / "results.parquet") as partial:
        table.to_parquet(partial, index=False)
    return table
