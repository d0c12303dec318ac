"""One-shot: train, prune once, fine-tune."""

import dataclasses

from torch import nn

from onnxprune.bridge.graph_network import GraphNetwork
from onnxprune.bridge.start import build_network
from onnxprune.pruning.decide import decide
from onnxprune.pruning.recovery import compensate, recalibrate, reconstruct
from onnxprune.pruning.remove import Pruned
from onnxprune.pruning.request import Masks
from onnxprune.schedules.context import PruningContext
from onnxprune.settings.budget import base_epochs
from onnxprune.training.opcount import metered


def one_shot(context: PruningContext) -> Pruned:
    """The base is pruned once and fine-tuned."""
    point, base = context.point, context.base
    masks = context.controlled(decide(base, context.request, context.batches, context.memory, None, context.criterion))
    if point.control == "scratch":
        # an initialisation that no seed of the study has
        fresh = build_network(dataclasses.replace(point, seed=10**9 + point.seed), context.dataset)
        pruned = context.remove(fresh, masks)

        def training(network: nn.Module, held: Masks) -> None:
            epochs = base_epochs(point, len(context.batches)) + context.finetuning_epochs
            context.train(network, context.fresh_recipe(network, epochs), masks=held)
    else:
        pruned = context.remove(base, masks)
        with metered(context.calibration, context.batches.device):
            if isinstance(base, GraphNetwork):
                reconstruct(pruned, base, context.request, context.batches, chosen=point.control == "none")
            if point.compensate:
                compensate(pruned, base, context.dataset.input_shape)
            if point.recalibrate:
                recalibrate(pruned.network, context.batches, point.seed)

        def training(network: nn.Module, held: Masks) -> None:
            context.finetune(network, context.finetuning_epochs, masks=held)

    return context.train_pruned(pruned, training)
