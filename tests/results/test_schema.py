"""Records are checked like files of strangers: a bad folder is named and left out, the rest of the table comes."""

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up import hand_made, record

from onnxprune.common.files import digest, parse_json, read_json
from onnxprune.delivery.choice import studies
from onnxprune.report.sources import read
from onnxprune.results import schema, store
from onnxprune.results.derived import DERIVED
from onnxprune.results.tables import result_table, write_tables
from onnxprune.settings.point import FIELDS
from onnxprune.study import point as study_point

DOCS = Path(__file__).parents[2] / "docs"
HUGE = 10**400


def edited(part: str, name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def edit(found: dict[str, Any]) -> Any:
        (found[part] if part else found)[name] = value
        return found

    return edit


def without(part: str, name: str) -> Callable[[dict[str, Any]], Any]:
    def edit(found: dict[str, Any]) -> Any:
        del (found[part] if part else found)[name]
        return found

    return edit


RECORDS = {
    "no object": lambda found: [found],
    "null": lambda found: None,
    "metrics a list": edited("", "metrics", [1]),
    "metrics gone": without("", "metrics"),
    "environment a text": edited("", "environment", "x"),
    "accuracy a text": edited("metrics", "accuracy", "97"),
    "accuracy NaN": edited("metrics", "accuracy", math.nan),
    "accuracy 400 digits": edited("metrics", "accuracy", HUGE),
    "accuracy gone": without("metrics", "accuracy"),
    "accuracy null": edited("metrics", "accuracy", None),
    "accuracy 101 %": edited("metrics", "accuracy", 101),
    "macs 400 digits": edited("metrics", "macs", HUGE),
    "macs beyond 64 bits": edited("metrics", "macs", 2**63),
    "macs a truth value": edited("metrics", "macs", True),
    "macs an object": edited("metrics", "macs", {"a": 1}),
    "macs negative": edited("metrics", "macs", -1),
    "speedup infinite": edited("metrics", "speedup", math.inf),
    "speedup without its noise": without("metrics", "speedup_noise"),
    "collapsed a number": edited("metrics", "collapsed", 1),
    "base_id with an escape": edited("metrics", "base_id", "a\x1b[31m"),
    "base_id with a line": edited("metrics", "base_id", "a\n"),
    "base_id with half a letter": edited("metrics", "base_id", "\ud800"),
    "a file with half a letter": edited("files", "\ud800", "0" * 64),
    "cpu a list": edited("environment", "cpu", ["x"]),
    "cpu with an escape": edited("environment", "cpu", "\x1b]0;x\x07"),
    "losses texts": edited("", "epoch_losses", ["x"]),
    "losses a number": edited("", "epoch_losses", 3),
    "layers a list": edited("", "layers", [1]),
    "layers without kept": edited("", "layers", {"a": {"units": 3}}),
    "files a list": edited("", "files", ["model.onnx"]),
    "files no checksum": edited("", "files", {"model.onnx": "x"}),
}
CONFIGS = {
    "no object": lambda found: [found],
    "null": lambda found: None,
    "model gone": without("", "model"),
    "model a number": edited("", "model", 3),
    "model with an escape": edited("", "model", "\x1b[2J"),
    "sparsity a text": edited("", "sparsity", "fifty"),
    "sparsity NaN": edited("", "sparsity", math.nan),
    "sparsity 400 digits": edited("", "sparsity", HUGE),
    "seed 400 digits": edited("", "seed", HUGE),
    "seed a list": edited("", "seed", [0]),
    "batch_size null": edited("", "batch_size", None),
    "model with half a letter": edited("", "model", "a\udfff"),
    "technique an object": edited("", "technique", {}),
    "technique of nobody": edited("", "technique", "magic"),
    "schedule of nobody": edited("", "schedule", "later"),
}


def test_a_bad_folder_is_named_and_left_out_and_the_rest_comes(tmp_path: Path) -> None:
    """Each of these in a folder of its own, of one sweep."""
    bad = [
        (file, edit) for file, edits in ((store.METRICS, RECORDS), (store.CONFIG, CONFIGS)) for edit in edits.values()
    ]
    sweep = hand_made(tmp_path, "demo", technique="weight", sparsity=list(range(len(bad) + 1)))
    expected = {}
    for share, (file, edit) in enumerate(bad, 1):
        (folder,) = sweep.glob(f"*-s{share}-*")
        (folder / file).write_text(json.dumps(edit(json.loads((folder / file).read_text()))))
        expected[folder.name] = file
    said: list[str] = []
    table = result_table(sweep, said.append)
    assert list(table["sparsity"]) == [0]
    assert len(said) == len(bad)
    for line in said:
        name, _, reason = line.partition(" is left out: ")
        assert reason.startswith(expected.pop(name))
        assert line.isprintable()
        assert len(line) < 1000
    assert not expected
    assert [list(rows["sparsity"]) for rows in studies(sweep, [])] == [[0]]
    (source,) = read([sweep])
    assert source.left_out == said


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"metrics": ' + b"9" * 5000 + b"}"])
def test_what_is_no_json_is_told_likewise(tmp_path: Path, content: bytes) -> None:
    sweep = hand_made(tmp_path, "demo", technique="weight", sparsity="0,50")
    (folder,) = sweep.glob("*-s50-*")
    for name in (store.METRICS, store.CONFIG):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        said: list[str] = []
        assert len(result_table(sweep, said.append)) == 1
        assert said
        (folder / name).write_bytes(before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_no_file_and_is_not_waited_for(tmp_path: Path) -> None:
    for name in (store.METRICS, store.ERROR):
        os.mkfifo(tmp_path / name)
    assert read_json(tmp_path / store.METRICS) is None
    assert digest(tmp_path / store.METRICS) is None
    assert store.recorded_error(tmp_path) is None


def test_whole_numbers_of_400_digits_are_none() -> None:
    assert parse_json("[12345678901234567890]") == [12345678901234567890]
    for text in (f"[{HUGE}]", f'{{"a": -{HUGE}}}'):
        with pytest.raises(ValueError, match="digits"):
            parse_json(text)


def test_checksums_of_other_files_are_not_looked_at(tmp_path: Path) -> None:
    folder = next(iter(hand_made(tmp_path, "demo", technique="weight", sparsity="0").glob("*-s0-*")))
    found = store.finished_record(folder)
    assert found is not None
    assert store.damaged_files(folder, found) == []
    outside = tmp_path / "secret"
    outside.write_text("secret")
    found["files"]["../../../secret"] = digest(outside)
    assert store.damaged_files(folder, found) == ["../../../secret"]
    del found["files"]["../../../secret"], found["files"]["model.onnx"]
    assert store.damaged_files(folder, found) == []
    assert store.damaged_files(folder, found, store.MODEL) == ["model.onnx"]


def test_every_column_of_the_docs_has_a_kind_and_no_other_has() -> None:
    documented = set(re.findall(r"^\| `(\w+)`", (DOCS / "columns.md").read_text(), re.MULTILINE))
    assert documented == {*schema.column_kinds(), *FIELDS, *DERIVED, "folder"}
    assert study_point  # whose records are those


def test_the_json_schema_of_the_docs_is_the_one_that_is_checked() -> None:
    """`python -m onnxprune.results.schema > docs/records.schema.json`."""
    written = (DOCS / "records.schema.json").read_text()
    assert written == schema.json_schema()
    parts = json.loads(written)["$defs"]
    assert {"Record", "Config", "Deployed"} <= set(parts)
    assert set(parts["Config"]["properties"]) == set(FIELDS)
    assert "\\\\Z" not in written, "an end that only Python knows"


def test_a_checksum_or_a_name_that_ends_in_a_newline_is_none() -> None:
    for kind, good in ((schema.Digest, "0" * 64), (schema.Text, "name")):
        assert schema.problem(good, kind) is None
        assert schema.problem(good + "\n", kind) is not None


def test_derived_rows_of_another_kind_are_not_believed(tmp_path: Path) -> None:
    import pandas as pd

    sweep = hand_made(tmp_path, "demo", technique="weight", sparsity="0,50")
    table = write_tables(sweep)
    others = [("accuracy", "high"), ("cpu", 3), ("collapsed", "no"), ("sparsity", "half"), ("schedule", "later")]
    others += [("technique", 3), ("technique", [["weight"]] * 2), ("folder", [["a"]] * 2), ("folder", "a")]
    for name, value in others:
        table.assign(**{name: value}).to_parquet(sweep / store.TABLE)
        pd.testing.assert_frame_equal(result_table(sweep), table, check_dtype=False)


def test_what_the_helper_makes_up_is_what_points_record() -> None:
    from onnxprune.settings.sweep import Sweep

    (point,) = Sweep.parse({"model": "cnn", "technique": "weight", "sparsity": 50}).points
    assert schema.problem(record(point), schema.Record) is None
    assert schema.problem(point.settings(), schema.Config) is None


def test_which_images_are_right_is_not_believed_where_it_cannot_be(tmp_path: Path) -> None:
    import numpy as np

    folder = next(iter(hand_made(tmp_path, "demo", technique="weight", sparsity="0").glob("*-s0-*")))
    found = store.finished_record(folder)
    assert found is not None
    found["metrics"] |= {"test_images": 20, "accuracy": 50.0}
    store.write_right(folder, np.arange(20) % 2 == 0)
    store.finish(folder, found)
    right = store.right_images(folder)
    assert right is not None
    assert right.sum() == 10
    for images in (10**15, 24, 8):
        store.finish(folder, {**found, "metrics": {**found["metrics"], "test_images": images}})
        assert store.right_images(folder) is None
    for content in (b"no array", b""):
        (folder / store.RIGHT).write_bytes(content)
        store.finish(folder, found)
        assert store.right_images(folder) is None


def test_tables_of_different_sweeps_have_columns_of_the_same_types(tmp_path: Path) -> None:
    """Values that all happen to be whole, or missing, do not make others of them: programs read tables together."""
    for name, sparsity in (("whole", [50]), ("fractions", [0, 12.5])):
        write_tables(hand_made(tmp_path, name, technique="weight", sparsity=sparsity, seeds=2))
        write_tables(tmp_path / name)  # by way of what it has written
    tables = [pq.read_table(tmp_path / name / store.TABLE) for name in ("whole", "fractions")]
    assert pa.concat_tables(tables, promote_options="default").num_rows == 6
    table = result_table(tmp_path / "whole")
    assert (table["sparsity"].dtype, table["base_macs"].dtype) == ("Float64", "Int64")
    assert table["control_accuracy"].dtype == "Float64"
