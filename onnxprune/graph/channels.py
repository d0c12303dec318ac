"""Which channels of a network can go, and which must go together.

Every removable output unit of an operator with weights gets a label. The labels are handed on from tensor to tensor as
the operators hand on their channels (`onnxprune.graph.rules`), so that residual sums, concatenations, splits,
flattening, gates and grouped convolutions need no patterns. Where channels meet, their labels are tied; where an
operator looks across them or is not understood, they are frozen, with the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.graph.network import Network
from onnxprune.graph.tensors import Shape

Labels = np.ndarray  # (size of an axis,), int64; 0: this index stays


@dataclass(frozen=True)
class Channels:
    """The labels along the one axis of a tensor whose indices can be removed."""

    axis: int
    labels: Labels


@dataclass(frozen=True)
class Cut:
    """A constant that loses indices.

    Attributes:
        node, position: which input it is.
        axis, labels: of the constant; a constant may be cut along several axes.
        role: "producer" (rows that make the units), "consumer" (columns that read them), "along" (biases, scales and
            the like, element by element).
    """

    node: int
    position: int
    axis: int
    labels: Labels
    role: str


@dataclass(frozen=True)
class Contraction:
    """A sum over channels of two computed tensors, as in attention; what it reads can only be masked at its input."""

    node: int
    position: int
    axis: int
    labels: Labels


@dataclass(frozen=True)
class Rewrite:
    """Something of a node that depends on how many channels are left.

    Attributes:
        kind: "group", "num_groups" or "hidden_size" (attributes that count labels), "scale" (an attribute that becomes
            what by default it was), "sizes" (an element of a constant that is a size), "split", "slice", "gather".
        position: of the element, for "sizes"; of the input that is the constant.
        labels: of the axis before the node; for "split" and "slice" several arrays: its parts, in order.
    """

    node: int
    kind: str
    position: int
    labels: tuple[Labels, ...]
    element: int = 0


@dataclass(frozen=True)
class Product:
    """MACs of a node that fall with the share of the labels that are kept, by each of the factors.

    Attributes:
        macs: of the whole, for the traced batch.
    """

    node: int
    macs: int
    factors: tuple[Labels, ...]

    def left(self, keep: np.ndarray) -> float:
        """MACs once only the labels in `keep` (labels,) are left."""
        share = 1.0
        for labels in self.factors:
            share *= float(keep[labels].mean())
        return self.macs * share


@dataclass(frozen=True)
class Frozen:
    """Why channels stay: the reason and the node that gives it."""

    reason: str
    node: str


@dataclass(frozen=True)
class Group:
    """Units that are made by the same nodes, so that they can be ranked against each other.

    Attributes:
        producers: names of the nodes that make them.
        units: coupled units, each of which goes as a whole, as arrays of labels.
        width: channels that a unit takes in the widest of its tensors, several where groups or heads are tied.
        frozen: why they stay; None where they can go.
    """

    producers: tuple[str, ...]
    units: tuple[Labels, ...]
    width: int
    frozen: Frozen | None


@dataclass
class ChannelGraph:
    """What is known of a network's channels.

    Attributes:
        shapes: of every tensor, in one run.
        channels: tensor -> its labels.
        groups: of all operators with weights, in the order of the graph.
        count: labels, with the one that stands for what stays.
    """

    network: Network
    shapes: Mapping[str, Shape]
    channels: dict[str, Channels]
    cuts: list[Cut]
    contractions: list[Contraction]
    rewrites: list[Rewrite]
    products: list[Product]
    groups: tuple[Group, ...]
    count: int

    def keep(self, removed: Mapping[int, Sequence[int]]) -> np.ndarray:
        """Mask over labels (count,): False for the units of each group (by its place) that are removed.

        Raises:
            ValueError: units of a frozen group, or all units of one.
        """
        keep = np.ones(self.count, bool)
        for place, units in removed.items():
            group = self.groups[place]
            if len(units) and (group.frozen or len(set(units)) >= len(group.units)):
                raise ValueError(f"cannot remove {len(units)} of {len(group.units)} units of {group.producers}")
            for unit in units:
                keep[group.units[unit]] = False
        keep[0] = True
        return keep

    def macs(self, keep: np.ndarray) -> float:
        """MACs of the products for the traced batch, with these labels kept."""
        return sum(product.left(keep) for product in self.products)
