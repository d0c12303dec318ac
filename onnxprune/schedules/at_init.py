"""At initialisation: prune, then train."""

from onnxprune.bridge.start import build_network
from onnxprune.pruning.decide import decide
from onnxprune.pruning.remove import Pruned
from onnxprune.schedules.context import PruningContext


def at_init(context: PruningContext) -> Pruned:
    """The untrained network is pruned once and trained."""
    network = build_network(context.point, context.dataset)
    masks = context.controlled(decide(network, context.request, context.batches, spent=context.criterion))
    return context.train_pruned(context.remove(network, masks), context.train_from_init)
