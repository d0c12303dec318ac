"""Whether points can be pruned is looked at once for what is alike."""

from typing import Any

import pytest

from onnxprune.bridge import export
from onnxprune.settings.sweep import Sweep
from onnxprune.study.feasibility import check_prunable
from onnxprune.study.jobs import Materials


def test_data_of_the_same_shape_and_number_of_classes_are_one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    exported = []
    real = export.export

    def counted(network: Any, path: Any, shape: Any, **options: Any) -> Any:
        exported.append(shape)
        return real(network, path, shape, **options)

    monkeypatch.setattr(export, "export", counted)
    data = ["mnist", "fmnist", "digits", "cifar10"]  # the clothes of the second have names
    plan = Sweep.parse({"name": "plan", "model": "slp", "dataset": data, "sparsity": 50})
    check_prunable(plan.points, Materials(None, stand_ins=True))
    assert exported == [(1, 28, 28), (3, 32, 32)]
