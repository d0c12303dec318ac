"""What is on disk: there whole or not at all, and checked before it is believed."""

import json
from pathlib import Path

import pytest

from onnxprune.common.errors import RunError
from onnxprune.common.files import digest, replacing, write_json, write_text
from onnxprune.common.progress import Reporter, Verbosity
from onnxprune.results import store
from onnxprune.results.task import RetryPolicy, ensure

RECORD = {"metrics": {"accuracy": 1.0}, "environment": {}}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_name_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert path.read_text() == "old"
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old"
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert files(tmp_path) == ["text.txt"], "something half-written is left"
    with replacing(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A point that is done."""
    folder = tmp_path / "sweep" / "point"
    store.begin(folder, {"model": "cnn"})
    for name in (store.MODEL, store.MASKS):
        (folder / name).write_text(name)
    store.finish(folder, RECORD)
    return folder


def test_a_record_has_the_checksum_of_every_file(folder: Path) -> None:
    record = store.finished_record(folder)
    assert record is not None
    assert record["files"] == {name: digest(folder / name) for name in (store.CONFIG, store.MODEL, store.MASKS)}
    assert store.damaged_files(folder, record) == []


@pytest.mark.parametrize("name", [store.CONFIG, store.MODEL, store.MASKS])
def test_a_file_that_changed_is_told(folder: Path, name: str) -> None:
    record = store.finished_record(folder)
    assert record is not None
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + b"?")
    assert store.damaged_files(folder, record) == [name]
    (folder / name).unlink()
    assert store.damaged_files(folder, record) == [name]


def made(folder: Path, **policy: bool) -> tuple[dict[str, object], bool]:
    def work() -> dict[str, object]:
        (folder / store.MODEL).write_text("again")
        return RECORD

    return ensure(folder, {"model": "cnn"}, work, RetryPolicy(**policy), Reporter(0, Verbosity.QUIET))


def test_what_is_done_is_not_done_again_unless_it_is_damaged(folder: Path) -> None:
    assert made(folder)[1]
    assert (folder / store.MODEL).read_text() == store.MODEL
    (folder / store.MODEL).write_text("damaged")
    assert not made(folder)[1]
    assert (folder / store.MODEL).read_text() == "again"
    assert (folder.parent / "damaged" / "point.1" / store.MODEL).read_text() == "damaged"
    assert made(folder)[1]


def test_what_nobody_would_take_for_done_is_a_failure(tmp_path: Path) -> None:
    folder = tmp_path / "sweep" / "point"

    def work() -> dict[str, object]:
        metrics = RECORD["metrics"]
        assert isinstance(metrics, dict)
        return {**RECORD, "metrics": {**metrics, "params": -1}}

    with pytest.raises(RunError, match=r"a fault of onnxprune: what was measured cannot be: .*params"):
        ensure(folder, {}, work, RetryPolicy(), Reporter(0, Verbosity.QUIET))
    assert "cannot be" in (store.recorded_error(folder) or "")
    assert not (folder / store.METRICS).exists()


def test_the_record_comes_last(tmp_path: Path) -> None:
    folder = tmp_path / "sweep" / "point"

    def work() -> dict[str, object]:
        assert files(folder) == [store.CONFIG, store.LOG]
        raise ValueError("broken off")

    with pytest.raises(RunError, match="broken off"):
        ensure(folder, {}, work, RetryPolicy(), Reporter(0, Verbosity.QUIET))
    assert store.finished_record(folder) is None
    assert json.loads((folder / store.CONFIG).read_text()) == {}
    with pytest.raises(RunError, match="in an earlier run"):
        made(folder)
    assert not made(folder, retry_failed=True)[1]
    assert files(folder) == [store.CONFIG, store.LOG, store.METRICS, store.MODEL]
