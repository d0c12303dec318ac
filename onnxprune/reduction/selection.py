"""Which units of a group matter least to what reads them, judged from samples.

Units are taken out one after the other: each time those whose loss the remaining ones can make up for best, by the
inverse of the Gram matrix of what the consumers read (Hassibi and Stork 1993, optimal brain surgeon; for whole units as
in ZipLM, Kurtic et al. 2023, 2302.04089).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.graph.channels import ChannelGraph
from onnxprune.reduction import recurrent
from onnxprune.reduction.reading import Read, readers_of_groups, reads_at
from onnxprune.reduction.sites import sites
from onnxprune.reduction.surgeon import Consumer
from onnxprune.runtime.random_inputs import Inputs
from onnxprune.runtime.stages import Stages

_STEPS = 48  # a group of many units loses several at a time


@dataclass(frozen=True)
class Ranking:
    """
    Attributes:
        order: units (units,), those that matter least first.
        loss: of the consumers' outputs once so many units are gone (units + 1,), relative to their energy, summed
            over the consumers; not falling.
        repaired: node of a consumer -> its weights with `probed` units gone, made up for by the others.
        probed: how many that is.
    """

    order: np.ndarray
    loss: np.ndarray
    repaired: Mapping[int, np.ndarray] = field(default_factory=dict)
    probed: int = 0


def rank_groups(
    graph: ChannelGraph,
    batches: Sequence[Inputs],
    criterion: str,
    advance: Callable[[int, int], None] = lambda done, total: None,
    seed: int = 0,
    most: Mapping[int, int] | None = None,
) -> dict[int, Ranking]:
    """Rankings of all groups that can go, by their place: one pass over the samples. Units that nobody reads cost
    nothing.

    Args:
        most: units of each group that are ranked, which is the cheaper the fewer; None: all.
        criterion: "obs"; "wanda" (weights times the root mean square of what they multiply, Sun et al. 2023,
            2306.11695); "activation" (mean square of what is read, Molchanov et al. 2017, 1611.06440).
    """
    readers = readers_of_groups(graph)
    rankings = {
        place: Ranking(np.arange(len(graph.groups[place].units)), np.zeros(len(graph.groups[place].units) + 1))
        for place, nodes in readers.items()
        if not nodes
    }
    places = {site.node: site for site in sites(graph.network)}
    ends: dict[int, list[_Together]] = {}
    for together in _together(graph, readers, most or {}):
        ends.setdefault(max(together.nodes), []).append(together)
    open_groups = [together for item in ends.values() for together in item]
    order = sorted({node for nodes in readers.values() for node in nodes})
    whole = graph.network.copy()
    recurrent.with_states(whole)
    with Stages(whole, batches) as stages:
        for number, node in enumerate(order):
            advance(number, len(order))
            site = places.get(node)
            reads = reads_at(graph, node, site, stages, seed)
            for together in open_groups:
                if node in together.nodes:
                    for read in reads:
                        together.add(graph, node, read, criterion)
            for together in ends.pop(node, ()):
                open_groups.remove(together)
                rankings |= together.rankings()
    return rankings


def rank_by_group(
    graph: ChannelGraph,
    nodes: Sequence[int],
    batches: Sequence[Inputs],
    advance: Callable[[int, int], None] = lambda done, total: None,
    seed: int = 0,
) -> dict[int, np.ndarray]:
    """Orders (groups, channels of one) in which each group of these convolutions loses what it reads."""
    places = {site.node: site for site in sites(graph.network)}
    found = {}
    with Stages(graph.network, batches) as stages:
        for number, node in enumerate(sorted(nodes)):
            advance(number, len(nodes))
            (read,) = reads_at(graph, node, places[node], stages, seed)
            features = np.arange(read.weights.shape[2]).reshape(-1, int(np.prod(places[node].kernel)))
            parts = zip(read.weights[:, None], read.moments[:, None], strict=True)
            found[node] = np.stack(
                [
                    _rank(
                        0, np.zeros(len(features)), [Consumer(node, weights, gram, {0: features})], len(features)
                    ).order
                    for weights, gram in parts
                ]
            )
    return found


class _Together:
    """Groups that have readers in common, as where they are concatenated.

    What one of them loses, the others can make up for, but only by units that are left when they lose theirs: so they
    lose units side by side.

    Attributes:
        nodes: what reads them.

    Args:
        units: of each group, by its place.
        most: units of it that are ranked.
    """

    def __init__(self, units: Mapping[int, int], most: Mapping[int, int], nodes: set[int]) -> None:
        self.nodes, self._most = nodes, most
        self._single = {place: np.zeros(count) for place, count in units.items()}
        self._consumers: list[Consumer] = []

    def add(self, graph: ChannelGraph, node: int, read: Read, criterion: str) -> None:
        """Adds a sum over some of them: as a whole matrix, or as losses of single units."""
        whole: dict[int, dict[int, np.ndarray]] = {}  # by how many features a unit has
        for place, single in self._single.items():
            unit_of = np.full(graph.count, -1)
            for number, labels in enumerate(graph.groups[place].units):
                unit_of[labels] = number
            owner = unit_of[read.labels]
            if not (owner >= 0).any():
                continue
            features = _features(owner, len(single))
            if read.moments.ndim == 3 and features is not None and criterion == "obs":
                whole.setdefault(features.shape[1], {})[place] = features
            else:
                single += _by_unit(read.per_feature(criterion), owner, len(single))
        self._consumers += [Consumer(node, read.weights, read.moments, features) for features in whole.values()]

    def rankings(self) -> dict[int, Ranking]:
        """By group: of several, in the order in which units go while the others lose as large a share of theirs."""
        if len(self._single) == 1:
            return {
                place: _rank(place, single, self._consumers, self._most[place])
                for place, single in self._single.items()
            }
        orders = self._orders()
        found = {}
        for place, single in self._single.items():
            for consumer in self._consumers:
                consumer.restart()
            found[place] = _rank(place, single, self._readers(place), self._most[place], orders[place])
        return found

    def _readers(self, place: int) -> list[Consumer]:
        return [consumer for consumer in self._consumers if place in consumer.units]

    def _orders(self) -> dict[int, np.ndarray]:
        """In which units go where all groups lose the same share, side by side."""
        orders: dict[int, list[int]] = {place: [] for place in self._single}
        alive = {place: np.ones(len(single), bool) for place, single in self._single.items()}
        while left := [place for place, order in orders.items() if len(order) < self._most[place]]:
            place = max(left, key=lambda place: float(alive[place].mean()))
            readers = self._readers(place)
            chosen = _least(place, self._single[place], readers, alive[place])
            for consumer in readers:
                consumer.remove(place, chosen)
            orders[place] += chosen.tolist()
            alive[place][chosen] = False
        return {place: np.asarray(order) for place, order in orders.items()}


def _together(graph: ChannelGraph, readers: Mapping[int, Sequence[int]], most: Mapping[int, int]) -> list[_Together]:
    """All groups that are read, those with a common reader together."""
    found: list[tuple[set[int], list[int]]] = []
    for place, nodes in readers.items():
        if nodes:
            joined, members = set(nodes), [place]
            for other in [item for item in found if item[0] & joined]:
                found.remove(other)
                joined |= other[0]
                members += other[1]
            found.append((joined, members))
    units = [{place: len(graph.groups[place].units) for place in sorted(members)} for _, members in found]
    return [_Together(each, {**each, **most}, nodes) for each, (nodes, _) in zip(units, found, strict=True)]


def _by_unit(per_feature: np.ndarray, owner: np.ndarray, units: int) -> np.ndarray:
    losses = np.bincount(owner[owner >= 0], per_feature[owner >= 0], units)
    return losses / max(per_feature.sum(), np.finfo(np.float64).tiny)


def _features(owner: np.ndarray, units: int) -> np.ndarray | None:
    """Places of each unit's features (units, size); None where units have different numbers of them."""
    counts = np.bincount(owner[owner >= 0], minlength=units)
    if counts.min() != counts.max():
        return None
    order = np.argsort(owner, kind="stable")
    return order[owner[order] >= 0].reshape(units, -1)


def _least(place: int, single: np.ndarray, consumers: Sequence[Consumer], alive: np.ndarray) -> np.ndarray:
    """Those units of a group that cost least, as many as go in one step."""
    left = np.flatnonzero(alive)
    losses = single[left] + sum((item.losses(place, left) for item in consumers), np.zeros(len(left)))
    return left[np.argsort(losses, kind="stable")[: max(1, min(len(single) // _STEPS, len(left) - 1))]]


def _rank(
    place: int, single: np.ndarray, consumers: Sequence[Consumer], most: int, given: np.ndarray | None = None
) -> Ranking:
    """Of a group that alone loses units.

    Args:
        single: losses of single units (units,), beside those of the consumers.
        most: units that are ranked, and a few more where they go in steps.
        given: the order in which they go; else the least losses go first.
    """
    units = len(single)
    alive = np.ones(units, bool)
    order: list[int] = []
    loss = [0.0]
    repaired: dict[int, np.ndarray] = {}
    probed = 0
    while len(order) < most:
        if given is None:
            chosen = _least(place, single, consumers, alive)
        else:
            chosen = given[len(order) :][: max(1, units // _STEPS)]
        step = float(single[chosen].sum()) + sum(item.remove(place, chosen) for item in consumers)
        loss += [loss[-1] + step * (number + 1) / len(chosen) for number in range(len(chosen))]
        order += chosen.tolist()
        alive[chosen] = False
        if not probed and len(order) >= units // 2:
            repaired, probed = {item.node: item.repaired() for item in consumers}, len(order)
    return Ranking(np.asarray(order), np.maximum.accumulate(loss), repaired, probed)
