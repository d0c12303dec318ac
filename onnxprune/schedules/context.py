"""A point in the making: what its schedule works with, and what it has cost so far."""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from onnxprune.bridge.measure import Measured, network_accuracy
from onnxprune.common.progress import Listener
from onnxprune.data.dataset import Dataset
from onnxprune.pruning.prune import Masks, Pruned, Request, decide, held_weights, remove, zeroed
from onnxprune.settings.spec import Point
from onnxprune.study.base import Base, recipe, train_to_numbers
from onnxprune.training.loop import Batches, Recipe, Teacher, TrainingCost
from onnxprune.training.opcount import TrainingOps, count_training_ops


@dataclass
class Work:
    """A point that is being made.

    Attributes:
        point, base, dataset, batches: what it is made of.
        request: what is to be removed.
        measure: exports and measures a network that is pruned and not yet trained.
        before: what that found, None where the schedule prunes while it trains.
        cost: of all training so far, None for none.
        flops: of it, counted, forward and backward.
        operators: of training on one image, of the network trained last.
        path: what a schedule of several steps did, a row a step.
    """

    point: Point
    base: Base
    dataset: Dataset
    batches: Batches
    request: Request
    listener: Listener
    measure: Callable[[nn.Module], Measured]
    before: Measured | None = None
    cost: TrainingCost | None = None
    flops: int = 0
    operators: TrainingOps | None = None
    path: list[dict[str, Any]] = field(default_factory=list)

    def decide(self, network: nn.Module, sparsity: float, gone: Masks | None = None) -> Masks:
        """What is removed of `network` at a sparsity in percent, `gone` included."""
        return decide(network, dataclasses.replace(self.request, sparsity=sparsity), self.batches, None, gone)

    def remove(self, network: nn.Module, masks: Masks) -> Pruned:
        """A copy of `network` without what the masks remove."""
        return remove(network, self.request, masks, self.dataset.input_shape)

    def held(self, network: nn.Module, masks: Masks) -> Masks:
        """Parameter name -> mask that keeps it at zero in `network`, which is of full size."""
        return held_weights(network, self.request, masks)

    def zeroed(self, network: nn.Module, masks: Masks) -> nn.Module:
        """A copy of `network` of full size with zeros for what the masks remove."""
        return zeroed(network, self.request, masks)

    def validation_accuracy(self, network: nn.Module, images: int | None = None) -> float:
        """Top-1 of a network on the validation split, or its first images, in percent."""
        return network_accuracy(network, self.dataset, self.batches.device, images)

    def recipe(self, network: nn.Module, epochs: float, rate: float) -> Recipe:
        """How to train `network` at a learning rate for batches of 256."""
        return recipe(self.point, network, self.dataset, epochs, rate)

    def train(self, network: nn.Module, how: Recipe, **arguments: Any) -> None:
        """Trains `network` in place; `arguments` are those of `training.train`."""
        self.operators = count_training_ops(network, self.dataset.input_shape)
        cost = train_to_numbers(network, self.batches, how, on_update=self.listener.training, **arguments)
        self.flops += cost.images * self.operators.flops_per_image
        self.cost = cost if self.cost is None else self.cost + cost

    def finetune(self, network: nn.Module, epochs: float, **arguments: Any) -> None:
        """Trains `network`, which comes from the base, in place."""
        teacher = Teacher(self.base.network, self.point.distill) if self.point.distill else None
        how = self.recipe(network, epochs, self.point.finetune_learning_rate)
        self.train(network, how, teacher=teacher, **arguments)

    def train_pruned(self, pruned: Pruned, training: Callable[[nn.Module, Masks], None]) -> Pruned:
        """Measures a pruned network, then trains it by `training`, which gets it with the masks to hold."""
        self.listener.stage("measuring before training")
        self.before = self.measure(pruned.network)
        network = copy.deepcopy(pruned.network)
        training(network, pruned.held)
        return dataclasses.replace(pruned, network=network)
