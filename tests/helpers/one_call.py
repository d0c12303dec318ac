"""Pruning in one call: what the request decides on is removed."""

from torch import nn

from onnxprune.pruning.decide import decide
from onnxprune.pruning.remove import Pruned, remove
from onnxprune.pruning.request import Memory, Request
from onnxprune.training.batches import Batches


def prune(
    network: nn.Module,
    request: Request,
    batches: Batches,
    input_shape: tuple[int, int, int],
    memory: Memory | None = None,
) -> Pruned:
    """Prunes a copy of `network`, which is left untouched, in evaluation mode.

    Args:
        batches: training images, which some criteria look at.
        input_shape: (C, H, W) of one image.
        memory: keeps scores that are taken from images, the same at every sparsity; of this network alone.

    Raises:
        InputError: the network has nothing that the technique could remove.
    """
    return remove(network, request, decide(network, request, batches, memory), input_shape)
