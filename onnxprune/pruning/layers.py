"""The layers of a network that can be pruned, and how many of their units are to go."""

import copy
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.fx import symbolic_trace
from torch.nn.modules.batchnorm import _BatchNorm

from onnxprune.bridge.coupling import Coupling, Group, coupling, exported_parameters
from onnxprune.bridge.graph_network import GraphNetwork
from onnxprune.common.errors import InputError, one_line
from onnxprune.common.widths import Prunable, kept_units
from onnxprune.pruning.request import Masks, Request
from onnxprune.settings.vocabulary import TECHNIQUES


def prunable_layers(network: nn.Module, request: Request, input_shape: tuple[int, ...]) -> list[str]:
    """Names of the layers the request ranks, in the network's order.

    Single weights are taken from every convolution and linear layer that has weights of its own which its exported file
    has too: of one that only training uses, none. Output units are taken where the network's channel graph lets them
    go: never from the layer whose units are the network's output. The slim criterion judges only layers followed by a
    BatchNorm, and with them those that are coupled to one.

    Args:
        input_shape: (C, H, W) of one image.

    Raises:
        InputError: there is none, with the reason.
    """
    of_channels = TECHNIQUES[request.technique].unit == "channel"
    units = coupling(network, input_shape) if of_channels else None  # first: the same export tells the parameters
    # each once: not what a layer shares with one before it, or computes
    own = exported_parameters(network, input_shape)
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and f"{name}.weight" in own
    ]
    if strange := [name for name in request.keep if name not in layers]:
        raise InputError(f"keep: there is no layer '{strange[0]}' to prune: there are {', '.join(layers)}")
    refused = f"technique '{request.technique}' has nothing to prune: "
    if not layers:
        raise InputError(
            f"{refused}the network has neither a linear layer nor a two-dimensional convolution with weights of its own"
        )
    if units is None:
        return _but_kept(layers, request.keep, refused)
    if not units.outputs:
        first, reason = next(iter(units.frozen.items()))
        raise InputError(
            f"{refused}all units have to stay, those of layer '{first}' because {reason}; only linear layers and "
            "two-dimensional convolutions lose units: use technique weight or unstructured"
        )
    coupled = {name for group in units.groups if set(request.keep) & set(group.layers) for name in group.layers}
    free = _but_kept(list(units.outputs), {*request.keep, *coupled}, refused)
    if request.criterion != "slim":
        return free
    followed = normalised_layers(network)
    judged = {name for group in units.groups if followed.keys() & group.layers for name in group.layers}
    if not judged:
        raise InputError(
            "criterion 'slim' needs BatchNorm layers right after the layers it prunes: use --batch-norm with the cnn, "
            "densenet121, or another criterion (l1, l2, fpgm)"
        )
    return _but_kept([name for name in free if name in judged], (), refused)


def _but_kept(layers: list[str], keep: Collection[str], refused: str) -> list[str]:
    left = [name for name in layers if name not in keep]
    if not left:
        raise InputError(f"{refused}all of its layers are to be kept")
    return left


def leading_layers(network: nn.Module, request: Request, input_shape: tuple[int, ...]) -> list[str]:
    """Of the prunable layers, those whose share (`Request.shares`) counts: one of several that are coupled."""
    layers = prunable_layers(network, request, input_shape)
    if TECHNIQUES[request.technique].unit == "weight":
        return layers
    return list(dict.fromkeys(group.layers[0] for group in groups_of(coupling(network, input_shape), layers)))


def groups_of(units: Coupling, layers: list[str]) -> list[Group]:
    """The groups of units that are made by these layers."""
    return [group for group in units.groups if group.layers[0] in layers]


def weighted_layer(network: nn.Module, name: str) -> nn.Conv2d | nn.Linear:
    """The convolution or linear layer of that name."""
    module = network.get_submodule(name)
    assert isinstance(module, nn.Conv2d | nn.Linear)
    return module


def normalised_layers(network: nn.Module) -> dict[str, str]:
    """Layer -> the BatchNorm that alone consumes its output, in all calls of the layer."""
    if isinstance(network, GraphNetwork):
        return network.normalised()
    try:
        # of a copy: what the network keeps while it is traced are no tensors
        nodes = symbolic_trace(copy.deepcopy(network)).graph.nodes
    except Exception as error:  # whatever the network raises when it is given no tensors
        raise InputError(f"this criterion needs a network that torch.fx can trace: {one_line(error)}") from error
    readers: dict[str, set[str | None]] = {}  # of what a module gives, in all of its calls
    for node in nodes:
        if node.op == "call_module":
            named = (user.target if user.op == "call_module" else None for user in node.users)
            readers.setdefault(node.target, set()).update(named)
    return {
        layer: reader
        for layer, all_of_them in readers.items()
        if len(all_of_them) == 1
        for reader in all_of_them
        if reader is not None and isinstance(network.get_submodule(reader), _BatchNorm)
    }


@dataclass(frozen=True)
class Target:
    """What a group of units is to lose.

    Attributes:
        removed: units that are to go while there is something to rank: at least one stays.
        emptied: whether all are to go.
    """

    group: Group
    removed: int
    emptied: bool

    @property
    def ratio(self) -> float:
        """What NNI is to be told."""
        return nni_share(self.removed, len(self.group.units))


def targets(units: Coupling, layers: list[str], request: Request, before: Masks | None = None) -> list[Target]:
    """What each group that these layers make is to lose: widths are rounded so that the total is what was asked for.

    Args:
        before: masks decided before, whose removed units stay removed.
    """
    groups = groups_of(units, layers)
    gone = units.gone(before or {})
    found = [
        Prunable(
            units=len(group.units),
            share=request.share(group.layers[0]),
            width=group.width,
            weight=sum(int(np.isin(units.outputs[name], group.units).sum()) for name in group.layers)
            / len(group.units),
            dense=group.dense,
            # of a group that is emptied one stays to be ranked
            gone=min(int(gone[group.units].sum()), len(group.units) - 1),
        )
        for group in groups
    ]
    kept = kept_units(found, request.channel_align)
    return [
        Target(group, layer.units - left, layer.share == 1)
        for group, layer, left in zip(groups, found, kept, strict=True)
    ]


def nni_share(removed: int, units: int) -> float:
    """The ratio from which NNI, which truncates units * ratio, removes exactly `removed` of `units`."""
    if removed in (0, units):
        return float(removed // units)
    return (removed + 0.5) / units


def working_copy(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode that NNI may work on."""
    # NNI takes views of weights that only the default memory layout allows
    return copy.deepcopy(network).eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
