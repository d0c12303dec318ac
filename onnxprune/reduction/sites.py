"""Operators with weights as matrix products: what a unit reads, its weights, and what it gives, as rows of numbers.

A site's weights are (groups, outputs, features); samples give rows (groups, rows, features) and answers
(groups, rows, outputs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import NodeProto

from onnxprune.graph.channels import ChannelGraph
from onnxprune.graph.network import Network, attribute, readers_of
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.sharing import Place
from onnxprune.graph.windows import same_pads

_LEAST_SCALE = 1e-6  # of a BatchNormalization whose weights can be told from its results


@dataclass(frozen=True)
class Site:
    """A node whose output is linear in its weights.

    Attributes:
        node: its place; `end` is that of the Add with its bias, where it has none itself.
        kind: "Conv", "Gemm", "MatMul" (data @ weights) or "LeftMatMul" (weights @ data).
        data: name of what it reads; `result`, of what it gives, bias included.
        weight: position of the weights among the node's inputs.
        bias: node and position of the bias; None where there is no place for one.
        other: what is added to the result next, and nothing else reads the result; None where that is not so.
        rectified: whether only a ReLU reads the result, or the sum with `other`.
        kernel: of a convolution.
        norm: node of the BatchNormalization that alone reads what the operator gives. It is part of the site: weights,
            bias and result are those with it.
        shared: all sites with the same weights, bias and norm, in order, this one among them, where there are several.
        fixed: whether its weights are read by what has another bias or norm, or is no site: they stay.
    """

    node: int
    end: int
    kind: str
    data: str
    result: str
    weight: int
    bias: tuple[int, int] | None
    other: str | None = None
    rectified: bool = False
    kernel: tuple[int, ...] = ()
    norm: int | None = None
    shared: tuple[Site, ...] = ()
    fixed: bool = False

    @property
    def together(self) -> tuple[Site, ...]:
        """All that are fitted as one."""
        return self.shared or (self,)

    @property
    def is_first(self) -> bool:
        """Whether it is the first of those that are fitted as one."""
        return self.together[0].node == self.node

    @property
    def has_bias(self) -> bool:
        """Whether there is a place for one."""
        return self.bias is not None

    def write(self, network: Network, nodes: list[NodeProto], weights: np.ndarray, bias: np.ndarray | None) -> None:
        """Gives it, and those that share them, weights (groups, outputs, features) and a bias (groups, outputs)."""
        set_weights(network, nodes, self, weights)
        if bias is not None:
            set_bias(network, nodes, self, bias.reshape(-1))

    def matrix(self, network: Network) -> np.ndarray:
        """The weights (groups, outputs, features), float64."""
        found = self._own_matrix(network)
        return found if self.norm is None else found * self._norm(network)[0].reshape(*found.shape[:2], 1)

    def _norm(self, network: Network) -> tuple[np.ndarray, np.ndarray]:
        """What the results are multiplied by, and what is added then: (outputs,) or one number."""
        if self.norm is None:
            return np.ones(()), np.zeros(())
        return _affine(network, network.nodes[self.norm])

    def _own_matrix(self, network: Network) -> np.ndarray:
        """Without the BatchNormalization."""
        node = network.nodes[self.node]
        value = network.weights[node.input[self.weight]].astype(np.float64)
        if self.kind == "Conv":
            groups = attribute(node, "group", 1)
            return value.reshape(groups, value.shape[0] // groups, -1)
        if self.kind == "Gemm":
            value = value * attribute(node, "alpha", 1.0)
            return (value if attribute(node, "transB", 0) else value.T)[None]
        return (value.T if self.kind == "MatMul" else value)[None]

    def weights(self, network: Network, matrix: np.ndarray) -> np.ndarray:
        """The inverse of `matrix`, in the form and type of the network's own weights."""
        node = network.nodes[self.node]
        own = network.weights[node.input[self.weight]]
        if self.norm is not None:
            matrix = matrix / self._norm(network)[0].reshape(*matrix.shape[:2], 1)
        if self.kind == "Conv":
            return matrix.reshape(own.shape).astype(own.dtype)
        if self.kind == "Gemm":
            matrix = matrix / attribute(node, "alpha", 1.0)
            return np.ascontiguousarray(matrix[0] if attribute(node, "transB", 0) else matrix[0].T, own.dtype)
        return np.ascontiguousarray(matrix[0].T if self.kind == "MatMul" else matrix[0], own.dtype)

    def offset(self, network: Network) -> np.ndarray:
        """The bias (outputs,), float64."""
        scale, shift = self._norm(network)
        return self._own_offset(network) * scale + shift

    def own_bias(self, network: Network, bias: np.ndarray) -> np.ndarray:
        """The operator's own bias (outputs,) with which the site's is this one."""
        scale, shift = self._norm(network)
        return np.asarray((bias - shift) / scale)

    def _own_offset(self, network: Network) -> np.ndarray:
        """Without the BatchNormalization."""
        outputs = int(np.prod(self._own_matrix(network).shape[:2]))
        if self.bias is None:
            return np.zeros(outputs)
        node, position = self.bias
        names = network.nodes[node].input
        if len(names) <= position or not names[position]:
            return np.zeros(outputs)
        value = network.weights[names[position]].astype(np.float64)
        if self.kind == "Gemm":
            value = value * attribute(network.nodes[node], "beta", 1.0)
        return np.broadcast_to(value.reshape(-1), (outputs,)).copy()

    def rows(self, node: NodeProto, data: np.ndarray, places: np.ndarray | None) -> np.ndarray:
        """What the weights are multiplied by, (groups, rows, features)."""
        if self.kind == "Conv":
            return _patches(node, data, self.kernel, places)
        if self.kind == "LeftMatMul":
            data = np.moveaxis(data, -2, -1)
        found = data.reshape(-1, data.shape[-1])
        return (found if places is None else found[places])[None]

    def answers(self, node: NodeProto, result: np.ndarray, places: np.ndarray | None) -> np.ndarray:
        """What comes out, (groups, rows, outputs)."""
        if self.kind == "Conv":
            groups = attribute(node, "group", 1)
            flat = result.reshape(*result.shape[:2], -1)
            flat = flat if places is None else flat[:, :, places]
            images, channels, count = flat.shape
            return (
                flat.reshape(images, groups, channels // groups, count)
                .transpose(1, 0, 3, 2)
                .reshape(groups, images * count, channels // groups)
            )
        if self.kind == "LeftMatMul":
            result = np.moveaxis(result, -2, -1)
        found = result.reshape(-1, result.shape[-1])
        return (found if places is None else found[places])[None]

    def places(self, result: np.ndarray) -> int:
        """How many rows a batch with this result can give: for a convolution, of one image."""
        if self.kind == "Conv":
            return int(np.prod(result.shape[2:]))
        return result.size // result.shape[-2 if self.kind == "LeftMatMul" else -1]


def sites(network: Network) -> list[Site]:
    """All operators of the network whose weights can be fitted, in order."""
    nodes = network.nodes
    readers = readers_of(nodes)
    found = (_site(network, index, node) for index, node in enumerate(nodes))
    return _with_shared(network, [_followed(network, readers, site) for site in found if site is not None], readers)


def _followed(network: Network, readers: Mapping[str, list[int]], site: Site) -> Site:
    """The site with what alone reads it: its bias or BatchNorm, what is added to it, a ReLU."""
    nodes = network.nodes

    def only_reader(name: str) -> int | None:
        places = readers.get(name, [])
        return places[0] if len(places) == 1 and name not in network.outputs else None

    reader = only_reader(site.result)
    if site.kind == "MatMul" and reader is not None:
        position = _constant_vector(network, nodes[reader], site.result)
        if position is not None:
            site = replace(site, end=reader, result=nodes[reader].output[0], bias=(reader, position))
            reader = only_reader(site.result)
    if site.kind in ("Conv", "Gemm") and reader is not None and _is_norm(network, nodes[reader], site.result):
        site = replace(site, end=reader, result=nodes[reader].output[0], norm=reader)
        reader = only_reader(site.result)
    if reader is not None and operator_type(nodes[reader]) == "Add" and len(set(nodes[reader].input)) == 2:
        other = next(name for name in nodes[reader].input if name != site.result)
        if other not in network.weights:
            site = replace(site, other=other)
            reader = only_reader(nodes[reader].output[0])
    if reader is not None and operator_type(nodes[reader]) == "Relu":
        site = replace(site, rectified=True)
    return site


def _with_shared(network: Network, found: list[Site], readers: Mapping[str, list[int]]) -> list[Site]:
    """The sites with those that they share their weights with."""
    by_node = {site.node: site for site in found}
    nodes = network.nodes

    def beside(site: Site) -> tuple[Any, ...]:
        """What belongs to it beside the weights: how it reads them, and names of bias and norm."""
        node = nodes[site.node]
        how = [attribute(node, name) for name in ("group", "transB", "alpha")]
        bias = [] if site.bias is None else nodes[site.bias[0]].input[site.bias[1] :]
        norm = [] if site.norm is None else [*nodes[site.norm].input[1:], attribute(nodes[site.norm], "epsilon")]
        return site.kind, *how, next(iter(bias), ""), *norm

    for index, site in enumerate(found):
        places = readers[nodes[site.node].input[site.weight]]
        if len(places) > 1:
            sharing = [by_node[node] for node in places if node in by_node]
            alike = len(sharing) == len(places) and len({beside(other) for other in sharing}) == 1
            found[index] = replace(site, shared=tuple(sharing) if alike else (), fixed=not alike)
    return found


def _site(network: Network, index: int, node: NodeProto) -> Site | None:
    kind = operator_type(node)
    constant = [name in network.weights for name in node.input]
    if kind == "Conv" and constant[1] and _is_floating(network, node.input[1]):
        if len(node.input) > 2 and node.input[2] and not constant[2]:
            return None
        kernel = network.weights[node.input[1]].shape[2:]
        return Site(index, index, kind, node.input[0], node.output[0], 1, (index, 2), kernel=kernel)
    if kind == "Gemm" and constant[1] and not attribute(node, "transA", 0) and attribute(node, "beta", 1.0) == 1:
        if (
            len(node.input) > 2
            and node.input[2]
            and (
                not constant[2]
                or (network.weights[node.input[2]].ndim > 1 and network.weights[node.input[2]].shape[0] > 1)
            )
        ):
            return None
        return Site(index, index, kind, node.input[0], node.output[0], 1, (index, 2))
    if kind == "MatMul":
        if constant[1] and not constant[0] and network.weights[node.input[1]].ndim == 2:
            return Site(index, index, kind, node.input[0], node.output[0], 1, None)
        if constant[0] and not constant[1] and network.weights[node.input[0]].ndim == 2:
            return Site(index, index, "LeftMatMul", node.input[1], node.output[0], 0, None)
    return None


def _is_norm(network: Network, node: NodeProto, result: str) -> bool:
    """Whether the node is a BatchNormalization of the result by constants, none of which makes a channel vanish."""
    if operator_type(node) != "BatchNormalization" or node.input[0] != result or attribute(node, "training_mode", 0):
        return False
    if any(name not in network.weights for name in node.input[1:]) or len([name for name in node.output if name]) != 1:
        return False
    scale, shift = _affine(network, node)
    return bool((np.abs(scale) > _LEAST_SCALE).all() and np.isfinite(scale).all() and np.isfinite(shift).all())


def _affine(network: Network, node: NodeProto) -> tuple[np.ndarray, np.ndarray]:
    """What a BatchNormalization multiplies its channels by, and what it adds then, (channels,)."""
    gamma, beta, mean, variance = (network.weights[name].astype(np.float64) for name in node.input[1:5])
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return scale, beta - mean * scale


def _is_floating(network: Network, name: str) -> bool:
    return network.weights[name].dtype.kind == "f"


def _constant_vector(network: Network, node: NodeProto, result: str) -> int | None:
    """Position of the bias, where the node adds a constant of one number an output (along the last axis)."""
    if operator_type(node) != "Add" or len(node.input) != 2:
        return None
    position = 1 - list(node.input).index(result)
    value = network.weights.get(node.input[position])
    if value is None or value.ndim == 0 or value.size != value.shape[-1] or value.dtype.kind != "f" or value.size < 2:
        return None
    return position


def set_bias(network: Network, nodes: list[NodeProto], site: Site, bias: np.ndarray) -> None:
    """Gives a site its bias (outputs,), as an input that the node may not have had."""
    places = [other.bias for other in site.together if other.bias is not None]
    for index, position in places:
        missing = position + 1 - len(nodes[index].input)
        nodes[index].input.extend([""] * missing)
    index, position = places[0]
    own = network.weights[nodes[site.node].input[site.weight]].dtype
    name = nodes[index].input[position]
    value = site.own_bias(network, bias).astype(own)
    if name and network.weights[name].ndim > 1 and network.weights[name].size == bias.size:
        value = value.reshape(network.weights[name].shape)
    _give(network, nodes, places, value, "bias")


def set_weights(network: Network, nodes: list[NodeProto], site: Site, matrix: np.ndarray) -> None:
    """Gives a site, and those that share them, weights: (groups, outputs, features)."""
    places = [(other.node, other.weight) for other in site.together]
    _give(network, nodes, places, site.weights(network, matrix), "weight")


def _give(network: Network, nodes: list[NodeProto], places: list[Place], value: np.ndarray, what: str) -> None:
    """Sets a constant that is read in these places, under the name that it has where nothing else reads it."""
    index, position = places[0]
    name = nodes[index].input[position]
    if not name or len(readers_of(nodes).get(name, ())) > len(places) or name in network.outputs:
        name = network.fresh(f"{nodes[index].output[0]}_{what}")
        for index, position in places:
            nodes[index].input[position] = name
    network.weights[name] = value


def input_labels(graph: ChannelGraph, site: Site) -> np.ndarray | None:
    """Labels of the features of a site (features,): None where none of them can go."""
    for cut in graph.cuts:
        if cut.node == site.node and cut.position == site.weight and cut.role == "consumer":
            return np.repeat(cut.labels, int(np.prod(site.kernel))) if site.kind == "Conv" else cut.labels
    return None


def output_labels(graph: ChannelGraph, site: Site) -> np.ndarray | None:
    """Labels of the outputs of a site (outputs,): None where all stay."""
    found = graph.channels.get(site.result)
    return None if found is None else found.labels


def _patches(node: NodeProto, data: np.ndarray, kernel: tuple[int, ...], places: np.ndarray | None) -> np.ndarray:
    """The windows (groups, images * places, channels / groups * kernel) that a convolution sees (im2col)."""
    rank = len(kernel)
    strides = list(attribute(node, "strides", [1] * rank))
    dilations = list(attribute(node, "dilations", [1] * rank))
    groups = attribute(node, "group", 1)
    begin, end = explicit_pads(node, data.shape[2:], kernel, strides, dilations)
    padded = np.pad(data, [(0, 0), (0, 0), *zip(begin, end, strict=True)]) if any((*begin, *end)) else data
    counts = positions(padded.shape[2:], kernel, strides, dilations)
    flat = np.arange(int(np.prod(counts))) if places is None else places
    where = np.unravel_index(flat, counts)
    images, channels = data.shape[:2]
    taps = int(np.prod(kernel))
    found = np.empty((groups, images, len(flat), channels // groups, taps), data.dtype)
    for tap in range(taps):
        offset = np.unravel_index(tap, kernel)
        index = tuple(
            w * stride + o * dilation for w, stride, o, dilation in zip(where, strides, offset, dilations, strict=True)
        )
        window = padded[(slice(None), slice(None), *index)]  # (images, channels, places)
        found[..., tap] = window.reshape(images, groups, channels // groups, len(flat)).transpose(1, 0, 3, 2)
    return found.reshape(groups, images * len(flat), -1)


def positions(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Places that a convolution takes along each axis of images of these sizes, borders included."""
    return [
        (size - dilation * (k - 1) - 1) // stride + 1
        for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
    ]


def explicit_pads(
    node: NodeProto, sizes: tuple[int, ...], kernel: tuple[int, ...], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """Borders that a convolution adds to images of these sizes, before and behind, along each axis."""
    rank = len(kernel)
    automatic = attribute(node, "auto_pad", b"NOTSET")
    if automatic in (b"NOTSET", b"VALID"):
        pads = list(attribute(node, "pads", [0] * 2 * rank)) if automatic == b"NOTSET" else [0] * 2 * rank
        return pads[:rank], pads[rank:]
    return same_pads(sizes, kernel, strides, dilations, automatic.decode())
