"""When units are removed: each schedule is a function that makes a trained, pruned network of a point's base."""

import copy
import dataclasses
import math
from collections.abc import Callable

import torch
from torch import nn

from onnxprune.pruning.movement import movement_masks
from onnxprune.pruning.prune import Masks, Pruned, decide, prunable_layers, target_shape
from onnxprune.pruning.recovery import compensate, recalibrate
from onnxprune.pruning.regrowth import Regrowth, erdos_renyi_shares
from onnxprune.schedules.adaptive import adaptive
from onnxprune.schedules.context import Work
from onnxprune.settings.vocabulary import TECHNIQUES
from onnxprune.study.base import build_network
from onnxprune.training.loop import seeded_generator

__all__ = [
    "adaptive",
    "agp",
    "at_init",
    "iterative",
    "linear",
    "lottery",
    "movement",
    "one_shot",
    "rigged_lottery",
    "sparse_evolutionary",
]

RAMP = 2 / 3  # of the updates, in which agp, linear and movement reach the sparsity; the rest trains what is left
_LAST_SHARE = 0.01  # what rounds that end at 100 % work towards until the last one


def one_shot(work: Work) -> Pruned:
    """The base is pruned once and fine-tuned."""
    point, base = work.point, work.base
    masks = _controlled(work, decide(base.network, work.request, work.batches, base.memory))
    if point.control == "scratch":
        # an initialisation that no seed of the study has
        fresh = build_network(dataclasses.replace(point, seed=10**9 + point.seed), work.dataset)
        pruned = work.remove(fresh, masks)

        def training(network: nn.Module, held: Masks) -> None:
            how = work.recipe(network, point.epochs + point.finetune_epochs, point.learning_rate)
            work.train(network, how, masks=held)
    else:
        pruned = work.remove(base.network, masks)
        if point.compensate:
            compensate(pruned, base.network, work.dataset.input_shape)
        if point.recalibrate:
            recalibrate(pruned.network, work.batches, point.seed)

        def training(network: nn.Module, held: Masks) -> None:
            work.finetune(network, point.finetune_epochs, masks=held)

    return work.train_pruned(pruned, training)


def at_init(work: Work) -> Pruned:
    """The untrained network is pruned once and trained."""
    network = build_network(work.point, work.dataset)
    masks = _controlled(work, decide(network, work.request, work.batches))
    return work.train_pruned(work.remove(network, masks), _from_init(work))


def _from_init(work: Work) -> Callable[[nn.Module, Masks], None]:
    def training(network: nn.Module, held: Masks) -> None:
        work.train(network, work.recipe(network, work.point.epochs, work.point.learning_rate), masks=held)

    return training


def _controlled(work: Work, masks: Masks) -> Masks:
    """The masks, or what a control puts in their place; chance itself is a criterion."""
    if work.point.control != "layerwise-random":
        return masks
    generator = seeded_generator(work.point.seed, "layerwise random control")
    return {
        layer: mask.flatten()[torch.randperm(mask.numel(), generator=generator).to(mask.device)].view_as(mask)
        for layer, mask in masks.items()
    }


def round_sparsities(sparsity: float, rounds: int) -> list[float]:
    """Percent removed after each of several rounds that all take the same share of what is left.

    At 100 % that share would be all of it at once: until the last round it is then that of 99 %.
    """
    left = max(1 - sparsity / 100, _LAST_SHARE)
    return [100 * (1 - left ** (number / rounds)) for number in range(1, rounds)] + [sparsity]


def iterative(work: Work) -> Pruned:
    """Prunes and fine-tunes in turn; the epochs of fine-tuning are shared out among the rounds."""
    point = work.point
    network, masks = copy.deepcopy(work.base.network), None
    for sparsity in round_sparsities(point.sparsity, point.rounds):
        masks = work.decide(network, sparsity, masks)
        work.finetune(network, point.finetune_epochs / point.rounds, masks=work.held(network, masks))
        work.path.append({"sparsity": sparsity, "loss": _last_loss(work)})
    return work.remove(network, masks or {})


def agp(work: Work) -> Pruned:
    """Automated gradual pruning: what is still to go shrinks with the cube of the time left."""
    return _gradual(work, lambda time: 1 - (1 - time) ** 3)


def linear(work: Work) -> Pruned:
    """Gradual pruning in equal steps."""
    return _gradual(work, lambda time: time)


def _gradual(work: Work, curve: Callable[[float], float]) -> Pruned:
    """Fine-tunes and raises the sparsity meanwhile, by the technique's own pruner on the weights as they then are.

    Args:
        curve: time, 0 to 1, to the share of the final sparsity; 1 at 1, so that nothing is left short.
    """
    point = work.point
    network, masks = copy.deepcopy(work.base.network), Masks()
    how = work.recipe(network, point.finetune_epochs, point.finetune_learning_rate)
    steps = _steps(how.updates(len(work.batches)), point.rounds)

    def remask(done: int, _: int) -> Masks | None:
        nonlocal masks
        if done not in steps:
            return None
        sparsity = point.sparsity * curve(steps[done])
        masks = work.decide(network, sparsity, masks)
        network.train()
        work.path.append({"update": done, "sparsity": sparsity})
        return work.held(network, masks)

    work.finetune(network, point.finetune_epochs, remask=remask)
    if not masks:  # no epochs
        masks = work.decide(network, point.sparsity)
    return work.remove(network, masks)


def _steps(updates: int, rounds: int) -> dict[int, float]:
    """Number of an update -> time (0 to 1, which the last has) of the step of pruning that comes before it."""
    return {int(RAMP * updates * (number - 1) / max(1, rounds - 1)): number / rounds for number in range(1, rounds + 1)}


def movement(work: Work) -> Pruned:
    """NNI's movement pruning while fine-tuning."""
    point = work.point
    network = copy.deepcopy(work.base.network)
    how = work.recipe(network, point.finetune_epochs, point.finetune_learning_rate)
    updates = how.updates(len(work.batches))

    def training(wrapped: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        work.finetune(wrapped, point.finetune_epochs, optimizer=optimizer)

    masks = movement_masks(network, work.request, training, how.learning_rate, updates, int(RAMP * updates))
    return work.remove(network, masks)


def lottery(work: Work) -> Pruned:
    """Trains again from early weights what a trained network keeps; every round but the last trains to prune again."""
    point, dataset = work.point, work.dataset
    early, trained, masks = build_network(point, dataset), work.base.network, None
    how = work.recipe(early, point.epochs, point.learning_rate)
    if point.rewind_epoch:
        updates = math.ceil(how.updates(len(work.batches)) * point.rewind_epoch / max(1, point.epochs))
        work.train(early, how, stop_after=updates)
    *between, last = round_sparsities(point.sparsity, point.rounds)
    for sparsity in between:
        masks = work.decide(trained, sparsity, masks)
        trained = copy.deepcopy(early)
        work.train(trained, how, masks=work.held(trained, masks))
        work.path.append({"sparsity": sparsity, "loss": _last_loss(work)})
    masks = _controlled(work, work.decide(trained, last, masks))
    return work.train_pruned(work.remove(early, masks), _from_init(work))


def sparse_evolutionary(work: Work) -> Pruned:
    """SET: constant sparsity from the start, what is dropped grows again at random places."""
    return _regrown(work, by_gradient=False)


def rigged_lottery(work: Work) -> Pruned:
    """RigL: constant sparsity from the start, what is dropped grows again where the gradient is largest."""
    return _regrown(work, by_gradient=True)


def _regrown(work: Work, by_gradient: bool) -> Pruned:
    point = work.point
    network = build_network(point, work.dataset)
    share = point.sparsity / 100
    sizes = {name: target_shape(network, name, work.request) for name in prunable_layers(network, work.request)}
    shares = dict.fromkeys(sizes, share)
    if TECHNIQUES[point.technique].scope == "global":
        shares = erdos_renyi_shares(sizes, share)
    chance = dataclasses.replace(work.request, criterion="random", shares=shares)
    start = work.remove(network, decide(network, chance, work.batches))
    growth = Regrowth(start.unit_masks, by_gradient, point.seed)

    def training(network: nn.Module, held: Masks) -> None:
        how = work.recipe(network, point.epochs, point.learning_rate)
        work.train(network, how, masks=held, remask=lambda done, updates: growth.step(network, done, updates))

    return dataclasses.replace(work.train_pruned(start, training), unit_masks=growth.masks)


def _last_loss(work: Work) -> float | None:
    return work.cost.epoch_losses[-1] if work.cost is not None and work.cost.epoch_losses else None
