"""Takes what masks say out of a network: zeros for single weights, a smaller network for output units."""

import copy
import gc
import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from nni.compression.speedup import ModelSpeedup
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.hub import tqdm

from onnxprune.bridge.coupling import Coupling, coupling, cut
from onnxprune.bridge.graph_builder import remade
from onnxprune.bridge.graph_network import GraphNetwork
from onnxprune.common.errors import is_lack_of_memory, one_line
from onnxprune.models.densenet import remove_layers
from onnxprune.pruning.layers import weighted_layer, working_copy
from onnxprune.pruning.request import Masks, Request
from onnxprune.settings.vocabulary import TECHNIQUES
from onnxprune.training.device import device_of, seeded_chance, state_of_chance

_log = logging.getLogger(__name__)

tqdm.monitor_interval = 0  # no thread for bars that NNI never shows: to start one hangs where memory is at its end


@dataclass
class Pruned:
    """A pruned network and what was done to it.

    Attributes:
        network: the pruned network, its structure smaller where the technique shrinks.
        held: parameter name -> 0/1 mask that fine-tuning must keep; names and shapes of `network`.
        unit_masks: layer -> 0/1 mask of what was removed, in the shape before shrinking: of the weight tensor for
            single weights, of the output units (units,) for channels.
        whole_layers: whether a unit is a layer.
        in_file: whether `network` keeps its size, with zeros for output units, which leave the exported file alone.
    """

    network: nn.Module
    held: Masks = field(default_factory=dict)
    unit_masks: Masks = field(default_factory=dict)
    whole_layers: bool = False
    in_file: bool = False

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
    Where NNI cannot shrink the network it keeps its size, and what is removed is zero and held so (`Pruned.in_file`).

    Args:
        input_shape: (C, H, W) of one image.
    """
    original, network = network, working_copy(network)
    if request.granularity == "layer":
        remove_layers(network, {name for name, mask in masks.items() if not mask.any()})
        return Pruned(network, unit_masks=masks, whole_layers=True)
    if TECHNIQUES[request.technique].unit == "weight":
        held = held_weights(network, request, masks, input_shape)
        apply_held(network, held)
        return Pruned(network, held, masks)
    units = coupling(network, input_shape)
    gone = units.gone(masks)
    stand_ins, device = units.stand_ins(gone), device_of(network)
    left_out = gone & ~stand_ins
    _set(network, units.held(network, units.emptied(gone)), 1)  # NNI takes a unit that is zero for one more to remove
    shrunk = _shrink(network, units.masks(left_out, masks, device), input_shape)
    if shrunk is None:
        network = working_copy(original)
        held = _without(network, units, gone)
        apply_held(network, held)
        return Pruned(network, held, masks, in_file=True)
    held = units.held(shrunk, stand_ins, left_out)
    apply_held(shrunk, held)
    return Pruned(shrunk, held, masks)


def held_weights(network: nn.Module, request: Request, masks: Masks, input_shape: tuple[int, int, int]) -> Masks:
    """Parameter name -> 0/1 mask that keeps what `masks` remove at zero in a network of full size.

    Of an output unit these are its weights and its bias, and what is added to it or scales it later, as BatchNorms do,
    so that the network computes what it does once it has shrunk.
    """
    if TECHNIQUES[request.technique].unit == "weight":
        return {f"{layer}.weight": mask for layer, mask in masks.items()}
    units = coupling(network, input_shape)
    return units.held(network, units.gone(masks))


def apply_held(network: nn.Module, held: Masks) -> None:
    """Zeroes what `held` (parameter name -> 0/1 mask) says, in place."""
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, mask in held.items():
            parameters[name].mul_(mask)


def _set(network: nn.Module, held: Masks, value: float) -> None:
    """Gives what `held` says another value, in place."""
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, mask in held.items():
            parameters[name].masked_fill_(mask == 0, value)


def zeroed(network: nn.Module, request: Request, masks: Masks, input_shape: tuple[int, int, int]) -> nn.Module:
    """A copy of `network` of full size with zeros for what the masks remove."""
    network = copy.deepcopy(network)
    if TECHNIQUES[request.technique].unit == "weight":
        apply_held(network, held_weights(network, request, masks, input_shape))
    else:
        units = coupling(network, input_shape)
        apply_held(network, _without(network, units, units.gone(masks)))
    return network


def _without(network: nn.Module, units: Coupling, gone: np.ndarray) -> Masks:
    """Parameter -> 0/1 mask with which a network of full size computes what it does without these units."""
    held, unread = units.held(network, gone), units.unread(network, gone)
    return {**held, **{name: mask * held.get(name, 1) for name, mask in unread.items()}}


def _shrink(network: nn.Module, keep: dict[str, Tensor], input_shape: tuple[int, int, int]) -> nn.Module | None:
    """The network without the units whose entry in `keep` (layer -> (units,)) is 0, by NNI's speedup; it is used up.
    One that is an ONNX graph is cut as that.

    None where NNI cannot follow what the network does with them, or torch.fx not what it does in training alone, as a
    functional dropout does, or whole blocks that are skipped by chance.

    A removed channel is gone from its consumers too: what a BatchNorm would have made of it (a constant) is dropped.
    """
    if all(bool(mask.all()) for mask in keep.values()):
        return network  # nothing to remove: the network stays itself, bit for bit
    if isinstance(network, GraphNetwork):
        return remade(network, cut(network, input_shape, keep).shrunk)
    masks = {}
    for name, mask in keep.items():
        module = weighted_layer(network, name)
        shape = (-1,) + (1,) * (module.weight.dim() - 1)
        masks[name] = {"weight": mask.view(shape).expand_as(module.weight).clone()}
        if module.bias is not None:
            masks[name]["bias"] = mask.clone()
    device = device_of(network)
    # NNI finds dead channels by running random data through; its own batch of 8 is the least that works
    images = torch.randn(8, *input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    with seeded_chance(0, "shrinking", device):
        try:
            traced = symbolic_trace(network)
            before = state_of_chance()
            in_training = symbolic_trace(network.train())
            # the trace would drop nothing any more, or always the same
            if str(in_training.graph) != str(traced.graph) or state_of_chance() != before:
                _log.info("the network is shrunk as a file, not in PyTorch: its own code asks whether it trains")
                return None
            speedup = ModelSpeedup(network.eval(), images, masks, graph_module=traced)
            shrunk: nn.Module = speedup.speedup_model().eval()
            with torch.no_grad():
                shrunk(images)  # sizes that are numbers in the network's code are still the old ones
        except OSError:  # it writes the weights to a file: a full disk says nothing of the network
            raise
        except Exception as error:  # NNI raises what the network's own functions do
            if is_lack_of_memory(error):
                raise
            _log.info("the network is shrunk as a file, not in PyTorch: %s", one_line(error))
            return None
        finally:
            gc.collect()  # NNI leaves every intermediate tensor in reference cycles: gigabytes for a DenseNet
    if any(len(weighted_layer(shrunk, name).weight) != mask.sum() for name, mask in keep.items()):
        return None
    return shrunk
