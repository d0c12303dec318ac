"""Takes whole units out of a network: how many of each group, which ones, and what is done about the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxprune.common.errors import InputError, RunError
from onnxprune.common.widths import Prunable, kept_units
from onnxprune.graph import surgery
from onnxprune.graph.channels import ChannelGraph
from onnxprune.graph.network import Network, label_of
from onnxprune.reduction.allocation import Cost, allocate, cost, kept_shares
from onnxprune.reduction.blocks import ordered
from onnxprune.reduction.fidelity import deciding_score
from onnxprune.reduction.heads import turned
from onnxprune.reduction.importance import geometric_median, norms
from onnxprune.reduction.latency import node_times, relative_latency
from onnxprune.reduction.noise import noise
from onnxprune.reduction.preparation import Prepared, difference
from onnxprune.reduction.reading import readers_of_groups
from onnxprune.reduction.recovery import Fit, affordable, recover, work
from onnxprune.reduction.samples import Samples, count_samples, kept_apart
from onnxprune.reduction.selection import Ranking, rank_groups
from onnxprune.reduction.sensitivity import Sensitivity
from onnxprune.reduction.settings import FROM_SAMPLES, PruneSettings
from onnxprune.runtime.execution import open_network, run
from onnxprune.runtime.long_work import Advance
from onnxprune.runtime.random_inputs import Inputs

_MOST_WORK = 5e11  # multiplications to repair from noise: without data, pruning takes seconds
_POWERS = (0.25, 0.5, 0.75, 1.0)  # of how much larger losses are together, for another allocation
_ROUNDS = 6  # of a search for a latency or a drop
_ROUNDING = 1e-9
_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Outcome:
    """A network without some of its units.

    Attributes:
        removed: group -> its units that are gone.
        keep: labels (count,) that are left.
        plain: the network without them; `network`: recovered.
        check: its largest relative difference from the original with the removed units masked.
        fits: what recovery did.
    """

    removed: Mapping[int, Sequence[int]]
    keep: np.ndarray
    plain: Network
    network: Network
    check: float
    fits: tuple[Fit, ...]


class UnitPruning:
    """Removes units from a prepared file as the settings say.

    Args:
        path: of the file, for messages.
        recovers: whether the result is repaired; not where it is only to be looked at.
    """

    def __init__(
        self,
        path: Path,
        prepared: Prepared,
        settings: PruneSettings,
        samples: Samples | None,
        advance: Advance,
        recovers: bool = True,
    ) -> None:
        self._path, self._prepared, self._settings, self._samples = path, prepared, settings, samples
        self._advance, self._recovers = advance, recovers and bool(settings.recovery)
        self._graph = prepared.graph
        self._traced = max(1, count_samples([prepared.feed]))  # what products are counted for, as samples are counted
        if samples is not None and settings.criterion == "obs":
            self._graph = self._in_order(samples)
        self._free = [place for place, group in enumerate(self._graph.groups) if group.frozen is None]
        self._rankings: dict[int, Ranking] | None = None
        self._measured: Sensitivity | None = None

    @property
    def can_go(self) -> bool:
        """Whether there is any group whose units can be removed."""
        return bool(self._free)

    def outcome(self) -> Outcome:
        """The pruned network.

        Raises:
            InputError: no pruning reaches what was asked for.
            RunError: the result fails its check.
        """
        settings = self._settings
        if settings.sparsity is not None:
            return self._make(self._uniform(settings.sparsity / 100))
        if settings.target is None:
            return self._by_drop(settings.max_drop or 0.0)
        kind, share = settings.target
        if kind == "latency":
            return self._make(self._by_latency(share))
        return self._make(self._by_macs(share))

    def error_added(self, place: int, gone: int) -> float | None:
        """Loss of what reads a group with so many of its units gone; None where it was not judged from samples."""
        if self._rankings is None or place not in self._rankings or self._settings.criterion not in FROM_SAMPLES:
            return None
        return float(self._rankings[place].loss[gone])

    def _in_order(self, samples: Samples) -> ChannelGraph:
        """The graph with channels of heads and of groups in an order in which less is lost, where it still computes
        what the file did."""
        prepared, batches, seed = self._prepared, samples.fitting, self._settings.seed
        graph = prepared.graph

        def advance(done: int, total: int) -> None:
            self._advance("ordering channels", done, total)

        changes: tuple[Callable[[ChannelGraph], ChannelGraph], ...] = (
            lambda graph: turned(graph, batches, advance),
            lambda graph: ordered(graph, batches, advance, seed),
        )
        for change in changes:
            found = change(graph)
            if found is not graph:
                with open_network(found.network) as session:
                    gap = difference(prepared.outputs, run(session, prepared.feed))
                graph = found if gap <= prepared.tolerance else graph
        return graph

    def _uniform(self, share: float) -> dict[int, int]:
        """Units that each group loses: widths are rounded so that all together lose this share."""
        found = self._prunable(share)
        kept = kept_units(list(found.values()), self._settings.align)
        return {place: each.units - left for (place, each), left in zip(found.items(), kept, strict=True)}

    def _prunable(self, share: float) -> dict[int, Prunable]:
        """Groups that can lose units, each this share."""
        kinds = {label_of(node): node.op_type for node in self._graph.network.nodes}
        return {
            place: Prunable(
                units=len(group.units),
                share=share,
                width=group.width,
                dense=not any(kinds[name] in _CONVOLUTIONS for name in group.producers),
            )
            for place, group in ((place, self._graph.groups[place]) for place in self._free)
        }

    def _allocate(self, losses: Mapping[int, np.ndarray], share: float, costs: Cost) -> dict[int, int]:
        """Units that each group loses for a share of the costs, by losses that add up."""
        widths = {place: each.widths(self._settings.align) for place, each in self._prunable(0.0).items()}
        return allocate(self._graph, losses, share, costs, widths)

    def _make(self, counts: Mapping[int, int]) -> Outcome:
        """The network with so many units of each group removed, checked and repaired."""
        removed = {place: self._order(place)[:gone].tolist() for place, gone in counts.items() if gone}
        keep = self._graph.keep(removed)
        plain = surgery.shrink(self._graph, keep)
        check = self._check(keep, plain)
        batches, held_out = self._to_repair_by() if self._recovers and removed else ([], 0)
        if not batches:
            return Outcome(removed, keep, plain, plain, check, ())
        effort = affordable(self._graph, self._traced, count_samples(batches))
        network, fits = recover(
            self._graph,
            keep,
            plain,
            batches,
            held_out,
            self._settings.recovery,
            lambda done, total: self._advance("recovering", done, total),
            self._settings.seed,
            effort if self._samples is not None else replace(effort, steps=0),  # noise shows too little
        )
        return Outcome(removed, keep, plain, network, check, tuple(fits))

    def _to_repair_by(self) -> tuple[list[Inputs], int]:
        """The samples, or noise in their place, and how many batches of them decide what helps."""
        if self._samples is not None:
            return self._samples.fitting, kept_apart(len(self._samples.fitting))
        graph, batch = self._graph, self._traced
        macs = graph.macs(np.ones(graph.count, bool)) / batch
        batches = noise(self._prepared.source, self._prepared.feed, macs, self._settings.seed)
        if work(graph, batch, count_samples(batches)) > _MOST_WORK:
            return [], 0
        return batches, len(batches) // 4

    def _check(self, keep: np.ndarray, shrunk: Network) -> float:
        """The shrunk network against the whole one with the removed units masked, on a random input.

        Not the outputs alone are compared, which a Softmax or a label hides behind, but also the results of all
        products that keep their size.

        Raises:
            RunError: they differ.
        """
        graph = self._graph
        made = [
            name
            for node in sorted({product.node for product in graph.products})
            for name in graph.network.nodes[node].output
        ]
        whole = [
            name for name in made if name and (name not in graph.channels or keep[graph.channels[name].labels].all())
        ]
        names = list(dict.fromkeys([*graph.network.outputs, *whole]))
        found = []
        for network in (surgery.mask(graph, keep), shrunk):
            with open_network(network, names, optimise=False) as session:
                found.append(run(session, self._prepared.feed))
        error = difference(*found)
        if error > self._prepared.tolerance:
            raise RunError(
                f"{self._path}: the pruned network differs from the original with the removed units masked by "
                f"{error:.1e} of its largest value: it is not written. This is a fault of onnxprune's"
            )
        return error

    def _order(self, place: int) -> np.ndarray:
        """Units of a group, those that go first."""
        group, criterion = self._graph.groups[place], self._settings.criterion
        if criterion in FROM_SAMPLES:
            return self._ranked()[place].order
        if criterion == "random":
            return np.random.default_rng([self._settings.seed, place]).permutation(len(group.units))
        if criterion == "fpgm":
            return np.argsort(geometric_median(self._graph, group), kind="stable")
        return np.argsort(norms(self._graph, group, 2 if criterion == "l2" else 1), kind="stable")

    def _ranked(self) -> dict[int, Ranking]:
        if self._rankings is None:
            assert self._samples is not None
            criterion = str(self._settings.criterion)
            self._rankings = rank_groups(
                self._graph,
                self._samples.fitting,
                criterion if criterion in FROM_SAMPLES else "obs",
                lambda done, total: self._advance("judging units", done, total),
                self._settings.seed,
                None if self._settings.sparsity is None else self._uniform(self._settings.sparsity / 100),
            )
        return self._rankings

    def _losses(self) -> dict[int, np.ndarray]:
        """Loss of the network's outputs by units gone, for each group, with samples measured and else by norms."""
        if self._samples is None:
            return {place: self._norm_loss(place, nodes) for place, nodes in readers_of_groups(self._graph).items()}
        return self._sensitivity().losses(lambda done, total: self._advance("measuring layers", done, total))

    def _sensitivity(self) -> Sensitivity:
        if self._measured is None:
            assert self._samples is not None
            macs = self._graph.macs(np.ones(self._graph.count, bool)) / self._traced
            self._measured = Sensitivity(self._graph, self._ranked(), self._samples.fitting, macs)
        return self._measured

    def _allocated(self, losses: Mapping[int, np.ndarray], share: float, costs: Cost) -> dict[int, int]:
        """Units that each group loses for a share of the costs.

        Losses of single groups do not add up. Where that can be afforded they are measured again among each other, and
        what follows from that, wholly or in part, is taken where it is better.
        """
        gone = self._allocate(losses, share, costs)
        if self._samples is None or not self._sensitivity().repairs or not gone:
            return gone
        sensitivity = self._sensitivity()
        error = sensitivity.error(gone)
        scales = sensitivity.together(
            losses, gone, error, lambda done, total: self._advance("measuring layers together", done, total)
        )
        for power in _POWERS:
            scaled = {place: loss * scales[place] ** power for place, loss in losses.items()}
            other = self._allocate(scaled, share, costs)
            found = sensitivity.error(other) if other != gone else error
            if found < error:
                gone, error = other, found
        return gone

    def _norm_loss(self, place: int, readers: Sequence[int]) -> np.ndarray:
        """Share of the squared norms that is gone, squared again so that the last units cost most; nothing where nobody
        reads them."""
        values = np.sort(norms(self._graph, self._graph.groups[place], 2) ** 2) * bool(readers)
        return np.append(0.0, np.cumsum(values) / max(values.sum(), np.finfo(np.float64).tiny)) ** 2

    def _waiting(self, line: str) -> None:
        self._advance(line, 0, 1)

    def _by_macs(self, share: float) -> dict[int, int]:
        """Units that each group loses, so that the share of the MACs is left."""
        costs = cost(self._graph)
        counts = self._allocated(self._losses(), share, costs)
        left = costs.of(kept_shares(self._graph, counts)) / costs.of(kept_shares(self._graph, {}))
        if left > share * (1 + _ROUNDING):
            raise InputError(
                f"{self._path}: no pruning brings it to {share:g} of its MACs: the smallest that was found has "
                f"{left:.3g} of them; --dry-run lists what stays, and why"
            )
        return counts

    def _by_latency(self, share: float) -> dict[int, int]:
        """Searches the share of the measured time of its nodes that brings the network to the share of its latency."""
        graph, feed, threads = self._graph, self._prepared.feed, self._settings.threads
        costs, losses = cost(graph, node_times(graph.network, feed, threads)), self._losses()
        low, high, guess = 0.02, 1.0, share  # of the costs: the first is too fast or just right, the second too slow
        best: dict[int, int] | None = None
        fastest = 1.0
        for number in range(_ROUNDS):
            self._advance("searching the latency", number, _ROUNDS)
            counts = self._allocate(losses, guess, costs)
            removed = {place: self._order(place)[:gone].tolist() for place, gone in counts.items()}
            shrunk = surgery.shrink(graph, graph.keep(removed))
            measured = relative_latency(graph.network, shrunk, feed, threads, self._waiting)
            fastest = min(fastest, measured)
            if measured <= share:
                best, low = counts, guess
            else:
                high = guess
            guess = (low + high) / 2
            if high - low < 0.03:
                break
        if best is None:
            raise InputError(
                f"{self._path}: no pruning was found that brings it to {share:g} of its latency: the fastest one took "
                f"{fastest:.2f} of it"
            )
        return best

    def _by_drop(self, most: float) -> Outcome:
        """Searches the fewest MACs that lose no more than `most` points."""
        losses, costs = self._losses(), cost(self._graph)
        whole = self._score(self._graph.network)
        low, high = 0.05, 1.0
        best = self._make({})
        for number in range(_ROUNDS):
            self._advance("searching the drop", number, _ROUNDS)
            guess = (low + high) / 2
            made = self._make(self._allocate(losses, guess, costs))
            if whole - self._score(made.network) <= most:
                best, high = made, guess
            else:
                low = guess
        return best

    def _score(self, network: Network) -> float:
        """See `deciding_score`.

        Raises:
            InputError: there are labels, and its outputs are no scores.
        """
        assert self._samples is not None
        found = deciding_score(network, self._graph.network, self._samples)
        if found is None:
            raise InputError(
                f"{self._path}: no output has a score for each class of the data, so that no drop can be told: give a "
                "sparsity or a target, or data without labels"
            )
        return found
