"""Shapes of what operators give of which onnx's inference knows nothing: onnxruntime's own, some of ai.onnx.ml, and one
of ONNX's."""

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, TensorProto

from onnxprune.graph.macs import MICROSOFT, ML, Site, UnknownShapeError, samples
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.tensors import Shape


def onnx_equivalent(node: NodeProto) -> NodeProto:
    """A node of ONNX's own that gives a tensor of the same shape, or the node itself where there is none; see
    `has_channels_last`."""
    name, inputs = _EQUIVALENT.get(operator_type(node), ("", ()))
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if not name:
        return node
    plain = NodeProto(op_type=name, name=node.name, output=node.output[:1])
    plain.input.extend(node.input[position] for position in inputs if position < len(node.input))
    plain.attribute.extend(
        attribute
        for key, attribute in attributes.items()
        if not key.startswith("activation") and key != "channels_last"
    )
    return plain


def has_channels_last(node: NodeProto) -> bool:
    """Whether what it takes first and what it gives are (N, places, C), where ONNX's own has (N, C, places)."""
    return operator_type(node) in _EQUIVALENT and (
        node.op_type.startswith("Nhwc") or any(item.name == "channels_last" and item.i for item in node.attribute)
    )


def has_rule(node: NodeProto) -> bool:
    """Whether `output_shapes` knows the operator."""
    return operator_type(node) in _RULES


def output_shapes(site: Site) -> list[Shape]:
    """Of the node's first outputs; none where that is not known."""
    rule = _RULES.get(operator_type(site.node))
    try:
        return rule(site) if rule is not None else []
    except (UnknownShapeError, ValueError, IndexError, ZeroDivisionError):
        return []


def typed_by(node: NodeProto) -> int:
    """The position of the input whose type its outputs have, where no other is known."""
    return 1 if node.op_type in ("QLinearConcat", "QLinearWhere") else 0


def output_types(node: NodeProto, first: int) -> list[int]:
    """Element types of its outputs, where that of its input `typed_by` is `first`."""
    if operator_type(node) == f"{ML}.TreeEnsembleClassifier":
        texts = any(attribute.name == "classlabels_strings" for attribute in node.attribute)
        return [TensorProto.STRING if texts else TensorProto.INT64, TensorProto.FLOAT]
    if operator_type(node) == f"{MICROSOFT}.EmbedLayerNormalization":
        return [TensorProto.FLOAT, TensorProto.INT32, TensorProto.FLOAT]
    if node.op_type == "QGemm" and len(node.input) < _SCALED_QGEMM:
        return [TensorProto.FLOAT]
    return [TensorProto.FLOAT if node.op_type in _FLOATS else first] * len(node.output)


def _same(site: Site) -> list[Shape]:
    return [site.input(0)]


def _broadcast(*positions: int) -> Callable[[Site], list[Shape]]:
    return lambda site: [np.broadcast_shapes(*(site.input(position) for position in positions))]


def _matmul(site: Site) -> list[Shape]:
    first, second = (
        (*shape[:-2], shape[-1], shape[-2]) if site.attribute(name, 0) else shape
        for shape, name in ((site.input(0), "transA"), (site.input(1), "transB"))
    )
    return [(*np.broadcast_shapes(first[:-2], second[:-2]), first[-2], second[-1])]


def _matmul_of_few_bits(site: Site) -> list[Shape]:
    return [(*site.input(0)[:-1], site.attribute("N", 0))]


def _attention(site: Site) -> list[Shape]:
    batch, length, _ = site.input(0)
    width = site.input(1)[1] // 3
    return [(batch, length, site.attribute("qkv_hidden_sizes", [width] * 3)[2])]


def _multi_head_attention(site: Site) -> list[Shape]:
    query = site.input(0)
    if len(query) == 5:  # packed: (batch, length, heads, 3, size)
        return [(query[0], query[1], query[2] * query[4])]
    value = site.input(2) if site.has(2) else query
    return [(query[0], query[1], value[1] * value[3] if len(value) == 4 else value[2])]


def _group_query_attention(site: Site) -> list[Shape]:
    batch, length, width = site.input(0)
    heads, kv_heads = site.attribute("num_heads", 1), site.attribute("kv_num_heads", 1)
    size = width // (heads if site.has(1) else heads + 2 * kv_heads)
    total = length + (site.input(3)[2] if site.has(3) else 0)
    return [(batch, length, heads * size), *[(batch, kv_heads, total, size)] * 2]


def _normalised(site: Site) -> list[Shape]:
    """With the means and deviations of what is looked across, and the sum that some normalise."""
    shape = site.input(0)
    axis = site.attribute("axis", -1) % len(shape)
    statistics = (*shape[:axis], *(1 for _ in shape[axis:]))
    return [shape, statistics, statistics, shape]


def _lstm(site: Site) -> list[Shape]:
    steps, batch, _ = site.input(0)
    directions, size = site.input(1)[0], site.attribute("hidden_size", 0)
    return [(steps, directions, batch, size), *[(directions, batch, size)] * 2]


def _embedding(site: Site) -> list[Shape]:
    embedded = (*site.input(0), site.input(2)[1])
    return [embedded, embedded[:1], embedded]


def _concat(site: Site) -> list[Shape]:
    shapes = [site.input(position) for position in range(2, len(site.node.input), 3)]
    axis = site.attribute("axis", 0) % len(shapes[0])
    return [(*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])]


def _rows(targets: Callable[[Site], int]) -> Callable[[Site], list[Shape]]:
    """Of operators that give a row for each sample; one without a batch is one."""
    return lambda site: [(samples(site), targets(site))]


def _classes(site: Site) -> list[Shape]:
    labels = (site.attribute(name, ()) for name in ("classlabels_strings", "classlabels_int64s"))
    return [(samples(site),), (samples(site), max(map(len, labels)))]


_EQUIVALENT = {  # operator -> ONNX's own, and the positions of its inputs
    f"{MICROSOFT}.{name}": equivalent
    for name, equivalent in {
        "DequantizeLinear": ("DequantizeLinear", (0, 1, 2)),
        "FusedConv": ("Conv", (0, 1)),
        "FusedGemm": ("Gemm", (0, 1)),
        "NhwcMaxPool": ("MaxPool", (0,)),
        "QGemm": ("Gemm", (0, 3)),
        "QLinearAveragePool": ("AveragePool", (0,)),
        "QLinearConv": ("QLinearConv", (0, 1, 2, 3, 4, 5, 6, 7)),
        "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
        "QuantizeLinear": ("QuantizeLinear", (0, 1, 2)),
    }.items()
}

OF_FLOATS = {"AveragePool", "Gemm", "GlobalAveragePool"}  # ONNX's own that stand for ones in 8 bits, and take none

_SAME = (
    "BiasAdd", "BiasGelu", "BiasSoftmax", "FastGelu", "Gelu", "GroupNorm", "QLinearLeakyRelu",
    "QLinearSigmoid", "QLinearSoftmax", "QuickGelu", "RotaryEmbedding",
)  # fmt: skip

_NORMALISING = ("SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")

_RULES: dict[str, Callable[[Site], list[Shape]]] = {
    f"{MICROSOFT}.{name}": rule
    for name, rule in {
        **dict.fromkeys(_SAME, _same),
        **dict.fromkeys(_NORMALISING, _normalised),
        "Attention": _attention,
        "DynamicQuantizeLSTM": _lstm,
        "DynamicQuantizeMatMul": _matmul,
        "EmbedLayerNormalization": _embedding,
        "FusedMatMul": _matmul,
        "GroupQueryAttention": _group_query_attention,
        "MatMulIntegerToFloat": _matmul,
        "MatMulNBits": _matmul_of_few_bits,
        "MultiHeadAttention": _multi_head_attention,
        "QAttention": _attention,
        "QLinearAdd": _broadcast(0, 3),
        "QLinearConcat": _concat,
        "QLinearMul": _broadcast(0, 3),
        "QLinearWhere": _broadcast(0, 1, 4),
    }.items()
}
_RULES["GroupNormalization"] = _same  # onnx has it as a function that depends on its context
# onnxruntime has them in ONNX's domain too, at versions without them
_RULES |= dict.fromkeys(("LayerNormalization", "SimplifiedLayerNormalization"), _normalised)
_RULES |= {
    f"{ML}.{name}": rule
    for name, rule in {
        **dict.fromkeys(("Imputer", "Normalizer", "Scaler"), _same),
        "FeatureVectorizer": _rows(lambda site: sum(site.attribute("inputdimensions", ()))),
        "LinearRegressor": _rows(lambda site: site.attribute("targets", 1)),
        "SVMRegressor": _rows(lambda site: 1),
        "TreeEnsembleClassifier": _classes,
        "TreeEnsembleRegressor": _rows(lambda site: site.attribute("n_targets", 1)),
    }.items()
}

_SCALED_QGEMM = 8  # inputs, where there is a scale of what it gives

_FLOATS = {
    "DynamicQuantizeMatMul", "FeatureVectorizer", "LinearRegressor",
    "MatMulIntegerToFloat", "Normalizer", "QAttention", "SVMRegressor", "Scaler", "TreeEnsembleRegressor",
}  # fmt: skip
