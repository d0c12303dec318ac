"""What makes up for removed units without training."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onnxprune.bridge.coupling import coupling, cut
from onnxprune.bridge.graph_network import GraphNetwork
from onnxprune.bridge.reconstruction import IMAGES, reconstructed, sparse
from onnxprune.pruning.remove import Pruned, apply_held
from onnxprune.pruning.request import Masks, Request
from onnxprune.settings.vocabulary import TECHNIQUES
from onnxprune.training.batches import Batches
from onnxprune.training.device import device_of, seeded_generator

_IMAGES = 4096
_BATCH = 64


def recalibrate(network: nn.Module, batches: Batches, seed: int) -> None:
    """Estimates the statistics of all BatchNorms anew, from up to 4,096 training images; in place.

    The mean over batches of 64 takes the place of the moving average, as in EagleEye (Li et al. 2020, arXiv
    2007.02491).
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches, each counting the same
        norm.train()
    order = torch.randperm(len(batches), generator=seeded_generator(seed, "recalibration"))
    whole = max(_BATCH, min(_IMAGES, len(batches)) // _BATCH * _BATCH)
    with torch.no_grad():
        for index in order[:whole].split(_BATCH):
            network(batches.take(index)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def reconstruct(pruned: Pruned, base: GraphNetwork, request: Request, batches: Batches, chosen: bool) -> None:
    """Fits what is left of an ONNX graph to what it gave, from 512 training images without their labels; in place.

    Single weights make up for the others where the criterion is "obs", which says how for those that it chooses.

    Args:
        base: the network before anything went, which is left untouched.
        chosen: whether the criterion has chosen what went, and no control in its place.
    """
    if not pruned.removed[0]:
        return
    if TECHNIQUES[request.technique].unit == "channel":
        images = _looked_at(batches, request.seed)
        cutting = cut(base, tuple(images.shape[1:]), pruned.unit_masks)
        pruned.network = reconstructed(base, cutting, images, request.seed)
    elif request.criterion == "obs" and chosen:
        pruned.network, _ = sparse_file(base, request, batches)
    apply_held(pruned.network, pruned.held)


def sparse_file(network: GraphNetwork, request: Request, batches: Batches) -> tuple[GraphNetwork, Masks]:
    """A network without single weights, as "obs" chooses and makes up for them; and layer -> mask of its weight."""
    scope = TECHNIQUES[request.technique].scope
    return sparse(network, _looked_at(batches, request.seed), request.sparsity / 100, scope, request.seed)


def _looked_at(batches: Batches, seed: int) -> Tensor:
    order = torch.randperm(len(batches), generator=seeded_generator(seed, "reconstruction"))
    return batches.take(order[:IMAGES])[0]


def compensate(pruned: Pruned, base: nn.Module, input_shape: tuple[int, int, int]) -> None:
    """Adds to the biases of a network that shrank what its removed units still said where they were zeroed in place.

    A zeroed unit is a constant after the BatchNorms that it feeds, and shrinking drops that constant. The network then
    computes what the base with these units zeroed does, but for the borders of convolutions that pad with zeros. Of a
    unit that is not the same at all places, as where positions are added, or in all calls of a layer that is used
    several times, the mean is taken.

    Args:
        base: the network of full size, which is left untouched.
        input_shape: (C, H, W) of one image.
    """
    zeroed = copy.deepcopy(base).eval()
    with torch.no_grad():
        for layer, mask in pruned.unit_masks.items():
            for parameter in zeroed.get_submodule(layer).parameters():
                parameter.mul_(mask.view(-1, *[1] * (parameter.dim() - 1)))
    units = coupling(base, input_shape)
    gone = units.gone(pruned.unit_masks)
    inputs: dict[str, list[Tensor]] = {}  # of each call
    hooks = []
    for name in units.inputs:
        module = zeroed.get_submodule(name)
        if isinstance(module, nn.Conv2d | nn.Linear):
            hooks.append(
                module.register_forward_pre_hook(
                    lambda _, given, named, name=name: inputs.setdefault(name, []).append(
                        next(iter((*given, *named.values())))[0]
                    ),
                    with_kwargs=True,
                )
            )
    device = device_of(zeroed)
    with torch.no_grad():
        zeroed(torch.zeros(1, *input_shape, device=device))
        for name, given in inputs.items():
            dead = torch.from_numpy(gone[units.inputs[name]]).to(device)
            module = zeroed.get_submodule(name)
            assert isinstance(module, nn.Conv2d | nn.Linear)
            if isinstance(module, nn.Conv2d):
                weights, groups = module.weight.flatten(2).sum(2), module.groups
                places = torch.cat([each.flatten(1).T for each in given])
            else:
                weights, groups = module.weight, 1
                places = torch.cat([each.reshape(-1, each.shape[-1]) for each in given])
            constants = places.double().mean(0).to(places).view(groups, -1).where(dead, 0).unsqueeze(2)
            missing = (weights.view(groups, -1, weights.shape[1]) @ constants).flatten()
            if missing.any():
                _add_to_bias(pruned, name, missing)
    for hook in hooks:
        hook.remove()


def _add_to_bias(pruned: Pruned, layer: str, values: Tensor) -> None:
    """Adds `values` (units,) of the layer of full size to the bias of the layer that is left of it."""
    target = pruned.network.get_submodule(layer)
    if layer in pruned.unit_masks:
        mask = pruned.unit_masks[layer].bool()
        values = values * mask  # what is removed stays zero in a network that keeps its size
        if len(target.weight) != len(values):  # type: ignore[arg-type]
            values = values[mask] if mask.any() else values[:1]
    if target.bias is None:
        target.bias = nn.Parameter(torch.zeros_like(values))
    target.bias.add_(values)  # type: ignore[operator]
