"""What the settings of a point say of its network and of its training."""

import dataclasses
import math
from typing import Any

import torch
from torch import nn

from onnxprune.common.errors import RunError
from onnxprune.data.dataset import Dataset
from onnxprune.models import MODELS
from onnxprune.settings.budget import base_epochs, base_updates
from onnxprune.settings.point import Point
from onnxprune.settings.training_words import AUGMENTATIONS
from onnxprune.training.batches import Batches, fitting_micro_batch, memory_format
from onnxprune.training.cost import TrainingCost
from onnxprune.training.device import select_device
from onnxprune.training.loop import train
from onnxprune.training.recipe import Recipe, rising_share, scaled_learning_rate, settling_share

_PROBE_IMAGES = 64


def training_batches(point: Point, dataset: Dataset, network: nn.Module) -> Batches:
    """The training images of a point on the point's device, as its network, pruned or not, takes them."""
    layout = memory_format(network, dataset.input_shape, trains=True)
    return Batches(dataset.train, dataset.mean, dataset.std, select_device(point.device), layout)


def recipe_of(point: Point, network: nn.Module, dataset: Dataset, epochs: float, rate_at_256: float) -> Recipe:
    """How a point's settings say to train `network`."""
    model = MODELS[point.model]
    usual, images = model.recipe.usual_inputs, len(dataset.train)
    excess = 1.0 if usual is None else math.prod(dataset.input_shape) / usual
    how = Recipe(
        epochs=epochs,
        batch_size=point.batch_size,
        learning_rate=rate_at_256,
        augmentation=AUGMENTATIONS[point.augment],
        micro_batch=fitting_micro_batch(network, dataset.input_shape, model.micro_batch),
        seed=point.seed,
        precision=point.precision,
        devices=point.devices,
    )
    rate = scaled_learning_rate(
        rate_at_256, point.batch_size, images, how.updates(images), model.recipe.largest_batch, excess
    )
    share = model.recipe.share_in_one_batch
    # with fewer updates untrained weights take no more than that anyway
    if point.batch_size >= images > 256 and how.updates(images) >= share * model.recipe.rising_updates:
        rate *= share
    return dataclasses.replace(how, learning_rate=rate)


def fresh_recipe(point: Point, network: nn.Module, dataset: Dataset, epochs: float) -> Recipe:
    """How a point's settings say to train `network`, whose weights are untrained, for so many epochs."""
    how = recipe_of(point, network, dataset, epochs, point.learning_rate)
    enough = MODELS[point.model].recipe.rising_updates
    if not enough:
        return how
    # of the rate at batch 256: smaller batches have a smaller one, which they may well bear
    most = rising_share(how.updates(len(dataset.train)), enough) * point.learning_rate
    return dataclasses.replace(how, learning_rate=min(how.learning_rate, most))


def base_recipe(point: Point, network: nn.Module, dataset: Dataset) -> Recipe:
    """How a point's settings say to train a base, which `network` is to be."""
    return fresh_recipe(point, network, dataset, base_epochs(point, len(dataset.train)))


def finetuning_recipe(point: Point, network: nn.Module, dataset: Dataset, epochs: float) -> Recipe:
    """How a point's settings say to train `network`, which comes from the base, for so many epochs."""
    how = recipe_of(point, network, dataset, epochs, point.finetune_learning_rate)
    images, enough = len(dataset.train), MODELS[point.model].recipe.settling_updates
    if not enough:
        return how
    before = base_updates(point, images) or enough  # none where it was trained elsewhere
    share = settling_share(how.updates(images), min(enough, before), point.distill)
    return dataclasses.replace(how, learning_rate=share * how.learning_rate)


def train_checked(network: nn.Module, batches: Batches, how: Recipe, **arguments: Any) -> TrainingCost:
    """Trains `network`; `arguments` are those of `training.loop.train`.

    Raises:
        RunError: training diverged: the loss, the weights, or what the network then answers are no numbers.
    """
    cost = train(network, batches, how, **arguments)
    images, _ = batches.take(torch.arange(min(_PROBE_IMAGES, len(batches))))
    with torch.inference_mode():
        if not network(images).isfinite().all():
            raise RunError(
                f"training diverged: the trained network's answers are no numbers at learning rate "
                f"{how.learning_rate:g}; lower --learning-rate or --finetune-learning-rate"
            )
    return cost
