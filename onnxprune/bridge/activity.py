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
# layers, with the axis of their outputs that has the units
_LAYERS = {
    torch.ops.aten.convolution.default: 1,
    torch.ops.aten.addmm.default: -1,
    torch.ops.aten.mm.default: -1,
    torch.ops.aten.bmm.default: -1,
}


class _Answers(TorchDispatchMode):
    """Notes which units each ReLU lets through; ReLUs are known by their place in the order of calls.

    Attributes:
        alive: for each ReLU, whether a unit was above zero on some image (units,).
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[Tensor] = []
        self.begin()

    def begin(self) -> None:
        """Before the network is called."""
        self._call = 0
        self._units: tuple[int, int] | None = None  # of the last layer: how many, and on which axis

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        output = function(*arguments, **(keywords or {}))
        if function in _LAYERS:
            axis = _LAYERS[function]
            self._units = output.shape[axis], axis
        if function in _RELUS and output.dim() > 1:
            units, axis = self._units or (output.shape[1], 1)
            if output.shape[axis] != units:  # another layout, as of tokens made of a convolution's answers
                axis = -axis
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
