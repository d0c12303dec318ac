"""Criteria that look at the BatchNorms that follow the layers."""

from onnxprune.pruning import pruners
from onnxprune.pruning.layers import normalised_layers
from onnxprune.pruning.ranking import Candidates, Ranking

_STEPS = 20


def slim(candidates: Candidates) -> Ranking:
    """The scaling factor of the BatchNorm, after training it towards zero."""
    norms = normalised_layers(candidates.network)
    return Ranking(pruners.ScalingFactorPruner, training_steps=_STEPS, norms=norms, called=True)
