"""Iterative: prune and fine-tune in turn."""

import copy

from onnxprune.pruning.remove import Pruned
from onnxprune.schedules.context import PruningContext

_LAST_SHARE = 0.01  # what rounds that end at 100 % work towards until the last one


def round_sparsities(sparsity: float, rounds: int) -> list[float]:
    """Percent removed after each of several rounds that all take the same share of what is left.

    At 100 % that share would be all of it at once: until the last round it is then that of 99 %.
    """
    left = max(1 - sparsity / 100, _LAST_SHARE)
    return [100 * (1 - left ** (number / rounds)) for number in range(1, rounds)] + [sparsity]


def iterative(context: PruningContext) -> Pruned:
    """Prunes and fine-tunes in turn; the epochs of fine-tuning are shared out among the rounds."""
    point = context.point
    network, masks = copy.deepcopy(context.base), None
    for sparsity in round_sparsities(point.sparsity, point.rounds):
        masks = context.decide(network, sparsity, masks)
        context.finetune(network, context.finetuning_epochs / point.rounds, masks=context.held(network, masks))
        context.path.append({"sparsity": sparsity, "loss": context.last_loss})
    return context.remove(network, masks or {})
