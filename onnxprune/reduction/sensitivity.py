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
_MOST_SCALE = 20.0  # of a loss among others beside that alone
_BATCHES = 12  # of samples: two thirds to repair by, the rest to measure on


class Sensitivity:
    """Measures what a network's outputs suffer from the loss of units: squared relative error.

    The network is repaired quickly each time; where it is too large for that, only what reads one group is.

    Args:
        batches: samples to repair by and to measure on.
        macs: of the network for one sample.
    """

    def __init__(
        self, graph: ChannelGraph, rankings: Mapping[int, Ranking], batches: Sequence[Inputs], macs: float
    ) -> None:
        self._graph, self._rankings = graph, rankings
        samples = max(1, max((len(value) for value in batches[0].values() if value.ndim), default=1))
        # what a measurement costs: a pass over the original, and up to one over the pruned network
        affordable = int(_MOST_MACS / (2 * max(1.0, macs) * samples * max(1, len(rankings))))
        chosen = batches[: min(len(batches), _BATCHES)]
        self.repairs = len(chosen) >= 4 and affordable >= len(chosen)
        if self.repairs:
            self._measuring = chosen[-max(1, len(chosen) // 3) :]
        else:
            self._measuring = batches[: max(1, min(len(batches), affordable))]
        self._fitting = chosen[: len(chosen) - len(self._measuring)]
        self._original = answers(graph.network, self._measuring)

    def losses(self, advance: Callable[[int, int], None] = lambda done, total: None) -> dict[int, np.ndarray]:
        """Error with so many units of a group gone (units + 1,), by group.

        Each group alone loses the units that its ranking probed. Between, the error grows as the ranking's loss does.
        """
        found = {}
        for number, (place, ranking) in enumerate(self._rankings.items()):
            advance(number, len(self._rankings))
            probed = ranking.probed or len(ranking.order) // 2
            loss = ranking.loss - ranking.loss[0]
            if probed and loss[probed] > 0:
                loss = loss * (self.error({place: probed}) / loss[probed])
            found[place] = loss
        return found

    def together(
        self,
        losses: Mapping[int, np.ndarray],
        gone: Mapping[int, int],
        error: float,
        advance: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[int, float]:
        """By group, how much larger its losses are where the others have lost units too, measured.

        Args:
            losses: of each group alone.
            gone: units that each group has lost, and the `error` with that.
        """
        found = {}
        for number, (place, loss) in enumerate(losses.items()):
            advance(number, len(losses))
            units = len(loss) - 1
            now = gone.get(place, 0)
            # half of what went comes back, or a quarter of what is left goes
            then = now // 2 if now > 1 else min(units - 1, now + max(1, (units - now) // 4))
            expected = loss[now] - loss[then]
            scale = 1.0
            if then != now and expected != 0:
                scale = (error - self.error({**gone, place: then})) / expected
            found[place] = float(np.clip(scale, 1 / _MOST_SCALE, _MOST_SCALE))
        return found

    def error(self, gone: Mapping[int, int]) -> float:
        """With so many units of some groups gone; of one group, where the network is not repaired."""
        graph = self._graph
        keep = graph.keep({place: self._rankings[place].order[:count].tolist() for place, count in gone.items()})
        network = surgery.shrink(graph, keep)
        if self.repairs:
            held_out = max(1, len(self._fitting) // 4)
            network, _ = recover(graph, keep, network, self._fitting, held_out, ("ridge",), effort=QUICK)
        else:
            for place in gone:
                _repair_readers(graph, keep, network, self._rankings[place])
        return compare_answers(self._original, answers(network, self._measuring), self._measuring).relative_error ** 2


def _repair_readers(graph: ChannelGraph, keep: np.ndarray, network: Network, ranking: Ranking) -> None:
    """Gives what reads the group the weights that make up for its units."""
    nodes = network.nodes
    for site in sites(graph.network):
        labels = input_labels(graph, site) if site.node in ranking.repaired else None
        if labels is not None:
            matrix = ranking.repaired[site.node][:, :, np.flatnonzero(keep[labels])]
            if matrix.shape == site.matrix(network).shape:
                set_weights(network, nodes, site, matrix)
