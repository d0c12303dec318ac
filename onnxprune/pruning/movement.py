"""Movement pruning by NNI: a score for every unit is learnt with the weights (Sanh et al. 2020, 2005.07683)."""

from collections.abc import Callable
from typing import Any

import nni
import torch
from nni.compression.pruning import MovementPruner
from torch import nn

from onnxprune.bridge.coupling import coupling
from onnxprune.pruning.decide import completed, joints, nni_ratios
from onnxprune.pruning.layers import nni_share, prunable_layers, targets, weighted_layer
from onnxprune.pruning.pruners import Metrics, TorchEvaluator, coupled, global_masks
from onnxprune.pruning.request import Masks, Request
from onnxprune.settings.vocabulary import TECHNIQUES
from onnxprune.training.device import device_of
from onnxprune.training.recipe import sgd

_WARMUP = 0.1  # of the updates, before anything is pruned


class _WeightMovementPruner(MovementPruner):
    """Of single weights: NNI's own takes output units."""

    def _set_default_sparse_granularity(self, target_space: object) -> None:
        return None

    def _generate_sparsity(self, metrics: Metrics) -> Metrics:
        # NNI takes views of scores, which have the layout of the weights
        plain = {
            layer: {target: scores.contiguous() for target, scores in targets.items()}
            for layer, targets in metrics.items()
        }
        return super()._generate_sparsity(plain)


class _GlobalMovementPruner(_WeightMovementPruner):
    """With one ranking over all layers, by `share`, which the caller sets."""

    share: float
    _reached = 0.0

    def update_sparse_goals(self, current_times: int) -> None:
        super().update_sparse_goals(current_times)
        self._reached = 1 - (1 - current_times / self.total_times) ** 3

    def _generate_sparsity(self, metrics: Metrics) -> Metrics:
        return global_masks(metrics, self.share * self._reached)


def movement_masks(
    network: nn.Module,
    request: Request,
    input_shape: tuple[int, int, int],
    training: Callable[[nn.Module, torch.optim.Optimizer], None],
    *,
    learning_rate: float,
    updates: int,
    ramp: int,
) -> Masks:
    """Trains `network` in place and returns what movement pruning has removed at the end: layer -> 0/1 mask.

    Masked weights are not zeroed while it trains, and are not in the end: they may come back.

    Args:
        input_shape: (C, H, W) of one image.
        training: trains the network that it gets, by the optimizer that it gets.
        learning_rate: of that optimizer.
        updates: how many there will be.
        ramp: of them, those in which the sparsity rises to what is requested.
    """
    layers = prunable_layers(network, request, input_shape)
    weights = TECHNIQUES[request.technique].unit == "weight"
    shapes = {name: weighted_layer(network, name).weight.shape[: None if weights else 1] for name in layers}
    units, wanted = None, []
    if weights:
        sizes = {name: (round(request.share(name) * shape.numel()), shape.numel()) for name, shape in shapes.items()}
        ratios = {name: nni_share(*size) for name, size in sizes.items()}
    else:
        units = coupling(network, input_shape)
        wanted = targets(units, layers, request)
        ratios = nni_ratios(wanted, layers)
    target: dict[str, Any] = {"target_names": ["weight"]} if weights else {}
    config = [{"op_names": [name], "sparse_ratio": ratio, **target} for name, ratio in ratios.items() if ratio]

    def training_func(model: nn.Module, optimizer: torch.optim.Optimizer, *_: object, **__: object) -> None:
        training(model, optimizer)

    all_kept = {name: torch.ones(shape, device=device_of(network)) for name, shape in shapes.items()}
    optimizer = sgd(network, learning_rate, nni.trace(torch.optim.SGD))
    if not config:
        training(network, optimizer)
        return all_kept
    evaluator = TorchEvaluator(training_func, optimizer, lambda batch, model: model(batch[0]).sum())
    warmup = min(int(_WARMUP * updates), ramp - 1)
    kind = _GlobalMovementPruner if request.globally else _WeightMovementPruner if weights else MovementPruner
    if units is not None:
        kind = coupled(kind, joints(units, wanted, {name: name for name in layers}))
    pruner = kind(network, config, evaluator, warmup_step=warmup, cooldown_begin_step=ramp)
    if request.globally:
        pruner.share = request.sparsity / 100
    _, found = pruner.compress(max_steps=updates, max_epochs=None)
    pruner.unwrap_model()
    network.eval()
    masks = all_kept
    for name in layers:
        if name in found:
            mask = found[name]["weight"].detach()  # of an output unit as large as its weights, or 1 wide
            masks[name] = mask if weights else mask.flatten(1)[:, 0].clone()
        if weights and request.share(name) == 1:
            masks[name] = torch.zeros_like(masks[name])
    return masks if units is None else completed(units, wanted, masks, layers)
