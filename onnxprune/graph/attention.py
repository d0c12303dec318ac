"""Attention that is one operator: ONNX's own, and onnxruntime's MultiHeadAttention.

Softmax of the products of queries and keys, times the values, head by head.
"""

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto

from onnxprune.graph.macs import MICROSOFT
from onnxprune.graph.network import attribute
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.tensors import Shape

ONE_OPERATOR = ("Attention", f"{MICROSOFT}.MultiHeadAttention")
_KEPT = {  # which inputs and which outputs hold keys and values from call to call
    ONE_OPERATOR[0]: (slice(4, 6), slice(1, 3)),
    ONE_OPERATOR[1]: (slice(6, None), slice(1, None)),
}


def heads_of(node: NodeProto, shapes: Mapping[str, Shape]) -> tuple[int, int, int] | None:
    """How many heads lie one behind the other on the last axis of queries, keys and values: 1 where heads have an axis
    of their own. None for other operators, and for those that keep keys and values, or are given them in another form.

    Args:
        shapes: of the tensors around it.
    """
    kind = operator_type(node)
    if kind not in ONE_OPERATOR:
        return None
    inputs, outputs = _KEPT[kind]
    ranks = {len(shapes.get(name, ())) for name in node.input[:3]}
    if len(node.input) < 3 or len(ranks) > 1 or any([*node.input[inputs], *node.output[outputs]]):
        return None
    if kind == ONE_OPERATOR[0]:
        queries, others = attribute(node, "q_num_heads", 1), attribute(node, "kv_num_heads", 1)
        return {3: (queries, others, others), 4: (1, 1, 1)}.get(ranks.pop())
    biased = len(node.input) > 3 and node.input[3]
    return None if biased or ranks != {3} else (attribute(node, "num_heads"),) * 3


def by_head(value: np.ndarray, heads: int) -> np.ndarray:
    """Queries, keys or values as (batch, heads, places, width), where as many heads lie on their last axis."""
    if value.ndim == 4:
        return value
    return np.swapaxes(value.reshape(*value.shape[:2], heads, -1), 1, 2)


def scales_by_width(node: NodeProto) -> bool:
    """Whether it divides by the root of the width of a head, as is the default; else by what an attribute says."""
    given = attribute(node, "scale")
    return given is None or (operator_type(node) != ONE_OPERATOR[0] and given == 0)
