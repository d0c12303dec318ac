"""Sparse training: as many weights from the start to the end, but not the same ones."""

import dataclasses

from torch import Tensor, nn

from onnxprune.bridge.start import build_network
from onnxprune.pruning.decide import decide
from onnxprune.pruning.layers import prunable_layers, weighted_layer
from onnxprune.pruning.regrowth import SHARE, Regrowth, erdos_renyi_shares, rigl_share, set_interval
from onnxprune.pruning.remove import Pruned
from onnxprune.pruning.request import Masks
from onnxprune.schedules.context import PruningContext
from onnxprune.settings.budget import updates_per_epoch
from onnxprune.settings.vocabulary import TECHNIQUES


def sparse_evolutionary(context: PruningContext) -> Pruned:
    """SET: constant sparsity from the start, what is dropped grows again at random places."""
    return _regrown(context, by_gradient=False)


def rigged_lottery(context: PruningContext) -> Pruned:
    """RigL: constant sparsity from the start, what is dropped grows again where the gradient is largest."""
    return _regrown(context, by_gradient=True)


def _regrown(context: PruningContext, by_gradient: bool) -> Pruned:
    point = context.point
    network = build_network(point, context.dataset)
    share = point.sparsity / 100
    layers = prunable_layers(network, context.request, context.dataset.input_shape)
    sizes = {name: tuple(weighted_layer(network, name).weight.shape) for name in layers}
    shares = dict.fromkeys(sizes, share)
    if TECHNIQUES[point.technique].scope == "global":
        shares = erdos_renyi_shares(sizes, share)
    chance = dataclasses.replace(context.request, criterion="random", shares=shares)
    start = context.remove(network, decide(network, chance, context.batches, spent=context.criterion))
    growth = Regrowth(start.unit_masks, point.seed)

    def training(network: nn.Module, held: Masks) -> None:
        how = context.base_recipe(network)
        interval = set_interval(updates_per_epoch(point.batch_size, len(context.batches)))

        def between(done: int, _: int) -> dict[str, Tensor] | None:
            if not done or done % interval:
                return None
            context.path.append({"update": done, "share": SHARE})
            return growth.by_chance(network)

        def in_place(done: int, updates: int) -> dict[str, Tensor] | None:
            share = rigl_share(done, updates)
            if not share:
                return None
            context.path.append({"update": done, "share": share})
            return growth.by_gradient(network, share)

        context.train(network, how, masks=held, **{"regrow": in_place} if by_gradient else {"remask": between})

    pruned = context.train_pruned(start, training)
    masks = growth.masks if context.twin is None else context.twin.masks()  # where its weights have moved to
    return dataclasses.replace(pruned, unit_masks=masks)
