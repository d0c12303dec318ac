"""The training images that criteria look at: the same ones for equal seeds."""

import torch
from torch import Tensor

from onnxprune.training.batches import Batches
from onnxprune.training.device import seeded_generator

CALIBRATION_STEPS = 10
CALIBRATION_BATCH = 256


def calibration_order(batches: Batches, seed: int) -> Tensor:
    """Positions of all training images (N,), in the order in which they are looked at."""
    return torch.randperm(len(batches), generator=seeded_generator(seed, "pruning criterion"))
