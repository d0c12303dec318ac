"""Units that never answer."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from onnxprune.training.batches import Batches

_IMAGES = 1_000  # that are looked at, spread over all
_BATCH = 100

_RELUS = (torch.ops.aten.relu.default, torch.ops.aten.relu_.default)


class _Answers(TorchDispatchMode):
    """Notes which units each ReLU lets through; ReLUs are known by their place in the order of calls.

    Attributes:
        alive: for each ReLU, whether a unit was above zero on some image (units,).
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[Tensor] = []
        self._call = 0

    def begin(self) -> None:
        """Before the network is called."""
        self._call = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        output = function(*arguments, **(keywords or {}))
        if function in _RELUS and output.dim() > 1:
            axis = 1 if output.dim() != 3 else 2  # tokens have their units last
            answered = (output > 0).transpose(0, axis).flatten(1).any(1)
            if self._call == len(self.alive):
                self.alive.append(answered)
            else:
                self.alive[self._call] |= answered
            self._call += 1
        return output


def dead_units(network: nn.Module, batches: Batches) -> int:
    """Units whose ReLU is zero for each of up to 1,000 of the images: they say nothing, and learn nothing either.

    Args:
        network: in evaluation mode; where it has no ReLU, no unit is dead.
    """
    count = min(_IMAGES, len(batches))
    # not the first ones: a file may be sorted by class
    index = torch.from_numpy(np.random.default_rng(0).permutation(len(batches))[:count])
    answers = _Answers()
    with torch.no_grad():
        for part in index.split(_BATCH):
            images, _ = batches.take(part)
            answers.begin()
            with answers:
                network(images)
    return sum(int((~alive).sum()) for alive in answers.alive)
