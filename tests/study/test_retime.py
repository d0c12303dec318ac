"""The latencies of a sweep, measured again."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from command_line import small_npz

import onnxprune
from onnxprune.commands.retime import retime as command
from onnxprune.common.errors import InputError, RunError
from onnxprune.common.files import read_json, write_json
from onnxprune.results import store
from onnxprune.results.tables import result_table
from onnxprune.runtime.bystanders import Disturbance
from onnxprune.runtime.timing import Comparison, Latency
from onnxprune.study import latency
from onnxprune.study.retime import retime

AGAIN = Comparison(
    base=Latency(8.0, 9.0, None, 8.0, 0.1, 10),
    other=Latency(2.0, 2.2, None, 2.0, 0.1, 10),
    speedup=4.0,
    interval=(3.9, 4.1),
    noise=0.01,
    disturbance=Disturbance(others=0.0, load=0.1, spread=0.0, busy=None),
)


def study(runs: Path, **changes: object) -> Path:
    settings = {"model": "slp", "hidden": 16, "batch_size": 32, "epochs": 1, "finetune_epochs": 0, "workers": 1}
    data = str(small_npz(runs / "squares.npz"))
    asked = {"technique": "weight,structured", "sparsity": [0, 50], "latency_seconds": 0.01, **changes}
    onnxprune.sweep(dataset=data, name="study", out=runs, **settings, **asked)
    return runs / "study"


def test_latencies_are_replaced_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = study(tmp_path)
    before = result_table(sweep)
    calls = []
    monkeypatch.setattr(latency, "compare", lambda *files, **how: calls.append(files) or [AGAIN])
    done = CliRunner().invoke(command, [str(sweep), "--json"])
    assert done.exit_code == 0, done.output
    table = result_table(sweep)
    assert len(calls) == table["network_id"].nunique() == 3, "the same network is timed once"
    assert (table["speedup"] == 4).all()
    assert (table["latency_ms_median"] == 2).all()
    assert (table["base_latency_ms_median"] == 8).all()
    assert table["timing_disturbed"].isna().all()
    kept = [name for name in before if not any(word in name for word in ("latency_ms", "latency_runs", "speedup"))]
    kept = [name for name in kept if not name.startswith("timing_")]
    assert table[kept].equals(before[kept])
    for folder in table["folder"]:
        record = store.finished_record(sweep / folder) or {}
        assert store.damaged_files(sweep / folder, record) == []


def test_what_cannot_be_timed_is_said(tmp_path: Path) -> None:
    sweep = study(tmp_path, technique="weight")
    with pytest.raises(InputError, match="not the folder of a sweep"):
        retime(tmp_path)
    path = next(sweep.glob("*-s50-*"))
    record = read_json(path / store.METRICS)
    elsewhere = {**record, "environment": {**record["environment"], "cpu": "another"}}
    write_json(path / store.METRICS, elsewhere)
    with pytest.raises(InputError, match="measured with cpu another"):
        retime(sweep)
    write_json(path / store.METRICS, record)
    (path / store.MODEL).write_bytes(b"")
    with pytest.raises(RunError, match=r"is damaged \(model.onnx\)"):
        retime(sweep)
    (tmp_path / "untimed").mkdir()
    (path / store.METRICS).write_text("{}")
    said: list[str] = []
    assert len(retime(sweep, said.append)) == 1
    assert "is left out: metrics.json" in said[0]
    for record in sweep.glob(f"*/{store.METRICS}"):
        record.unlink()
    with pytest.raises(InputError, match="no finished point that could be timed"):
        retime(sweep)
    with pytest.raises(InputError, match="no point that was timed"):
        retime(study(tmp_path / "untimed", latency_seconds=0))
