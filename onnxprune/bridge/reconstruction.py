"""What the channel graph of a network tells from images, without gradients: which units matter least, and how those
that are left make up for them. It is what `onnxprune prune` does, for networks of PyTorch.
"""

import numpy as np
import torch
from torch import Tensor, nn

from onnxprune.bridge.coupling import Cutting, followed
from onnxprune.bridge.graph_builder import layer_of, remade
from onnxprune.bridge.graph_network import GraphNetwork
from onnxprune.reduction.recovery import QUICK, recover
from onnxprune.reduction.samples import batch_places
from onnxprune.reduction.selection import rank_groups
from onnxprune.reduction.single_weights import prune_by_samples
from onnxprune.runtime.random_inputs import Inputs

IMAGES = 512  # that are looked at


def removal_order(network: nn.Module, images: Tensor, seed: int) -> dict[str, np.ndarray]:
    """Layer -> the place of each of its output units (outputs,) in the order in which they go, from 1: by optimal brain
    surgeon on what reads them (`onnxprune.reduction.selection`); 0 for outputs that stay.

    Args:
        images: (N, C, H, W), normalised.

    Raises:
        InputError: its channels cannot be followed.
    """
    graph, units, numbers = followed(network, tuple(images.shape[1:]))
    places = np.zeros(units.count + 1)
    rankings = rank_groups(graph, _inputs(network, graph.network.inputs[0], images), "obs", seed=seed)
    for place, ranking in rankings.items():
        for position, unit in enumerate(ranking.order, start=1):
            places[numbers[graph.groups[place].units[unit]]] = position
    places[0] = 0
    return {name: places[outputs] for name, outputs in units.outputs.items()}


def reconstructed(network: GraphNetwork, cutting: Cutting, images: Tensor, seed: int) -> GraphNetwork:
    """What is left of a network once its units are cut, with weights that make up for them: each layer is fitted to
    what it gave before (He et al. 2017, arXiv 1707.06168; `onnxprune.reduction.recovery`).

    Args:
        network: before.
        images: (N, C, H, W), normalised; an eighth of them decides what helps.
    """
    batches = _inputs(network, cutting.graph.network.inputs[0], images)
    held_out = max(1, len(batches) // 8)
    fitted, _ = recover(cutting.graph, cutting.keep, cutting.shrunk, batches, held_out, seed=seed, effort=QUICK)
    return remade(network, fitted)


def sparse(
    network: GraphNetwork, images: Tensor, share: float, scope: str, seed: int
) -> tuple[GraphNetwork, dict[str, Tensor]]:
    """A network without the single weights that matter least to what its layers give, the others making up for them
    (SparseGPT, Frantar and Alistarh 2023, arXiv 2301.00774; `onnxprune.reduction.single_weights`); and for each
    convolution and linear layer the 0/1 mask of its weight.

    Args:
        images: (N, C, H, W), normalised.
        share: of the weights, 0 to 1.
        scope: "layer" (the same share of each) or "global".
    """
    graph, _, _ = followed(network, tuple(images.shape[1:]))
    batches = _inputs(network, graph.network.inputs[0], images)
    pruned, kept = prune_by_samples(graph, batches, share, scope, "obs", repair=True, seed=seed)
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    masks = {}
    for constant, mask in kept.items():
        layer = layer_of(constant)
        if layer is not None and layer in layers:
            weight = layers[layer].weight
            turned = mask.T if weight.shape != mask.shape or constant != f"{layer}.weight" else mask
            masks[layer] = torch.from_numpy(np.ascontiguousarray(turned)).to(weight)
        else:  # weights of no such layer are not what is asked for
            pruned.weights[constant] = graph.network.weights[constant]
    return remade(network, pruned), masks


def _inputs(network: nn.Module, name: str, images: Tensor) -> list[Inputs]:
    """The images in batches, as the network's file takes them."""
    arrays = images.detach().cpu().numpy()
    if isinstance(network, GraphNetwork):
        arrays = network.plan.layout.apply(arrays)
    return [{name: arrays[part]} for part in batch_places(len(arrays), None)]
