"""Criteria that look at gradients of the loss on training images."""

from onnxprune.pruning import pruners
from onnxprune.pruning.calibration import CALIBRATION_STEPS
from onnxprune.pruning.ranking import Candidates, Ranking


def taylor(candidates: Candidates) -> Ranking:
    """The first-order Taylor expansion of the loss: squared weight times gradient."""
    pruner = pruners.TaylorPruner
    if candidates.are_weights:
        pruner = pruners.GlobalTaylorPruner if candidates.request.globally else pruners.WeightTaylorPruner
    return Ranking(pruner, training_steps=CALIBRATION_STEPS, called=True)
