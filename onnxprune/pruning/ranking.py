"""What a criterion is: a function that gets the candidates and says how NNI is to rank them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from onnxprune.pruning import pruners
from onnxprune.pruning.layers import nni_share
from onnxprune.pruning.request import Request
from onnxprune.settings.vocabulary import TECHNIQUES
from onnxprune.training.batches import Batches


@dataclass(frozen=True)
class Candidates:
    """What is to be ranked.

    Attributes:
        network: in evaluation mode; it is as before when the criterion returns.
        request: what is asked for.
        layers: names of those that are ranked.
        batches: training images to look at.
    """

    network: nn.Module
    request: Request
    layers: list[str]
    batches: Batches

    @property
    def are_weights(self) -> bool:
        """Whether single weights are ranked, and not output units."""
        return TECHNIQUES[self.request.technique].unit == "weight"

    @property
    def by_magnitude(self) -> Any:
        """NNI's pruner by magnitude for them, from which pruners by other scores are made."""
        if not self.are_weights:
            return pruners.L1NormPruner
        return pruners.GlobalLevelPruner if self.request.globally else pruners.LevelPruner


def sparse_ratio(weight: Tensor, share: float) -> dict[str, float]:
    """NNI's setting for a layer that is to lose a share of its weights."""
    return {"sparse_ratio": nni_share(round(share * weight.numel()), weight.numel())}


@dataclass(frozen=True)
class Ranking:
    """How NNI is to rank.

    Attributes:
        pruner: NNI's class, or one that is made of it.
        training_steps: batches of training images whose gradients it looks at; 0: none.
        layer_target: weight of a layer and the share that it is to lose (0 to 1) -> NNI's setting for it; of single
            weights that are ranked within their layer.
        remembered: whether scores of a network take so long that they are kept for other sparsities.
        called: whether it sees layers only where their `forward` is called, not where their weights are read past it.
        norms: ranked layer -> the BatchNorm that is judged in its place; None: layers are judged themselves.
    """

    pruner: Any
    training_steps: int = 0
    layer_target: Callable[[Tensor, float], dict[str, float]] = sparse_ratio
    norms: dict[str, str] | None = None
    remembered: bool = False
    called: bool = False
