"""NNI's pruners, with the ranking rules that NNI 3.0 has no setting for.

A pruner here is NNI's own in all but one step of its pipeline (collect data, calculate metrics, generate masks).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from nni.compression import TorchEvaluator
from nni.compression.base.setting import PruningSetting
from nni.compression.pruning import (
    FPGMPruner,
    L1NormPruner,
    L2NormPruner,
    LevelPruner,
    SlimPruner,
    TaylorPruner,
)
from nni.runtime.log import silence_stdout
from torch import Tensor

silence_stdout()  # NNI's messages go to the root logger instead, and so into the point's log


class _Settings(dict[str, Any]):
    """NNI's settings, by the name of a layer's class: one that a user has derived from another is pruned as that is."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, PruningSetting.default_setting)


PruningSetting.registry = _Settings(PruningSetting.registry)

__all__ = [
    "FPGMPruner",
    "GlobalLevelPruner",
    "GlobalTaylorPruner",
    "Joint",
    "L1NormPruner",
    "L2NormPruner",
    "LevelPruner",
    "ScalingFactorPruner",
    "TaylorPruner",
    "TorchEvaluator",
    "WeightTaylorPruner",
    "coupled",
    "global_masks",
    "randomised",
    "remembering",
    "rescored",
    "scoring_lowest",
]

Metrics = dict[str, dict[str, Tensor]]

_GONE = -1  # a score that no criterion gives: none has negative ones


def global_masks(metrics: Metrics, share: float) -> Metrics:
    """Masks that remove the lowest `share` of all metric elements together; exact, ties by layer name and position.

    NNI's own global ranking walks every element in Python (minutes for millions of weights), removes one element
    fewer or more than asked, and at a share of 1 silently removes nothing.
    """
    places = [(layer, target) for layer in sorted(metrics) for target in sorted(metrics[layer])]
    scores = torch.cat([metrics[layer][target].flatten() for layer, target in places])
    lowest = scores.argsort(stable=True)[: round(share * len(scores))]
    flat = torch.ones_like(scores)
    flat[lowest] = 0
    pieces = flat.split([metrics[layer][target].numel() for layer, target in places])
    masks: Metrics = {layer: {} for layer, _ in places}
    for (layer, target), piece in zip(places, pieces, strict=True):
        masks[layer][target] = piece.view_as(metrics[layer][target])
    return masks


class _GlobalRanking:
    """Mixin: one ranking over all layers, by `share`, which the caller sets."""

    share: float

    def _generate_sparsity(self, metrics: Metrics) -> Metrics:
        return global_masks(metrics, self.share)


class GlobalLevelPruner(_GlobalRanking, LevelPruner):
    """Magnitude pruning with one ranking over all layers."""


class WeightTaylorPruner(TaylorPruner):
    """Single weights by their first-order Taylor score, within each layer."""

    def _set_default_sparse_granularity(self, target_space: object) -> None:
        return None


class GlobalTaylorPruner(_GlobalRanking, WeightTaylorPruner):
    """Single weights by their first-order Taylor score, with one ranking over all layers."""


class ScalingFactorPruner(SlimPruner):
    """Slim pruning by the whole scaling factor of a BatchNorm channel, as in the paper: NNI ranks by the part it
    trained itself, which starts at 1 for every channel, and leaves out the factor the network had learnt."""

    def _calculate_metrics(self, data: Metrics) -> Metrics:
        metrics: Metrics = super()._calculate_metrics(data)
        for layer, targets in metrics.items():
            for target, trained in targets.items():
                targets[target] = trained * self._target_spaces[layer][target].target.detach().abs()
        return metrics


def randomised(pruner: type[LevelPruner], generator: torch.Generator) -> type[LevelPruner]:
    """The pruner with random scores in place of its own: the same shapes, scope and rounding."""

    class Randomised(pruner):
        def _calculate_metrics(self, data: Metrics) -> Metrics:
            metrics = super()._calculate_metrics(data)
            # sorted: NNI holds layers in an order that changes from process to process
            return {
                layer: {
                    target: torch.rand(metrics[layer][target].shape, generator=generator).to(metrics[layer][target])
                    for target in sorted(metrics[layer])
                }
                for layer in sorted(metrics)
            }

    return Randomised


def rescored(pruner: type[LevelPruner], score: Callable[[str, Tensor], Tensor]) -> type[LevelPruner]:
    """The pruner with scores made from its own: `score` gets the name of a layer and its scores."""

    class Rescored(pruner):
        def _calculate_metrics(self, data: Metrics) -> Metrics:
            metrics = super()._calculate_metrics(data)
            return {
                layer: {target: score(layer, scores) for target, scores in targets.items()}
                for layer, targets in metrics.items()
            }

    return Rescored


def scoring_lowest(pruner: type[LevelPruner], gone: Mapping[str, Tensor]) -> type[LevelPruner]:
    """The pruner for which what is gone already (layer -> 0/1 mask) scores lower than everything else."""
    return rescored(pruner, lambda layer, scores: _lowest(scores, gone[layer]) if layer in gone else scores)


def _lowest(scores: Tensor, mask: Tensor) -> Tensor:
    return scores.masked_fill(mask.view_as(scores) == 0, _GONE)


@dataclass(frozen=True)
class Joint:
    """Outputs of several layers, or several of one, that NNI is to rank as one.

    Attributes:
        places: layer that is judged -> the unit of each of its outputs (outputs,), -1 for none.
        count: units.
        removed: of them, when NNI has reached its ratio.
        ratio: that NNI is told for each of the layers.
    """

    places: Mapping[str, Tensor]
    count: int
    removed: int
    ratio: float

    def keep(self, metrics: Metrics, masks: Metrics) -> Tensor:
        """0/1 mask of the units (count,): those of the lowest sum of scores go, each layer's relative to its mean."""
        totals = torch.zeros(self.count, dtype=torch.float64)
        for layer, places in self.places.items():
            scores = metrics[layer]["weight"].detach().flatten().to("cpu", torch.float64)
            mean = scores[scores != _GONE].abs().mean().nan_to_num(1.0).clamp_min(torch.finfo(torch.float64).tiny)
            totals.index_add_(0, places[places >= 0], (scores / mean)[places >= 0])
        # while a schedule of NNI's own rises, as large a part of the units as NNI takes of the first layer's outputs
        mask = masks[next(iter(self.places))]["weight"]
        mask = mask.reshape(len(mask), -1)[:, 0]  # of a BatchNorm, one number an output
        most = int(self.ratio * len(mask))
        removed = self.removed * int((mask == 0).sum()) // most if most else self.removed
        keep = torch.ones(self.count)
        keep[totals.argsort(stable=True)[:removed]] = 0
        return keep


def coupled(pruner: type[LevelPruner], joints: Sequence[Joint]) -> type[LevelPruner]:
    """The pruner with one ranking and one mask for outputs that go together."""
    if not joints:
        return pruner

    class Coupled(pruner):
        def _generate_sparsity(self, metrics: Metrics) -> Metrics:
            masks: Metrics = super()._generate_sparsity(metrics)
            own = {layer: dict(targets) for layer, targets in masks.items()}
            for joint in joints:
                if not joint.places.keys() <= metrics.keys():  # NNI does not look at what loses nothing
                    continue
                keep = joint.keep(metrics, own)
                for layer, places in joint.places.items():
                    for target, mask in masks[layer].items():
                        if not mask.dim():  # NNI's of a BatchNorm's bias is one number, which nobody reads
                            continue
                        rows = mask.clone()
                        rows[places >= 0] = keep[places[places >= 0]].to(mask).view(-1, *[1] * (mask.dim() - 1))
                        masks[layer][target] = rows
            return masks

    return Coupled


def remembering(pruner: type[LevelPruner]) -> type[LevelPruner]:
    """The pruner with an attribute `metrics`: the scores it has calculated."""

    class Remembering(pruner):
        metrics: Metrics

        def _calculate_metrics(self, data: Metrics) -> Metrics:
            self.metrics = super()._calculate_metrics(data)
            return self.metrics

    return Remembering
