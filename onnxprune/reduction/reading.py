"""What reads channels: the sums over them that nodes of a graph compute, judged by samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from onnxprune.graph.attention import by_head, heads_of
from onnxprune.graph.channels import ChannelGraph, Contraction, Cut
from onnxprune.graph.network import attribute
from onnxprune.reduction import recurrent
from onnxprune.reduction.recovery import gather
from onnxprune.reduction.sites import Site, input_labels
from onnxprune.runtime.stages import Stages

MOST_FEATURES = 8192  # of a Gram matrix: beyond, single units are judged without the others


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
class Read:
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


def reads_at(graph: ChannelGraph, node: int, site: Site | None, stages: Stages, seed: int) -> list[Read]:
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
            return [Read(labels, weights, _finite(moments.gram(site.bias is not None)))]
    stages.advance(node + 1, keep=[name for name in (*item.input, *item.output) if name])
    entries = [entry for entry in _reads(graph) if entry.node == node and len(entry.labels)]
    found = []
    products = {product.weight: product for product in recurrent.products(graph.network) if product.node == node}
    for entry in entries:
        size = len(entry.labels)
        if isinstance(entry, Contraction):
            if size <= MOST_FEATURES and (item.op_type == "MatMul" or heads_of(item, graph.shapes)):
                if entry.position == 0:
                    gram = _finite(_of_both(graph, item, stages))
                    features = gram.shape[-1]  # of one head, where several lie behind each other: all lose the same
                    found.append(Read(entry.labels[:features], np.ones((1, 1, features)), gram))
                continue
            squares, weights = _squares(stages, item.input[entry.position], entry.axis), np.ones((1, 1, size))
        elif entry.position in products and size <= MOST_FEATURES:
            product = products[entry.position]
            moments = recurrent.moments(product, stages)
            found.append(Read(entry.labels, product.matrix(graph.network), _finite(moments.gram(True))))
            continue
        else:
            squares = _squares(stages, *_read_by(graph, entry))
            value = graph.network.weights[item.input[entry.position]].astype(np.float64)
            weights = np.moveaxis(value, entry.axis, -1).reshape(1, -1, size)
        found.append(Read(entry.labels, weights, squares))
    return found


def _finite(gram: np.ndarray) -> np.ndarray:
    """Without numbers that overflow, which tell nothing."""
    return np.nan_to_num(gram, nan=0, posinf=0, neginf=0)


def _of_both(graph: ChannelGraph, item: NodeProto, stages: Stages) -> np.ndarray:
    """Gram matrix (1, features, features) of what each channel adds to a product of two computed tensors.

    Channel i adds the outer product of column i of the one and row i of the other. Two such matrices have the product
    of the columns' and the rows' inner products as their own.
    """
    heads = heads_of(item, graph.shapes)
    total = 0.0
    for batch in range(len(stages)):
        first, second = (stages.value(batch, name) for name in item.input[:2])
        if heads is not None:
            first, second = by_head(first, heads[0]), by_head(second, heads[1])
            second = np.swapaxes(second.repeat(first.shape[1] // second.shape[1], 1), -1, -2)
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
