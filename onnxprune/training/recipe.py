"""How a network is trained: the settings, the learning rate and the optimizer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from onnxprune.settings.budget import updates_of

MOMENTUM = 0.9

WEIGHT_DECAY = 5e-4

WARMUP_SHARE = 0.1

WARMUP_UPDATES = 100  # at least, where they are not more than half of all: fewer kill units of networks that begin


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: passes over the training images; the last one may be a part.
        batch_size: images an update is computed from; more than there are means all of them.
        learning_rate: the peak of the schedule: linear warm-up over a tenth of the updates, or 100 of them where that
            is more, or half where there are few; then a cosine to zero.
        augmentation: names of the random changes made to training images, a subset of {"crop", "flip"}.
        micro_batch: images in one forward and backward pass.
        seed: decides the order of the images and the augmentation.
        precision: "fp32", or "bf16" or "fp16" for autocast (Micikevicius et al. 2018, arXiv 1710.03740). The loss is
            scaled for float16; the range of bfloat16 needs none of that (Kalamkar et al. 2019, arXiv 1905.12322).
        devices: processes that share the micro-batches of a batch; see `onnxprune.training.parallel`.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    augmentation: frozenset[str]
    micro_batch: int
    seed: int
    precision: str = "fp32"
    devices: int = 1

    def updates(self, images: int) -> int:
        """Steps of the optimizer for so many training images; at least one, unless there are no epochs."""
        return updates_of(self.epochs, self.batch_size, images)


def scaled_learning_rate(
    rate_at_256: float, batch_size: int, training_images: int, updates: int, largest: int = 256, excess: float = 1.0
) -> float:
    """The peak learning rate for a batch size: proportional to its square root (Krizhevsky 2014, arXiv 1404.5997).

    The batch counts as no larger than the training set and than `largest`. Beyond 256 it also counts as no larger than
    an eighth of the training set, since gradients of more hardly differ, and as 64 images an update, since the warm-up
    of a few updates is too short for more: units die.

    Args:
        largest: with the rule's rates beyond 256 the CNN collapses or diverges in its first updates (at batch 4000
            already with twice the rate), a perceptron at four times the rate; at twice a third of its units die.
        excess: how many times the usual number of inputs the network has; the rate falls with its square root.
    """
    most = max(256, min(largest, training_images // 8, 64 * updates))
    return rate_at_256 * math.sqrt(min(batch_size, training_images, most) / 256 / max(1.0, excess))


def rising_share(updates: int, enough: int) -> float:
    """The share of the peak learning rate at batch 256 that untrained weights bear in so few updates.

    The rate rises to its peak in half of them. A steep rise to a rate that then lasts kills units, or the network; in a
    sixth of the updates that are enough it does not last. Measured on the CNN (digits, 3 seeds): of 30 updates at the
    whole rate 10.0 to 87.8 %, at 0.35 of it 82.8 to 89.4 %. At batch 64, whose whole rate is half of that: 78.6 to 89.2
    %, at 0.42 of it 57.8 to 77.5 %.

    Args:
        enough: updates from which on all of the rate does good.
    """
    return min(1.0, max(enough / 6 / updates, updates / enough)) if updates else 1.0


def settling_share(updates: int, enough: int, distilled: float) -> float:
    """The share of the peak learning rate by which a trained network is fine-tuned in so many updates.

    The rate that it was trained by is as large as the curvature where it ended bears (Cohen et al. 2021, arXiv
    2103.00065). Taken up again, it drives the network away from there, and in a few updates it does not settle again.
    A teacher's softened answers have more curvature than labels.

    Args:
        enough: updates from which on all of the rate does good; with fewer it falls in proportion. No more than it was
            trained by: what has hardly begun to be trained is nowhere to be driven away from.
        distilled: share of the loss that a teacher has, 0 to 1.
    """
    return min(1.0, updates / enough) / (1 + 2 * distilled)


def sgd(network: nn.Module, learning_rate: float, kind: Callable[..., Any] = torch.optim.SGD) -> torch.optim.Optimizer:
    """The optimizer of all training: Nesterov momentum and weight decay, over the parameters that require gradients."""
    optimizer: torch.optim.Optimizer = kind(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=learning_rate,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        nesterov=True,
    )
    return optimizer


def rate_factor(step: int, updates: int) -> float:
    """The share of the peak learning rate that update number `step` (from 0) of `updates` gets."""
    warmup = max(1, int(max(WARMUP_SHARE * updates, min(WARMUP_UPDATES, updates / 2))))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, updates - warmup)))
