"""Cleaning frees disk and loses no result: the sweep still counts as done, and the chosen model can be deployed."""

from pathlib import Path

import pandas as pd
import pytest
from command_line import called, small_npz

import onnxprune
from onnxprune.results import store
from onnxprune.study.rerun import rerun


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[object]]:
    place = tmp_path_factory.mktemp("clean")
    arguments = ["sweep", "--model", "slp", "--hidden", "32", "--dataset", small_npz(place / "squares.npz")]
    arguments += ["--technique", "structured", "--sparsity", "0,50,60", "--epochs", "3", "--finetune-epochs", "1"]
    arguments += ["--batch-size", "32", "--latency-seconds", "0", "--name", "s", "--out", place, "--workers", "1"]
    assert called(*arguments).returncode == 0
    return place / "s", arguments


def test_a_clean_sweep_keeps_its_table_and_the_chosen_model(sweep: tuple[Path, list[object]], tmp_path: Path) -> None:
    folder, arguments = sweep
    table = store.result_table(folder)
    chosen = {path.name for path in folder.glob(f"*/{store.MODEL}")}
    would = called("clean", folder, "--dry-run", "--max-drop", 100)
    assert "would free" in would.stdout
    assert len(list(folder.glob(f"*/{store.MODEL}"))) == 3
    assert called("clean", folder, "--max-drop", 100).returncode == 0
    (left,) = folder.glob(f"*/{store.MODEL}")
    assert len(list(folder.glob(f"*/{store.MASKS}"))) == 1
    pd.testing.assert_frame_equal(store.result_table(folder), table)
    assert called("deploy", folder, "--max-drop", 100, "--out", tmp_path).returncode == 0
    # it goes on as done
    done = called(*arguments)
    assert done.returncode == 0, done.stderr
    assert "damaged" not in done.stderr
    assert list(folder.glob(f"*/{store.MODEL}")) == [left]
    assert chosen
    with pytest.raises(onnxprune.InputError, match="was cleaned"):
        rerun(folder, tmp_path / "again")


def test_nothing_goes_where_no_model_would_stay(sweep: tuple[Path, list[object]]) -> None:
    folder, _ = sweep
    for record in folder.glob(f"*/{store.METRICS}"):
        record.write_text(record.read_text().replace('"collapsed": false', '"collapsed": true'))
    before = sorted(folder.glob(f"*/{store.MODEL}"))
    done = called("clean", folder)
    assert done.returncode == 1
    assert "nothing was removed" in done.stderr
    assert sorted(folder.glob(f"*/{store.MODEL}")) == before
