"""The layers of a network that can be pruned, and how many of their units are to go."""

import copy

import torch
from torch import nn
from torch.fx import symbolic_trace

from onnxprune.common.errors import InputError
from onnxprune.common.widths import kept_channels
from onnxprune.pruning.request import Request
from onnxprune.settings.vocabulary import TECHNIQUES


def prunable_layers(network: nn.Module, request: Request) -> list[str]:
    """Names of the layers the request ranks, in the network's order.

    Single weights are taken from every convolution and linear layer. Output units are never taken from the
    classifier, whose units are the classes; the slim criterion judges only layers followed by a BatchNorm.

    Raises:
        InputError: there is none, with the reason.
    """
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if TECHNIQUES[request.technique].unit == "weight":
        return layers
    layers = [name for name in layers if name != "classifier"]
    if not layers:
        raise InputError(
            f"technique '{request.technique}' has nothing to prune: the network's only layer is the classifier, whose "
            "output units are the classes; use technique weight or unstructured, or a network with hidden units"
        )
    if request.criterion == "slim":
        followed = normalised_layers(network)
        layers = [name for name in layers if name in followed]
        if not layers:
            raise InputError(
                "criterion 'slim' needs BatchNorm layers right after the layers it prunes: use --batch-norm with the "
                "cnn, densenet121, or another criterion (l1, l2, fpgm)"
            )
    return layers


def weighted_layer(network: nn.Module, name: str) -> nn.Conv2d | nn.Linear:
    """The convolution or linear layer of that name."""
    module = network.get_submodule(name)
    assert isinstance(module, nn.Conv2d | nn.Linear)
    return module


def normalised_layers(network: nn.Module) -> dict[str, str]:
    """Layer -> the BatchNorm that alone consumes its output."""
    found = {}
    for node in symbolic_trace(network).graph.nodes:
        if node.op != "call_module" or not isinstance(network.get_submodule(node.target), nn.BatchNorm2d):
            continue
        source = node.args[0]
        if source.op == "call_module" and len(source.users) == 1:
            found[source.target] = node.target
    return found


def target_units(network: nn.Module, layer: str, request: Request) -> tuple[int, int]:
    """How many units `layer` is to lose, and how many it has; of output units at least one stays to be ranked."""
    weight, share = weighted_layer(network, layer).weight, request.share(layer)
    if TECHNIQUES[request.technique].unit == "weight":
        return round(share * weight.numel()), weight.numel()
    return len(weight) - kept_channels(len(weight), share, request.channel_align), len(weight)


def target_shape(network: nn.Module, layer: str, request: Request) -> tuple[int, ...]:
    """The shape of the mask of a layer's units."""
    shape = tuple(weighted_layer(network, layer).weight.shape)
    return shape if TECHNIQUES[request.technique].unit == "weight" else shape[:1]


def nni_share(removed: int, units: int) -> float:
    """The ratio from which NNI, which truncates units * ratio, removes exactly `removed` of `units`."""
    if removed in (0, units):
        return float(removed // units)
    return (removed + 0.5) / units


def working_copy(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode that NNI may work on."""
    # NNI takes views of weights that only the default memory layout allows
    return copy.deepcopy(network).eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
