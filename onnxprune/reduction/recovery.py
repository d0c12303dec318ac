"""Repairs a pruned network from unlabelled samples by least squares, without training it.

In topological order every operator with weights is fitted so that from what it reads in the pruned network it gives
what it gave in the original (He et al. 2017, 1707.06168): errors of the layers before it are corrected, not handed on.
Before an Add, it is fitted to what the sum was, less what the other side now gives. Of recurrent layers the products
before the gates are. Two operators with a ReLU between them are then fitted together (`pairs`).

Operators that share their weights are fitted as one, at the place of the first: what the others will read is not known
there, and what they read in the original stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto

from onnxprune.graph.channels import ChannelGraph
from onnxprune.graph.network import Network, reads
from onnxprune.graph.sharing import shared_weights
from onnxprune.reduction import pairs, recurrent
from onnxprune.reduction.moments import PENALTIES, Moments, Ridge
from onnxprune.reduction.rows import Rows, joined
from onnxprune.reduction.sites import Site, input_labels, output_labels, sites
from onnxprune.runtime.random_inputs import Inputs
from onnxprune.runtime.stages import Stages

METHODS = ("bias", "ridge", "match", "pairs")
_MOST_WORK = 1e10  # multiplications for one Gram matrix, but
_ROWS_A_FEATURE = 12  # at least, where there are as many, and
_MOST_FEATURES = 8192  # of a Gram matrix
_MOST_BYTES = 6e8  # of the rows of one operator


@dataclass(frozen=True)
class Effort:
    """How carefully operators are fitted.

    Attributes:
        rows: of samples for one operator, at most.
        penalties: of ridge regression, relative to the mean of the Gram matrix's diagonal.
        rounds: of fitting again what a ReLU lets through.
        steps: of fitting two operators together, at most.
    """

    rows: int = 60_000
    penalties: tuple[float, ...] = PENALTIES
    rounds: int = 12
    steps: int = 40


QUICK = Effort(rows=10_000, penalties=(1e-2,), rounds=0, steps=0)
_BRISK = Effort(rows=20_000, penalties=(1e-3, 1e-2, 1e-1), rounds=4, steps=0)
_AFFORDABLE = 5e12  # multiplications: about a minute and a half of one core


@dataclass(frozen=True)
class Fit:
    """What was done to one operator.

    Attributes:
        node: its place in the graph.
        method: "none", "bias", "match" or "ridge": what helped most on held-out samples; or "pairs": together with the
            operator before it.
        before, after: squared error of its outputs on held-out samples, relative to their variance.
    """

    node: int
    method: str
    before: float
    after: float


def work(graph: ChannelGraph, batch: int, samples: int, effort: Effort = Effort()) -> float:
    """Multiplications, about, that fitting every operator of the whole network to so many samples takes.

    Args:
        batch: samples that the graph's products are counted for.
    """
    each: dict[int, float] = {}
    for product in graph.products:
        each[product.node] = each.get(product.node, 0.0) + product.macs * samples / batch
    total = 0.0
    for site in sites(graph.network):
        groups, outputs, features = site.matrix(graph.network).shape
        size = groups * outputs * features
        rows = min(effort.rows, each.get(site.node, 0.0) / size)
        trials = 3 + len(effort.penalties) + (2 * effort.rounds if site.rectified else 0)
        total += rows * (groups * features**2 + trials * size)  # Gram matrices, and answers to compare
        total += groups * features**3 / 3 * (len(effort.penalties) + 1)
    return total


def affordable(graph: ChannelGraph, batch: int, samples: int) -> Effort:
    """All the care there is, less for a network that would take many minutes; `batch` as in `work`."""
    return Effort() if work(graph, batch, samples) <= _AFFORDABLE else _BRISK


def recover(
    graph: ChannelGraph,
    keep: np.ndarray,
    pruned: Network,
    batches: Sequence[Inputs],
    held_out: int,
    methods: Sequence[str] = METHODS,
    advance: Callable[[int, int], None] = lambda done, total: None,
    seed: int = 0,
    effort: Effort = Effort(),
) -> tuple[Network, list[Fit]]:
    """The pruned network with fitted weights, and what was done to each operator.

    Args:
        graph: of the original network.
        keep: labels (count,) that are left in `pruned`.
        batches: the samples; the last `held_out` of them decide what helps, and are then fitted as well. Of a single
            one the last rows of each operator do.
        methods: those that may be used.
        advance: called with the operators done and how many there are.
    """
    pruned = pruned.copy()
    fits = []
    for site, parts, pair in to_fit(graph, keep, pruned, batches, advance, seed, effort.rows):
        fit = _fit(site, pruned, parts, held_out, methods, effort)
        if fit is not None and pair is not None and "pairs" in methods and effort.steps:
            after = pair.fit(held_out, effort.steps)
            fit = fit if after is None else replace(fit, method="pairs", after=after)
        if fit is not None:
            fits.append(fit)
    return pruned, fits


def to_fit(
    graph: ChannelGraph,
    keep: np.ndarray,
    pruned: Network,
    batches: Sequence[Inputs],
    advance: Callable[[int, int], None] = lambda done, total: None,
    seed: int = 0,
    most: int = Effort.rows,
) -> Iterator[tuple[Site | recurrent.Product, list[Rows], pairs.Pair | None]]:
    """The operators of a pruned network that read other values than in the original, in order, each with what it reads
    now and what it should give, a batch each; `most` rows in all. With it comes the pair that it is the second of.

    Weights that an operator is given before the next one is asked for are those that the next one's rows come from.
    """
    whole = graph.network.copy()
    states, named = recurrent.with_states(whole), recurrent.with_states(pruned)
    unnamed = [place for place in states if not graph.network.nodes[place].output[0]]
    nodes = pruned.nodes
    changed = _changed(graph, keep, nodes)
    every = sites(pruned)
    places: list[Site | recurrent.Product] = [
        site
        for site in every
        if not site.kind.startswith("Left")
        and site.is_first
        and not site.fixed
        and any(each.data in changed or _is_cut(graph, each, keep) for each in site.together)
    ]
    shared = shared_weights(pruned)
    places += [
        product
        for product in recurrent.products(pruned)
        if named[product.node] in changed and nodes[product.node].input[product.weight] not in shared
    ]
    places.sort(key=lambda place: (place.node, place.weight))
    firsts = pairs.firsts(pruned, every)
    with Stages(whole, batches) as original, Stages(pruned, batches) as now:
        for number, site in enumerate(places):
            advance(number, len(places))
            random = np.random.default_rng([seed, site.node])
            later = [first.data for second, first in firsts.items() if second >= site.node]
            if isinstance(site, Site):
                original.advance(site.end + 1, keep=[site.result])
                now.advance(site.node, keep=[site.data, *later])
                shape = site.matrix(pruned).shape
                if shape[2] > _MOST_FEATURES:
                    continue
                wanted = _Wanted(graph, keep, site, original, now)
                first = firsts.get(site.node)
                pair = None if first is None else pairs.Pair(first, site, now, wanted, len(firsts))
                share = most // len(site.together)
                parts = [_collect(site, nodes[site.node], now, wanted, shape, random, share)]
                parts += _of_others(graph, keep, site, nodes, batches, shape, random, share)
                yield site, [joined(each) for each in zip(*parts, strict=True)], pair
                if pair is not None and pair.changed:
                    now.again(pair.between, site.data)
            else:
                original.advance(site.node + 1, keep=[whole.nodes[site.node].input[0], states[site.node]])
                now.advance(site.node, keep=[nodes[site.node].input[0], *later])
                yield site, recurrent.rows(site, graph, keep, original, now, random, most), None
    for place in unnamed:
        nodes[place].output[0] = ""
    pruned.drop_unused()


def _changed(graph: ChannelGraph, keep: np.ndarray, nodes: Sequence) -> set[str]:
    """Tensors whose remaining channels have other values than in the original."""
    changed: set[str] = set()
    cut = {item.node for item in graph.cuts if item.role == "consumer" and not keep[item.labels].all()}
    cut |= {item.node for item in graph.contractions if not keep[item.labels].all()}
    for index, node in enumerate(nodes):
        if index in cut or any(name in changed for name in reads(node)):
            changed.update(name for name in node.output if name)
    return changed


def _is_cut(graph: ChannelGraph, site: Site, keep: np.ndarray) -> bool:
    labels = input_labels(graph, site)
    return labels is not None and not keep[labels].all()


def gather(
    site: Site,
    node: object,
    data: Stages,
    answer: Callable[[int], np.ndarray],
    shape: tuple[int, int, int],
    parts: Sequence[range],
    random: np.random.Generator,
) -> list[Moments]:
    """Moments of a site over parts of the batches.

    Args:
        answer: the result that is wanted, by batch.
        shape: (groups, outputs, features) of the weights.
    """
    groups, outputs, features = shape
    found = [Moments.empty(groups, features, outputs) for _ in parts]
    sample = answer(0)
    available = site.places(sample)
    images = sample.shape[0] if site.kind == "Conv" else 1
    whole = sum(len(part) for part in parts) * available * images
    wanted = max(_ROWS_A_FEATURE * features, min(Effort.rows, int(_MOST_WORK / (groups * features**2))))
    count = max(1, min(available, -(-available * wanted // whole)))
    for moments, part in zip(found, parts, strict=True):
        for batch in part:
            y, x = answer(batch), data.value(batch, site.data)
            most = site.places(y)
            places = np.sort(random.choice(most, min(count, most), replace=False)) if count < most else None
            moments.add(site.rows(node, x, places), site.answers(node, y, places))  # type: ignore[arg-type]
    return found


class _Kept:
    """The original's tensors without the channels that are gone, in place of those of the pruned network."""

    def __init__(self, graph: ChannelGraph, keep: np.ndarray, original: Stages) -> None:
        self._graph, self._keep, self._original = graph, keep, original
        self.is_live = original.is_live

    def __len__(self) -> int:
        return len(self._original)

    def value(self, batch: int, name: str) -> np.ndarray:
        value, channels = self._original.value(batch, name), self._graph.channels.get(name)
        return value if channels is None else np.compress(self._keep[channels.labels], value, channels.axis)


class _Wanted:
    """What a site of the pruned network should give, batch by batch."""

    def __init__(
        self, graph: ChannelGraph, keep: np.ndarray, site: Site, original: Stages, now: Stages | _Kept
    ) -> None:
        labels = output_labels(graph, site)
        self._kept = None if labels is None or keep[labels].all() else np.flatnonzero(keep[labels])
        self._axis = 1 if site.kind == "Conv" else -1
        self._site, self._original, self._now = site, original, now
        there = site.other is not None and original.is_live(site.other) and now.is_live(site.other)
        self._other = site.other if there else None
        # the sum that a ReLU cuts is known only where its other side is
        self.rectified = site.rectified and (site.other is None or there)

    def __call__(self, batch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The answers, and what is added to them next."""
        wanted = self._part(self._original.value(batch, self._site.result))
        if self._other is None:
            return wanted, None
        was, beside = self._original.value(batch, self._other), self._now.value(batch, self._other)
        if was.shape != beside.shape:
            was = self._part(was)
        if was.shape != wanted.shape or beside.shape != wanted.shape:  # it is broadcast
            self.rectified = False
            return wanted, None
        return wanted + (was - beside), beside

    def _part(self, value: np.ndarray) -> np.ndarray:
        return value if self._kept is None else np.take(value, self._kept, self._axis)


def _of_others(
    graph: ChannelGraph,
    keep: np.ndarray,
    site: Site,
    nodes: Sequence[NodeProto],
    batches: Sequence[Inputs],
    shape: tuple[int, ...],
    random: np.random.Generator,
    most: int,
) -> Iterator[list[Rows]]:
    """Rows of each batch of each operator that shares the site's weights: of what the original has of them.

    Args:
        nodes: of the pruned network.
    """
    if len(site.together) == 1:
        return
    with Stages(graph.network, batches) as original:
        for other in site.together[1:]:
            original.advance(other.end + 1, keep=[other.data, other.result])
            kept = _Kept(graph, keep, original)
            wanted = _Wanted(graph, keep, other, original, kept)
            yield _collect(other, nodes[other.node], kept, wanted, shape, random, most)


def _collect(
    site: Site,
    node: NodeProto,
    now: Stages | _Kept,
    wanted: _Wanted,
    shape: tuple[int, ...],
    random: np.random.Generator,
    most: int,
) -> list[Rows]:
    """Rows of each batch, about as many as `most` in all.

    Args:
        node: of the site, in the pruned network.
        shape: (groups, outputs, features) of the weights.
    """
    sample, _ = wanted(0)
    images = len(sample) if site.kind == "Conv" else 1
    available = site.places(sample)
    most = int(min(most, _MOST_BYTES / (4 * shape[0] * shape[2])))
    count = max(1, min(available, most // max(1, images * len(now))))
    found = []
    for batch in range(len(now)):
        y, beside = wanted(batch)
        size = site.places(y)
        places = np.sort(random.choice(size, count, replace=False)) if count < size else None
        rectified = None
        if wanted.rectified:
            rectified = site.answers(node, np.zeros_like(y) if beside is None else beside, places)
        found.append(
            Rows(site.rows(node, now.value(batch, site.data), places), site.answers(node, y, places), rectified)
        )
    return found


def _fit(
    site: Site | recurrent.Product,
    network: Network,
    parts: Sequence[Rows],
    held_out: int,
    methods: Sequence[str],
    effort: Effort,
) -> Fit | None:
    plain, has_bias = site.matrix(network), site.has_bias
    start = site.offset(network).reshape(plain.shape[:2])
    whole = joined(parts)
    used = sum(part.x.shape[1] for part in parts[: len(parts) - held_out]) or whole.x.shape[1] * 7 // 8
    fitting, checking = whole.part(0, used), whole.part(used, whole.x.shape[1])
    scale = checking.variance() or 1.0
    moments = fitting.moments(fitting.wanted)
    every = moments + checking.moments(checking.wanted)
    if not every.finite:
        return None
    before = best = checking.error(plain, start)
    choice: tuple[str, float, int] | None = None
    for method, penalty in _candidates(methods, has_bias, effort):
        error = checking.error(*_solve(fitting, moments, plain, start, (method, penalty, 0), has_bias))
        if error < best:
            best, choice = error, (method, penalty, 0)
    if choice is not None and choice[0] == "ridge" and fitting.beside is not None and effort.rounds:
        rounds = (*choice[:2], effort.rounds)
        error = checking.error(*_solve(fitting, moments, plain, start, rounds, has_bias))
        if error < best:
            best, choice = error, rounds
    if choice is not None:
        weights, shift = _solve(whole, every, plain, start, choice, has_bias)
        site.write(network, network.nodes, weights, shift if has_bias else None)
    return Fit(site.node, choice[0] if choice else "none", before / scale, best / scale)


def _candidates(methods: Sequence[str], has_bias: bool, effort: Effort) -> list[tuple[str, float]]:
    found = [(method, 0.0) for method in ("bias", "match") if method in methods and has_bias]
    return found + [("ridge", penalty) for penalty in effort.penalties if "ridge" in methods]


def _solve(
    rows: Rows,
    moments: Moments,
    plain: np.ndarray,
    start: np.ndarray,
    choice: tuple[str, float, int],
    has_bias: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (groups, outputs, features) and bias (groups, outputs).

    Args:
        moments: of the rows.
        choice: the method, its penalty, and in how many rounds it is fitted to what a ReLU lets through.
    """
    method, penalty, rounds = choice
    if method == "ridge":
        solver = Ridge(moments, plain, penalty, has_bias)
        weights = solver.weights(moments)
        shift = moments.intercept(weights) if has_bias else start
        for _ in range(rounds):
            moments = moments.with_answers(rows.x, rows.attainable(weights, shift))
            weights = solver.weights(moments)
            shift = moments.intercept(weights) if has_bias else start
        return weights, shift
    weights = plain
    if method == "match":
        # the deviation of each output as it was (REPAIR, Jordan et al. 2023, 2211.08403)
        xx, _, yy = moments.centred(True)
        variance = np.einsum("gof,gfo->go", plain, xx @ plain.transpose(0, 2, 1))
        scale = np.sqrt(np.maximum(yy, 0) / np.maximum(variance, 1e-12))
        weights = plain * np.where(variance > 1e-12, scale, 1.0)[:, :, None]
    return weights, moments.intercept(weights) if has_bias else start
