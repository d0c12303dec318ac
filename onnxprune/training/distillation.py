"""Learning from another network's answers."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Teacher:
    """A network whose answers another one learns (Hinton et al. 2015, arXiv 1503.02531).

    Attributes:
        network: in evaluation mode.
        weight: of its part of the loss, 0 to 1; the labels have the rest.
        temperature: that both networks' logits are divided by for it.
    """

    network: nn.Module
    weight: float
    temperature: float = 4.0

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum over images (n, C, H, W), in nats, for logits (n, classes) and labels (n,)."""
        with torch.no_grad():
            target = F.softmax(self.network(images) / self.temperature, dim=1)
        learnt = F.cross_entropy(logits / self.temperature, target, reduction="sum") * self.temperature**2
        return (1 - self.weight) * F.cross_entropy(logits, labels, reduction="sum") + self.weight * learnt
