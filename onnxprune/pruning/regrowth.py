"""Dynamic sparse training: as many weights at every time, but not the same ones.

Every so often each layer drops its smallest weights and grows as many elsewhere, from zero: at random (SET, Mocanu et
al. 2018, arXiv 1707.04780) or where the gradient is largest (RigL, Evci et al. 2020, arXiv 1911.11134). What was just
dropped does not grow back in the same step.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from onnxprune.training.device import seeded_generator

INTERVAL = 100  # updates between two steps of RigL, as in its paper, and at least between two of SET

SHARE = 0.3  # of a layer's weights that move in a step: SET's zeta, and RigL's alpha, with which it begins

END = 0.75  # of the updates, after which RigL moves nothing: the paper's 25,000 of 32,000


def rigl_share(done: int, updates: int) -> float:
    """Share of a layer's weights that RigL moves in place of the update after `done` of `updates`: 0 between its steps.

    The paper's alpha / 2 * (1 + cos(t * pi / T_end)) at every 100th update.
    """
    end = END * updates
    if done == 0 or done % INTERVAL or done >= end:
        return 0.0
    return SHARE / 2 * (1 + math.cos(done * math.pi / end))


def set_interval(updates_per_epoch: int) -> int:
    """Updates between two steps of SET: the paper's one epoch, or as many as make 100 updates where it has fewer."""
    return updates_per_epoch * math.ceil(INTERVAL / updates_per_epoch)


def updates_to_move(schedule: str, updates_per_epoch: int) -> int:
    """Updates that a training by "set" or "rigl" needs to have a step."""
    return 1 + (set_interval(updates_per_epoch) if schedule == "set" else math.floor(INTERVAL / END))


class Regrowth:
    """What moves where.

    Attributes:
        masks: layer -> 0/1 mask of its weight, as it now is.
    """

    def __init__(self, masks: Mapping[str, Tensor], seed: int) -> None:
        self.masks = dict(masks)
        self._generator = seeded_generator(seed, "regrowth")

    def by_gradient(self, network: nn.Module, share: float) -> dict[str, Tensor]:
        """RigL's step: the share of smallest magnitude goes, and as many grow where the gradient is largest.

        Args:
            network: with gradients, those of weights that are not there included.

        Returns:
            Parameter name -> mask from now on.
        """
        for name, mask in self.masks.items():
            weight = _weight(network, name)
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad  # of a layer that is frozen
            active = mask.flatten().bool()
            magnitude = torch.where(active, weight.detach().flatten().abs(), math.inf)
            dropped = magnitude.topk(int(share * int(active.sum())), largest=False).indices
            self.masks[name] = _moved(mask, dropped, gradient.flatten().abs())
        return self._held()

    def by_chance(self, network: nn.Module) -> dict[str, Tensor]:
        """SET's step: of positive and of negative weights the share nearest to zero goes, and as many grow anywhere.

        Returns:
            Parameter name -> mask from now on.
        """
        for name, mask in self.masks.items():
            weight = _weight(network, name).detach().flatten()
            active = mask.flatten().bool()
            dropped = torch.cat(
                [
                    torch.where(side, weight.abs(), math.inf).topk(int(SHARE * int(side.sum())), largest=False).indices
                    for side in (active & (weight >= 0), active & (weight < 0))
                ]
            )
            chance = torch.rand(len(weight), generator=self._generator).to(weight)
            self.masks[name] = _moved(mask, dropped[weight[dropped].abs().argsort(stable=True)], chance)
        return self._held()

    def _held(self) -> dict[str, Tensor]:
        return {f"{name}.weight": mask for name, mask in self.masks.items()}


def _weight(network: nn.Module, layer: str) -> Tensor:
    weight = network.get_submodule(layer).weight
    assert isinstance(weight, Tensor)
    return weight


def _moved(mask: Tensor, dropped: Tensor, attraction: Tensor) -> Tensor:
    """The mask without these places, the first of them where there is not as much room, and with as many others."""
    active = mask.flatten().bool()
    dropped = dropped[: int((~active).sum())]
    grown = torch.where(active, -math.inf, attraction).topk(len(dropped)).indices
    moved = active.clone()
    moved[dropped] = False
    moved[grown] = True
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
