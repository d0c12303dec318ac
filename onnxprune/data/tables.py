"""Pictures in tables: Parquet files, or what Hugging Face's `datasets` writes by `save_to_disk`, in a folder.

What the columns are is read off the features that `datasets` writes into the schema; without them, the picture is the
column that has `bytes` in it, the label the one that is called so.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from onnxprune.common.environment import available_memory
from onnxprune.common.errors import InputError, one_line
from onnxprune.common.files import read_json
from onnxprune.common.limits import memory_limited
from onnxprune.common.output import plural
from onnxprune.common.parquet import unpacked_bytes
from onnxprune.data.collection import MOST_BYTES, SPLITS, Collection, Picture
from onnxprune.data.names import check_class_names, shown_name

_SPLITS_FILE, _STATE_FILE = "dataset_dict.json", "state.json"  # of save_to_disk
_LABELS = ("label", "labels", "class", "target")
_MOST_CLASSES = 100_000


@dataclass(frozen=True)
class _Columns:
    """Names of the columns; `classes`: names of the classes where the features say them."""

    picture: str
    label: str
    classes: list[str] | None


def are_in(folder: Path) -> bool:
    """Whether a folder has tables in it."""
    return any((folder / name).is_file() for name in (_SPLITS_FILE, _STATE_FILE)) or bool(_parquet_files(folder))


def listed(folder: Path) -> Collection:
    """The pictures in the tables of a folder, none of which is decoded yet.

    Raises:
        InputError: in one line, what keeps the tables from being a dataset.
    """
    found = Collection(folder)
    tables = [(split, path, _table(found, path)) for split, path in _files(found)]
    columns = _columns(found, tables[0][2].schema)
    values = [_labels(found, columns, path, table) for _, path, table in tables]
    names = columns.classes
    if names is None:
        named = sorted({label for labels in values for label in labels if isinstance(label, str)})
        highest = max((label for labels in values for label in labels if isinstance(label, int)), default=-1)
        if highest >= _MOST_CLASSES:
            raise found.error(f"column {columns.label!r} has labels up to {highest:,}, expected fewer classes")
        names = named or [str(label) for label in range(highest + 1)]
        there = {label for labels in values for label in labels if isinstance(label, int)}
        lacking = [] if named else sorted(set(range(highest + 1)) - there)
        if lacking:
            raise found.error(
                f"column {columns.label!r} has no {lacking[0]}, but {highest:,}: expected every label from 0 to the "
                "number of classes minus 1"
            )
    found.classes = check_class_names(str(folder), names)
    numbers = {name: label for label, name in enumerate(names)}
    for (split, path, table), labels in zip(tables, values, strict=True):
        contents = _contents(found, columns, path, table)
        for row, given in enumerate(labels):
            label = numbers.get(given, -1) if isinstance(given, str) else -1 if given is None else given
            if not 0 <= label < len(names):
                raise found.error(f"row {row} of {path.name} has label {given}, expected 0 to {len(names) - 1}")
            found.pictures.append(
                Picture(f"row {row} of {shown_name(path.name)}", label, split, partial(_content, contents, row))
            )
    if len(found.classes) < 2:
        raise found.error(f"has {plural(len(found.classes), 'class', 'es')}, expected at least 2")
    others = sorted(set(tables[0][2].schema.names) - {columns.picture, columns.label})
    if others:
        found.ignored[f"beside picture and label ({', '.join(map(shown_name, others))})"] = len(others)
    return found


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(file for part in (folder, folder / "data") for file in part.glob("*.parquet") if file.is_file())


def _files(found: Collection) -> list[tuple[str | None, Path]]:
    """The files of tables, each with the split it is of, None where nothing says it."""
    folder = found.place
    if (folder / _SPLITS_FILE).is_file():
        told = read_json(folder / _SPLITS_FILE)
        splits = told.get("splits") if isinstance(told, dict) else None
        if not isinstance(splits, list) or not set(SPLITS) <= set(map(str, splits)):
            raise found.error(f"{_SPLITS_FILE} names the splits {splits}, expected train and test among them")
        if len(splits) > len(SPLITS):
            found.ignored["beside the splits train and test"] = len(splits) - len(SPLITS)
        return [(split, file) for split in SPLITS for file in _saved_files(found, folder / split)]
    if (folder / _STATE_FILE).is_file():
        return [(None, file) for file in _saved_files(found, folder)]
    files = _parquet_files(folder)
    of_splits: list[tuple[str | None, Path]] = [
        (split, file) for split in SPLITS for file in files if file.name.startswith(split)
    ]
    if not of_splits:
        return [(None, file) for file in files]
    lacking = [split for split in SPLITS if split not in dict(of_splits)]
    if lacking:
        raise found.error(f"has {of_splits[0][1].name} but no {lacking[0]}*.parquet: expected both")
    if len(of_splits) < len(files):
        found.ignored["of other splits"] = len(files) - len(of_splits)
    return of_splits


def _saved_files(found: Collection, folder: Path) -> list[Path]:
    state = read_json(folder / _STATE_FILE)
    try:
        names = [str(entry["filename"]) for entry in state["_data_files"]]
    except (TypeError, KeyError):
        names = []
    files = [folder / name for name in names if Path(name).name == name]  # none outside
    if not files or len(files) < len(names) or not all(file.is_file() for file in files):
        raise found.error(f"{folder.name}/{_STATE_FILE} does not name the files beside it: save the dataset again")
    return files


def _table(found: Collection, path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        size = unpacked_bytes(path) if path.suffix == ".parquet" else path.stat().st_size
        if size > (free := available_memory()):
            raise found.error(f"{path.name} takes {size / 1e9:,.1f} GB of memory, {free / 1e9:,.1f} GB are available")
        with memory_limited():
            if path.suffix == ".parquet":
                table = pq.ParquetFile(path).read()
            else:
                with pa.OSFile(str(path)) as source:  # no map of it: a file that is cut meanwhile would end the process
                    table = pa.ipc.open_stream(source).read_all()
            table.validate(full=True)  # a damaged file may point anywhere
    except MemoryError:  # pyarrow's own is one
        raise found.error(
            f"{shown_name(path.name)} unpacks to more memory than the {free / 1e9:,.1f} GB that are available"
        ) from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise found.error(f"{shown_name(path.name)} is not a table, or a damaged one: {one_line(error)}") from None
    return table


def _columns(found: Collection, schema: Any) -> _Columns:
    """
    Raises:
        InputError: there is none of pictures, or none of labels.
    """
    features = _features(schema)
    kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    pictures = [name for name in schema.names if kinds.get(name) == "Image"] or [
        name for name in schema.names if _has_bytes(schema.field(name).type)
    ]
    labels = [name for name in schema.names if kinds.get(name) == "ClassLabel"] or [
        name for name in schema.names if name.lower() in _LABELS
    ]
    for columns, what in ((pictures, "pictures, with the bytes of their files"), (labels, "labels")):
        if not columns:
            listed_names = ", ".join(map(shown_name, schema.names)) or "none"
            raise found.error(f"its tables have no column of {what}: there are {listed_names}")
    names = features[labels[0]].get("names") if labels[0] in kinds else None
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise found.error(f"the features of column {labels[0]!r} do not name its classes as a list of texts")
    return _Columns(pictures[0], labels[0], names)


def _features(schema: Any) -> dict[str, Any]:
    """What `datasets` says of the columns; empty where it does not."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _has_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _has_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _labels(found: Collection, columns: _Columns, path: Path, table: Any) -> list[int | str | None]:
    import pyarrow as pa

    if not {columns.picture, columns.label} <= set(table.schema.names):
        raise found.error(f"{path.name} lacks column {columns.picture} or {columns.label}, which the other files have")
    column, kind = table.column(columns.label), table.schema.field(columns.label).type
    if pa.types.is_dictionary(kind):  # categories of pandas
        kind = kind.value_type
        column = column.cast(kind)
    if pa.types.is_boolean(kind):
        kind = pa.int8()
        column = column.cast(kind)
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise found.error(f"column {columns.label!r} of {path.name} is {kind}, expected whole numbers or texts")
    labels: list[int | str | None] = column.to_pylist()
    return labels


def _contents(found: Collection, columns: _Columns, path: Path, table: Any) -> Sequence[Any]:
    """The bytes of each picture's file."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(columns.picture)
    if not _has_bytes(column.type):
        raise found.error(f"column {columns.picture!r} of {path.name} is {column.type}, expected bytes of pictures")
    contents: Sequence[Any] = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    return contents


def _content(contents: Sequence[Any], row: int) -> bytes:
    content = contents[row].as_py()
    if not isinstance(content, bytes):
        raise InputError("the table has the name of its file only, not the picture")
    if len(content) > MOST_BYTES:
        raise InputError(f"more than {MOST_BYTES >> 20} MB")
    return content
