"""What is to be removed of a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from onnxprune.pruning import pruners
from onnxprune.settings.point import Point
from onnxprune.settings.vocabulary import TECHNIQUES
from onnxprune.training.cost import Spent

Masks = dict[str, Tensor]

# technique, criterion and seed -> scores, and what finding them took
Memory = dict[tuple[str, str, int], tuple[pruners.Metrics, Spent]]


@dataclass(frozen=True)
class Request:
    """What to remove.

    Attributes:
        technique, criterion, granularity: canonical names from the registries.
        sparsity: the share of prunable units to remove, in percent.
        channel_align: the step of `onnxprune.common.widths.kept_units`; 1: any number may be kept.
        seed: decides random criteria and the images that criteria look at.
        shares: layer -> its own share (0 to 1) in place of `sparsity`; every layer is then ranked by itself, and those
            that are not named lose nothing.
        keep: layers that lose nothing, and with output units those that are coupled to them.
    """

    technique: str
    criterion: str
    granularity: str
    sparsity: float
    channel_align: int
    seed: int
    shares: Mapping[str, float] | None = None
    keep: tuple[str, ...] = ()

    @classmethod
    def of(cls, point: Point, **changes: Any) -> "Request":
        """What a point asks for, but for `changes`."""
        asked: dict[str, Any] = {
            "technique": point.technique,
            "criterion": point.criterion,
            "granularity": point.granularity,
            "sparsity": point.sparsity,
            "channel_align": point.channel_align,
            "seed": point.seed,
            "keep": point.kept_layers,
        }
        return cls(**{**asked, **changes})

    def share(self, layer: str) -> float:
        """What `layer` is to lose, 0 to 1."""
        return self.sparsity / 100 if self.shares is None else self.shares.get(layer, 0.0)

    @property
    def globally(self) -> bool:
        """Whether there is one ranking over all layers."""
        return TECHNIQUES[self.technique].scope == "global" and self.shares is None
