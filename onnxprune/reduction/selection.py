"""Which units of a group matter least to what reads them, judged from samples.

Units are taken out one after the other: each time those whose loss the remaining ones can make up for best, by the
inverse of the Gram matrix of what the consumers read (Hassibi and Stork 1993, optimal brain surgeon; for whole units as
in ZipLM, Kurtic et al. 2023, 2302.04089).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
from onnx import NodeProto

from onnxprune.graph.channels import ChannelGraph, Contraction, Cut
from onnxprune.graph.network import attribute
from onnxprune.reduction import recurrent
from onnxprune.reduction.moments import factor, inverse
from onnxprune.reduction.recovery import gather
from onnxprune.reduction.sites import Site, input_labels, sites
from onnxprune.runtime.random_inputs import Inputs
from onnxprune.runtime.stages import Stages

_DAMPING = 1e-3  # of the mean of the Gram matrix's diagonal
_ROUNDING = 1e-12  # likewise, of a part of the inverse
MOST_FEATURES = 8192  # of a Gram matrix: beyond, single units are judged without the others
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


class _Consumer:
    """What one operator reads of groups.

    The inverse of the Gram matrix without the units that are gone is the inverse with them less a product of what each
    step took out, as in a Cholesky factorisation with pivots: only what the next step reads of it is computed.

    Attributes:
        units: those of each group among all, by its place.

    Args:
        weights: (groups, outputs, features).
        gram: (groups, features, features) of what it reads.
        features: places of each unit's features (units, size), by the group's place; of one size.
    """

    def __init__(self, node: int, weights: np.ndarray, gram: np.ndarray, features: Mapping[int, np.ndarray]) -> None:
        self.node, self._plain = node, weights
        ends = np.cumsum([len(own) for own in features.values()]).tolist()
        self.units = {
            place: slice(end - len(own), end) for (place, own), end in zip(features.items(), ends, strict=True)
        }
        self._features = np.concatenate(list(features.values()))
        self._inverse, self._taken = np.empty_like(gram), np.empty_like(gram)
        energy = 0.0
        for group, matrix in enumerate(gram):
            energy += float(((weights[group] @ matrix) * weights[group]).sum())
            self._inverse[group] = inverse(matrix, _DAMPING)
        self._energy = max(energy, np.finfo(np.float64).tiny)
        self.restart()

    def restart(self) -> None:
        """Puts all units back."""
        self._weights = self._plain.copy()
        self._steps = 0  # rows (groups, steps, features) of `taken` that are filled
        rows, columns = self._features[:, :, None], self._features[:, None, :]
        self._blocks = self._inverse[:, rows, columns]  # (groups, units, size, size)

    def losses(self, place: int, alive: np.ndarray) -> np.ndarray:
        """Of taking out each of a group's units alone (alive,), relative to the energy of the outputs."""
        total = np.zeros(len(alive))
        units = alive + self.units[place].start
        for weights, every in zip(self._weights, self._blocks, strict=True):
            blocks = every[units]
            columns = weights[:, self._features[units]].transpose(1, 2, 0)  # (units, size, outputs)
            if blocks.shape[1] == 1:
                total += np.square(columns[:, 0]).sum(1) / blocks[:, 0, 0]
            else:
                total += (columns * np.linalg.solve(blocks, columns)).sum((1, 2))
        return total / self._energy

    def remove(self, place: int, units: np.ndarray) -> float:
        """Takes units of a group out, makes up for them by all others, and gives what that costs."""
        gone = self._features[self.units[place]][units].ravel()
        steps = slice(self._steps, self._steps + len(gone))
        total = 0.0
        for weights, start, taken, blocks in zip(self._weights, self._inverse, self._taken, self._blocks, strict=True):
            before = taken[: self._steps]
            rows = start[gone] - before[:, gone].T @ before
            lower, _ = factor(rows[:, gone], _ROUNDING)
            taken[steps] = scipy.linalg.solve_triangular(lower, rows, lower=True, check_finite=False)
            shares = scipy.linalg.solve_triangular(lower, weights[:, gone].T, lower=True, check_finite=False)
            total += float(np.square(shares).sum())
            weights -= shares.T @ taken[steps]
            weights[:, gone] = 0
            fewer = taken[steps][:, self._features].transpose(1, 2, 0)  # (units, size, gone)
            blocks -= fewer @ fewer.transpose(0, 2, 1)
        self._steps = steps.stop
        return total / self._energy

    def repaired(self) -> np.ndarray:
        """The weights (groups, outputs, features) that make up for the units that are gone, which have zeros."""
        return self._weights.copy()


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
            reads = _reads_at(graph, node, site, stages, seed)
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
            (read,) = _reads_at(graph, node, places[node], stages, seed)
            features = np.arange(read.weights.shape[2]).reshape(-1, int(np.prod(places[node].kernel)))
            parts = zip(read.weights[:, None], read.moments[:, None], strict=True)
            found[node] = np.stack(
                [
                    _rank(
                        0, np.zeros(len(features)), [_Consumer(node, weights, gram, {0: features})], len(features)
                    ).order
                    for weights, gram in parts
                ]
            )
    return found


def _reads(graph: ChannelGraph) -> Iterator[Cut | Contraction]:
    """Where channels are summed over: by weights, or as one of two computed tensors."""
    yield from graph.contractions
    yield from (cut for cut in graph.cuts if cut.role == "consumer")


def readers_of_groups(graph: ChannelGraph) -> dict[int, list[int]]:
    """Group that can go -> the nodes that read it by weights or sum over it."""
    found: dict[int, list[int]] = {}
    owner = np.full(graph.count, -1)
    for place, group in enumerate(graph.groups):
        if group.frozen is None:
            found[place] = []
            for unit in group.units:
                owner[unit] = place
    for item in _reads(graph):
        for place in np.unique(owner[item.labels]).tolist():
            if place >= 0 and item.node not in found[place]:
                found[place].append(item.node)
    return found


@dataclass(frozen=True)
class _Read:
    """A sum over channels, as one of weights times what is read.

    Attributes:
        labels: of the features (features,).
        weights: (groups, outputs, features).
        moments: Gram matrix (groups, features, features) of what is read, or where that is not known the mean squares
            (groups, features).
    """

    labels: np.ndarray
    weights: np.ndarray
    moments: np.ndarray

    def per_feature(self, criterion: str) -> np.ndarray:
        """Loss of each feature alone (features,)."""
        squares = self.moments if self.moments.ndim == 2 else np.diagonal(self.moments, axis1=1, axis2=2)
        each = (np.square(self.weights) if criterion != "activation" else 1.0) * squares[:, None]
        return np.asarray(each.sum((0, 1)))


def _reads_at(graph: ChannelGraph, node: int, site: Site | None, stages: Stages, seed: int) -> list[_Read]:
    """What a node sums over, judged by all samples."""
    item = stages.network.nodes[node]
    if site is not None:
        labels = input_labels(graph, site)
        if labels is not None and len(labels) <= MOST_FEATURES:
            stages.advance(site.end + 1, keep=[site.data, site.result])
            weights = site.matrix(graph.network)
            random = np.random.default_rng([seed, node])
            (moments,) = gather(
                site,
                item,
                stages,
                lambda batch: stages.value(batch, site.result),
                weights.shape,
                [range(len(stages))],
                random,
            )
            return [_Read(labels, weights, _finite(moments.gram(site.bias is not None)))]
    stages.advance(node + 1, keep=[name for name in (*item.input, *item.output) if name])
    entries = [entry for entry in _reads(graph) if entry.node == node and len(entry.labels)]
    found = []
    products = {product.weight: product for product in recurrent.products(graph.network) if product.node == node}
    for entry in entries:
        size = len(entry.labels)
        if isinstance(entry, Contraction):
            if item.op_type == "MatMul" and size <= MOST_FEATURES:
                if entry.position == 0:
                    found.append(_Read(entry.labels, np.ones((1, 1, size)), _finite(_of_both(item, stages))))
                continue
            squares, weights = _squares(stages, item.input[entry.position], entry.axis), np.ones((1, 1, size))
        elif entry.position in products and size <= MOST_FEATURES:
            product = products[entry.position]
            moments = recurrent.moments(product, stages)
            found.append(_Read(entry.labels, product.matrix(graph.network), _finite(moments.gram(True))))
            continue
        else:
            squares = _squares(stages, *_read_by(graph, entry))
            value = graph.network.weights[item.input[entry.position]].astype(np.float64)
            weights = np.moveaxis(value, entry.axis, -1).reshape(1, -1, size)
        found.append(_Read(entry.labels, weights, squares))
    return found


def _finite(gram: np.ndarray) -> np.ndarray:
    """Without numbers that overflow, which tell nothing."""
    return np.nan_to_num(gram, nan=0, posinf=0, neginf=0)


def _of_both(item: NodeProto, stages: Stages) -> np.ndarray:
    """Gram matrix (1, features, features) of what each channel adds to a product of two computed tensors.

    Channel i adds the outer product of column i of the one and row i of the other. Two such matrices have the product
    of the columns' and the rows' inner products as their own.
    """
    total = 0.0
    for batch in range(len(stages)):
        first, second = (stages.value(batch, name) for name in item.input)
        lead = np.broadcast_shapes(first.shape[:-2], second.shape[:-2])
        pairs = (np.broadcast_to(value, (*lead, *value.shape[-2:])) for value in (first, second))
        for one, other in zip(*(value.reshape(-1, *lead[1:], *value.shape[-2:]) for value in pairs), strict=True):
            inner = (np.swapaxes(one, -1, -2) @ one) * (other @ np.swapaxes(other, -1, -2))
            total = total + inner.reshape(-1, *inner.shape[-2:]).sum(0, dtype=np.float64)
    return np.asarray(total)[None]


def _squares(stages: Stages, name: str, axis: int) -> np.ndarray:
    """Mean squares along an axis of a tensor (1, features)."""
    total: np.ndarray | float = 0.0
    count = 0
    for value in stages.values(name):
        others = tuple(other for other in range(value.ndim) if other != axis % value.ndim)
        total = total + np.square(value, dtype=np.float64).sum(others)
        count += value.size // value.shape[axis]
    return np.asarray(total)[None] / max(count, 1)


def _read_by(graph: ChannelGraph, cut: Cut) -> tuple[str, int]:
    """The computed tensor that weights multiply over the axis of a cut, and its axis."""
    item = graph.network.nodes[cut.node]
    if item.op_type in ("LSTM", "GRU", "RNN"):
        return (item.input[0], 2) if cut.position == 1 else (next(name for name in item.output if name), -1)
    if item.op_type == "MatMul":
        return (item.input[1], -2) if cut.position == 0 else (item.input[0], -1)
    if item.op_type == "Einsum":
        terms = attribute(item, "equation").decode().replace(" ", "").partition("->")[0].split(",")
        letter = terms[cut.position][cut.axis]
        return next(
            (name, term.index(letter))
            for name, term in zip(item.input, terms, strict=True)
            if letter in term and name in graph.channels
        )
    return item.input[0], 1


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
        self._consumers: list[_Consumer] = []

    def add(self, graph: ChannelGraph, node: int, read: _Read, criterion: str) -> None:
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
        self._consumers += [_Consumer(node, read.weights, read.moments, features) for features in whole.values()]

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

    def _readers(self, place: int) -> list[_Consumer]:
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


def _least(place: int, single: np.ndarray, consumers: Sequence[_Consumer], alive: np.ndarray) -> np.ndarray:
    """Those units of a group that cost least, as many as go in one step."""
    left = np.flatnonzero(alive)
    losses = single[left] + sum((item.losses(place, left) for item in consumers), np.zeros(len(left)))
    return left[np.argsort(losses, kind="stable")[: max(1, min(len(single) // _STEPS, len(left) - 1))]]


def _rank(
    place: int, single: np.ndarray, consumers: Sequence[_Consumer], most: int, given: np.ndarray | None = None
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
