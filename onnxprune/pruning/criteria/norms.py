"""Criteria that look at the weights alone."""

import statistics

import torch
from torch import Tensor

from onnxprune.pruning import pruners
from onnxprune.pruning.ranking import Candidates, Ranking


def l1(candidates: Candidates) -> Ranking:
    """The sum of absolute weights."""
    return Ranking(candidates.by_magnitude)


def l2(candidates: Candidates) -> Ranking:
    """The Euclidean norm, which ranks single weights as their magnitude does."""
    return Ranking(candidates.by_magnitude if candidates.are_weights else pruners.L2NormPruner)


def fpgm(_: Candidates) -> Ranking:
    """The distance to the other filters of the layer."""
    return Ranking(pruners.FPGMPruner)


def threshold(candidates: Candidates) -> Ranking:
    """Magnitude against a threshold of the layer's own."""
    return Ranking(candidates.by_magnitude, layer_target=_threshold)


def _threshold(weight: Tensor, share: float) -> dict[str, float]:
    """NNI's setting for one layer.

    The threshold of Han et al. 2015 is a multiple of the layer's standard deviation. The multiple taken here is the
    quantile that would remove exactly the requested share of normally distributed weights.
    """
    if share == 1:
        return {"sparse_threshold": float("inf")}
    return {"sparse_threshold": statistics.NormalDist().inv_cdf((1 + share) / 2) * weight.detach().std().item()}


def lamp(candidates: Candidates) -> Ranking:
    """Magnitude, made comparable among layers."""
    return Ranking(pruners.rescored(candidates.by_magnitude, lamp_scores))


def lamp_scores(_: str, magnitudes: Tensor) -> Tensor:
    """LAMP scores of the weights of a layer: each squared weight, divided by the sum of all that are no smaller (Lee et
    al. 2021, arXiv 2010.07611); comparable among layers, the largest weight of each has 1."""
    squares = magnitudes.flatten().to(torch.float64) ** 2
    order = squares.argsort(descending=True, stable=True)
    scores = torch.empty_like(squares)
    scores[order] = squares[order] / squares[order].cumsum(0).clamp_min(torch.finfo(torch.float64).tiny)
    return scores.view_as(magnitudes)
