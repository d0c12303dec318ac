"""Criteria that look at what units mean to the layers that read them."""

import copy
import functools

import numpy as np
import torch
from torch import Tensor

from onnxprune.bridge.reconstruction import IMAGES, removal_order
from onnxprune.pruning import pruners
from onnxprune.pruning.calibration import calibration_order
from onnxprune.pruning.ranking import Candidates, Ranking


def obs(candidates: Candidates) -> Ranking:
    """The order in which optimal brain surgeon takes units out."""
    batches, seed = candidates.batches, candidates.request.seed
    # before NNI wraps its layers
    network = copy.deepcopy(candidates.network)

    @functools.cache
    def places() -> dict[str, np.ndarray]:
        images, _ = batches.take(calibration_order(batches, seed)[:IMAGES])
        return removal_order(network, images, seed)

    def score(layer: str, own: Tensor) -> Tensor:
        return torch.from_numpy(places()[layer]).to(own).view_as(own)

    return Ranking(pruners.rescored(candidates.by_magnitude, score), remembered=True)
