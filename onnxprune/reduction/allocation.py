"""How much each group loses, so that the network costs what was asked for and its outputs change least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.graph.channels import ChannelGraph

_FEWEST = 0.05  # share of a group's units that stays at least


@dataclass(frozen=True)
class Cost:
    """Cost of a network by how much of each group is kept: a sum of products of shares.

    Attributes:
        parts: cost of each product (products,).
        factors: for each product, rows of what a factor's share is made of (products, most factors, groups + 1); the
            last column is what always stays.
    """

    parts: np.ndarray
    factors: np.ndarray

    def of(self, kept: np.ndarray) -> float:
        """Cost with these shares of the groups kept (groups,)."""
        return float(self.each(kept).sum())

    def each(self, kept: np.ndarray) -> np.ndarray:
        """Cost of each product (products,)."""
        shares = self.factors @ np.append(kept, 1.0)
        return np.asarray(self.parts * shares.prod(1))

    def slopes(self, kept: np.ndarray) -> np.ndarray:
        """What a group costs at the margin, for a share of one (groups,)."""
        shares = self.factors @ np.append(kept, 1.0)
        count = shares.shape[1]
        total = np.zeros(len(kept))
        for factor in range(count):
            others = np.delete(shares, factor, 1).prod(1)
            total += (self.parts * others) @ self.factors[:, factor, :-1]
        return total


def cost(graph: ChannelGraph, each: Mapping[int, float] | None = None) -> Cost:
    """Cost of the network by groups.

    Args:
        each: node -> what it costs in place of its MACs, such as its time; nodes that are absent cost nothing.
    """
    groups = len(graph.groups)
    owner = np.full(graph.count, groups)
    for place, group in enumerate(graph.groups):
        if group.frozen is None:
            for unit in group.units:
                owner[unit] = place
    most = max((len(product.factors) for product in graph.products), default=1)
    by_node: dict[int, int] = {}
    for product in graph.products:
        by_node[product.node] = by_node.get(product.node, 0) + product.macs
    parts = np.zeros(len(graph.products))
    factors = np.zeros((len(graph.products), max(1, most), groups + 1))
    factors[:, :, -1] = 1.0
    for number, product in enumerate(graph.products):
        parts[number] = product.macs
        if each is not None:
            parts[number] *= each.get(product.node, 0.0) / max(1, by_node[product.node])
        for place, labels in enumerate(product.factors):
            factors[number, place] = np.bincount(owner[labels], minlength=groups + 1) / len(labels)
    return Cost(parts, factors)


def allocate(
    graph: ChannelGraph,
    losses: Mapping[int, np.ndarray],
    budget: float,
    costs: Cost,
    widths: Mapping[int, Sequence[int]],
) -> dict[int, int]:
    """Units that each group loses, so that the cost falls to `budget` and the losses add up to the least.

    Greedy on the lower convex hull of each group's loss: the best next step is the one that costs the least loss for
    what it saves.

    Args:
        losses: group -> loss with 0, 1, ... units gone (units + 1,).
        budget: share of the whole cost that may be left.
        widths: group -> the numbers of units that may stay, rising.
    """
    count = len(graph.groups)
    gone = dict.fromkeys(losses, 0)
    kept = np.ones(count)
    whole = costs.of(kept)
    points = {place: _points(len(graph.groups[place].units), widths[place]) for place in losses}
    stops = {place: _stops(points[place], loss) for place, loss in losses.items()}
    position = dict.fromkeys(losses, 0)
    while costs.of(kept) > budget * whole:
        slopes = costs.slopes(kept)
        best, choice = np.inf, None
        for place, found in stops.items():
            if position[place] + 1 < len(found):
                now, then = found[position[place]], found[position[place] + 1]
                saved = slopes[place] * (then - now) / len(graph.groups[place].units)
                if saved > 0:
                    price = (losses[place][then] - losses[place][now]) / saved
                    if price < best:
                        best, choice = price, place
        if choice is None:
            break
        before = gone[choice]
        position[choice] += 1
        gone[choice] = stops[choice][position[choice]]
        units = len(graph.groups[choice].units)
        kept[choice] = 1 - gone[choice] / units
        if costs.of(kept) <= budget * whole:  # the last step may be shorter
            for point in points[choice]:
                kept[choice] = 1 - point / units
                if point > before and costs.of(kept) <= budget * whole:
                    gone[choice] = point
                    break
    _give_back(graph, losses, budget * whole, costs, points, gone)
    return {place: number for place, number in gone.items() if number}


def kept_shares(graph: ChannelGraph, gone: Mapping[int, int]) -> np.ndarray:
    """Share of each group that is left (groups,), without these numbers of units."""
    kept = np.ones(len(graph.groups))
    for place, number in gone.items():
        kept[place] -= number / len(graph.groups[place].units)
    return kept


def _give_back(
    graph: ChannelGraph,
    losses: Mapping[int, np.ndarray],
    most: float,
    costs: Cost,
    points: Mapping[int, Sequence[int]],
    gone: dict[int, int],
) -> None:
    """Gives groups units back as long as the cost allows it, those first that lose most without them: the last step may
    have saved more than was asked for."""

    def cost_with(place: int, number: int) -> float:
        return costs.of(kept_shares(graph, {**gone, place: number}))

    while True:
        ways = [
            (place, max(point for point in (0, *points[place]) if point < now)) for place, now in gone.items() if now
        ]
        saved = {
            (place, fewer): float(losses[place][gone[place]] - losses[place][fewer])
            for place, fewer in ways
            if cost_with(place, fewer) <= most
        }
        if not saved:
            return
        place, fewer = max(saved, key=saved.__getitem__)
        gone[place] = fewer


def _points(units: int, widths: Sequence[int]) -> list[int]:
    """Numbers of units gone that leave one of these widths."""
    fewest = max(1, int(np.ceil(_FEWEST * units)))
    return [units - kept for kept in reversed(widths) if kept >= fewest]


def _stops(points: Sequence[int], loss: np.ndarray) -> list[int]:
    """Those of them that are on the lower convex hull of the loss."""
    hull: list[int] = []
    for point in points:
        while len(hull) >= 2:
            first, second = hull[-2], hull[-1]
            rise = (loss[second] - loss[first]) / (second - first)
            if (loss[point] - loss[second]) / (point - second) < rise:
                hull.pop()
            else:
                break
        hull.append(point)
    return hull
