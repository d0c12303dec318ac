"""Dynamic sparse training: as many weights at every time, but not the same ones.

Every so often each layer drops its smallest weights and grows as many elsewhere, from zero: at random (SET, Mocanu et
al. 2018, arXiv 1707.04780) or where the gradient is largest (RigL, Evci et al. 2020, arXiv 1911.11134).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from onnxprune.training.device import seeded_generator

_TIMES = 50  # in all of training, where the first papers have one an epoch, or every 100 of 32,000 updates
_DROPPED = 0.3  # of a layer's weights the first time, less and less by a cosine
_END = 0.75  # of the updates; the rest trains what is there


class Regrowth:
    """What moves where.

    Attributes:
        masks: layer -> 0/1 mask of its weight, as it now is.
    """

    def __init__(self, masks: Mapping[str, Tensor], by_gradient: bool, seed: int) -> None:
        self.masks = dict(masks)
        self._by_gradient = by_gradient
        self._generator = seeded_generator(seed, "regrowth")

    def step(self, network: nn.Module, done: int, updates: int) -> dict[str, Tensor] | None:
        """Parameter name -> mask from now on; None where nothing moves before this update.

        Args:
            network: with the gradients of the update that comes.
        """
        end = _END * updates
        if done == 0 or done % max(1, updates // _TIMES) or done >= end:
            return None
        share = _DROPPED / 2 * (1 + math.cos(math.pi * done / end))
        for layer, mask in self.masks.items():
            weight = network.get_submodule(layer).weight
            assert isinstance(weight, Tensor) and weight.grad is not None
            gradient = weight.grad if self._by_gradient else None
            self.masks[layer] = self._moved(weight.detach(), gradient, mask, share)
        return {f"{layer}.weight": mask for layer, mask in self.masks.items()}

    def _moved(self, weight: Tensor, gradient: Tensor | None, mask: Tensor, share: float) -> Tensor:
        active = mask.flatten().bool()
        count = min(int(share * int(active.sum())), int((~active).sum()))
        smallest = torch.where(active, weight.abs().flatten(), math.inf).topk(count, largest=False).indices
        attraction = (
            torch.rand(len(active), generator=self._generator).to(weight)
            if gradient is None
            else gradient.abs().flatten()
        )
        best = torch.where(active, -math.inf, attraction).topk(count).indices
        moved = active.clone()
        moved[smallest] = False
        moved[best] = True
        return moved.view_as(mask).to(mask)


def erdos_renyi_shares(shapes: Mapping[str, tuple[int, ...]], share: float) -> dict[str, float]:
    """Layer -> share of its weights to leave out (0 to 1), so that all together lose `share` (ERK, Evci et al. 2020).

    The density of a layer is proportional to the sum of its dimensions over their product; one that would be more than
    dense is dense.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    scales = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        left = (1 - share) * sum(sizes.values()) - sum(sizes[name] for name in dense)
        weight = sum(scales[name] * sizes[name] for name in shapes if name not in dense)
        factor = left / weight if weight else 0.0
        full = {name for name in shapes if name not in dense and factor * scales[name] > 1}
        if not full:
            return {name: 0.0 if name in dense else 1 - factor * scales[name] for name in shapes}
        dense |= full
