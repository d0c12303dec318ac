"""How much the network's outputs suffer from what a group loses, measured."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxprune.graph import surgery
from onnxprune.graph.channels import ChannelGraph
from onnxprune.graph.network import Network
from onnxprune.reduction.fidelity import answers, compare_answers
from onnxprune.reduction.recovery import QUICK, recover
from onnxprune.reduction.selection import Ranking
from onnxprune.reduction.sites import input_labels, set_weights, sites
from onnxprune.runtime.random_inputs import Inputs

_MOST_MACS = 4e11  # for all measurements together
_BATCHES = 12  # of samples: two thirds to repair by, the rest to measure on


def measured_losses(
    graph: ChannelGraph,
    rankings: Mapping[int, Ranking],
    batches: Sequence[Inputs],
    macs: float,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[int, np.ndarray]:
    """Squared relative error of the network's outputs with so many units of a group gone (units + 1,), by group.

    Each group alone loses the units that its ranking probed, and the network is repaired quickly; in a network too
    large for that only what reads the group is. Between, the error grows as the ranking's loss does.

    Args:
        macs: of the network for one sample.
    """
    samples = max(1, max((len(value) for value in batches[0].values() if value.ndim), default=1))
    # what a measurement costs: a pass over the original, and up to one over the pruned network
    affordable = int(_MOST_MACS / (2 * max(1.0, macs) * samples * max(1, len(rankings))))
    chosen = batches[: min(len(batches), _BATCHES)]
    repairs = len(chosen) >= 4 and affordable >= len(chosen)
    measuring = chosen[-max(1, len(chosen) // 3) :] if repairs else batches[: max(1, min(len(batches), affordable))]
    original = answers(graph.network, measuring)
    found = {}
    for number, (place, ranking) in enumerate(rankings.items()):
        advance(number, len(rankings))
        probed = ranking.probed or len(ranking.order) // 2
        loss = ranking.loss - ranking.loss[0]
        if not probed or loss[probed] <= 0:
            found[place] = loss
            continue
        keep = graph.keep({place: ranking.order[:probed].tolist()})
        network = surgery.shrink(graph, keep)
        if repairs:
            fitting = chosen[: len(chosen) - len(measuring)]
            network, _ = recover(graph, keep, network, fitting, max(1, len(fitting) // 4), ("ridge",), effort=QUICK)
        else:
            _repair_readers(graph, keep, network, ranking)
        error = compare_answers(original, answers(network, measuring)).relative_error ** 2
        found[place] = loss * (error / loss[probed])
    return found


def _repair_readers(graph: ChannelGraph, keep: np.ndarray, network: Network, ranking: Ranking) -> None:
    """Gives what reads the group the weights that make up for its units."""
    nodes = network.nodes
    for site in sites(graph.network):
        labels = input_labels(graph, site) if site.node in ranking.repaired else None
        if labels is not None:
            matrix = ranking.repaired[site.node][:, :, np.flatnonzero(keep[labels])]
            if matrix.shape == site.matrix(network).shape:
                set_weights(network, nodes, site, matrix)
