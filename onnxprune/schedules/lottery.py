"""Lottery tickets: train again from early weights what a trained network keeps."""

import copy
import math

from onnxprune.bridge.start import build_network
from onnxprune.pruning.remove import Pruned
from onnxprune.schedules.context import PruningContext
from onnxprune.schedules.iterative import round_sparsities


def lottery(context: PruningContext) -> Pruned:
    """Trains again from early weights what a trained network keeps; every round but the last trains to prune again."""
    point, dataset = context.point, context.dataset
    early, trained, masks = build_network(point, dataset), context.base, None
    how = context.recipe(early, point.epochs, point.learning_rate)
    if point.rewind_epoch:
        updates = math.ceil(how.updates(len(context.batches)) * point.rewind_epoch / max(1, point.epochs))
        context.train(early, how, stop_after=updates)
    *between, last = round_sparsities(point.sparsity, point.rounds)
    for sparsity in between:
        masks = context.decide(trained, sparsity, masks)
        trained = copy.deepcopy(early)
        context.train(trained, how, masks=context.held(trained, masks))
        context.path.append({"sparsity": sparsity, "loss": context.last_loss})
    masks = context.controlled(context.decide(trained, last, masks))
    return context.train_pruned(context.remove(early, masks), context.train_from_init)
