"""Collects which channels go together while the rules go through a graph, and groups their units at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxprune.graph.channels import (
    ChannelGraph,
    Channels,
    Contraction,
    Cut,
    Frozen,
    Group,
    Labels,
    Product,
    Rewrite,
)
from onnxprune.graph.network import Network, label_of, opset, readers_of
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.sharing import Place, weight_places
from onnxprune.graph.tensors import Shape

if TYPE_CHECKING:
    from onnx import NodeProto

_MEET = "they meet channels that stay"
_SHARE = "its weights are those of another operator, whose channels stay"


@dataclass
class Follower:
    """Collects labels and what they depend on while the rules go through the graph.

    Attributes:
        shapes: of every tensor, in one run; `others` in runs with other free sizes, where there are any.
    """

    network: Network
    shapes: Mapping[str, Shape]
    others: Sequence[Mapping[str, Shape]]
    channels: dict[str, Channels] = field(default_factory=dict)
    cuts: list[Cut] = field(default_factory=list)
    contractions: list[Contraction] = field(default_factory=list)
    rewrites: list[Rewrite] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    count: int = 1
    node: int = -1
    _ties: list[tuple[Labels, Labels]] = field(default_factory=list)
    _frozen: list[tuple[Labels, Frozen]] = field(default_factory=list)
    _made: list[tuple[int, Labels]] = field(default_factory=list)
    _parts: list[tuple[int, Labels]] = field(default_factory=list)
    _made_of_constants: dict[tuple[str, int], list[Labels]] = field(default_factory=dict)

    def new(self, size: int) -> Labels:
        """Labels for as many removable indices."""
        labels = np.arange(self.count, self.count + size)
        self.count += size
        return labels

    def units(self, size: int) -> Labels:
        """Labels for the output units of the present node; a single one has to stay."""
        if size < 2:
            return np.zeros(size, np.int64)
        labels = self.new(size)
        self._made.append((self.node, labels))
        return labels

    def of(self, name: str, axis: int) -> Labels:
        """Labels of a tensor along this axis; those along another axis are frozen."""
        found = self.channels.get(name)
        axis %= len(self.shapes[name])
        if found is None:
            return np.zeros(self.shapes[name][axis], np.int64)
        if found.axis != axis:
            self.freeze(found.labels, "its channels are on an axis that the operator mixes")
            return np.zeros(self.shapes[name][axis], np.int64)
        return found.labels

    def set(self, name: str, axis: int, labels: Labels) -> None:
        """Gives a tensor its labels."""
        if not name or not labels.any():
            return
        if len(labels) < 2:
            self.freeze(labels, "a single channel is taken out of them")
            return
        self.channels[name] = Channels(axis % len(self.shapes[name]), labels)

    def set_part(self, name: str, axis: int, labels: Labels) -> None:
        """Gives a tensor some of the labels of another; they cannot all go."""
        self._parts.append((self.node, labels))
        self.set(name, axis, labels)

    def tie(self, first: Labels, second: Labels, reason: str = _MEET) -> None:
        """Pairs of labels that must go together; with one that stays, the other stays, for the reason."""
        fixed = (first == 0) != (second == 0)
        if fixed.any():
            self.freeze(np.maximum(first, second)[fixed], reason)
        both = (first != second) & ~fixed
        if both.any():
            self._ties.append((first[both], second[both]))

    def tie_rows(self, labels: np.ndarray) -> Labels:
        """Ties the rows of labels (rows, columns) to each other, column by column, and gives one row (columns,)."""
        for row in labels[1:]:
            self.tie(labels[0], row)
        stays = (labels == 0).any(0)
        return np.where(stays, 0, labels.max(0))

    def freeze(self, labels: Labels, reason: str) -> None:
        """These channels stay, because of the present node."""
        labels = labels[labels > 0]
        if len(labels):
            where = label_of(self._nodes[self.node]) if self.node >= 0 else ""
            self._frozen.append((labels, Frozen(reason, where)))

    def freeze_all(self, names: Iterable[str], reason: str) -> None:
        """The channels of these tensors stay."""
        for name in names:
            if name in self.channels:
                self.freeze(self.channels[name].labels, reason)

    def is_constant(self, name: str) -> bool:
        """Whether it is a weight of the network."""
        return name in self.network.weights

    def constant(self, name: str) -> np.ndarray | None:
        """Its value, where it is a weight of the network."""
        return self.network.weights.get(name)

    def sizes(self, name: str) -> list[int | None]:
        """The elements of a vector of integers; None for those that are computed."""
        constant = self.constant(name)
        if constant is not None:
            return [int(size) for size in constant]
        maker = self._nodes[self._makers[name]] if name in self._makers else None
        if maker is not None and operator_type(maker) == "Concat" and len(self.readers(name)) == 1:
            return [size for part in maker.input for size in self.sizes(part)]
        return [None] * self.shapes[name][0]

    def resize(self, position: int, element: int, labels: Labels) -> None:
        """An element of `sizes` of an input of the present node, which is a constant, becomes the number of labels."""
        node, places = self.node, self._nodes[self.node].input
        while not self.is_constant(places[position]):
            node = self._makers[places[position]]
            places, position = self._nodes[node].input, 0
            while element >= self.shapes[places[position]][0]:
                element -= self.shapes[places[position]][0]
                position += 1
        if labels.any():
            self.rewrites.append(Rewrite(node, "sizes", position, (labels,), element))

    def is_cuttable(self, name: str, axis: int) -> bool:
        """Whether it is a constant, or one that a node expands or slices, so that it can lose indices of this axis."""
        return self.is_constant(name) or self._behind(name, axis) is not None

    def _behind(self, name: str, axis: int) -> tuple[int, int] | None:
        """The node that makes a tensor of a constant, and the axis of this that becomes the given one."""
        maker = self._makers.get(name)
        node = None if maker is None else self._nodes[maker]
        if maker is None or node is None or not self.is_constant(node.input[0]):
            return None
        place = axis - len(self.shapes[name]) + self.network.weights[node.input[0]].ndim
        if operator_type(node) == "Expand":
            sizes = self.sizes(node.input[1])
            own = axis - len(self.shapes[name]) + len(sizes)
            return (maker, place) if own < 0 or sizes[own] is not None else None
        axes = self.constant(node.input[3]) if operator_type(node) == "Slice" and len(node.input) > 3 else None
        return (maker, place) if axes is not None and axis not in axes % len(self.shapes[name]) else None

    def cut(self, position: int, axis: int, labels: Labels, role: str) -> None:
        """A constant input of the present node loses what these labels lose.

        One that is computed freezes them, unless it has channels of its own that they meet one by one.
        """
        names = self._nodes[self.node].input
        name = names[position] if position < len(names) else ""
        if not name:
            return
        if self.is_constant(name):
            if labels.any():
                self.cuts.append(Cut(self.node, position, axis % self.network.weights[name].ndim, labels, role))
        elif role == "along" and name in self.channels:
            self.tie(labels, self.of(name, axis))
        elif role == "along" and self._behind(name, axis % len(self.shapes[name])) is not None:
            self._made_of_constants.setdefault((name, axis % len(self.shapes[name])), []).append(labels)
        else:
            self.freeze(labels, f"its input {name!r} is computed")
            self.freeze_all([name], "a constant is expected in their place")

    def contract(self, position: int, axis: int, labels: Labels) -> None:
        """The present node sums a computed input over this axis."""
        if labels.any():
            self.contractions.append(Contraction(self.node, position, axis, labels))

    def rewrite(self, kind: str, position: int, *labels: Labels, element: int = 0) -> None:
        """Something of the present node depends on these labels."""
        if any(part.any() for part in labels):
            self.rewrites.append(Rewrite(self.node, kind, position, labels, element))

    def product(self, macs: int, *factors: Labels) -> None:
        """MACs of the present node, and the labels they fall with."""
        self.products.append(Product(self.node, macs, tuple(part for part in factors if part.any())))

    def readers(self, name: str) -> list[NodeProto]:
        """The nodes that read a tensor."""
        return [self._nodes[place] for place in self._readers.get(name, ())]

    @property
    def opset(self) -> int:
        """Version of the network's operators."""
        return opset(self.network.model)

    def is_free(self, name: str, axis: int) -> bool:
        """Whether the size of this axis depends on the free sizes of the inputs."""
        return any(other[name][axis] != self.shapes[name][axis] for other in self.others)

    def finish(self) -> ChannelGraph:
        """Works out which labels go together."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        self._cut_behind()
        self._tie_shared()
        first = np.concatenate([pair[0] for pair in self._ties] or [np.zeros(0, np.int64)])
        second = np.concatenate([pair[1] for pair in self._ties] or [np.zeros(0, np.int64)])
        edges = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(self.count, self.count))
        _, component = connected_components(edges, directed=False)
        reasons: dict[int, Frozen] = {}
        for labels, frozen in sorted(self._frozen, key=lambda item: item[1].reason in (_MEET, _SHARE)):
            for found in np.unique(component[labels]).tolist():
                reasons.setdefault(found, frozen)
        return ChannelGraph(
            self.network,
            self.shapes,
            self.channels,
            self.cuts,
            self.contractions,
            self.rewrites,
            self.products,
            self._groups(component, reasons),
            self.count,
        )

    def _cut_behind(self) -> None:
        """Cuts constants that are expanded or sliced, where all that reads the result loses the same."""
        for (name, axis), uses in self._made_of_constants.items():
            behind = self._behind(name, axis)
            assert behind is not None
            self.node, place = behind
            labels = self.tie_rows(np.stack(uses))
            if len(uses) < len(self.readers(name)) or name in self.network.outputs:
                self.freeze(labels, f"{name!r} is also read as a whole")
            node = self._nodes[self.node]
            if place >= 0 and self.network.weights[node.input[0]].shape[place] > 1:
                self.cut(0, place, labels, "along")
            if operator_type(node) == "Expand":
                sizes = self.sizes(node.input[1])
                own = axis - len(self.shapes[name]) + len(sizes)
                if own >= 0 and sizes[own] != 1:
                    self.resize(1, own, labels)

    def _tie_shared(self) -> None:
        """Ties what the uses of one matrix make, and what they read: cut alike, it stays one."""
        cuts = {(cut.node, cut.position, cut.axis): cut.labels for cut in self.cuts}
        for name, places in self._shared().items():
            for axis, size in enumerate(self.network.weights[name].shape):
                stays = np.zeros(size, np.int64)
                first, *others = [cuts.get((*place, axis), stays) for place in places]
                for (self.node, _), labels in zip(places[1:], others, strict=True):
                    self.tie(first, labels, _SHARE)
        self.node = -1

    def _shared(self) -> dict[str, list[Place]]:
        """Matrices and tables that are read in more than one place, transposed in one of them as it may be -> where."""
        names = set(weight_places(self.network))
        for cut in self.cuts:
            name = self._nodes[cut.node].input[cut.position]
            if cut.role != "along" and self.network.weights[name].ndim > 1:
                names.add(name)
        places: dict[str, list[Place]] = {}
        for index, node in enumerate(self._nodes):
            for position, name in enumerate(node.input):
                if name in names:
                    places.setdefault(name, []).append((index, position))
        return {name: found for name, found in places.items() if len(found) > 1}

    def _groups(self, component: np.ndarray, reasons: Mapping[int, Frozen]) -> tuple[Group, ...]:
        makers: dict[int, list[int]] = {}
        for node, labels in self._made:
            for found in np.unique(component[labels]).tolist():
                makers.setdefault(found, []).append(node)
        order = np.argsort(component, kind="stable")
        bounds = np.searchsorted(component[order], np.arange(component.max() + 2))
        families: dict[tuple[tuple[int, ...], Frozen | None], list[int]] = {}
        for found, nodes in sorted(makers.items(), key=lambda item: (item[1], item[0])):
            families.setdefault((tuple(dict.fromkeys(nodes)), reasons.get(found)), []).append(found)
        width = self._widths(component)
        groups = []
        for made_by, frozen, members in self._without_empty_parts(families, component):
            units = tuple(order[bounds[found] : bounds[found + 1]] for found in members)
            if frozen is None and len(units) < 2:
                frozen = Frozen("all its channels go together", label_of(self._nodes[made_by[0]]))
            names = tuple(label_of(self._nodes[node]) for node in made_by)
            groups.append(Group(names, units, max(int(width[found]) for found in members), frozen))
        return tuple(groups)

    def _without_empty_parts(
        self, families: Mapping[tuple[tuple[int, ...], Frozen | None], list[int]], component: np.ndarray
    ) -> list[tuple[tuple[int, ...], Frozen | None, list[int]]]:
        """Families such that every part of a tensor holds a whole one, of which a unit is always left, or what stays.

        Where a part does not, a family is divided into what is in the part and what is not; or else a unit stays.
        """
        found = [(nodes, frozen, members) for (nodes, frozen), members in families.items()]
        owner = {member: item for item in found if item[1] is None for member in item[2]}
        for node, labels in self._parts:
            part = set(np.unique(component[labels]).tolist())
            if not part or not part <= owner.keys():
                continue
            counts = Counter(id(owner[member]) for member in part)
            crossing = {id(owner[member]): owner[member] for member in sorted(part)}.values()
            if any(counts[id(item)] == len(item[2]) for item in crossing):
                continue
            nodes, _, members = item = max(
                crossing, key=lambda item: min(counts[id(item)], len(item[2]) - counts[id(item)])
            )
            inside = [member for member in members if member in part]
            outside = [member for member in members if member not in part]
            reason = None
            if min(len(inside), len(outside)) < 2:
                reason = Frozen("one of those that are taken out together stays", label_of(self._nodes[node]))
                inside, outside = inside[:1], [member for member in members if member != inside[0]]
            pieces = [(nodes, reason, inside), (nodes, None, outside)]
            place = next(place for place, other in enumerate(found) if other is item)
            found[place : place + 1] = pieces
            for piece in pieces:
                for member in piece[2]:
                    owner[member] = piece
            if reason is not None:
                del owner[inside[0]]
        return found

    def _widths(self, component: np.ndarray) -> np.ndarray:
        """The most channels of one producer's output that a component takes."""
        most = np.ones(component.max() + 1, np.int64)
        for node, _ in self._made:
            made = self.channels.get(self._nodes[node].output[0])
            if made is not None:
                found, counts = np.unique(component[made.labels[made.labels > 0]], return_counts=True)
                np.maximum.at(most, found, counts)
        return most

    def __post_init__(self) -> None:
        self._nodes = self.network.nodes
        self._makers = {name: index for index, node in enumerate(self._nodes) for name in node.output if name}
        self._readers = readers_of(self._nodes)
