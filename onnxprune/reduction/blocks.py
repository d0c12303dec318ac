"""Orders the channels of grouped convolutions so that those that can go are at the same place in every group.

All groups of a convolution lose as many channels, but which of them is up to each group: its channels are put in the
order of what is lost without them, with the weights that make and read them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.graph.channels import ChannelGraph, Cut, Group
from onnxprune.reduction.selection import rank_by_group, rank_groups
from onnxprune.reduction.sites import sites
from onnxprune.runtime.random_inputs import Inputs


@dataclass(frozen=True)
class _Blocks:
    """Channels of which those at the same place of several blocks are tied, by nothing but convolutions' groups.

    Attributes:
        labels: (blocks, places).
        cuts: constants that have them, one by one.
        grouped: the weights that sum over those of each block alone, and have them once for all blocks.
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
    found = list(_blocks(graph))
    if not found:
        return graph
    nodes = [blocks.grouped.node for blocks in found if blocks.grouped is not None]
    by_group = rank_by_group(graph, nodes, batches, advance, seed)
    alone = [blocks.labels for blocks in found if blocks.grouped is None]
    each = replace(graph, groups=tuple(Group((), tuple(labels.reshape(-1, 1)), 1, None) for labels in alone))
    together = iter(rank_groups(each, batches, "obs", advance, seed).values())
    network = graph.network.copy()
    for blocks in found:
        shape = blocks.labels.shape
        if blocks.grouped is not None:
            order = by_group[blocks.grouped.node]
        else:
            rank = np.argsort(next(together).order)
            order = np.argsort(rank.reshape(shape), 1)
        moved = np.arange(graph.count)
        moved[blocks.labels] = np.take_along_axis(blocks.labels, order, 1)
        for cut in blocks.cuts:
            place = np.zeros(graph.count, np.int64)
            place[cut.labels] = np.arange(len(cut.labels))
            name = network.nodes[cut.node].input[cut.position]
            network.weights[name] = np.take(network.weights[name], place[moved[cut.labels]], cut.axis)
        if blocks.grouped is not None:
            cut = blocks.grouped
            name = network.nodes[cut.node].input[cut.position]
            parts = zip(np.split(network.weights[name], shape[0]), order, strict=True)
            network.weights[name] = np.concatenate([np.take(part, own, cut.axis) for part, own in parts])
    return replace(graph, network=network)


def _blocks(graph: ChannelGraph) -> Iterator[_Blocks]:
    groups = {site.node: len(site.matrix(graph.network)) for site in sites(graph.network)}
    contracted = np.zeros(graph.count, bool)
    for item in graph.contractions:
        contracted[item.labels] = True
    for group in graph.groups:
        if group.frozen is not None or len({len(unit) for unit in group.units}) > 1 or len(group.units[0]) < 2:
            continue
        labels = np.sort(np.stack(group.units), 1).T
        own = set(labels.ravel().tolist())
        if contracted[labels].any():
            continue
        single: list[Cut] = []
        grouped: list[Cut] = []
        for cut in graph.cuts:
            if own & set(cut.labels.tolist()):
                shared = cut.role == "consumer" and groups.get(cut.node, 1) == len(labels)
                (grouped if shared else single).append(cut)
        known = all(own <= set(cut.labels.tolist()) and len(np.unique(cut.labels)) == len(cut.labels) for cut in single)
        reading = sum(cut.role == "consumer" for cut in single)
        if known and len(grouped) + bool(reading) == 1 and _are_own(graph, [*single, *grouped]):
            yield _Blocks(labels, tuple(single), grouped[0] if grouped else None)


def _are_own(graph: ChannelGraph, cuts: Sequence[Cut]) -> bool:
    """Whether no constant is read by more than one node."""
    names = [name for node in graph.network.nodes for name in node.input]
    return all(names.count(graph.network.nodes[cut.node].input[cut.position]) == 1 for cut in cuts)
