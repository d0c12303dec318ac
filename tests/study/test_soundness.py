"""Studies that can say nothing are refused, or said to be so."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune.common.errors import InputError
from onnxprune.data.dataset import Dataset, Split
from onnxprune.results.validation import blunt_limit, standard_error
from onnxprune.settings.budget import base_epochs, epochs_after_base, finetuning_epochs
from onnxprune.settings.point import Point
from onnxprune.settings.sweep import Sweep
from onnxprune.study import soundness
from onnxprune.study.jobs import Materials


def data(each: list[int], classes: int | None = None) -> Dataset:
    """So many training images of each class, sorted by class."""
    labels = np.repeat(np.arange(len(each)), each)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 1, 8, 8), np.uint8)
    split = Split(images, labels)
    names = tuple(f"kind {label}" for label in range(classes or len(each)))
    return Dataset("mine", split, split, split, names, (0.5,), (0.2,), "x", len(labels))


def point(**changes: Any) -> Point:
    (found,) = Sweep.one_point({"model": "slp", "technique": "weight", **changes}).points
    return found


class _Given(Materials):
    def __init__(self, dataset: Dataset) -> None:
        super().__init__(None)
        self._given = dataset

    def dataset(self, point: Point) -> Dataset:
        return self._given.sampled(*point.sample)


def problem(dataset: Dataset, **changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        soundness.check([point(**changes)] * 2, _Given(dataset))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_class_without_training_images_is_refused() -> None:
    assert "class 'kind 2' has no image among the 30 to train on" in problem(data([20, 10], classes=3))
    assert "class 'kind 1' and 1 other have no image" in problem(data([20], classes=3))
    assert "expected --train-limit 3 or more" in problem(data([20, 20, 20]), train_limit=2)


def test_a_sample_of_a_file_that_is_sorted_by_class_is_sound() -> None:
    soundness.check([point(train_limit=30)], _Given(data([300, 300, 300])))


def test_an_epoch_to_rewind_to_that_there_is_not_is_refused() -> None:
    said = problem(data([60, 60]), technique="weight", schedule="lottery", updates=3, rewind_epoch=4)
    assert "rewind_epoch: expected at most the 3 epochs of the base, got 4" in said


def notes(dataset: Dataset, **changes: Any) -> list[str]:
    asked = point(**changes)
    return [*soundness.notes_of_base(asked, dataset), *soundness.notes_of_point(asked, dataset)]


def test_few_images_of_a_class_are_said() -> None:
    (said,) = notes(data([500, 9]))
    assert "class 'kind 1' has 9 training images of the 509" in said
    assert not notes(data([500, 10]))


def test_few_updates_and_whole_batches_are_said() -> None:
    full, few = notes(data([300, 300]), batch_size=1000, epochs=5)
    assert "every update uses them all" in full
    assert "trained by 5 updates of batch 1,000" in few
    assert "--updates 300" in few
    assert not notes(data([300, 300]), batch_size=600, updates=300)


@pytest.mark.parametrize(
    ("schedule", "updates", "least"), [("rigl", 133, 134), ("rigl", 134, 0), ("set", 102, 103), ("set", 103, 0)]
)
def test_sparse_training_that_moves_nothing_is_said(schedule: str, updates: int, least: int) -> None:
    """Of 3 updates an epoch, SET takes 34 epochs a step, which are 102 updates; RigL has none in the last quarter."""
    said = [note for note in notes(data([300, 300]), schedule=schedule, updates=updates) if "moves nothing" in note]
    assert [f"--updates {least} " in note for note in said] == ([True] if least else [])


def test_a_limit_within_the_error_of_validation_is_said() -> None:
    error = 100 * math.sqrt(0.97 * 0.03 / 143)
    assert standard_error(97, 143) == pytest.approx(error)
    assert standard_error(100, 100) == pytest.approx(100 * math.sqrt(0.005 * 0.995 / 100)), "none is certain"
    said = blunt_limit(1.0, 97.0, 143)
    assert said is not None
    assert "a limit of 1 point is within the standard error, 1.4 points, of the base's 97.00 % of 143" in said
    assert blunt_limit(1.0, 97.0, 5_000) is None
    metrics = {"base_validation_accuracy": 97.0, "validation_images": 143}
    assert list(soundness.notes_of_result(point(schedule="adaptive", technique="weight"), metrics)) == [said]
    assert not list(soundness.notes_of_result(point(), metrics))


# How long is trained


@pytest.mark.parametrize(
    ("images", "batch", "epochs"),
    [
        (55_000, 256, 5),  # 215 updates an epoch
        (55_000, 60_000, 5 * 60_000 / 55_000),  # no more images than five epochs of MNIST
        (10_000, 256, 5 * 60 / 40),  # 60 updates an epoch
        (10_000, 4_000, 5 * 6),
        (1_294, 256, 5 * 60 / 6),
        (1_000, 32, 5 * 60 / 32),
    ],
)
def test_default_epochs_go_by_the_number_of_updates(images: int, batch: int, epochs: float) -> None:
    open_point = point(batch_size=batch)
    assert base_epochs(open_point, images) == pytest.approx(epochs)
    assert finetuning_epochs(open_point, images) == pytest.approx(epochs * 3 / 5)
    given = point(batch_size=batch, epochs=2, finetune_epochs=1)
    assert (base_epochs(given, images), finetuning_epochs(given, images)) == (2, 1)


@pytest.mark.parametrize(
    ("images", "batch", "epochs"),
    [
        (55_000, 256, 1),  # 215 updates
        (12_000, 256, 150 / 47),
        (1_000, 256, 150 / 4),
        (30_000, 4_000, 2),  # no more images than an epoch of MNIST
    ],
)
def test_a_network_that_fine_tuning_shakes_gets_updates_to_settle(images: int, batch: int, epochs: float) -> None:
    assert finetuning_epochs(point(model="cnn", batch_size=batch), images) == pytest.approx(epochs)
    assert finetuning_epochs(point(model="cnn", batch_size=batch, finetune_epochs=1), images) == 1


def test_updates_take_the_place_of_epochs() -> None:
    asked = point(updates=100)
    assert base_epochs(asked, 1_000) == 25  # 4 an epoch
    assert asked.base_id("x") != point().base_id("x")
    with pytest.raises(InputError, match="either epochs or updates"):
        Sweep.parse({"updates": 100, "epochs": 3})
    lottery = point(technique="weight", schedule="lottery", epochs=3, rewind_epoch=2, rounds=2)
    assert epochs_after_base(lottery, 1_000) == 2 + 2 * 1
    scratch = dataclasses.replace(point(epochs=3, finetune_epochs=2), control="scratch")
    assert epochs_after_base(scratch, 1_000) == 5


@pytest.mark.slow  # a CNN is trained out for each; the shares of the rate are told by training/test_setup.py
@pytest.mark.parametrize("distill", [0.0, 1.0])
def test_a_short_fine_tuning_by_default_harms_no_network(tmp_path: Path, distill: float) -> None:
    """At the rate of its base, a network that learns from itself falls from 97 to 10 % here."""
    table = onnxprune.sweep(
        model="cnn", dataset="digits", technique="weight", sparsity=[0], distill=distill, latency_seconds=0,
        out=tmp_path,
    )  # fmt: skip
    assert table["accuracy"].item() > table["base_accuracy"].item() - 1


def test_movement_needs_more_than_one_update() -> None:
    often = {"schedule": "movement", "technique": "weight", "batch_size": 32, "finetune_epochs": 1}
    assert "schedule 'movement' prunes while it trains: expected those of 2 updates or more, got 1" in problem(
        data([15, 15]), **often
    )
    soundness.check([point(**often)], _Given(data([20, 20])))
