"""Movement: NNI learns scores while fine-tuning."""

import copy

import torch
from torch import nn

from onnxprune.pruning.movement import movement_masks
from onnxprune.pruning.remove import Pruned
from onnxprune.schedules.context import PruningContext
from onnxprune.schedules.gradual import RAMP


def movement(context: PruningContext) -> Pruned:
    """NNI's movement pruning while fine-tuning."""
    network = copy.deepcopy(context.base)
    how = context.finetuning_recipe(network, context.finetuning_epochs)
    updates = how.updates(len(context.batches))

    def training(wrapped: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        context.finetune(wrapped, context.finetuning_epochs, optimizer=optimizer)

    masks = movement_masks(
        network,
        context.request,
        context.dataset.input_shape,
        training,
        learning_rate=how.learning_rate,
        updates=updates,
        ramp=int(RAMP * updates),
    )
    return context.remove(network, masks)
