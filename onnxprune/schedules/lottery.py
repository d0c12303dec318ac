"""Lottery tickets: train again from early weights what a trained network keeps."""

import copy

from torch import nn

from onnxprune.bridge.start import build_network
from onnxprune.pruning.remove import Pruned
from onnxprune.pruning.request import Masks
from onnxprune.schedules.context import PruningContext
from onnxprune.schedules.iterative import round_sparsities
from onnxprune.settings.budget import updates_per_epoch


def lottery(context: PruningContext) -> Pruned:
    """Trains again from early weights what a trained network keeps; every round but the last trains to prune again.

    What was rewound to the weights of an epoch is trained from there to the end, with the learning rate and the order
    of images that the base had then (Frankle et al. 2020, arXiv 1912.05671).
    """
    point, dataset = context.point, context.dataset
    early, trained, masks = build_network(point, dataset), context.base, None
    how = context.base_recipe(early)
    begin = point.rewind_epoch * updates_per_epoch(point.batch_size, len(context.batches))
    if begin:
        context.train(early, how, stop_after=begin)
    *between, last = round_sparsities(point.sparsity, point.rounds)
    for sparsity in between:
        masks = context.decide(trained, sparsity, masks)
        trained = copy.deepcopy(early)
        context.train(trained, how, masks=context.held(trained, masks), start_at=begin)
        context.path.append({"sparsity": sparsity, "loss": context.last_loss})
    masks = context.controlled(context.decide(trained, last, masks))

    def training(network: nn.Module, held: Masks) -> None:
        # its micro-batch may be larger, where it has shrunk
        context.train(network, context.base_recipe(network), masks=held, start_at=begin)

    return context.train_pruned(context.remove(early, masks), training)
