"""A point in the making: what its schedule works with, and what it has cost so far."""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from onnxprune.bridge.graph_network import GraphNetwork
from onnxprune.bridge.measure import Judged, judged_network
from onnxprune.common.progress import Listener
from onnxprune.data.dataset import Dataset
from onnxprune.pruning.decide import decide, shuffled
from onnxprune.pruning.identity import network_identity
from onnxprune.pruning.remove import Pruned, held_weights, remove, zeroed
from onnxprune.pruning.request import Masks, Memory, Request
from onnxprune.settings.budget import finetuning_epochs
from onnxprune.settings.point import Point
from onnxprune.settings.vocabulary import TECHNIQUES
from onnxprune.training.batches import Batches
from onnxprune.training.cost import Spent, TrainingCost
from onnxprune.training.device import seeded_generator
from onnxprune.training.distillation import Original, Target, Teacher
from onnxprune.training.opcount import TrainingOps, count_training_ops, metered
from onnxprune.training.recipe import Recipe
from onnxprune.training.setup import base_recipe, finetuning_recipe, fresh_recipe, train_checked


class Twin(Protocol):
    """A finished point whose network is that of another one."""

    def masks(self) -> Masks:
        """What it removed in the end."""


# settings that say no more than what is removed, which a network tells by itself
_OF_THE_CHOICE = ("technique", "criterion", "granularity", "sparsity", "control", "keep", "keep_dead", "channel_align")


@dataclass
class PruningContext:
    """A point that is being made.

    Attributes:
        point, dataset, batches: what it is made of.
        base: the trained network that it starts from; copy before changing it.
        memory: scores of the base's units, for the criteria that find the same ones at every sparsity.
        request: what is to be removed.
        untrained: the pruned network before it is trained, None where the schedule prunes while it trains.
        cost: of all training so far, None for none.
        flops: of it, counted, forward and backward.
        teacher_flops: of the answers that it learnt from.
        criterion: what it took to decide on what goes.
        calibration: what it took to make up for that without training.
        discarded: training of networks that were not gone on with.
        operators: of training on one image, of the network trained last.
        path: what a schedule of several steps did, a row a step.
        find_twin: looks for a point that has made a network, by its identity.
        identity: of the network, where what is left of it is known before it is trained.
        twin: what `find_twin` has found: the point that has made it, so that it is not trained again.
    """

    point: Point
    base: nn.Module
    memory: Memory
    dataset: Dataset
    batches: Batches
    request: Request
    listener: Listener
    untrained: nn.Module | None = None
    cost: TrainingCost | None = None
    flops: int = 0
    teacher_flops: int = 0
    criterion: Spent = field(default_factory=Spent)
    calibration: Spent = field(default_factory=Spent)
    discarded: Spent = field(default_factory=Spent)
    operators: TrainingOps | None = None
    path: list[dict[str, Any]] = field(default_factory=list)
    find_twin: Callable[[str], "Twin | None"] = lambda identity: None
    identity: str | None = None
    twin: "Twin | None" = None

    def decide(self, network: nn.Module, sparsity: float, gone: Masks | None = None) -> Masks:
        """What is removed of `network` at a sparsity in percent, `gone` included."""
        request = dataclasses.replace(self.request, sparsity=sparsity)
        return decide(network, request, self.batches, None, gone, self.criterion)

    def controlled(self, masks: Masks) -> Masks:
        """The masks, or what a control puts in their place; chance itself is a criterion."""
        if self.point.control != "layerwise-random":
            return masks
        generator = seeded_generator(self.point.seed, "layerwise random control")
        if TECHNIQUES[self.point.technique].unit == "channel" and self.point.granularity == "unit":
            return shuffled(self.base, masks, self.dataset.input_shape, generator)
        return {
            layer: mask.flatten()[torch.randperm(mask.numel(), generator=generator).to(mask.device)].view_as(mask)
            for layer, mask in masks.items()
        }

    def remove(self, network: nn.Module, masks: Masks) -> Pruned:
        """A copy of `network` without what the masks remove."""
        return remove(network, self.request, masks, self.dataset.input_shape)

    def held(self, network: nn.Module, masks: Masks) -> Masks:
        """Parameter name -> mask that keeps it at zero in `network`, which is of full size."""
        return held_weights(network, self.request, masks, self.dataset.input_shape)

    def zeroed(self, network: nn.Module, masks: Masks) -> nn.Module:
        """A copy of `network` of full size with zeros for what the masks remove."""
        return zeroed(network, self.request, masks, self.dataset.input_shape)

    def judged(self, network: nn.Module, images: int | None = None) -> Judged:
        """How good a network is on the validation split, or on so many of its images."""
        with metered(self.criterion, self.batches.device):
            return judged_network(network, self.dataset, self.batches.device, self.base, images)

    def fresh_recipe(self, network: nn.Module, epochs: float) -> Recipe:
        """How to train `network`, whose weights are untrained."""
        return fresh_recipe(self.point, network, self.dataset, epochs)

    def finetuning_recipe(self, network: nn.Module, epochs: float) -> Recipe:
        """How to train `network`, which comes from the base."""
        return finetuning_recipe(self.point, network, self.dataset, epochs)

    def base_recipe(self, network: nn.Module) -> Recipe:
        """How to train `network` as a base is trained."""
        return base_recipe(self.point, network, self.dataset)

    @property
    def finetuning_epochs(self) -> float:
        """Those of the point."""
        return finetuning_epochs(self.point, len(self.batches))

    def train(self, network: nn.Module, how: Recipe, **arguments: Any) -> None:
        """Trains `network` in place; `arguments` are those of `training.loop.train`."""
        self.operators = count_training_ops(network, self.dataset.input_shape)
        cost = train_checked(network, self.batches, how, on_update=self.listener.training, **arguments)
        self.flops += cost.images * self.operators.flops_per_image
        self.cost = cost if self.cost is None else self.cost + cost

    def train_from_init(self, network: nn.Module, held: Masks) -> None:
        """Trains `network`, which has untrained weights, in place, for the epochs of a base."""
        self.train(network, self.base_recipe(network), masks=held)

    def finetune(self, network: nn.Module, epochs: float, **arguments: Any) -> None:
        """Trains `network`, which comes from the base, in place."""
        teacher = self._teacher()
        how = self.finetuning_recipe(network, epochs)
        before = 0 if self.cost is None else self.cost.images
        self.train(network, how, teacher=teacher, **arguments)
        if teacher is not None and self.cost is not None:
            answers = count_training_ops(self.base, self.dataset.input_shape).forward_flops_per_image
            self.teacher_flops += (self.cost.images - before) * answers

    def _teacher(self) -> Target | None:
        """What fine-tuning learns from, beside labels or instead of them."""
        if not self.dataset.labelled:
            assert isinstance(self.base, GraphNetwork)
            return Original(self.base, tuple(self.base.plan.answers.values()))
        return Teacher(self.base, self.point.distill) if self.point.distill else None

    def discard(self, cost: TrainingCost | None, flops: int) -> None:
        """Counts the training since `cost` and `flops` were what they are here as not gone on with."""
        seconds = (self.cost.seconds if self.cost else 0.0) - (cost.seconds if cost else 0.0)
        self.discarded.add(Spent(self.flops - flops, seconds))
        self.cost, self.flops = cost, flops

    def identify(self, pruned: Pruned) -> str:
        """What the network shares with those that are the same and are treated alike."""
        settings = {name: value for name, value in self.point.settings().items() if name not in _OF_THE_CHOICE}
        treatment = {"scratch": self.point.control == "scratch", "align": self.point.dead_align}
        return network_identity(pruned, {**settings, **treatment, "data": self.dataset.checksum})

    def train_pruned(self, pruned: Pruned, training: Callable[[nn.Module, Masks], None]) -> Pruned:
        """Trains a copy of a pruned network by `training`, which gets it with the masks to hold; one that another
        point has made already is left untrained."""
        self.untrained = pruned.network
        self.identity = self.identify(pruned)
        self.twin = self.find_twin(self.identity)
        if self.twin is not None:
            return pruned
        network = copy.deepcopy(pruned.network)
        training(network, pruned.held)
        return dataclasses.replace(pruned, network=network)

    @property
    def last_loss(self) -> float | None:
        """Mean training cross-entropy of the last epoch, in nats; None where there was none."""
        return self.cost.epoch_losses[-1] if self.cost is not None and self.cost.epoch_losses else None
