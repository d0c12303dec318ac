"""The outputs of one node, by onnx's definitions and those of onnxruntime's own operators."""

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from onnxprune.common.errors import InputError, one_line
from onnxprune.graph import contrib
from onnxprune.graph.evaluation import Evaluator
from onnxprune.graph.inferred import Inferred
from onnxprune.graph.macs import Site
from onnxprune.graph.nodes import label, operator_type
from onnxprune.graph.tensors import Shape
from onnxprune.graph.value_types import shape_of

_RECURRENT = {"RNN", "GRU", "LSTM"}


class NodeInference:
    """Infers nodes of a graph one by one, by what is known of their inputs when it is asked."""

    def __init__(
        self,
        path: Path,
        model: ModelProto,
        declared: Mapping[str, TypeProto],
        found: Inferred,
        types: Mapping[str, TypeProto],
        evaluator: Evaluator,
    ) -> None:
        """
        Args:
            declared: what is taken for the outputs of operators that ONNX does not know.
            found, types, evaluator: of the graph; they grow meanwhile.
        """
        self._path, self._model, self._declared = path, model, declared
        self._found, self._types, self._evaluator = found, types, evaluator
        self._opsets = {entry.domain: entry.version for entry in model.opset_import}

    def types(self, node: NodeProto) -> Mapping[str, TypeProto]:
        """What onnx tells of one node's outputs, given the values that its inputs have.

        Raises:
            InputError: its inputs do not fit together.
        """
        given, node = node, contrib.onnx_equivalent(node)
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = self._opsets.get(node.domain, self._opsets.get(domain, 0))
        if node is not given:  # onnxruntime's own take all types of all versions
            version = onnx.defs.onnx_opset_version()
        if contrib.has_rule(node) or not onnx.defs.has(node.op_type, version, domain):
            return self._contrib_types(node) | {
                name: self._declared[name] for name in node.output if name in self._declared
            }
        names = {name for name in node.input if name}
        if not names <= self._types.keys():
            return {}
        values = {name: self._evaluator.value(name) for name in names}
        types = {name: self._types[name] for name in names}
        if contrib.has_channels_last(given):
            types[node.input[0]] = _with_axes(types[node.input[0]], lambda shape: shape[:1] + shape[-1:] + shape[1:-1])
        in_floats = node is not given and node.op_type in contrib.OF_FLOATS
        if in_floats:
            types = {
                name: helper.make_tensor_type_proto(TensorProto.FLOAT, shape_of(kind)) for name, kind in types.items()
            }
        try:
            found = onnx.shape_inference.infer_node_outputs(
                onnx.defs.get_schema(node.op_type, version, domain),
                node,
                types,
                {name: numpy_helper.from_array(value, name) for name, value in values.items() if value is not None},
                opset_imports=list(self._model.opset_import),
                ir_version=self._model.ir_version,
            )
        except Exception as error:  # onnx's errors share no base class
            if names <= self._found.shapes.keys():
                raise contradiction(self._path, error) from error
            return {}
        if contrib.has_channels_last(given):
            name = node.output[0]
            found = {name: _with_axes(found[name], lambda shape: shape[:1] + shape[2:] + shape[1:2])}
        if in_floats:
            kinds = contrib.output_types(given, self._types[given.input[0]].tensor_type.elem_type)
            for name, kind in zip(node.output, kinds, strict=False):
                found[name].tensor_type.elem_type = kind
        return found

    def check(self, node: NodeProto) -> None:
        """Of what onnx's inference passes over, what onnxruntime stops at.

        Raises:
            InputError: a Reshape to more or fewer elements, or a recurrent layer whose initial state is of another
                batch than what it reads.
        """
        shapes = self._found.shapes
        if operator_type(node) == "Reshape" and {node.input[0], node.output[0]} <= shapes.keys():
            before, after = shapes[node.input[0]], shapes[node.output[0]]
            if prod(before) != prod(after):
                raise self._misfit(node, f"{list(before)} is not {list(after)}")
        if operator_type(node) in _RECURRENT and node.input[0] in shapes:
            batch = slice(0, 1) if Site(node, [], []).attribute("layout", 0) else slice(1, 2)
            read = shapes[node.input[0]]
            for state in (shapes[name] for name in node.input[5:7] if name in shapes):
                if read[batch] != state[batch]:
                    raise self._misfit(node, f"its input {list(read)} is of another batch than its state {list(state)}")

    def _misfit(self, node: NodeProto, reason: str) -> InputError:
        return contradiction(self._path, ValueError(f"{node.op_type} {label(node)!r}: {reason}"))

    def _contrib_types(self, node: NodeProto) -> dict[str, TypeProto]:
        """Of the outputs of operators that onnx's inference does not know."""
        first = next((self._found.types.get(name) for name in node.input[contrib.typed_by(node) :]), None)
        if first is None:
            return {}
        site = Site(node, [self._found.shapes.get(name) for name in node.input], [])
        found = zip(node.output, contrib.output_types(node, first), contrib.output_shapes(site), strict=False)
        return {name: helper.make_tensor_type_proto(kind, shape) for name, kind, shape in found if name}


def _with_axes(kind: TypeProto, moved: Callable[[Shape], Shape]) -> TypeProto:
    """A tensor's type with its axes in another order, where its shape is known."""
    shape = shape_of(kind)
    return helper.make_tensor_type_proto(kind.tensor_type.elem_type, None if shape is None else moved(shape))


def declared_types(graph: GraphProto, inputs: Mapping[str, Shape]) -> dict[str, TypeProto]:
    """What the file declares of its other tensors, where that is a shape once the names of dims stand for sizes."""
    sizes: dict[str, int] = {}
    for value in graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, inputs.get(value.name, ()), strict=False):
            if dim.dim_param:
                sizes[dim.dim_param] = size
    found = {}
    for value in [*graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else sizes.get(dim.dim_param) for dim in tensor.shape.dim]
        shape = tuple(size for size in dims if size is not None)
        if tensor.HasField("shape") and len(shape) == len(dims):
            found[value.name] = helper.make_tensor_type_proto(tensor.elem_type, shape)
    return found


def contradiction(path: Path, error: Exception) -> InputError:
    """The error of a file whose shapes do not fit together."""
    return InputError(f"{path}: its shapes do not fit together: {one_line(error)}")
