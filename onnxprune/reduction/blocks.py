"""Orders the channels of grouped convolutions so that those that can go are at the same place in every group.

All groups of a convolution lose as many channels, but which of them is up to each group: its channels are put in the
order of what is lost without them, with the weights that make and read them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.graph.channels import ChannelGraph, Cut, Group
from onnxprune.graph.network import attribute
from onnxprune.reduction.reading import MOST_FEATURES
from onnxprune.reduction.selection import rank_by_group, rank_groups
from onnxprune.reduction.sites import sites
from onnxprune.runtime.random_inputs import Inputs


@dataclass(frozen=True)
class _Blocks:
    """Channels of which those at the same place of several blocks are tied, by nothing but convolutions' groups.

    Attributes:
        labels: (blocks, places).
        cuts: constants that have them, one by one.
        grouped: the weights that sum over those of each block alone, and have them once for all blocks, with others
            beside them where several tensors are concatenated.
    """

    labels: np.ndarray
    cuts: tuple[Cut, ...]
    grouped: Cut | None


def ordered(
    graph: ChannelGraph,
    batches: Sequence[Inputs],
    advance: Callable[[int, int], None] = lambda done, total: None,
    seed: int = 0,
) -> ChannelGraph:
    """The graph with such weights."""
    apart = _told_apart(graph)
    found = list(_blocks(graph, apart))
    if not found:
        return graph
    nodes = [blocks.grouped.node for blocks in found if blocks.grouped is not None]
    by_group = rank_by_group(graph, nodes, batches, advance, seed)
    alone = [blocks.labels for blocks in found if blocks.grouped is None]
    single = replace(apart, groups=tuple(Group((), tuple(labels.reshape(-1, 1)), 1, None) for labels in alone))
    rankings = rank_groups(single, batches, "obs", advance, seed)
    together = iter([rankings[place] for place in range(len(alone))])
    network = graph.network.copy()
    for blocks in found:
        shape = blocks.labels.shape
        if blocks.grouped is not None:
            features = _positions(apart, blocks.grouped)[blocks.labels].max(0)
            place = np.full(len(blocks.grouped.labels), -1)
            place[features] = np.arange(shape[1])
            order = place[by_group[blocks.grouped.node]]
            order = order[order >= 0].reshape(shape)
        else:
            rank = np.argsort(next(together).order)
            order = np.argsort(rank.reshape(shape), 1)
        moved = np.arange(apart.count)
        moved[blocks.labels] = np.take_along_axis(blocks.labels, order, 1)
        for cut in blocks.cuts:
            name = network.nodes[cut.node].input[cut.position]
            taken = np.where(cut.labels > 0, _positions(apart, cut)[moved[cut.labels]], np.arange(len(cut.labels)))
            network.weights[name] = np.take(network.weights[name], taken, cut.axis)
        if blocks.grouped is not None:
            cut = blocks.grouped
            name = network.nodes[cut.node].input[cut.position]
            each = np.tile(np.arange(len(cut.labels)), (shape[0], 1))
            each[:, features] = features[order]
            parts = zip(np.split(network.weights[name], shape[0]), each, strict=True)
            network.weights[name] = np.concatenate([np.take(part, own, cut.axis) for part, own in parts])
    return replace(graph, network=network)


def _positions(graph: ChannelGraph, cut: Cut) -> np.ndarray:
    """Where each label is along the axis of a cut (labels,); -1 where it is not."""
    found = np.full(graph.count, -1)
    found[cut.labels] = np.arange(len(cut.labels))
    return found


def _told_apart(graph: ChannelGraph) -> ChannelGraph:
    """The graph with labels of their own for channels that share one on an axis: by how often it was there before."""
    most = 1
    cuts = []
    for cut in graph.cuts:
        order = np.argsort(cut.labels, kind="stable")
        first = np.searchsorted(cut.labels[order], cut.labels[order])
        before = np.empty(len(order), np.int64)
        before[order] = np.arange(len(order)) - first
        before[cut.labels == 0] = 0
        most = max(most, int(before.max(initial=0)) + 1)
        cuts.append(replace(cut, labels=cut.labels + graph.count * before))
    return replace(graph, cuts=cuts, count=graph.count * most)


def _blocks(graph: ChannelGraph, apart: ChannelGraph) -> Iterator[_Blocks]:
    """Those of a graph, with the labels that they have where channels are told apart."""
    groups = {
        site.node: attribute(graph.network.nodes[site.node], "group", 1)
        for site in sites(graph.network)
        if site.kind == "Conv" and site.matrix(graph.network).shape[2] <= MOST_FEATURES
    }
    if not any(groups.get(cut.node, 1) > 1 and cut.role != "along" for cut in graph.cuts):
        return
    for group in graph.groups:
        unit_of = np.full(graph.count, -1)
        for number, labels in enumerate(group.units):
            unit_of[labels] = number
        if group.frozen is not None or any((unit_of[item.labels] >= 0).any() for item in graph.contractions):
            continue
        touching = [cut for cut in apart.cuts if (unit_of[cut.labels % graph.count] >= 0).any()]
        grouped = [cut for cut in touching if cut.role == "consumer" and groups.get(cut.node, 1) > 1]
        single = [cut for cut in touching if not (cut.role == "consumer" and groups.get(cut.node, 1) > 1)]
        own = np.unique(single[0].labels[unit_of[single[0].labels % graph.count] >= 0])
        counts = np.bincount(unit_of[own % graph.count], minlength=len(group.units))
        if counts.min() != counts.max() or counts[0] < 2:
            continue
        order = np.argsort(unit_of[own % graph.count], kind="stable")
        blocks = own[order].reshape(len(group.units), -1).T
        reading = any(cut.role == "consumer" for cut in single)
        if (
            all(np.isin(own, cut.labels).all() for cut in single)
            and all(groups[cut.node] == len(blocks) for cut in grouped)
            and len(grouped) + reading == 1
            and _are_own(graph, touching)
        ):
            yield _Blocks(blocks, tuple(single), grouped[0] if grouped else None)


def _are_own(graph: ChannelGraph, cuts: Sequence[Cut]) -> bool:
    """Whether no constant is read by more than one node."""
    names = [name for node in graph.network.nodes for name in node.input]
    return all(names.count(graph.network.nodes[cut.node].input[cut.position]) == 1 for cut in cuts)
