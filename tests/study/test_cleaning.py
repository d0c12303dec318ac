"""Cleaning frees disk and loses no result: the sweep still counts as done, and the chosen model can be deployed."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from command_line import called, small_npz

import onnxprune
from onnxprune.delivery.choice import choose
from onnxprune.delivery.constraints import constraints
from onnxprune.results import store
from onnxprune.results.tables import result_table
from onnxprune.study.rerun import rerun
from onnxprune.study.retime import retime


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[object]]:
    place = tmp_path_factory.mktemp("clean")
    arguments = ["sweep", "--model", "slp", "--hidden", "32", "--dataset", small_npz(place / "squares.npz")]
    arguments += ["--technique", "structured", "--sparsity", "0,50,60", "--epochs", "3", "--finetune-epochs", "1"]
    arguments += ["--batch-size", "32", "--latency-seconds", "0.05", "--name", "s", "--out", place, "--workers", "1"]
    arguments += ["--also", "int8"]
    assert called(*arguments).returncode == 0
    return place / "s", arguments


def test_a_clean_sweep_keeps_its_table_and_the_chosen_model(sweep: tuple[Path, list[object]], tmp_path: Path) -> None:
    folder, arguments = sweep
    table = result_table(folder)
    would = called("clean", folder, "--dry-run", "--max-drop", 100)
    assert "would free" in would.stdout
    assert len(list(folder.glob(f"*/{store.MODEL}"))) == 3
    assert called("clean", folder, "--max-drop", 100).returncode == 0
    (left,) = folder.glob(f"*/{store.MODEL}")
    for name in (store.MASKS, store.INT8_MODEL):
        assert [path.parent for path in folder.glob(f"*/{name}")] == [left.parent]
    assert left.parent.name == choose(table, constraints(max_drop=100)).row["folder"]
    pd.testing.assert_frame_equal(result_table(folder), table)
    assert called("deploy", folder, "--max-drop", 100, "--out", tmp_path).returncode == 0
    # it goes on as done
    done = called(*arguments)
    assert done.returncode == 0, done.stderr
    assert "damaged" not in done.stderr
    assert list(folder.glob(f"*/{store.MODEL}")) == [left]
    with pytest.raises(onnxprune.InputError, match="was cleaned"):
        rerun(folder, tmp_path / "again")


def test_what_is_left_can_be_timed_again(sweep: tuple[Path, list[object]], tmp_path: Path) -> None:
    shutil.copytree(sweep[0].parent, tmp_path / "runs")
    folder = tmp_path / "runs" / "s"
    for path in folder.glob(f"*/{store.METRICS}"):  # so small a network may take as long again, to the nanosecond
        record = json.loads(path.read_text())
        record["metrics"]["latency_ms_median"] = 1000.0
        path.write_text(json.dumps(record))
    before = result_table(folder).set_index("folder")["latency_ms_median"]
    (left,) = folder.glob(f"*/{store.MODEL}")
    said: list[str] = []
    after = retime(folder, said.append).set_index("folder")["latency_ms_median"]
    assert said[0] == "2 of 3 points were cleaned: their latencies stay as they are"
    assert len(said) == 2 and said[1].startswith(f"1/1 {left.parent.name}: ")
    assert (before != after)[lambda changed: changed].index.tolist() == [left.parent.name]
    left.unlink()
    with pytest.raises(onnxprune.RunError, match="is damaged"):
        retime(folder)
    record = json.loads((left.parent / store.METRICS).read_text())
    (left.parent / store.METRICS).write_text(json.dumps({**record, "cleaned": [store.MODEL]}))
    with pytest.raises(onnxprune.InputError, match="was cleaned: no model is left"):
        retime(folder)


def test_nothing_goes_where_no_model_would_stay(sweep: tuple[Path, list[object]], tmp_path: Path) -> None:
    """Why is said: another --max-drop does not help where all have collapsed."""
    folder = Path(shutil.copytree(sweep[0].parent, tmp_path / "runs")) / "s"
    for record in folder.glob(f"*/{store.METRICS}"):
        record.write_text(record.read_text().replace('collapsed": false', 'collapsed": true'))
    before = sorted(folder.glob(f"*/{store.MODEL}"))
    done = called("clean", folder)
    assert done.returncode == 1
    assert "has collapsed" in done.stderr
    assert "nothing was removed, as there is no model that deploy would choose" in done.stderr
    assert sorted(folder.glob(f"*/{store.MODEL}")) == before
