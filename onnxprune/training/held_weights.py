"""Weights that training keeps at zero."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class HeldWeights:
    """Keeps masked weights at zero; `masks` is parameter name -> 0/1 tensor of its shape."""

    def __init__(self, network: nn.Module, masks: Mapping[str, Tensor]) -> None:
        parameters = dict(network.named_parameters())
        self._weights: list[Tensor] = [parameters[name] for name in masks]
        self._factors: list[Any] = [
            mask.to(weight.device, weight.dtype) for mask, weight in zip(masks.values(), self._weights, strict=True)
        ]
        self.apply()

    def apply(self) -> None:
        """Zeroes the masked weights, all of them in one call."""
        if self._weights:
            with torch.no_grad():
                torch._foreach_mul_(self._weights, self._factors)

    def replaced(
        self, network: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> "HeldWeights":
        """Those of other masks; a weight that was or is masked moves with no momentum of before."""
        following = HeldWeights(network, masks)
        for held in (self, following):
            for weight, factor in zip(held._weights, held._factors, strict=True):
                momentum = optimizer.state[weight].get("momentum_buffer")
                if momentum is not None:
                    momentum.mul_(factor)
        return following
