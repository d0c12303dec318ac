"""What making a point takes: all of it, part by part."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import onnxprune
from onnxprune.bridge.measure import Judged
from onnxprune.common.files import read_json
from onnxprune.data.dataset import Dataset
from onnxprune.pruning import decide
from onnxprune.results import store
from onnxprune.schedules import context
from onnxprune.training.cost import Spent


def test_all_of_training_cost_is_counted_by_hand(tmp_path: Path) -> None:
    table = onnxprune.sweep(
        model="cnn", batch_norm=True, dataset="digits", train_limit=64, epochs=1, finetune_epochs=1, distill=0.5,
        recalibrate=True, technique="neuron,structured", sparsity=[0, 90], latency_seconds=0, out=tmp_path, workers=1,
    )  # fmt: skip
    rows = table.set_index(["technique", "sparsity"])
    for technique in ("neuron", "structured"):
        for sparsity in (0, 90):
            row = rows.loc[technique, sparsity]
            answer = row["base_flops"]  # of the ONNX file, for one image
            assert row["teacher_flops"] == 64 * answer, "however small the network that learns"
            per_image = row["base_training_flops"] / row["base_training_images"]
            # Taylor: ten steps over all of the 64 images there are, forward and backward; norms look at none
            assert row["criterion_flops"] == (10 * 64 * per_image if technique == "neuron" else 0)
            # recalibration: 64 images forward, through what is left
            assert row["calibration_flops"] == 64 * row["flops"] if sparsity == 0 else row["calibration_flops"] > 0
            assert row["discarded_flops"] == 0
            parts = ("training_flops", "teacher_flops", "criterion_flops", "calibration_flops", "discarded_flops")
            assert row["tl_flops"] == sum(row[name] for name in parts)
            seconds = ("training_seconds", "criterion_seconds", "calibration_seconds", "discarded_seconds")
            assert row["tl_seconds"] == pytest.approx(sum(row[name] for name in seconds))
            assert row["calibration_seconds"] > 0
    assert rows.loc["neuron", 90]["criterion_seconds"] > 0, "scores that are remembered cost what finding them did"


def test_discarded_rounds_are_counted(tmp_path: Path) -> None:
    row = onnxprune.run_experiment(
        model="slp", hidden=16, dataset="digits", train_limit=300, batch_size=32, epochs=8, learning_rate=0.05,
        rounds=12, finetune_epochs=12, finetune_learning_rate=0.001, technique="weight", schedule="adaptive",
        max_drop=1, sparsity=100, latency_seconds=0, out=tmp_path,
    ).iloc[0]  # fmt: skip
    (path,) = tmp_path.glob(f"*/{row['folder']}/{store.METRICS}")
    accepted = [step["accepted"] for step in read_json(path)["path"]]
    assert {*accepted} == {True, False}
    images = row["train_images"]  # a round is an epoch
    per_image = 4 * (784 * 16 + 16 * 10) + 2 * 16 * 10
    assert row["training_images"] == images * accepted.count(True)
    assert row["training_flops"] == images * accepted.count(True) * per_image
    assert row["discarded_flops"] == images * accepted.count(False) * per_image
    assert row["discarded_seconds"] > 0
    assert row["tl_flops"] == row["training_flops"] + row["discarded_flops"] + row["criterion_flops"]


def test_looks_at_validation_and_scores_that_are_remembered_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorings, looks = [], []
    real_meter, real_look = decide.metered, context.judged_network

    @contextlib.contextmanager
    def metered(spent: Spent, device: torch.device) -> Iterator[None]:
        before = spent.flops
        with real_meter(spent, device):
            yield
        scorings.append(spent.flops - before)

    def look(network: nn.Module, dataset: Dataset, *others: Any) -> Judged:
        looks.append(len(dataset.validation))
        return real_look(network, dataset, *others)

    monkeypatch.setattr(decide, "metered", metered)
    monkeypatch.setattr(context, "judged_network", look)
    row = onnxprune.run_experiment(
        model="cnn", dataset="digits", train_limit=64, batch_size=32, epochs=1, finetune_epochs=1, rounds=2,
        max_drop=100, technique="neuron", criterion="taylor", schedule="adaptive", sparsity=60, latency_seconds=0,
        out=tmp_path,
    ).iloc[0]  # fmt: skip
    found = [flops for flops in scorings if flops]
    per_image = row["base_training_flops"] / row["base_training_images"]
    assert len(found) > 2 and set(found) == {10 * 64 * per_image}
    assert len(looks) > 3
    assert row["criterion_flops"] == sum(found) + sum(looks) * row["base_flops"]
