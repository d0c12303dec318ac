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
from onnxprune.training.setup import recipe_of, training_batches


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
