"""Takes what masks say out of a network: zeros for single weights, a smaller network for output units."""

import copy
import gc
from dataclasses import dataclass, field
from typing import Any

import torch
from nni.compression.speedup import ModelSpeedup
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.nn import functional as F

from onnxprune.models.densenet import remove_layers
from onnxprune.pruning.layers import weighted_layer, working_copy
from onnxprune.pruning.request import Masks, Request
from onnxprune.settings.vocabulary import TECHNIQUES


@dataclass
class Pruned:
    """A pruned network and what was done to it.

    Attributes:
        network: the pruned network, its structure smaller where the technique shrinks.
        held: parameter name -> 0/1 mask that fine-tuning must keep; names and shapes of `network`.
        unit_masks: layer -> 0/1 mask of what was removed, in the shape before shrinking: of the weight tensor for
            single weights, of the output units (units,) for channels.
        whole_layers: whether a unit is a layer.
    """

    network: nn.Module
    held: Masks = field(default_factory=dict)
    unit_masks: Masks = field(default_factory=dict)
    whole_layers: bool = False

    @property
    def removed(self) -> tuple[int, int]:
        """Units removed and units prunable, over all layers."""
        masks = self.unit_masks.values()
        if self.whole_layers:
            return sum(not mask.any() for mask in masks), len(masks)
        return sum(int((mask == 0).sum()) for mask in masks), sum(mask.numel() for mask in masks)

    @property
    def empty_layers(self) -> list[str]:
        """Layers that lost every unit and so let nothing through; a layer that is left out blocks nothing."""
        return [] if self.whole_layers else [name for name, mask in self.unit_masks.items() if not mask.any()]


def remove(network: nn.Module, request: Request, masks: Masks, input_shape: tuple[int, int, int]) -> Pruned:
    """A copy of `network`, in evaluation mode, without what `masks` (see `decide`) remove.

    A layer that loses all of its output units keeps one, because no ONNX layer can be empty; it is zero and held so.

    Args:
        input_shape: (C, H, W) of one image.
    """
    network = working_copy(network)
    if request.granularity == "layer":
        remove_layers(network, {name for name, mask in masks.items() if not mask.any()})
        return Pruned(network, unit_masks=masks, whole_layers=True)
    if TECHNIQUES[request.technique].unit == "weight":
        held = held_weights(network, request, masks)
        apply_held(network, held)
        return Pruned(network, held, masks)
    empty = {name: mask for name, mask in masks.items() if not mask.any()}
    with torch.no_grad():  # NNI takes a unit that is zero already for one more to remove
        for module in empty | _norms_fed(network, empty):
            for parameter in network.get_submodule(module).parameters():
                parameter.fill_(1)
    shrunk = _shrink(network, {name: mask if mask.any() else _first(mask) for name, mask in masks.items()}, input_shape)
    held = held_weights(shrunk, request, {name: mask[:1] for name, mask in empty.items()})
    apply_held(shrunk, held)
    return Pruned(shrunk, held, masks)


def held_weights(network: nn.Module, request: Request, masks: Masks) -> Masks:
    """Parameter name -> 0/1 mask that keeps what `masks` remove at zero in a network of full size.

    Of an output unit these are its weights, its bias, and the scale and shift of every BatchNorm it feeds, so that the
    network computes what it does once it has shrunk.
    """
    if TECHNIQUES[request.technique].unit == "weight":
        return {f"{layer}.weight": mask for layer, mask in masks.items()}
    held = {}
    for module, mask in (masks | _norms_fed(network, masks)).items():
        for name, parameter in network.get_submodule(module).named_parameters():
            held[f"{module}.{name}"] = mask.view(-1, *[1] * (parameter.dim() - 1)).expand_as(parameter).clone()
    return held


def _norms_fed(network: nn.Module, masks: Masks) -> Masks:
    """BatchNorm -> 0/1 mask of its channels, of those that masked units feed."""
    return {
        name: mask
        for name, mask in masks_of_inputs(network, masks).items()
        if isinstance(network.get_submodule(name), nn.BatchNorm2d) and not mask.all()
    }


def masks_of_inputs(network: nn.Module, masks: Masks) -> Masks:
    """Convolution, linear layer or BatchNorm -> 0/1 mask of its inputs: 0 where only masked units feed one.

    Those fed by the images themselves are left out.

    Args:
        masks: layer -> 0/1 mask (units,) of its output units.
    """
    found: Masks = {}
    known: dict[Any, Tensor | None] = {}
    for node in symbolic_trace(network).graph.nodes:
        inputs = [known[source] for source in node.all_input_nodes]
        mask = inputs[0] if len(inputs) == 1 else None
        if node.op == "call_function" and node.target is torch.cat:
            mask = torch.cat(inputs) if all(entry is not None for entry in inputs) else None
        elif node.op == "call_module":
            module = network.get_submodule(node.target)
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                if mask is not None:
                    places = module.weight.shape[1] if isinstance(module, nn.Linear) else len(mask)
                    found[node.target] = mask.repeat_interleave(places // len(mask))  # flattened channel by channel
                if not isinstance(module, nn.BatchNorm2d):
                    mask = masks.get(node.target, torch.ones(len(module.weight), device=module.weight.device))
        known[node] = mask
    return found


def apply_held(network: nn.Module, held: Masks) -> None:
    """Zeroes what `held` (parameter name -> 0/1 mask) says, in place."""
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, mask in held.items():
            parameters[name].mul_(mask)


def zeroed(network: nn.Module, request: Request, masks: Masks) -> nn.Module:
    """A copy of `network` of full size with zeros for what the masks remove."""
    network = copy.deepcopy(network)
    apply_held(network, held_weights(network, request, masks))
    return network


def _first(mask: Tensor) -> Tensor:
    return F.one_hot(torch.zeros((), dtype=torch.long, device=mask.device), len(mask)).to(mask)


def _shrink(network: nn.Module, keep: dict[str, Tensor], input_shape: tuple[int, int, int]) -> nn.Module:
    """The network without the units whose entry in `keep` (layer -> (units,)) is 0, by NNI's speedup.

    A removed channel is gone from its consumers too: what a BatchNorm would have made of it (a constant) is dropped.
    """
    if all(bool(mask.all()) for mask in keep.values()):
        return network  # nothing to remove: the network stays itself, bit for bit
    masks = {}
    for name, mask in keep.items():
        module = weighted_layer(network, name)
        shape = (-1,) + (1,) * (module.weight.dim() - 1)
        masks[name] = {"weight": mask.view(shape).expand_as(module.weight).clone()}
        if module.bias is not None:
            masks[name]["bias"] = mask.clone()
    device = next(network.parameters()).device
    # NNI finds dead channels by running random data through; its own batch of 8 is the least that works
    images = torch.randn(8, *input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shrunk: nn.Module = ModelSpeedup(network, images, masks, graph_module=symbolic_trace(network)).speedup_model()
    gc.collect()  # NNI leaves every intermediate tensor in reference cycles: gigabytes for a DenseNet
    return shrunk.eval()
