"""Criteria that look at gradients of the loss on training images."""

from onnxprune.pruning import pruners
from onnxprune.pruning.calibration import CALIBRATION_STEPS
from onnxprune.pruning.ranking import Candidates, Ranking


def taylor(candidates: Candidates) -> Ranking:
    """The first-order Taylor expansion of the loss: squared weight times gradient."""
    if not candidates.are_weights:
        return Ranking(pruners.TaylorPruner, training_steps=CALIBRATION_STEPS)
    globally = candidates.request.globally
    return Ranking(
        pruners.GlobalTaylorPruner if globally else pruners.WeightTaylorPruner, training_steps=CALIBRATION_STEPS
    )
