"""Criteria that look at what units mean to the layers that read them."""

import copy
import functools

import numpy as np
import torch
from torch import Tensor

from onnxprune.bridge.graph_network import GraphNetwork
from onnxprune.bridge.reconstruction import IMAGES, removal_order
from onnxprune.common.errors import InputError
from onnxprune.pruning import pruners
from onnxprune.pruning.calibration import calibration_order
from onnxprune.pruning.ranking import Candidates, Ranking
from onnxprune.pruning.recovery import sparse_file
from onnxprune.pruning.request import Masks


def obs(candidates: Candidates) -> Ranking:
    """The order in which optimal brain surgeon takes units out; of single weights, those that it leaves in a file.

    Raises:
        InputError: single weights of a network that is no file.
    """
    if candidates.are_weights:
        return _single(candidates)
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


def _single(candidates: Candidates) -> Ranking:
    network, request = candidates.network, candidates.request
    if not isinstance(network, GraphNetwork):
        raise InputError(
            f"criterion 'obs' of technique '{request.technique}' changes the weights that stay, which is for "
            "FILE.onnx alone: use l1"
        )
    whole = copy.deepcopy(network)

    @functools.cache
    def kept() -> Masks:
        return sparse_file(whole, request, candidates.batches)[1]

    def score(layer: str, magnitudes: Tensor) -> Tensor:
        # where more or fewer are to go than it has taken, magnitudes decide
        return kept()[layer] + magnitudes / (1 + 2 * magnitudes.max())

    return Ranking(pruners.rescored(candidates.by_magnitude, score))
