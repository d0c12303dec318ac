"""Turns the channels of attention heads so that few of them say the most.

What heads compute does not change where queries are multiplied by an invertible matrix and keys by its inverse, nor
where values and what reads them are. With the singular vectors of the two as a basis, the channels of a head are in the
order of what they add to its scores and results, and those that go are the same in all heads (as in MoDeGPT, Lin et
al. 2024, 2408.09632, which cuts each head alone).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxprune.graph.attention import by_head, heads_of
from onnxprune.graph.channels import ChannelGraph
from onnxprune.graph.network import Network, reads
from onnxprune.graph.nodes import operator_type
from onnxprune.reduction.sites import Site, sites
from onnxprune.runtime.execution import open_network, run
from onnxprune.runtime.random_inputs import Inputs
from onnxprune.runtime.stages import Stages

_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Identity")
_DAMPING = 1e-4  # of the mean of a Gram matrix's diagonal
_LEAST = 1e-3  # of the largest singular value: those below are scaled alike


@dataclass(frozen=True)
class _Pair:
    """Two sides of a product over the channels of heads.

    Attributes:
        left, right: what makes them; or on the right, what reads the left ones by weights.
        rows: of the left one's results, by head (heads, width); `others`: of the right one's results, or features.
        place: of the node before which both sides are known.
    """

    left: Site
    right: Site
    rows: np.ndarray
    others: np.ndarray
    reads: bool
    place: int


def turned(
    graph: ChannelGraph,
    batches: Sequence[Inputs],
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> ChannelGraph:
    """The graph with such weights, as far as heads are made and read by weights with nothing but moves between."""
    pairs = sorted(_pairs(graph), key=lambda pair: pair.place)
    if not pairs:
        return graph
    network = graph.network.copy()
    nodes = network.nodes
    with Stages(graph.network, batches) as stages:
        for number, pair in enumerate(pairs):
            advance(number, len(pairs))
            names = [pair.right.data] if pair.reads else [pair.left.result, pair.right.result]
            stages.advance(pair.place, keep=names)
            if not all(map(stages.is_live, names)):  # passed already, where branches run beside each other
                continue
            if pair.reads:
                left = _gram(stages, names[0], pair.others, centred=False)
                read = pair.right.matrix(graph.network)[0][:, pair.others].transpose(1, 2, 0)
                right = read @ read.transpose(0, 2, 1)
            else:
                left = _gram(stages, names[0], pair.rows, centred=False)
                right = _gram(stages, names[1], pair.others, centred=True)
            for head, (one, other) in enumerate(zip(left, right, strict=True)):
                turn = _turn(one, other)
                back = np.linalg.inv(turn).T
                _make(network, nodes, pair.left, pair.rows[head], turn)
                if pair.reads:
                    matrix = pair.right.matrix(network)
                    matrix[0][:, pair.others[head]] @= back.T
                    pair.right.write(network, nodes, matrix, None)
                else:
                    _make(network, nodes, pair.right, pair.others[head], back)
    network.drop_unused()
    return replace(graph, network=network)


def _turn(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The matrix for the left channels: what they and the right ones, times its inverse, then add to the product falls
    from channel to channel; both are Gram matrices. That of nothing, or of numbers that overflow, changes nothing."""
    if not (np.isfinite(left).all() and np.isfinite(right).all() and left.any() and right.any()):
        return np.eye(len(left))
    (root, inverse), (other, _) = _roots(left), _roots(right)
    vectors, values, _ = np.linalg.svd(root @ other)
    scales = np.sqrt(np.maximum(values, _LEAST * values[0]))
    return np.asarray(scales[:, None] * (vectors.T @ inverse))


def _roots(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a Gram matrix that is damped, and of its inverse."""
    values, vectors = np.linalg.eigh(gram)
    roots = np.sqrt(np.maximum(values, 0) + _DAMPING * max(values.mean(), np.finfo(np.float64).tiny))
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T


def _make(network: Network, nodes: list[NodeProto], site: Site, rows: np.ndarray, turn: np.ndarray) -> None:
    """Turns some of what a site gives."""
    matrix = site.matrix(network)
    matrix[0][rows] = turn @ matrix[0][rows]
    offset = site.offset(network)
    offset[rows] = turn @ offset[rows]
    site.write(network, nodes, matrix, offset if offset.any() else None)


def _gram(stages: Stages, name: str, channels: np.ndarray, centred: bool) -> np.ndarray:
    """Gram matrices (heads, width, width) of channels (heads, width) on a tensor's last axis.

    Args:
        centred: over the places of a sample: a Softmax of scores does not see what they have in common.
    """
    total = np.zeros((len(channels), channels.shape[1], channels.shape[1]))
    for value in stages.values(name):
        if centred and value.ndim > 2:
            value = value - value.mean(-2, keepdims=True)
        rows = value.reshape(-1, value.shape[-1])[:, channels].transpose(1, 2, 0)
        total += rows @ rows.transpose(0, 2, 1)
    return total


def _pairs(graph: ChannelGraph) -> Iterator[_Pair]:
    """Of attention: scores, which sum over a head's channels, and results, whose channels are those of the values."""
    network = graph.network
    found = [
        site
        for site in sites(network)
        if site.kind in ("Gemm", "MatMul") and site.norm is None and not (site.shared or site.fixed)
    ]
    makers = {site.result: site for site in found}
    readers = {site.data: site for site in found}
    free = np.zeros(graph.count, bool)
    for group in graph.groups:
        if group.frozen is None:
            free[np.concatenate(group.units)] = True

    def made(name: str) -> tuple[Site, np.ndarray] | None:
        channels = graph.channels.get(name)
        return None if channels is None or not free[channels.labels].all() else _made(graph, makers, name)

    for node in network.nodes:
        heads = heads_of(node, graph.shapes)
        if heads is not None:
            query, key, value = map(made, node.input[:3])
            if query is not None and key is not None:
                (maker, one), (other, others) = query, key
                yield from _scores((maker, by_head(one, heads[0])), (other, by_head(others, heads[1])))
            if value is not None and _without_places(graph, node.output[0]) == _without_places(graph, node.input[2]):
                yield from _results(graph, readers, node.output[0], *value, by_head(value[1], heads[2]))
        elif operator_type(node) == "MatMul":
            right = made(node.input[1])
            if right is None:
                continue
            if graph.channels[node.input[1]].axis == len(graph.shapes[node.input[1]]) - 2:
                left = made(node.input[0])
                if left is not None:
                    yield from _scores(left, (right[0], np.swapaxes(right[1], -1, -2)))
            else:
                yield from _results(graph, readers, node.output[0], *right, right[1])


def _scores(left: tuple[Site, np.ndarray], right: tuple[Site, np.ndarray]) -> Iterator[_Pair]:
    """Of queries and keys: the sites that make them, and which result each element is (..., places, width)."""
    (site, found), (other, others) = left, right
    rows, columns = _by_head(found), _by_head(others)
    if rows is not None and columns is not None and _match(rows, columns):
        yield _Pair(site, other, rows, columns, reads=False, place=max(site.end, other.end) + 1)


def _results(
    graph: ChannelGraph, readers: Mapping[str, Site], name: str, site: Site, found: np.ndarray, apart: np.ndarray
) -> Iterator[_Pair]:
    """Of values, and what reads their sums.

    Args:
        name: of the sums.
        site: that makes the values; `found`: which result each element is; `apart`: likewise (..., places, width).
    """
    rows = _by_head(apart)
    reader = _read(graph, readers, name, found)
    if reader is not None and rows is not None:
        reading, features = reader
        places = np.argsort(features)
        others = places[np.searchsorted(features, rows, sorter=places) % len(places)]
        if _match(rows, others) and np.array_equal(features[others], rows):
            yield _Pair(site, reading, rows, others, reads=True, place=reading.node)


def _without_places(graph: ChannelGraph, name: str) -> list[int]:
    shape = graph.shapes[name]
    return [*shape[:-2], shape[-1]]


def _match(rows: np.ndarray, others: np.ndarray) -> bool:
    """Whether each head has channels of its own on both sides."""
    return rows.shape == others.shape and all(len(np.unique(part)) == part.size for part in (rows, others))


def _by_head(made: np.ndarray) -> np.ndarray | None:
    """Of numbers of channels (..., places, width), those of each head (heads, width); None where places differ."""
    if (made != made[..., :1, :]).any():
        return None
    rows = made[..., 0, :].reshape(-1, made.shape[-1])
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]


def _made(graph: ChannelGraph, makers: Mapping[str, Site], name: str) -> tuple[Site, np.ndarray] | None:
    """The site whose results a tensor is, moved and scaled, and which result of it each element is."""
    makes = {output: node for node in graph.network.nodes for output in node.output}
    path: list[NodeProto] = []
    start = name
    while start not in makers:
        node = makes.get(start)
        if node is None or not _only_moves(graph, node):
            return None
        path.append(node)
        start = node.input[0]
    shape = graph.shapes[start]
    return makers[start], _replay(graph, path[::-1], start, np.broadcast_to(np.arange(shape[-1]), shape), name)


def _read(
    graph: ChannelGraph, readers: Mapping[str, Site], name: str, made: np.ndarray
) -> tuple[Site, np.ndarray] | None:
    """The site that reads a tensor, moved and scaled, and which channel each of its features is.

    Args:
        made: number of the channel of each element (..., width) of what the tensor sums over places.
    """
    shape = graph.shapes[name]
    channels = made[..., :1, :]
    path: list[NodeProto] = []
    end = name
    while end not in readers:
        following = [node for node in graph.network.nodes if end in reads(node)]
        if len(following) != 1 or not _only_moves(graph, following[0]):
            return None
        path += following
        end = following[0].output[0]
    found = _replay(graph, path, name, np.broadcast_to(channels, shape), end)
    features = found.reshape(-1, found.shape[-1])
    return (readers[end], features[0]) if (features == features[0]).all() else None


def _only_moves(graph: ChannelGraph, node: NodeProto) -> bool:
    """Whether it moves elements of one computed tensor, or multiplies all by one number."""
    kind, weights = operator_type(node), graph.network.weights
    constants = [name for name in node.input if name in weights]
    if len([name for name in node.input if name]) - len(constants) != 1:
        return False
    if kind in ("Mul", "Div"):
        return node.input[0] not in weights and weights[node.input[1]].size == 1
    return kind in _MOVES and node.input[0] not in weights


def _replay(graph: ChannelGraph, path: Sequence[NodeProto], start: str, value: np.ndarray, end: str) -> np.ndarray:
    """What becomes of a tensor of integers on its way, where nothing scales it."""
    if start == end:
        return value
    part = Network(ModelProto(), dict(graph.network.weights))
    part.model.CopyFrom(graph.network.model)
    del part.model.graph.input[:], part.model.graph.output[:]
    part.model.graph.input.append(helper.make_tensor_value_info(start, TensorProto.FLOAT, value.shape))
    part.replace_nodes(
        helper.make_node("Identity", node.input[:1], node.output) if node.op_type in ("Mul", "Div") else node
        for node in path
    )
    with open_network(part, [end]) as session:
        return run(session, {start: value.astype(np.float32)})[end].astype(np.int64)
