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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.common.errors import InputError, RunError
from onnxprune.common.files import PARTIAL, digest, locked, make_folder, read_json, replacing, write_json, write_text
from onnxprune.common.output import printable
from onnxprune.results import schema
from onnxprune.settings.point import BASES, Point
from onnxprune.settings.sweep import Sweep

if TYPE_CHECKING:
    import numpy as np

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
    finished = {_without_hash(name) for name, _ in finished_folders(sweep)}  # since then, by other data
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


def finished_folders(sweep: Path) -> Iterator[tuple[str, int]]:
    """Name of each folder that has a record, and when that was written, in nanoseconds."""
    with os.scandir(sweep) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                # a Path for each would double the time that 100,000 points take
                yield entry.name, os.stat(f"{entry.path}/{METRICS}").st_mtime_ns  # noqa: PTH116
