"""What the settings of a point become when it is trained."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from command_line import small_npz

from onnxprune.bridge.start import build_network
from onnxprune.data.dataset import Dataset, load
from onnxprune.models import MODELS
from onnxprune.settings.point import Point
from onnxprune.settings.sweep import Sweep
from onnxprune.training.setup import base_recipe, finetuning_recipe, recipe_of, training_batches


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return load(str(small_npz(tmp_path / "squares.npz")))


def point_of(**settings: object) -> Point:
    (point,) = Sweep.one_point({"model": "slp", "hidden": 16, "technique": "weight", **settings}).points
    return point


def test_the_recipe_is_what_the_settings_say(dataset: Dataset) -> None:
    point = point_of(seed=7, batch_size=64, augment="crop+flip", precision="bf16", devices=2)
    recipe = recipe_of(point, build_network(point, dataset), dataset, 2.5, 0.4)
    assert recipe.seed == 7
    assert recipe.epochs == 2.5
    assert recipe.batch_size == 64
    assert recipe.learning_rate == pytest.approx(0.4 * math.sqrt(64 / 256))
    assert recipe.augmentation == {"crop", "flip"}
    assert recipe.precision == "bf16"
    assert recipe.devices == 2
    assert recipe.micro_batch == MODELS["slp"].micro_batch


@pytest.mark.parametrize(
    ("model", "updates", "batch_size", "rate"),
    [("cnn", 300, 256, 0.05), ("cnn", 75, 256, 0.05), ("cnn", 60, 256, 0.8 * 0.05), ("cnn", 30, 256, 0.05 * 12.5 / 30),
     ("cnn", 20, 256, 0.625 * 0.05), ("cnn", 12, 256, 0.05), ("cnn", 1, 256, 0.05), ("cnn", 30, 64, 0.05 * 12.5 / 30),
     ("cnn", 60, 64, 0.025), ("cnn", 30, 16, 0.0125), ("slp", 30, 256, 0.1), ("densenet121", 30, 256, 0.05),
     ("cnn", 75, 1293, 0.05), ("cnn", 75, 1294, 0.025), ("cnn", 38, 4000, 0.025), ("cnn", 37, 4000, 0.05 * 37 / 75),
     ("slp", 75, 4000, 0.1), ("densenet121", 75, 4000, 0.05),
     (f"{__file__}:own", 30, 256, 0.05)],
)  # fmt: skip
def test_untrained_weights_take_no_more_of_a_rate_that_rises_steeply_than_they_bear(
    model: str, updates: int, batch_size: int, rate: float
) -> None:
    settings = {"model": model, "technique": "weight", "updates": updates, "batch_size": batch_size}
    (point,) = Sweep.one_point(settings).points
    dataset = load("digits")
    network = MODELS["slp"].build(dataset.input_shape, 10, 0, hidden=4)
    how = base_recipe(point, network, dataset)
    assert how.updates(len(dataset.train)) == updates
    assert how.learning_rate == pytest.approx(rate)


@pytest.mark.parametrize(
    ("model", "base_updates", "finetuning_updates", "distill", "share"),
    [
        ("cnn", 300, 150, 0, 1),
        ("cnn", 300, 30, 0, 0.2),
        ("cnn", 60, 30, 0, 0.5),  # of those that the base took
        ("cnn", 0, 30, 0, 0.2),  # trained elsewhere
        ("cnn", 300, 30, 1, 0.2 / 3),
        ("slp", 300, 30, 1, 1),
    ],
)
def test_a_short_fine_tuning_takes_a_share_of_its_rate(
    dataset: Dataset, model: str, base_updates: int, finetuning_updates: int, distill: float, share: float
) -> None:
    (point,) = Sweep.one_point(
        {"model": model, "technique": "weight", "updates": base_updates, "distill": distill, "batch_size": 256}
    ).points
    network = build_network(point, dataset)
    epochs = finetuning_updates / math.ceil(len(dataset.train) / 256)
    how = finetuning_recipe(point, network, dataset, epochs)
    whole = recipe_of(point, network, dataset, epochs, point.finetune_learning_rate)
    assert how.updates(len(dataset.train)) == finetuning_updates
    assert how.learning_rate == pytest.approx(share * whole.learning_rate)


def test_the_network_is_that_of_the_seed(dataset: Dataset) -> None:
    point = point_of(seed=7)
    states = [
        network.state_dict()
        for network in (
            build_network(point, dataset),
            MODELS["slp"].build(dataset.input_shape, 3, 7, hidden=16),
            build_network(dataclasses.replace(point, seed=8), dataset),
        )
    ]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name])
        assert not torch.equal(tensor, states[2][name])


def test_training_images_are_those_of_the_training_split(dataset: Dataset) -> None:
    point = point_of()
    batches = training_batches(point, dataset, build_network(point, dataset))
    assert torch.equal(batches.images, torch.from_numpy(dataset.train.images))
    assert torch.equal(batches.labels, torch.from_numpy(dataset.train.labels))
