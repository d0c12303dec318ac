"""Learning from another network's answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Target(Protocol):
    """What a network learns."""

    @property
    def network(self) -> nn.Module:
        """Whose answers it learns, in evaluation mode."""

    def loss(self, images: Tensor, answers: Tensor, labels: Tensor) -> Tensor:
        """The sum over images (n, C, H, W), for answers (n, numbers) and labels (n,)."""


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

    def loss(self, images: Tensor, answers: Tensor, labels: Tensor) -> Tensor:
        """The sum over images (n, C, H, W), in nats, for logits (n, classes) and labels (n,)."""
        with torch.no_grad():
            target = F.softmax(self.network(images) / self.temperature, dim=1)
        learnt = F.cross_entropy(answers / self.temperature, target, reduction="sum") * self.temperature**2
        return (1 - self.weight) * F.cross_entropy(answers, labels, reduction="sum") + self.weight * learnt


@dataclass(frozen=True)
class Original:
    """The network before pruning, whose answers are the target where there are no labels and may be no scores.

    Attributes:
        network: in evaluation mode.
        widths: how many numbers each of its outputs has for an image.
    """

    network: nn.Module
    widths: Sequence[int]

    def loss(self, images: Tensor, answers: Tensor, labels: Tensor) -> Tensor:
        """The sum over images (n, C, H, W) of the squared error of answers (n, numbers), each output in units of its
        own mean square, so that all of them count the same."""
        with torch.no_grad():
            target = self.network(images)
        total = torch.zeros((), device=answers.device)
        for found, wanted in zip(answers.split([*self.widths], 1), target.split([*self.widths], 1), strict=True):
            scale = wanted.square().mean().clamp_min(torch.finfo(torch.float32).tiny)
            total = total + (found - wanted).square().mean(1).sum() / scale
        return total / len(self.widths)
