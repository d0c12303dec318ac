"""Frees the disk that a sweep's models take: tables, records and the chosen models stay."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from onnxprune.common.errors import BusyError, InputError
from onnxprune.common.files import write_json
from onnxprune.results import store

_GOES = (store.MODEL, store.INT8_MODEL, store.MASKS, store.LOG)


@dataclass(frozen=True)
class Leftover:
    """Files of one point that can go.

    Attributes:
        folder: of the point.
        files: their names.
        size: their bytes.
    """

    folder: Path
    files: tuple[str, ...]
    size: int


def leftovers(sweep: Path, chosen: Iterable[str]) -> list[Leftover]:
    """What can go of a sweep's finished points but the chosen ones.

    Args:
        chosen: names of the folders of points that keep all of their files.

    Raises:
        InputError: the folder is not a sweep's.
    """
    if not (sweep / store.SPEC).is_file():
        raise InputError(f"{sweep} is not the folder of a sweep: it has no {store.SPEC}")
    kept = set(chosen)
    found = []
    for record in sorted(sweep.glob(f"*/{store.METRICS}")):
        paths = [path for name in _GOES if (path := record.with_name(name)).is_file()]
        if record.parent.name not in kept and paths:
            names = tuple(path.name for path in paths)
            found.append(Leftover(record.parent, names, sum(path.stat().st_size for path in paths)))
    return found


def clean(found: Iterable[Leftover]) -> None:
    """Removes files of points; their records no longer ask for them, so that a sweep that goes on leaves them be.

    Raises:
        BusyError: another process is running a point.
    """
    for leftover in found:
        with store.claimed(leftover.folder, wait=False) as ours:
            if not ours:
                raise BusyError(f"another process is running {leftover.folder}: clean up when it is done")
            record = store.finished_record(leftover.folder)
            if record is None:
                continue
            files = record.get("files") or {}
            record["files"] = {name: checksum for name, checksum in files.items() if name not in leftover.files}
            record["cleaned"] = sorted({*record.get("cleaned", ()), *leftover.files})
            write_json(leftover.folder / store.METRICS, record)  # first: a file without a record would be made again
            for name in leftover.files:
                (leftover.folder / name).unlink(missing_ok=True)
