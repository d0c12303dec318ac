"""ONNX files: read with care, and the shapes of their tensors."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from onnxprune.errors import InputError

Shape = tuple[int, ...]


def load(path: Path) -> tuple[ModelProto, int]:
    """The model, with functions inlined and sparse initializers dense as at run time, and its bytes on disk."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
        entries = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
        files = {path, *(path.parent / entry.value for entry in entries if entry.key == "location")}
        size = sum(file.stat().st_size for file in files)
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except (OSError, ValueError, onnx.checker.ValidationError, DecodeError, EncodeError) as error:
        raise InputError(f"{path}: not an ONNX file, or a damaged one: {one_line(error)}") from error
    for sparse in model.graph.sparse_initializer:
        model.graph.initializer.append(numpy_helper.from_array(_dense(sparse), sparse.values.name))
    del model.graph.sparse_initializer[:]
    return onnx.inliner.inline_local_functions(model), size


def input_shapes(path: Path, graph: GraphProto, batch: int, input_shape: Sequence[int] | None) -> dict[str, Shape]:
    """Input name -> shape for `batch` samples; initializers that are listed as inputs are none."""
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    if input_shape is not None and len(inputs) != 1:
        raise InputError(f"{path}: an input shape can be given for a model of one input, it has {len(inputs)}")
    return {value.name: _input_shape(path, value, batch, input_shape) for value in inputs}


def _input_shape(path: Path, value: onnx.ValueInfoProto, batch: int, input_shape: Sequence[int] | None) -> Shape:
    tensor = value.type.tensor_type
    declared = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
    if input_shape is not None:
        wanted: list[int | None] = [batch, *input_shape]
    elif not tensor.HasField("shape"):
        wanted = [None]
    else:
        wanted = [batch, *declared[1:]] if declared else []
    name = f"{path}: input {value.name!r}"
    if None in wanted:
        raise InputError(f"{name} leaves its shape open ({declared}): give the shape of one sample")
    fits = [have in (None, want) for have, want in zip(declared, wanted, strict=False)]
    if tensor.HasField("shape") and (len(declared) != len(wanted) or not all(fits)):
        raise InputError(f"{name} has shape {declared} (None: any), which {wanted} does not fit")
    return tuple(size for size in wanted if size is not None)


def infer_shapes(path: Path, model: ModelProto, inputs: dict[str, Shape]) -> dict[str, Shape]:
    """Name -> shape of every tensor whose shape is known once the inputs have theirs."""
    sized = ModelProto()
    sized.CopyFrom(model)
    graph = sized.graph
    del graph.value_info[:]  # may hold the sizes of another batch
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in graph.input:
        if value.name in inputs:
            shape = value.type.tensor_type.shape
            del shape.dim[:]
            for size in inputs[value.name]:
                shape.dim.add(dim_value=size)
    try:
        inferred = onnx.shape_inference.infer_shapes(sized, strict_mode=True, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, EncodeError, ValueError) as error:
        raise InputError(f"{path}: its shapes do not fit together: {one_line(error)}") from error
    shapes = {name: array.shape for name, array in constants(graph)}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def constants(graph: GraphProto) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values of every initializer and Constant node."""
    for tensor in graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        for attribute in node.attribute if operator_type(node) == "Constant" else ():
            if attribute.name == "value":
                yield node.output[0], numpy_helper.to_array(attribute.t)


def operator_type(node: NodeProto) -> str:
    """The node's operator, with its domain where that is not ONNX's own: "Conv", "com.microsoft.QAttention"."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _dense(sparse: onnx.SparseTensorProto) -> np.ndarray:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    array = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 2:
        array[tuple(indices.T)] = values
    else:
        array.flat[indices] = values
    return array


def one_line(error: BaseException) -> str:
    """Its message on one line, or its type where there is none."""
    return " ".join(str(error).split()) or type(error).__name__
