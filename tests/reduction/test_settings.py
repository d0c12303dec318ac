"""What may be asked of the pruning of a file."""

import json
from pathlib import Path
from typing import Any

import here
import numpy as np
import pytest
import trained

from onnxprune.common.errors import InputError
from onnxprune.reduction import prune as pruning
from onnxprune.reduction.prune import prune
from onnxprune.reduction.settings import CRITERIA, FROM_SAMPLES, PruneSettings, parse_target


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "expected one of --sparsity, --target and --max-drop"),
        ({"sparsity": 50, "max_drop": 1}, "expected one of"),
        ({"sparsity": 50, "target": ("macs", 0.5)}, "expected one of"),
        ({"sparsity": 101}, "sparsity: expected a number from 0 to 100, got 101"),
        ({"sparsity": -1}, "sparsity: "),
        ({"sparsity": float("nan")}, "sparsity: expected a number, got nan"),
        ({"target": ("macs", 0)}, "target macs=0"),
        ({"target": ("macs", 1.5)}, "target macs=1.5"),
        ({"target": ("params", 0.5)}, "expected macs or latency"),
        ({"max_drop": -1}, "max_drop: "),
        ({"sparsity": 50, "technique": "magic"}, "unknown technique 'magic': expected structured, neuron"),
        ({"sparsity": 50, "criterion": "l3"}, "'structured' does not accept criterion 'l3': it accepts l1"),
        ({"sparsity": 50, "technique": "neuron", "criterion": "fpgm"}, "it accepts obs, activation"),
        ({"target": ("macs", 0.5), "technique": "weight"}, "leaves the network's MACs"),
        ({"max_drop": 1, "technique": "unstructured"}, "leaves the network's MACs"),
        ({"sparsity": 50, "recovery": ("hope",)}, "unknown recovery 'hope': expected bias, ridge, match"),
        ({"sparsity": 50, "align": 0}, "align: "),
        ({"sparsity": 50, "samples": 1}, "samples: expected a whole number from 2"),
        ({"sparsity": 50, "threads": 0}, "threads: "),
        ({"sparsity": 50, "seed": -1}, "seed: "),
        ({"sparsity": "half"}, "sparsity: expected a number, got 'half'"),
        ({"sparsity": 50, "samples": 8.5}, "samples: expected a whole number from 2"),
    ],
)
def test_what_cannot_be_asked_is_told(given: dict, words: str) -> None:
    with pytest.raises(InputError) as raised:
        PruneSettings(**given)
    assert words in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InputError) as raised:
        PruneSettings(technique="magic", sparsity=200, seed=-1)
    assert len(str(raised.value).splitlines()) == 3


@pytest.mark.parametrize("technique", CRITERIA)
def test_criteria_that_judge_by_samples_need_them(technique: str) -> None:
    for criterion in CRITERIA[technique]:
        settings = PruneSettings(technique=technique, criterion=criterion, sparsity=50)
        assert settings.resolved(True).criterion == criterion
        if criterion in FROM_SAMPLES:
            with pytest.raises(InputError, match="give --data"):
                settings.resolved(False)
        else:
            assert settings.resolved(False).criterion == criterion


def test_the_criterion_follows_from_the_samples() -> None:
    assert PruneSettings(sparsity=50).resolved(True).criterion == "obs"
    assert PruneSettings(sparsity=50).resolved(False).criterion == "l1"
    with pytest.raises(InputError, match="technique 'neuron' judges units by samples: give --data"):
        PruneSettings(technique="neuron", sparsity=50).resolved(False)
    with pytest.raises(InputError, match="a largest drop is measured on samples"):
        PruneSettings(max_drop=1).resolved(False)


def test_a_title_says_what_is_done() -> None:
    assert PruneSettings(sparsity=50).title == "structured-50"
    assert PruneSettings(technique="weight", sparsity=87.5).title == "weight-87.5"
    assert PruneSettings(target=("macs", 0.5)).title == "structured-macs-0.5"
    assert PruneSettings(max_drop=1).title == "structured-drop-1"


@pytest.mark.parametrize("text", ["macs", "0.5", "macs=", "macs=half", "", 0.5, ("macs", "half")])
def test_a_target_is_what_and_how_much(text: Any) -> None:
    assert parse_target("macs=0.5") == parse_target(["macs", np.float32(0.5)]) == ("macs", 0.5)
    with pytest.raises(InputError, match=r"like macs=0\.5"):
        parse_target(text)


def test_numbers_of_numpy_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here.without_helper(monkeypatch, pruning)
    numbers = {"sparsity": np.float32(50), "samples": np.int64(64), "seed": np.int64(3)}
    found, expected = (
        prune(
            trained.mlp(tmp_path / "m.onnx"), data=trained.unlabelled(), latency=False, output=tmp_path / name, **given
        )
        for name, given in (("a.onnx", numbers), ("b.onnx", {"sparsity": 50, "samples": 64, "seed": 3}))
    )
    assert json.dumps(found.as_json()["settings"]) == json.dumps(expected.as_json()["settings"])
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
