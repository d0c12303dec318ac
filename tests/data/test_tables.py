"""Pictures in Parquet files and in what Hugging Face's `datasets` saves."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from photos import photos, picture

from onnxprune.common.errors import InputError
from onnxprune.common.progress import Verbosity
from onnxprune.data import tables
from onnxprune.data.dataset import Dataset, load

NAMES = ["zebra", "ant", "élan"]


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "kept"))


def png(seed: int) -> bytes:
    content = io.BytesIO()
    picture(seed).save(content, "PNG")
    return content.getvalue()


def table(count: int = 60, first: int = 0, names: list[str] | None = NAMES, **columns: Any) -> pa.Table:
    """As `datasets` makes it, with what it says of the columns; without `names` it says nothing."""
    given = {
        "id": pa.array(range(count)),
        "image": pa.array([{"bytes": png(first + row), "path": f"{row}.png"} for row in range(count)]),
        "label": pa.array([(first + row) % 3 for row in range(count)]),
        **columns,
    }
    made = pa.table({name: column for name, column in given.items() if column is not None})
    if names is None:
        return made
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}, "id": {"dtype": "int64"}}
    told = {"info": {"features": features}}
    return made.replace_schema_metadata({"huggingface": json.dumps(told)})


def saved(folder: Path, *parts: pa.Table) -> Path:
    """What `save_to_disk` writes of a dataset."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(parts):05}.arrow" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, part.schema) as stream:
            stream.write_table(part, max_chunksize=7)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def parquet(folder: Path, **files: pa.Table) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in files.items():
        pq.write_table(part, folder / f"{name}.parquet", row_group_size=11)
    return folder


def check(found: Dataset, rows: int = 60) -> None:
    """Every picture is there once, under its label."""
    labels = {np.asarray(picture(row)).transpose(2, 0, 1).tobytes(): row % 3 for row in range(rows)}
    seen = {}
    for split in (found.train, found.validation, found.test):
        seen |= {image.tobytes(): int(label) for image, label in zip(split.images, split.labels, strict=True)}
    assert seen == labels


def test_a_table_is_split_as_a_folder_of_the_same_pictures_is(tmp_path: Path) -> None:
    made = table()
    found = load(str(parquet(tmp_path / "pets", whole=made)))
    assert (found.name, found.classes, found.input_shape) == ("pets", tuple(NAMES), (3, 8, 8))
    check(found)
    for row in range(60):
        (tmp_path / "files" / f"{row % 3}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / f"{row % 3}/{row}.png").write_bytes(png(row))
    same = load(str(tmp_path / "files"))
    np.testing.assert_array_equal(found.test.images, same.test.images)
    np.testing.assert_array_equal(found.test.labels, same.test.labels)


def test_files_of_splits_are_those_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {
        "train-00000-of-00002": table(30),
        "train-00001-of-00002": table(15, 30),
        "test-00000-of-00001": table(15, 45),
    }
    folder = parquet(tmp_path / "pets/data", **parts, **{"validation-00000-of-00001": table(9, 90)}).parent
    found = load(str(folder), verbosity=Verbosity.NORMAL)
    assert len(found.test) == 15
    assert {image.tobytes() for image in found.test.images} == {
        np.asarray(picture(seed)).transpose(2, 0, 1).tobytes() for seed in range(45, 60)
    }
    check(found)
    told = capsys.readouterr().err
    assert "pets: 60 pictures of 3 classes, 45 for training and validation, 15 for testing (as given)" in told
    assert "1 of other splits" in told
    assert "1 beside picture and label (id)" in told


def test_what_datasets_saves_is_read(tmp_path: Path) -> None:
    check(load(str(saved(tmp_path / "alone", table(40), table(20, 40)))))
    folder = tmp_path / "both"
    saved(folder / "train", table(45))
    saved(folder / "test", table(15, 45))
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test", "validation"]}')
    found = load(str(folder))
    assert (len(found.test), found.classes) == (15, tuple(NAMES))
    check(found)


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({}, ("0", "1", "2")),
        ({"label": pa.array([("b", "c", "a")[row % 3] for row in range(60)])}, ("a", "b", "c")),
        ({"label": pa.array(["b", "a"] * 30).dictionary_encode()}, ("a", "b")),
        ({"label": pa.array([True, False] * 30)}, ("0", "1")),
        ({"image": pa.array([png(row) for row in range(60)])}, ("0", "1", "2")),
        ({"image": None, "img": pa.array([png(row) for row in range(60)], pa.large_binary())}, ("0", "1", "2")),
    ],
)
def test_tables_without_features_are_read_by_their_columns(
    tmp_path: Path, columns: dict[str, Any], names: tuple[str, ...]
) -> None:
    found = load(str(parquet(tmp_path / "pets", whole=table(names=None, **columns))))
    assert found.classes == names
    assert len(found.train) + len(found.validation) + len(found.test) == 60


def test_a_folder_of_pictures_beside_no_table_is_no_table(tmp_path: Path) -> None:
    assert not tables.are_in(photos(tmp_path / "pets"))


def _with(**columns: Any) -> Callable[[Path], Any]:
    return lambda path: parquet(path, whole=table(**columns))


def _cut(path: Path) -> None:
    whole = (parquet(path, whole=table()) / "whole.parquet").read_bytes()
    (path / "whole.parquet").write_bytes(whole[:-100])


def _outside(path: Path) -> None:
    saved(path, table())
    (path / "state.json").write_text('{"_data_files": [{"filename": "../pets/data-00000-of-00001.arrow"}]}')


def _spoilt(path: Path) -> None:
    (saved(path, table()) / "data-00000-of-00001.arrow").write_bytes(b"ARROW1" + bytes(100))


PATHS = pa.array([{"bytes": png(0) if row else None, "path": "x.png"} for row in range(60)])
TEXT = pa.array([{"bytes": b"text", "path": ""}] * 60)
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no table": (_cut, "whole.parquet is not a table, or a damaged one: "),
    "no arrow file": (_spoilt, "data-00000-of-00001.arrow is not a table, or a damaged one: "),
    "files elsewhere": (_outside, "pets/state.json does not name the files beside it"),
    "no splits": (lambda path: (saved(path, table()) / "dataset_dict.json").write_text("[]"), "names the splits None"),
    "train alone": (lambda path: parquet(path, train=table()), "has train.parquet but no test*.parquet: expected both"),
    "no picture": (_with(image=None), "have no column of pictures, with the bytes of their files: there are id, label"),
    "no label": (_with(label=None, names=None), "have no column of labels: there are id, image"),
    "floats as labels": (
        _with(label=pa.array([0.5] * 60)),
        "column 'label' of whole.parquet is double, expected",
    ),
    "a label missing": (
        _with(label=pa.array([None, *[1] * 59])),
        "row 0 of whole.parquet has label None, expected",
    ),
    "a label of none": (_with(label=pa.array([0, -1] * 30)), "row 1 of whole.parquet has label -1, expected 0 to 2"),
    "a huge label": (_with(label=pa.array([2**40] * 60), names=None), "has labels up to 1,099,511,627,776, expected"),
    "labels from 1": (
        _with(label=pa.array([1, 2] * 30), names=None),
        "column 'label' has no 0, but 2: expected every label from 0 to the number of classes minus 1",
    ),
    "a class unseen": (_with(label=pa.array([0, 1] * 30)), "class 'élan' has too few pictures: none of its 0"),
    "not in test": (
        lambda path: parquet(path, train=table(), test=table(2, 90)),
        "class 'élan' has no pictures in the test set: expected every class in both sets",
    ),
    "other columns": (
        lambda path: parquet(path, train=table(), test=table(names=None, image=None)),
        "test.parquet lacks column image or label, which the other files have",
    ),
    "names with lines": (_with(names=["a\nb", "c", "d"]), r"class 'a\nb' has a name that cannot be used"),
    "names that are none": (_with(names=[1, 2, 3]), "do not name its classes as a list of texts"),
    "paths alone": (
        _with(image=PATHS),
        "(row 0 of whole.parquet: the table has the name of its file only, not the picture)",
    ),
    "text": (_with(image=TEXT), "60 of 60 pictures cannot be used (row 0 of whole.parquet: not a picture"),
    "one class": (_with(names=["a"], label=pa.array([0] * 60)), "has 1 class, expected at least 2"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_tables_that_are_no_dataset_are_refused_in_a_line(
    tmp_path: Path, make: Callable[[Path], Any], words: str
) -> None:
    path = tmp_path / "pets"
    make(path)
    with pytest.raises(InputError) as error:
        load(str(path))
    text = str(error.value)
    assert words in text
    assert text.startswith(str(path))
    assert text.isprintable()


def test_tables_that_do_not_fit_the_memory_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "pets", whole=table())
    monkeypatch.setattr(tables, "available_memory", lambda: 5_000)
    with pytest.raises(InputError, match=r"whole\.parquet takes 0\.0 GB of memory, 0\.0 GB are available"):
        load(str(path))
