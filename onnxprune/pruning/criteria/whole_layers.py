"""Whole layers, by the mean score of their weights."""

from collections.abc import Sequence

import torch
from torch import nn

from onnxprune.common.errors import InputError
from onnxprune.models.densenet import removable_layers
from onnxprune.pruning.layers import weighted_layer
from onnxprune.pruning.request import Masks, Request
from onnxprune.training.device import seeded_generator


def decide_layers(network: nn.Module, request: Request) -> Masks:
    """The dense layers with the lowest mean score of their weights; only DenseNet's can be left out."""
    names = removable_layers(network)
    if not names:
        raise InputError(
            "granularity 'layer' needs an architecture whose layers can be left out: densenet121 is one; slp and cnn "
            "are not"
        )
    scores = _layer_scores(network, names, request)
    removed = set(sorted(names, key=lambda name: scores[name])[: round(request.sparsity / 100 * len(names))])
    return {
        name: torch.full((len(weighted_layer(network, f"{name}.conv2").weight),), float(name not in removed))
        for name in names
    }


def _layer_scores(network: nn.Module, names: Sequence[str], request: Request) -> dict[str, float]:
    if request.criterion == "random":
        values = torch.rand(len(names), generator=seeded_generator(request.seed, "random criterion"))
        return dict(zip(names, values.tolist(), strict=True))
    power = {"l1": 1, "l2": 2}[request.criterion]
    scores = {}
    for name in names:
        convolutions = [weighted_layer(network, f"{name}.{part}") for part in ("conv1", "conv2")]
        weights = torch.cat([convolution.weight.detach().flatten() for convolution in convolutions])
        scores[name] = weights.abs().pow(power).mean().item()  # a mean: earlier layers have fewer weights
    return scores
