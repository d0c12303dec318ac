"""How long a plan takes."""

from pathlib import Path
from typing import Any

import pytest

from onnxprune.settings.sweep import Sweep
from onnxprune.study import forecast


@pytest.mark.usefixtures("brief_probe")
def test_a_network_is_tried_once_for_all_data_of_its_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    real = forecast.make_network

    def counted(*settings: Any) -> Any:
        tried.append(settings[1])
        return real(*settings)

    monkeypatch.setattr(forecast, "make_network", counted)
    monkeypatch.setattr(forecast.torch, "get_num_threads", lambda: 2)  # those of a base; points have one
    data = ["mnist", "fmnist", "cifar10"]
    plan = Sweep.parse({"name": "plan", "model": "slp", "dataset": data, "batch_size": [64, 256], "sparsity": 50})
    found = forecast.forecast(plan.points, tmp_path / "plan", tmp_path)
    assert sorted(tried) == 2 * [(1, 28, 28)] + 2 * [(3, 32, 32)]
    assert found.seconds > 0 and "probe" in found.source
