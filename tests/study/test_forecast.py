"""How long a plan takes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import small_npz
from torch.nn import functional as F

import onnxprune
from onnxprune.results import store
from onnxprune.settings.sweep import Sweep
from onnxprune.study import forecast
from onnxprune.study.finished import Finished
from onnxprune.study.jobs import Materials


def done(runs: Path, sweep: str) -> Finished:
    return Finished(runs, [runs / sweep], Materials(None, stand_ins=True))


@pytest.mark.usefixtures("brief_probe")
def test_a_network_is_tried_once_for_all_data_of_its_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    real = forecast.make_network

    def counted(*settings: Any) -> Any:
        tried.append(settings[1])
        return real(*settings)

    monkeypatch.setattr(forecast, "make_network", counted)
    data = ["mnist", "fmnist", "cifar10"]
    plan = Sweep.parse({"name": "plan", "model": "slp", "dataset": data, "batch_size": [64, 256], "sparsity": 50})
    torch.set_num_threads(2)  # those of a base; points have one
    try:
        found = forecast.forecast(plan.points, done(tmp_path, "plan"), tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert sorted(tried) == 2 * [(1, 28, 28)] + 2 * [(3, 32, 32)]
    assert found.seconds > 0 and "probe" in found.source


def test_the_time_is_what_finished_ones_took_without_bases_that_are_there(tmp_path: Path) -> None:
    given = {"model": "slp", "dataset": str(small_npz(tmp_path / "squares.npz")), "technique": "weight", "name": "s"}
    given |= {"batch_size": 32, "epochs": 2, "finetune_epochs": 4, "latency_seconds": 0.1}
    onnxprune.sweep(**given, sparsity=[50, 60], out=tmp_path / "runs", workers=1)
    images = 0
    for record in (tmp_path / "runs").glob(f"*/*/{store.METRICS}"):
        found = store.finished_record(record.parent)
        assert found is not None
        assert 0 < found["wall_seconds"] < 60
        base = record.parent.parent.name == "bases"
        images = found["metrics"].get("train_images", images)
        column = "base_training" if base else "training"
        figures = {f"{column}_images_per_second": 10.0, f"{column}_seconds": 30.0}
        changed = {**found, "metrics": {**found["metrics"], **figures}, "wall_seconds": 37.1}
        store.amend(record.parent, changed)  # an hour later, as by `retime`
    plan = Sweep.parse({**given, "sparsity": [50, 60, 70]})
    known = forecast.forecast(plan.points, done(tmp_path / "runs", "s"), tmp_path / "runs")
    # 4 epochs at 10 images a second, 7 s beside training and timing, 0.1 s of timing
    assert (known.done, known.source) == (2, "finished points")
    assert known.seconds == pytest.approx(4 * images / 10 + 7.0 + 0.1)
    other = Sweep.parse({**given, "sparsity": 70, "seed": 1})
    with_base = forecast.forecast(other.points, done(tmp_path / "runs", "other"), tmp_path / "runs")
    assert with_base.seconds == pytest.approx(known.seconds + 2 * images / 10 + 7.1)
    many = Sweep.parse({**given, "sparsity": [60, 70, 80, 90], "seed": 1})
    shared = forecast.forecast(many.points, done(tmp_path / "runs", "other"), tmp_path / "runs", workers=2)
    # points are run side by side, and the base before them
    assert shared.seconds == pytest.approx(4 / 2 * known.seconds + 2 * images / 10 + 7.1)


def test_the_pace_is_that_of_networks_with_the_same_options_and_threads(tmp_path: Path) -> None:
    data = str(small_npz(tmp_path / "squares.npz"))
    given = {"model": "slp", "dataset": data, "technique": "weight", "sparsity": 50, "epochs": 1, "finetune_epochs": 1}
    given |= {"latency_seconds": 0, "name": "s"}
    onnxprune.sweep(**given, out=tmp_path / "runs", workers=1)
    for changes, known in (({"seed": 1}, True), ({"hidden": 64}, False), ({"threads": 2}, False)):
        (point,) = Sweep.parse({**given, **changes}).points
        assert (forecast._finished_pace(point, tmp_path / "runs", base=False) is not None) is known
    (point,) = Sweep.parse({**given, "threads": 2}).points
    assert forecast._finished_pace(point, tmp_path / "runs", base=True) is not None, "a base has all cores anyway"


def test_narrow_networks_and_those_of_another_point_take_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A point takes 2 epochs at 100 images a second; half the channels a quarter of the work that depends on them."""
    monkeypatch.setattr(forecast, "_probed", lambda *_: 100.0)
    given = {"model": "slp", "dataset": "mnist", "train_limit": 1_000, "finetune_epochs": 2, "latency_seconds": 0.5}
    given |= {"epochs": 0, "name": "plan"}

    def seconds(**settings: Any) -> float:
        points = Sweep.parse({**given, **settings}).points
        return forecast.forecast(points, done(tmp_path, "plan"), tmp_path, workers=1).seconds

    beside = 1.0 + 0.15 * 10 + 0.5
    base = seconds(technique="weight", sparsity=50) - (20 + beside)
    assert base == pytest.approx(1.0 + 0.15 * 10)
    assert seconds(technique="weight", sparsity=90) == pytest.approx(base + 20 + beside)
    assert seconds(technique="structured", sparsity=50) == pytest.approx(base + 20 * (0.15 + 0.85 / 4) + beside)
    assert seconds(technique="structured", sparsity=50, schedule="agp") == pytest.approx(base + 20 + beside)
    assert seconds(technique="weight,structured,neuron", sparsity=0) == pytest.approx(base + 20 + beside)


@pytest.mark.usefixtures("brief_probe")
@pytest.mark.parametrize(("asked", "side_by_side"), [(1, 1), (2, 2), (64, 4)])
def test_the_workers_that_are_asked_for_share_the_points(asked: int, side_by_side: int, tmp_path: Path) -> None:
    plan = Sweep.parse(
        {"name": "plan", "model": "slp", "dataset": "digits", "technique": "weight", "sparsity": "0:90:30"}
    )
    found = forecast.forecast(plan.points, done(tmp_path, "plan"), tmp_path, asked)
    assert found.workers == side_by_side


def test_a_probe_computes_as_training_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the layout of oneDNN, where there is one, and with pooling before the ReLU, which has a quarter to do then."""
    seen, relu = [], F.relu

    def watched(numbers: torch.Tensor, **how: Any) -> torch.Tensor:
        seen.append((numbers.is_mkldnn, tuple(numbers.shape)))
        return relu(numbers, **how)

    monkeypatch.setattr(F, "relu", watched)
    monkeypatch.setattr(forecast, "_PROBE_SECONDS", 0)
    forecast._probed("cnn", (("batch_norm", False),), (1, 8, 8), 3, 4, "cpu", 1)
    assert (torch.backends.mkldnn.is_available(), (4, 32, 4, 4)) in seen
