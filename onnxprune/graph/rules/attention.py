"""Attention as one operator: all heads lose the same channels."""

import numpy as np
from onnx import NodeProto

from onnxprune.graph.attention import ONE_OPERATOR, heads_of, scales_by_width
from onnxprune.graph.follower import Follower
from onnxprune.graph.rules.table import Table, product_macs

RULES = Table()


@RULES.of(*ONE_OPERATOR, several=True)
def _attention(follower: Follower, node: NodeProto) -> None:
    heads = heads_of(node, follower.shapes)
    if heads is None:
        follower.freeze_all(node.input, "attention that keeps its keys and values")
        return
    follower.freeze_all(node.input[3:], "they are what attention looks at")
    query, key, value = (
        follower.tie_rows(follower.of(name, -1).reshape(count, -1))
        for name, count in zip(node.input, heads, strict=False)
    )
    follower.tie(query, key)
    summed = np.where((query == 0) | (key == 0), 0, query)
    for position in (0, 1):
        rank = len(follower.shapes[node.input[position]])
        follower.contract(position, rank - 1, np.tile(summed, heads[position]))
    scores, results = product_macs(follower, node)
    follower.product(scores, summed)
    follower.product(results, value)
    if scales_by_width(node):
        follower.rewrite("scale", 0, summed)
    follower.set(node.output[0], -1, np.tile(value, heads[0]))
