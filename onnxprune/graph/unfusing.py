"""Nodes into which onnxruntime's optimiser has fused several, as the nodes of ONNX that they stand for.

It writes them into files that it saves, and fuses them again when it opens a file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxprune.common.errors import InputError
from onnxprune.graph.inference import infer_shapes
from onnxprune.graph.inferred import Inferred
from onnxprune.graph.macs import MICROSOFT
from onnxprune.graph.nodes import label, operator_type, used_names

_FIRST_CLIP_OF_INPUTS = 11  # the opset from which its limits are inputs
_LIMITS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}  # activation_params
_OF_GEMMS = ("alpha", "beta", "gamma")

_Step = tuple[str, list[str], dict[str, Any]]  # an operator, its inputs but the first, and its attributes


def unfuse(path: Path, model: ModelProto) -> None:
    """Puts Conv, Gemm or MatMul and what follows in place of FusedConv, FusedGemm and FusedMatMul of the main graph.

    The products keep the names of the nodes. A product of transposed tensors whose rank is not known stays.
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
        self._ranks = {name: len(shape) for name, shape in inferred.shapes.items()}

    def add(self, node: NodeProto) -> None:
        """The node, or those that it stands for."""
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        kind = _FUSED.get(operator_type(node))
        if kind == "MatMul":
            self._matmul(node, given)
        elif kind is not None:
            self._activated(node, kind, given)
        else:
            self.nodes.append(node)

    def _activated(self, node: NodeProto, kind: str, given: Mapping[str, Any]) -> None:
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

    def _matmul(self, node: NodeProto, given: Mapping[str, Any]) -> None:
        turned = [bool(given.get(name, 0)) for name in ("transA", "transB")]
        ranks = [self._ranks.get(name, 0) for name in node.input]
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


_FUSED = {f"{MICROSOFT}.Fused{kind}": kind for kind in ("Conv", "Gemm", "MatMul")}
