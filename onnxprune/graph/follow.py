"""Follows the channels of a network from node to node."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from onnx import NodeProto

from onnxprune.graph.channels import ChannelGraph
from onnxprune.graph.counting import macs_within
from onnxprune.graph.counts import NodeCount
from onnxprune.graph.follower import Follower
from onnxprune.graph.macs import OPERATORS, UnknownShapeError
from onnxprune.graph.network import Network, reads
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.rules import RULES
from onnxprune.graph.rules.table import product_macs
from onnxprune.graph.tensors import Shape


def follow(
    network: Network,
    shapes: Mapping[str, Shape],
    others: Sequence[Mapping[str, Shape]] = (),
    counts: Sequence[NodeCount] = (),
) -> ChannelGraph:
    """Follows the channels of a folded network.

    Args:
        shapes: of every tensor in one run.
        others: likewise, at other free sizes, where there are any.
        counts: of its file at the same sizes, where it has subgraphs: what they multiply stays as it is.
    """
    follower = Follower(network, shapes, others)
    for index, node in enumerate(network.nodes):
        follower.node = index
        kind = operator_type(node)
        rule = RULES.get(kind)
        known = all(name in shapes for name in [*reads(node), *node.output] if name)
        if rule is not None and known and not any(item.HasField("g") for item in node.attribute):
            if not rule.several:
                follower.freeze_all(node.input[1:], f"{kind} takes them as its parameters")
            rule.follow(follower, node)
        else:
            _unknown(follower, node)
        if kind in OPERATORS and not (follower.products and follower.products[-1].node == index):
            with suppress(UnknownShapeError):  # what stays as it is costs what it did
                follower.product(sum(product_macs(follower, node)))
        if within := macs_within(node, counts):
            follower.product(within)
    follower.node = -1
    for name in network.outputs:
        follower.freeze_all([name], f"they are the model's output {name!r}")
    return follower.finish()


def _unknown(follower: Follower, node: NodeProto) -> None:
    follower.freeze_all(reads(node), f"{operator_type(node)} is not supported")
