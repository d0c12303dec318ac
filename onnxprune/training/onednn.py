"""Chains of layers computed in oneDNN's own layout, from the images to the answers.

On processors PyTorch hands convolutions to oneDNN, but pooling and ReLU are its own, and linear layers are MKL's, which
is slow on AMD. In oneDNN's layout, with channels in blocks that fill a vector register, all of them are oneDNN's, and
nothing is brought into another order between them. The sums are the same, in another order.
"""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from onnxprune.training.strides import may_be_at_fault

# these alone: a class that is derived from one may compute anything
_LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.MaxPool2d, nn.ReLU, nn.Flatten, nn.Sequential)


def answers(network: nn.Module, images: Tensor) -> Tensor:
    """What `network` answers to `images` (N, C, H, W), with the graph of its gradients; in oneDNN's layout where it can
    be computed so from beginning to end.

    Args:
        network: alone, or as several processes call it.
    """
    chain = network.module if isinstance(network, DistributedDataParallel) else network
    if _computes(images) and type(chain) is nn.Sequential and all(_takes(layer) for layer in chain.modules()):
        return network(images.to_mkldnn()).to_dense()
    return network(images)


def _computes(images: Tensor) -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and images.device.type == "cpu"
        and images.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


def _takes(layer: nn.Module) -> bool:
    """Whether PyTorch computes the layer, and its gradients, in that layout."""
    if layer._forward_hooks or layer._forward_pre_hooks:  # they would be handed what is no plain tensor
        return False
    if any(parameter.dtype != torch.float32 for parameter in layer.parameters(recurse=False)):
        return False
    match layer:
        case nn.Conv2d():
            plain = layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
            plain = plain and (layer.stride == (1, 1) or not may_be_at_fault(layer.weight))
        case nn.BatchNorm2d():
            plain = layer.training and layer.affine and layer.track_running_stats
        case nn.MaxPool2d():
            plain = layer.dilation in (1, (1, 1)) and not layer.return_indices
        case nn.ReLU():
            plain = not layer.inplace
        case nn.Flatten():
            plain = (layer.start_dim, layer.end_dim) == (1, -1)
        case _:
            plain = True
    return plain and type(layer) in _LAYERS
