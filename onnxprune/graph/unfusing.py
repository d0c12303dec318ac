"""Nodes into which onnxruntime's optimiser has fused several, as the nodes that they stand for.

It writes them into files that it saves, and fuses them again when it opens a file; all but Attention, which computes no
faster than MultiHeadAttention behind products with its weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.common.errors import InputError
from onnxprune.graph.inference import infer_shapes
from onnxprune.graph.inferred import Inferred
from onnxprune.graph.macs import MICROSOFT
from onnxprune.graph.nodes import label, operator_type, used_names
from onnxprune.graph.tensors import constants, values

_FIRST_CLIP_OF_INPUTS = 11  # the opset from which its limits are inputs
_LIMITS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}  # activation_params
_OF_GEMMS = ("alpha", "beta", "gamma")
_HEADS = ("num_heads", "scale", "mask_filter_value", "unidirectional")  # what MultiHeadAttention has of Attention
_READ = ("query", "key", "value")

_Step = tuple[str, list[str], dict[str, Any]]  # an operator, its inputs but the first, and its attributes


def unfuse(path: Path, model: ModelProto) -> None:
    """Puts Conv, Gemm or MatMul and what follows in place of FusedConv, FusedGemm and FusedMatMul of the main graph.

    MultiHeadAttention behind MatMul and Add takes the place of Attention, and of MultiHeadAttention with a bias.

    The products and the attention keep the names of the nodes. What needs a shape that is not known stays, and
    attention that keeps its keys and values.
    """
    graph = model.graph
    if not any(operator_type(node) in _FUSED for node in graph.node):
        return
    unfused = _Unfused(path, model)
    for node in graph.node:
        unfused.add(node)
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in unfused.nodes]
    del graph.node[:]
    graph.node.extend(nodes)


class _Unfused:
    """The nodes of a graph, one after the other."""

    def __init__(self, path: Path, model: ModelProto) -> None:
        graph = self._graph = model.graph
        self._opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
        self.nodes: list[NodeProto] = []
        self._taken = used_names(graph) | {name for node in graph.node for name in node.output}
        inferred = _inferred(path, model)
        self._types = inferred.types
        self._shapes = inferred.shapes
        self._path = path
        self._constants = {tensor.name: tensor for tensor in constants(graph)}
        self._parts: dict[tuple[str, tuple[int, ...]], list[str]] = {}

    def add(self, node: NodeProto) -> None:
        """The node, or those that it stands for."""
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        kind = operator_type(node)
        if kind in _FUSED:
            _FUSED[kind](self, node, given)
        else:
            self.nodes.append(node)

    def activated(self, node: NodeProto, given: Mapping[str, Any]) -> None:
        kind = node.op_type.removeprefix("Fused")
        own = {name: value for name, value in given.items() if not name.startswith("activation")}
        steps: list[_Step] = []
        if kind == "Conv" and len(node.input) > 3 and node.input[3]:
            steps.append(("Add", [node.input[3]], {}))
        activation = given.get("activation", b"").decode()
        if kind == "Conv":
            numbers = dict(zip(_LIMITS.get(activation, ()), given.get("activation_params", ()), strict=False))
        else:
            numbers = {name: given[f"activation_{name}"] for name in _OF_GEMMS if f"activation_{name}" in given}
        if activation == "Clip" and self._opset >= _FIRST_CLIP_OF_INPUTS:
            steps.append((activation, [self._constant(node, numbers[name]) for name in ("min", "max")], {}))
        elif activation:
            steps.append((activation, [], numbers))
        self._chain(node, kind, list(node.input[:3]), own, steps)

    def matmul(self, node: NodeProto, given: Mapping[str, Any]) -> None:
        turned = [bool(given.get(name, 0)) for name in ("transA", "transB")]
        ranks = [len(self._shapes.get(name, ())) for name in node.input]
        stacked = given.get("transBatchA", 0) or given.get("transBatchB", 0)
        if stacked or any(turns and rank < 2 for turns, rank in zip(turned, ranks, strict=True)):
            self.nodes.append(node)
            return
        inputs = list(node.input)
        for position, name in enumerate(node.input):
            if turned[position]:
                inputs[position] = self._fresh(f"{name}_transposed")
                order = [*range(ranks[position] - 2), ranks[position] - 1, ranks[position] - 2]
                self.nodes.append(
                    helper.make_node("Transpose", [name], [inputs[position]], inputs[position], perm=order)
                )
        alpha = given.get("alpha", 1.0)
        steps: list[_Step] = [("Mul", [self._constant(node, alpha)], {})] if alpha != 1 else []
        self._chain(node, "MatMul", inputs, {}, steps)

    def attention(self, node: NodeProto, given: Mapping[str, Any]) -> None:
        data, weight, bias, mask, past, added, *more = [*node.input, *[""] * 5][: max(6, len(node.input))]
        held = self._constants.get(weight)
        width = 0 if held is None or len(held.dims) != 2 else held.dims[1]
        sizes = tuple(given.get("qkv_hidden_sizes", [width // 3] * 3))
        keeps = any([past, *more, *node.output[1:]]) or given.get("do_rotary", 0)
        # without a bias onnxruntime does not run it
        if keeps or not width or sum(sizes) != width or bias not in self._constants or not self._is_mask(mask, data):
            self.nodes.append(node)
            return
        products = []
        for role, part in zip(_READ, self._split(weight, sizes), strict=True):
            products.append(self._fresh(f"{node.output[0]}_{role}"))
            self.nodes.append(helper.make_node("MatMul", [data, part], products[-1:], f"{label(node)}_{role}"))
        sums = self._biased(node, products, bias, sizes)
        self._heads(node, [*sums, "", mask, added], {name: given[name] for name in _HEADS if name in given})

    def multi_head_attention(self, node: NodeProto, given: Mapping[str, Any]) -> None:
        query, key, value, bias, *others = [*node.input, *[""] * 3][: max(4, len(node.input))]
        shapes = [self._shapes.get(name, ()) for name in (query, key, value)]
        if bias in self._constants and all(len(shape) == 3 for shape in shapes):
            sizes = tuple(int(shape[-1]) for shape in shapes)
            if sum(sizes) == np.prod(self._constants[bias].dims):
                self._heads(node, [*self._biased(node, [query, key, value], bias, sizes), "", *others], given)
                return
        self.nodes.append(node)

    def _heads(self, node: NodeProto, inputs: Sequence[str], own: Mapping[str, Any]) -> None:
        """MultiHeadAttention in the node's place."""
        given = len(inputs) - next(place for place, name in enumerate(reversed(inputs)) if name)
        made = helper.make_node("MultiHeadAttention", inputs[:given], node.output, label(node), domain=MICROSOFT, **own)
        self.nodes.append(made)

    def _biased(self, node: NodeProto, products: Sequence[str], bias: str, sizes: tuple[int, ...]) -> list[str]:
        """Queries, keys and values with their parts of a bias added."""
        sums = [self._fresh(f"{name}_biased") for name in products]
        for role, *names in zip(_READ, products, self._split(bias, sizes), sums, strict=True):
            self.nodes.append(helper.make_node("Add", names[:2], names[2:], f"{label(node)}_{role}_bias"))
        return sums

    def _is_mask(self, name: str, data: str) -> bool:
        """Whether MultiHeadAttention takes the mask of Attention: which keys count, or how many of each sample."""
        shape = self._shapes.get(name, ())
        return not name or len(shape) in (2, 3) or shape == self._shapes.get(data, ())[:1] != ()

    def _split(self, name: str, sizes: tuple[int, ...]) -> list[str]:
        """The parts of a constant's last axis; of several nodes that read it they are the same."""
        if (name, sizes) not in self._parts:
            whole = values(self._path, self._constants[name])
            parts = np.split(whole, np.cumsum(sizes)[:-1], axis=-1)
            names = [self._fresh(f"{name}_{role}") for role in _READ]
            self._graph.initializer.extend(map(numpy_helper.from_array, map(np.ascontiguousarray, parts), names))
            self._parts[name, sizes] = names
        return self._parts[name, sizes]

    def _chain(
        self,
        node: NodeProto,
        kind: str,
        inputs: Sequence[str],
        own: Mapping[str, Any],
        steps: Sequence[_Step],
    ) -> None:
        """The product, and the steps behind it, each by what the one before it gives and other inputs."""
        made = [helper.make_node(kind, inputs, [node.output[0]], label(node), **own)]
        for step, others, numbers in steps:
            made[-1].output[0] = self._fresh(f"{node.output[0]}_{made[-1].op_type}")
            name = f"{label(node)}_{step}"
            made.append(helper.make_node(step, [made[-1].output[0], *others], [node.output[0]], name, **numbers))
        self.nodes += made

    def _constant(self, node: NodeProto, number: float) -> str:
        """A number of the type of the node's inputs."""
        name = self._fresh(f"{node.output[0]}_number")
        kind = next((self._types[name] for name in node.input if self._types.get(name)), TensorProto.FLOAT)
        self._graph.initializer.append(helper.make_tensor(name, kind, [], [number]))
        return name

    def _fresh(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _inferred(path: Path, model: ModelProto) -> Inferred:
    """At sizes of two where the file leaves them open: ranks and types are the same at all."""
    given = {tensor.name for tensor in model.graph.initializer}
    shapes = {
        value.name: tuple(dim.dim_value if dim.dim_value > 0 else 2 for dim in value.type.tensor_type.shape.dim)
        for value in model.graph.input
        if value.name not in given and value.type.tensor_type.HasField("shape")
    }
    try:
        return infer_shapes(path, model, shapes)
    except InputError:
        return Inferred()


_FUSED = {
    f"{MICROSOFT}.Attention": _Unfused.attention,
    f"{MICROSOFT}.FusedConv": _Unfused.activated,
    f"{MICROSOFT}.FusedGemm": _Unfused.activated,
    f"{MICROSOFT}.FusedMatMul": _Unfused.matmul,
    f"{MICROSOFT}.MultiHeadAttention": _Unfused.multi_head_attention,
}
