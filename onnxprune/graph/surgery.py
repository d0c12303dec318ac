"""Takes channels out of a network: smaller constants, and everything that depends on their sizes; or masks them."""

from collections import defaultdict

import numpy as np
from onnx import NodeProto, helper

from onnxprune.graph.channels import ChannelGraph, Cut, Rewrite
from onnxprune.graph.network import Network, attribute, opset, reads, set_attribute


def shrink(graph: ChannelGraph, keep: np.ndarray) -> Network:
    """The network without the labels that are not in `keep` (labels,).

    Nodes stay in their order and keep their names. A constant that several nodes lose different parts of becomes
    several.
    """
    network = graph.network.copy()
    nodes = network.nodes
    cuts: dict[tuple[int, int], list[Cut]] = defaultdict(list)
    for cut in graph.cuts:
        if not keep[cut.labels].all():
            cuts[cut.node, cut.position].append(cut)
    own = _Constants(network, nodes)
    for (node, position), parts in cuts.items():
        value = own.value(node, position)
        for part in parts:
            value = np.take(value, np.flatnonzero(keep[part.labels]), part.axis)
        own.replace(node, position, value)
    for rewrite in graph.rewrites:
        if not all(keep[labels].all() for labels in rewrite.labels):
            _REWRITES[rewrite.kind](own, nodes[rewrite.node], rewrite, keep)
    own.restore_names()
    network.replace_nodes(nodes)
    return network


def mask(graph: ChannelGraph, keep: np.ndarray) -> Network:
    """The whole network in which nothing reads the labels that are not in `keep` (labels,).

    What reads them by weights has zeros for them; where two computed tensors are multiplied, one is masked.
    """
    network = graph.network.copy()
    nodes = network.nodes
    own = _Constants(network, nodes)
    for cut in graph.cuts:
        if cut.role == "consumer" and not keep[cut.labels].all():
            value = own.value(cut.node, cut.position)
            own.replace(cut.node, cut.position, value * _along(keep[cut.labels], cut.axis, value.ndim, value.dtype))
    added: dict[int, list[NodeProto]] = defaultdict(list)
    for part in graph.contractions:
        if not keep[part.labels].all():
            node = nodes[part.node]
            rank = len(graph.shapes[node.input[part.position]])
            name = network.fresh(f"{node.output[0]}_mask_{part.position}")
            network.weights[name] = _along(keep[part.labels], part.axis, rank, np.dtype(bool))
            data, zero, masked = node.input[part.position], f"{name}_zero", f"{name}_applied"
            added[part.node] += [  # whatever the type of the tensor
                helper.make_node("Sub", [data, data], [zero], zero),
                helper.make_node("Where", [name, data, zero], [masked], masked),
            ]
            node.input[part.position] = masked
    network.replace_nodes(node for index, item in enumerate(nodes) for node in (*added[index], item))
    return network


def _along(keep: np.ndarray, axis: int, rank: int, dtype: np.dtype) -> np.ndarray:
    shape = [1] * rank
    shape[axis] = len(keep)
    return keep.reshape(shape).astype(dtype)


class _Constants:
    """Gives each use of a constant its own value; those that are equal stay one constant."""

    def __init__(self, network: Network, nodes: list[NodeProto]) -> None:
        self._network, self._nodes = network, nodes
        self._uses: dict[str, int] = defaultdict(int)
        self._values: dict[str, list[str]] = defaultdict(list)  # constant -> those that its uses have been given
        for node in nodes:
            for name in reads(node):
                self._uses[name] += 1
        for name in network.outputs:
            self._uses[name] += 1

    @property
    def opset(self) -> int:
        return opset(self._network.model)

    def value(self, node: int | NodeProto, position: int) -> np.ndarray:
        item = self._nodes[node] if isinstance(node, int) else node
        return self._network.weights[item.input[position]]

    def replace(self, node: int | NodeProto, position: int, value: np.ndarray) -> None:
        item = self._nodes[node] if isinstance(node, int) else node
        name, weights = item.input[position], self._network.weights
        value = np.asarray(value, order="C")  # of no axes still, where it has none
        given = self._values[name]
        same = next((other for other in given if np.array_equal(weights[other], value)), None)
        if same is None and self._uses[name] == 1:
            weights[name] = value
            return
        if same is None:
            same = self._network.fresh(f"{name}_{item.output[0]}_{position}")
            weights[same] = value
            given.append(same)
        self._uses[name] -= 1
        self._uses[same] += 1
        item.input[position] = same

    def restore_names(self) -> None:
        """Gives a constant that no use is left of its name back: to the first that took its place."""
        new = {given[0]: name for name, given in self._values.items() if given and not self._uses[name]}
        for node in self._nodes:
            node.input[:] = [new.get(name, name) for name in node.input]
        for given, name in new.items():
            self._network.weights[name] = self._network.weights.pop(given)

    def add(self, node: NodeProto, value: np.ndarray) -> None:
        """Gives the node one more input."""
        name = self._network.fresh(f"{node.output[0]}_{len(node.input)}")
        self._network.weights[name] = value
        self._uses[name] = 1
        node.input.append(name)


def _count(own: _Constants, node: NodeProto, rewrite: Rewrite, keep: np.ndarray) -> None:
    set_attribute(node, rewrite.kind, int(keep[rewrite.labels[0]].sum()))


def _scale(own: _Constants, node: NodeProto, rewrite: Rewrite, keep: np.ndarray) -> None:
    set_attribute(node, "scale", len(rewrite.labels[0]) ** -0.5)


def _sizes(own: _Constants, node: NodeProto, rewrite: Rewrite, keep: np.ndarray) -> None:
    sizes = own.value(node, rewrite.position).copy()
    sizes[rewrite.element] = int(keep[rewrite.labels[0]].sum())
    own.replace(node, rewrite.position, sizes)


def _split(own: _Constants, node: NodeProto, rewrite: Rewrite, keep: np.ndarray) -> None:
    sizes = [int(keep[labels].sum()) for labels in rewrite.labels]
    if own.opset < 13:
        set_attribute(node, "split", sizes)
    elif len(node.input) > 1 and node.input[1]:
        own.replace(node, 1, np.asarray(sizes, np.int64))
    else:
        kept = [item for item in node.attribute if item.name != "num_outputs"]
        del node.attribute[:]
        node.attribute.extend(kept)
        own.add(node, np.asarray(sizes, np.int64))


def _slice(own: _Constants, node: NodeProto, rewrite: Rewrite, keep: np.ndarray) -> None:
    before, kept, _ = (int(keep[labels].sum()) for labels in rewrite.labels)
    for position, bound in ((1, before), (2, before + kept)):
        if len(node.input) == 1:  # before opset 10
            name = ("starts", "ends")[position - 1]
            bounds = list(attribute(node, name))
            bounds[rewrite.element] = bound
            set_attribute(node, name, bounds)
        else:
            value = own.value(node, position).copy()
            value[rewrite.element] = bound
            own.replace(node, position, value)


def _gather(own: _Constants, node: NodeProto, rewrite: Rewrite, keep: np.ndarray) -> None:
    (labels,) = rewrite.labels
    indices = own.value(node, 1)
    kept = keep[labels]
    places = np.cumsum(kept) - 1
    wanted = indices % len(labels)
    chosen = places[wanted] if indices.ndim == 0 else places[wanted[kept[wanted]]]
    own.replace(node, 1, np.asarray(chosen, indices.dtype))


_REWRITES = {
    "group": _count,
    "hidden_size": _count,
    "num_groups": _count,
    "scale": _scale,
    "sizes": _sizes,
    "split": _split,
    "slice": _slice,
    "gather": _gather,
}
