"""`--channel-align auto`: the step is measured once a study."""

from pathlib import Path
from typing import Any

import pytest
from command_line import small_npz

import onnxprune
from onnxprune.common.progress import Verbosity
from onnxprune.settings.sweep import Sweep
from onnxprune.study import alignment
from onnxprune.study.search import search

SETTINGS: dict[str, Any] = {
    "model": "slp", "hidden": 64, "batch_size": 32, "epochs": 1, "finetune_epochs": 0, "latency_seconds": 0,
    "technique": "neuron", "channel_align": "auto",
}  # fmt: skip


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the next measurements come to."""
    steps = [8, 16, 4, 32]
    monkeypatch.setattr(alignment, "measured_step", lambda threads: steps.pop(0))
    return steps


def test_a_study_that_is_continued_keeps_its_step(tmp_path: Path, measured: list[int]) -> None:
    data, how = str(small_npz(tmp_path / "squares.npz")), {"out": tmp_path, "workers": 1, "name": "study"}
    for sparsity in ([0, 50], [0, 50], [0, 50, 75]):
        table = onnxprune.sweep(**SETTINGS, dataset=data, sparsity=sparsity, **how)
        assert [*table["sparsity"]] == sparsity
        assert {*table["channel_align"]} == {8}
    assert measured == [16, 4, 32], "measured once"
    table = onnxprune.sweep(**SETTINGS, dataset=data, sparsity=[0, 50], replace=True, **how)
    assert {*table["channel_align"]} == {16}


def test_so_does_a_search(tmp_path: Path, measured: list[int]) -> None:
    data = str(small_npz(tmp_path / "squares.npz"))
    plan = Sweep.parse({**SETTINGS, "dataset": data, "sparsity": 50, "name": "found"})
    for _ in range(2):
        (found,) = search(plan, 5.0, tmp_path, step=50, verbosity=Verbosity.QUIET, workers=1)
        assert found.settings["channel_align"] == 8
    assert found.trainings == 0
