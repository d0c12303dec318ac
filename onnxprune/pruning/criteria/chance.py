"""Chance: the control for every other criterion."""

from onnxprune.pruning import pruners
from onnxprune.pruning.ranking import Candidates, Ranking
from onnxprune.training.device import seeded_generator


def chance(candidates: Candidates) -> Ranking:
    """Random scores, the same for equal seeds."""
    generator = seeded_generator(candidates.request.seed, "random criterion")
    return Ranking(pruners.randomised(candidates.by_magnitude, generator))
