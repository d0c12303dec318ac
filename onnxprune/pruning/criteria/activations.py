"""Criteria that look at what units answer to training images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onnxprune.pruning import pruners
from onnxprune.pruning.calibration import CALIBRATION_BATCH, CALIBRATION_STEPS, calibration_order
from onnxprune.pruning.layers import normalised_layers
from onnxprune.pruning.ranking import Candidates, Ranking
from onnxprune.pruning.request import Masks

_BATCH = 64


def apoz(candidates: Candidates) -> Ranking:
    """How often the rectified activation is not zero."""
    return _ranking(candidates, lambda activations: (activations > 0).to(activations.dtype))


def mean_activation(candidates: Candidates) -> Ranking:
    """The mean of the rectified activation."""
    return _ranking(candidates, lambda activations: activations)


def _ranking(candidates: Candidates, score: Callable[[Tensor], Tensor]) -> Ranking:
    scores = _scores(candidates, score)
    pruner = pruners.rescored(candidates.by_magnitude, lambda layer, own: scores[layer].view_as(own))
    return Ranking(pruner, called=True)


def _channels_first(module: nn.Module, output: Tensor) -> Tensor:
    """Outputs (N, units, places...): those of a linear layer have their units last."""
    if isinstance(module, nn.Linear) and output.dim() > 2:
        output = output.movedim(-1, 1)
    return output if output.dim() > 2 else output.unsqueeze(2)


def _scores(candidates: Candidates, score: Callable[[Tensor], Tensor]) -> Masks:
    """Layer -> score of each output unit (units,): of its activation over calibration images, rectified and after the
    BatchNorm that alone follows the layer, as the next layers see it.

    Args:
        score: of rectified activations, of which the mean over images and places is taken.
    """
    network, batches = candidates.network, candidates.batches
    followed = normalised_layers(network)
    sums: dict[str, Tensor] = {}

    def add(layer: str, output: Tensor) -> None:
        sums[layer] = sums.get(layer, 0) + score(F.relu(output)).flatten(2).mean(2).sum(0)

    hooks = [
        network.get_submodule(followed.get(layer, layer)).register_forward_hook(
            lambda module, _, output, layer=layer: add(layer, _channels_first(module, output))
        )
        for layer in candidates.layers
    ]
    order = calibration_order(batches, candidates.request.seed)
    with torch.no_grad():
        for index in order[: CALIBRATION_STEPS * CALIBRATION_BATCH].split(_BATCH):
            network(batches.take(index)[0])
    for hook in hooks:
        hook.remove()
    return sums
