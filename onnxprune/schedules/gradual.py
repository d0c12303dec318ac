"""Gradual: prune step by step while fine-tuning."""

import copy
from collections.abc import Callable

from onnxprune.pruning.remove import Pruned
from onnxprune.pruning.request import Masks
from onnxprune.schedules.context import PruningContext
from onnxprune.training.loop import in_training

RAMP = 2 / 3  # of the updates, in which agp, linear and movement reach the sparsity; the rest trains what is left


def agp(context: PruningContext) -> Pruned:
    """Automated gradual pruning: what is still to go shrinks with the cube of the time left.

    The paper's s_t = s_f * (1 - (1 - (t - t_0) / (n * dt))^3), from s_i = 0 at t_0 = 0, in n = `rounds` steps.
    """
    return _gradual(context, lambda time: 1 - (1 - time) ** 3)


def linear(context: PruningContext) -> Pruned:
    """Gradual pruning in equal steps."""
    return _gradual(context, lambda time: time)


def _gradual(context: PruningContext, curve: Callable[[float], float]) -> Pruned:
    """Fine-tunes and raises the sparsity meanwhile, by the technique's own pruner on the weights as they then are.

    Args:
        curve: time, 0 to 1, to the share of the final sparsity; 1 at 1, so that nothing is left short.
    """
    point = context.point
    network, masks = copy.deepcopy(context.base), Masks()
    how = context.finetuning_recipe(network, context.finetuning_epochs)
    steps = pruning_steps(how.updates(len(context.batches)), point.rounds)

    def remask(done: int, _: int) -> Masks | None:
        nonlocal masks
        if done not in steps:
            return None
        sparsity = point.sparsity * curve(steps[done])
        masks = context.decide(network, sparsity, masks)
        in_training(network)  # deciding looks at it as it answers
        context.path.append({"update": done, "sparsity": sparsity})
        return context.held(network, masks)

    context.finetune(network, context.finetuning_epochs, remask=remask)
    if not masks:  # no epochs
        masks = context.decide(network, point.sparsity)
    return context.remove(network, masks)


def pruning_steps(updates: int, rounds: int) -> dict[int, float]:
    """Updates that are done -> share of the ramp that is then over, from 1 / `rounds` to 1: when there is pruning.

    At its beginning nothing is over, and nothing goes; of steps that fall on the same update the last counts.
    """
    return {int(RAMP * updates * number / rounds): number / rounds for number in range(1, rounds + 1)}
