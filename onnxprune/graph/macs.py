"""Multiply-accumulates of ONNX's operators, by their definitions.

An operator's MACs are given as products, each with the inputs that may hold its weights. Biases, activations, pooling
and normalisation are no products; multiplications by padding are counted, and by masked attention scores too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, prod
from typing import Any, NamedTuple

import onnx
from onnx import NodeProto, helper

Shape = tuple[int, ...]
Shapes = Sequence[Shape | None]


class Product(NamedTuple):
    """MACs, and the positions of the inputs that may be their constant operand, the likeliest first."""

    macs: int
    operands: tuple[int, ...] = ()


class UnknownShapeError(Exception):
    """A shape that the count needs is not known; the message is its position among the inputs or outputs."""


@dataclass(frozen=True)
class Operator:
    """How an operator is counted.

    Attributes:
        products: of a node, from the shapes of its inputs and outputs (None: absent or unknown).
        weights: positions of the inputs that are parameters where they are constant.
        biases: likewise, without MACs.
        zero_points: position of a weight -> position of its zero point.
        channel_axis: of the weight, for zero points that differ by channel.
        note: what the count leaves open.
        unpacked: elements of the first weight, where it is packed in bytes, of which zeros cannot be told.
    """

    products: Callable[["Site"], list[Product]]
    weights: tuple[int, ...] = (1,)
    biases: tuple[int, ...] = ()
    zero_points: tuple[tuple[int, int], ...] = ()
    channel_axis: int = 0
    note: Callable[["Site"], str | None] = lambda site: None
    unpacked: Callable[["Site"], int] | None = None


@dataclass(frozen=True)
class Site:
    """A node with the shapes around it."""

    node: NodeProto
    inputs: Shapes
    outputs: Shapes

    def has(self, position: int) -> bool:
        """Whether the optional input is there."""
        return position < len(self.node.input) and bool(self.node.input[position])

    def input(self, position: int) -> Shape:
        """The shape of an input.

        Raises:
            UnknownShapeError: it is not known.
        """
        shape = self.inputs[position] if position < len(self.inputs) else None
        if shape is None:
            raise UnknownShapeError(self.node.input[position] if self.has(position) else f"input {position}")
        return shape

    def output(self, position: int = 0) -> Shape:
        """The shape of an output.

        Raises:
            UnknownShapeError: it is not known.
        """
        shape = self.outputs[position] if position < len(self.outputs) else None
        if shape is None:
            raise UnknownShapeError(self.node.output[position] if len(self.node.output) > position else "an output")
        return shape

    def attribute(self, name: str, default: Any) -> Any:
        """The value of an attribute."""
        return next((helper.get_attribute_value(a) for a in self.node.attribute if a.name == name), default)


def _conv(weight: int = 1) -> Callable[[Site], list[Product]]:
    # weight (out, in / groups, *kernel)
    return lambda site: [Product(prod(site.output()) * prod(site.input(weight)[1:]), (weight,))]


def _conv_transpose(site: Site) -> list[Product]:
    # weight (in, out / groups, *kernel)
    return [Product(prod(site.input(0)) * prod(site.input(1)[1:]), (1,))]


def _gemm(weight: int = 1) -> Callable[[Site], list[Product]]:
    def products(site: Site) -> list[Product]:
        inner = site.input(0)[0 if site.attribute("transA", 0) else 1]
        return [Product(prod(site.output()) * inner, (weight, 0))]

    return products


def _matmul(weight: int = 1) -> Callable[[Site], list[Product]]:
    def products(site: Site) -> list[Product]:
        inner = site.input(0)[-2 if site.attribute("transA", 0) else -1]
        return [Product(prod(site.output()) * inner, (weight, 0))]

    return products


def _elements_of_few_bits(site: Site) -> int:
    # the weight is packed in blocks, of which the last may be filled up
    return int(site.attribute("K", 0) * site.attribute("N", 0))


def _matmul_of_few_bits(site: Site) -> list[Product]:
    return [Product(prod(site.input(0)[:-1]) * _elements_of_few_bits(site))]


def _recurrent(site: Site) -> list[Product]:
    # X (steps, batch, inputs) or with layout 1 (batch, steps, inputs); W and R hold the gates of all directions
    rows = prod(site.input(0)[:2])
    return [Product(rows * prod(site.input(position)), (position,)) for position in (1, 2)]


def _recurrent_note(site: Site) -> str | None:
    return "counted at full length, sequence_lens may make it less" if site.has(4) else None


def _attention(site: Site) -> list[Product]:
    """ai.onnx Attention: scaled dot products of (batch, heads, length, size) or (batch, length, heads * size)."""
    query, key, value = (site.input(position) for position in range(3))
    past = site.input(4)[2] if site.has(4) else 0
    if len(query) == 4:
        rows, length, widths = prod(query[:3]), key[2], (query[3], value[3])
    else:
        heads, kv_heads = site.attribute("q_num_heads", 1), site.attribute("kv_num_heads", 1)
        rows, length = query[0] * query[1] * heads, key[1]
        widths = query[2] // heads, value[2] // kv_heads
    return [Product(rows * (length + past) * width) for width in widths]


def _fused_attention(past_position: int) -> Callable[[Site], list[Product]]:
    """com.microsoft Attention: projection of (batch, length, inputs) by one weight, then the dot products."""

    def products(site: Site) -> list[Product]:
        batch, length, _ = site.input(0)
        weight = site.input(1)
        sizes = site.attribute("qkv_hidden_sizes", [weight[1] // 3] * 3)
        past = site.input(past_position)[3] if site.has(past_position) else 0
        return [
            Product(batch * length * prod(weight), (1,)),
            Product(batch * length * (length + past) * (sizes[0] + sizes[2])),
        ]

    return products


def _multi_head_attention(site: Site) -> list[Product]:
    """com.microsoft MultiHeadAttention; packed query, packed key, or key and value (batch, heads, length, size) too."""
    query = site.input(0)
    past = site.input(6)[2] if site.has(6) else 0
    if len(query) == 5:  # (batch, length, heads, 3, size)
        length, widths = query[1], (query[2] * query[4],) * 2
    else:
        key = site.input(1)
        if len(key) == 5:  # (batch, length, heads, 2, size)
            length, widths = key[1], (query[2], key[2] * key[4])
        else:
            value = site.input(2)
            length = key[2] if len(key) == 4 else key[1]
            widths = query[2], value[1] * value[3] if len(value) == 4 else value[2]
    return [Product(query[0] * query[1] * (length + past) * width) for width in widths]


def _group_query_attention(site: Site) -> list[Product]:
    query = site.input(0)
    heads, kv_heads = site.attribute("num_heads", 1), site.attribute("kv_num_heads", 1)
    size = query[2] // (heads if site.has(1) else heads + 2 * kv_heads)
    if len(site.outputs) > 1 and site.outputs[1]:
        length = site.output(1)[2]
    else:
        length = query[1] + (site.input(3)[2] if site.has(3) else 0)
    return [Product(query[0] * query[1] * length * 2 * heads * size)]


def _linear_attention(site: Site) -> list[Product]:
    """ai.onnx LinearAttention: the recurrence by its definition, of (batch, length, heads * size)."""
    query, value = site.input(0), site.input(2)
    heads, kv_heads = site.attribute("q_num_heads", 1), site.attribute("kv_num_heads", 1)
    state = (query[2] // heads) * (value[2] // kv_heads)
    delta = site.attribute("update_rule", b"gated_delta").decode().endswith("delta")
    updates = 2 if delta else 1  # key by value, and what the state answers to the key
    return [Product(query[0] * query[1] * (heads + updates * kv_heads) * state)]


def _einsum(site: Site) -> list[Product]:
    if len(site.node.input) == 1:
        return []
    terms = site.attribute("equation", b"").decode().replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for position, term in enumerate(terms):
        shape = site.input(position)
        head, _, tail = term.partition("...")
        names = list(term)
        if "..." in term:
            hidden = len(shape) - len(head) - len(tail)
            names = [*head, *(f"...{index - hidden}" for index in range(hidden)), *tail]
        for name, size in zip(names, shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))  # 1 is broadcast
    pairs = len(terms) - 1
    if pairs != 1:
        return [Product(pairs * prod(sizes.values()))]
    letters = [term.replace(".", "") for term in terms]
    # of a term with an index twice the diagonal alone takes part, whatever zeros are beside it
    return [Product(prod(sizes.values()), tuple(at for at in (1, 0) if len(set(letters[at])) == len(letters[at])))]


def _einsum_note(site: Site) -> str | None:
    if len(site.node.input) > 2:
        return "at most, multiplied term by term over all indices"
    return None


MICROSOFT = "com.microsoft"

OPERATORS: dict[str, Operator] = {
    "Attention": Operator(_attention, weights=()),
    "CausalConvWithState": Operator(_conv(), biases=(2,)),
    "Conv": Operator(_conv(), biases=(2,)),
    "ConvInteger": Operator(_conv(), zero_points=((1, 3),)),
    "ConvTranspose": Operator(_conv_transpose, biases=(2,)),
    "DeformConv": Operator(_conv(), biases=(3,)),
    "Einsum": Operator(_einsum, weights=(0, 1), note=_einsum_note),
    "GRU": Operator(_recurrent, weights=(1, 2), biases=(3,), note=_recurrent_note),
    "Gemm": Operator(_gemm(), weights=(0, 1), biases=(2,)),
    "LSTM": Operator(_recurrent, weights=(1, 2), biases=(3, 7), note=_recurrent_note),
    "LinearAttention": Operator(_linear_attention, weights=()),
    "MatMul": Operator(_matmul(), weights=(0, 1)),
    "MatMulInteger": Operator(_matmul(), weights=(0, 1), zero_points=((1, 3),), channel_axis=-1),
    "QLinearConv": Operator(_conv(3), weights=(3,), biases=(8,), zero_points=((3, 5),)),
    "QLinearMatMul": Operator(_matmul(3), weights=(0, 3), zero_points=((3, 5),), channel_axis=-1),
    "RNN": Operator(_recurrent, weights=(1, 2), biases=(3,), note=_recurrent_note),
}
OPERATORS |= {
    f"{MICROSOFT}.{name}": operator
    for name, operator in {
        "Attention": Operator(_fused_attention(4), biases=(2,)),
        "DynamicQuantizeLSTM": Operator(_recurrent, weights=(1, 2), biases=(3, 7), note=_recurrent_note),
        "DynamicQuantizeMatMul": Operator(_matmul(), biases=(4,), zero_points=((1, 3),), channel_axis=-1),
        "FusedConv": OPERATORS["Conv"],
        "FusedGemm": OPERATORS["Gemm"],
        "FusedMatMul": OPERATORS["MatMul"],
        "GroupQueryAttention": Operator(_group_query_attention, weights=()),
        "MatMulIntegerToFloat": Operator(_matmul(), biases=(6,), zero_points=((1, 5),), channel_axis=-1),
        "MatMulNBits": Operator(_matmul_of_few_bits, unpacked=_elements_of_few_bits),
        "MultiHeadAttention": Operator(_multi_head_attention, weights=(), biases=(3,)),
        "QAttention": Operator(_fused_attention(8), biases=(2,), zero_points=((1, 7),), channel_axis=-1),
        "QGemm": Operator(_gemm(3), weights=(3,), biases=(6,), zero_points=((3, 5),), channel_axis=-1),
        "QLinearConv": OPERATORS["QLinearConv"],
    }.items()
}

ML = "ai.onnx.ml"


def _linear(site: Site) -> list[Product]:
    # the coefficients (outputs, inputs) are an attribute, at least: some files hold more than are read
    features = site.input(0)[-1]
    coefficients = len(site.attribute("coefficients", ()))
    outputs = len(site.attribute("intercepts", ())) or coefficients // features
    return [Product(samples(site) * min(coefficients, outputs * features))]


def _support_vectors(site: Site) -> list[Product]:
    # kernel of each sample with each support vector, then the coefficients
    return [Product(samples(site) * sum(len(site.attribute(name, ())) for name in ("support_vectors", "coefficients")))]


def samples(site: Site) -> int:
    """Of what an operator of ai.onnx.ml reads: a tensor without a batch is one."""
    shape = site.input(0)
    return shape[0] if len(shape) > 1 else 1


OPERATORS |= {
    f"{ML}.{name}": Operator(products, weights=())
    for name, products in {
        "LinearClassifier": _linear,
        "LinearRegressor": _linear,
        "SVMClassifier": _support_vectors,
        "SVMRegressor": _support_vectors,
    }.items()
}

# Operators that came with later versions of ai.onnx have not been looked at.
_LATEST_OPSET = 28

# They multiply within, by an amount that is not counted here.
_UNCOUNTED = {"DFT", "STFT", "SequenceMap"}

# onnxruntime's own operators that are no products.
_NO_PRODUCTS = {
    "BiasAdd", "BiasGelu", "BiasSoftmax", "BiasSplitGelu", "DequantizeLinear", "EmbedLayerNormalization", "ExpandDims",
    "FastGelu", "Gelu", "GroupNorm", "NhwcMaxPool", "QLinearAdd", "QLinearAveragePool", "QLinearConcat",
    "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere",
    "QuantizeLinear", "QuickGelu", "RemovePadding", "RestorePadding", "RotaryEmbedding",
    "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
}  # fmt: skip

_NO_PRODUCTS_THERE = {"SimplifiedLayerNormalization"}  # likewise, which it has in ONNX's domain

# Of scikit-learn and its like: trees compare and add, the others look up and scale.
_NO_PRODUCTS_ML = {
    "ArrayFeatureExtractor", "Binarizer", "CastMap", "CategoryMapper", "DictVectorizer", "FeatureVectorizer", "Imputer",
    "LabelEncoder", "Normalizer", "OneHotEncoder", "Scaler", "TreeEnsemble", "TreeEnsembleClassifier",
    "TreeEnsembleRegressor", "ZipMap",
}  # fmt: skip


def is_uncounted(operator_type: str) -> bool:
    """True for operators that may multiply, and for which there is no definition here."""
    domain, _, name = operator_type.rpartition(".")
    others = {"": _NO_PRODUCTS_THERE, MICROSOFT: _NO_PRODUCTS, ML: _NO_PRODUCTS_ML}.get(domain, ())
    if operator_type in OPERATORS or name in others:
        return False
    return bool(domain) or operator_type in _UNCOUNTED or _first_opset(operator_type) > _LATEST_OPSET


def _first_opset(name: str) -> float:
    """The version of ai.onnx that an operator came with; infinite where none that is installed here has it."""
    return _first_opsets().get(name, inf)


@cache
def _first_opsets() -> dict[str, int]:
    first: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain:
            first[schema.name] = min(schema.since_version, first.get(schema.name, schema.since_version))
    return first
