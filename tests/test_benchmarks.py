"""Benchmarks keep up with the package: what they import, and what they take the time of, is there."""

import importlib
from pathlib import Path

import pytest

from onnxprune.common.output import silenced

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_a_benchmark_finds_what_it_imports(name: str) -> None:
    with silenced():
        importlib.import_module(name)


def test_what_is_clocked_is_there() -> None:
    with silenced():
        bench = importlib.import_module("bench")
    for module, name in (*bench.WORK, *bench.TIMING):
        assert callable(getattr(module, name))


def test_the_shares_of_a_sweep_are_of_its_points(tmp_path: Path) -> None:
    with silenced():
        bench = importlib.import_module("bench")
    settings = {"dataset": "digits", "model": "slp", "technique": "weight", "sparsity": "0,50", "finetune_epochs": 1}
    whole, working, timing = bench._shares(tmp_path, **settings, latency_seconds=0.05)
    assert whole > working > 0 and whole > timing > 0
