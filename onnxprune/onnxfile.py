"""ONNX files: read with care, and the shapes of their tensors."""

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.errors import InputError

Shape = tuple[int, ...]

_PROTOBUF_LIMIT = 2**31 - 1
_MAX_ELEMENTS = 2**32  # of a tensor at run time; real ones have some 10^9 at most
_MAX_DENSE = 2**28  # of a sparse tensor, which becomes dense
_MAX_NODES = 1_000_000
_MAX_MESSAGE = 300  # names in a damaged file can be megabytes long
_MAX_FUNCTIONS = 300  # Python's recursion ends at 1000 calls, of which each function nested in another takes three

_COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
_BITS = {  # types smaller than a byte, which are packed
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    **{
        value: 2
        for value in (getattr(TensorProto, name, None) for name in ("UINT2", "INT2"))  # since onnx 1.20
        if value is not None
    },
}


def load(path: Path) -> tuple[ModelProto, int]:
    """The model, with functions inlined and sparse initializers dense as at run time, and its bytes on disk.

    What a file declares is checked against the bytes that are there before anything is allocated for it.

    Raises:
        InputError: it cannot be read, is damaged or no ONNX file, its opset is not known here, or its external
            data is missing or not in its folder.
    """
    model = _parse(path)
    size = path.stat().st_size + _check_tensors(path, model)
    _check_opset(path, model)
    _check_functions(path, model)
    light = _without_weights(model)
    try:
        onnx.checker.check_model(light)
        if model.functions:
            light = onnx.inliner.inline_local_functions(light)
            _restore_weights(light, model)
            model = light
        onnx.load_external_data_for_model(model, str(path.parent))
        for sparse in model.graph.sparse_initializer:
            model.graph.initializer.append(numpy_helper.from_array(_dense(sparse), sparse.values.name))
        del model.graph.sparse_initializer[:]
    except Exception as error:  # onnx's errors share no base class
        raise _damaged(path, one_line(error)) from error
    return model, size


def _parse(path: Path) -> ModelProto:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_file():
        raise InputError(f"{path}: not an ONNX file, but a folder or a device")
    try:
        if path.stat().st_size > _PROTOBUF_LIMIT:
            raise InputError(f"{path}: over 2 GiB, which an ONNX file is only with its weights in external data")
        model = onnx.load(path, format="protobuf", load_external_data=False)
        _decode_strings(model)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf's errors share no base class, and differ by its version
        raise _damaged(path, one_line(error)) from error
    if not model.HasField("graph"):
        raise _damaged(path, "it holds no graph")
    return model


def _decode_strings(message: Message) -> None:
    """Raises UnicodeDecodeError for a string that is not UTF-8, which reading it later would do anywhere."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                _decode_strings(inner)
        elif field.type == field.TYPE_STRING:
            for text in value if field.is_repeated else (value,):
                if isinstance(text, bytes):  # what protobuf gives for it, without an error
                    text.decode()


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: not an ONNX file, or a damaged one: {reason}")


def _check_opset(path: Path, model: ModelProto) -> None:
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not 1 <= opset.version <= newest:
            raise InputError(f"{path}: opset {opset.version} is not supported, 1 to {newest} are")


def _check_functions(path: Path, model: ModelProto) -> None:
    """Refuses functions that call themselves, and those that would be inlined into absurdly many nodes."""
    functions = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int | None] = {}

    def size(nodes: Iterable[NodeProto]) -> int:
        return sum(
            called((node.domain, node.op_type)) + sum(size(graph.node) for graph in _subgraphs(node)) for node in nodes
        )

    def called(key: tuple[str, str]) -> int:
        if key not in functions:
            return 1
        if key not in sizes:
            if len(sizes) > _MAX_FUNCTIONS:
                raise _damaged(path, f"over {_MAX_FUNCTIONS} functions")
            sizes[key] = None
            sizes[key] = size(functions[key].node)
        found = sizes[key]
        if found is None:
            raise _damaged(path, f"function {key[1]!r} calls itself")
        return found

    if functions and size(model.graph.node) > _MAX_NODES:
        raise _damaged(path, f"over {_MAX_NODES} nodes once its functions are inlined")


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(nodes: Iterable[NodeProto], graph: GraphProto | None = None) -> Iterator[TensorProto]:
    """Every tensor in the nodes and in the graph, subgraphs included, and the values and indices of sparse ones."""
    sparse = list(graph.sparse_initializer) if graph is not None else []
    yield from graph.initializer if graph is not None else ()
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
        for subgraph in _subgraphs(node):
            yield from _tensors(subgraph.node, subgraph)
    for tensor in sparse:
        if prod(tensor.dims) > _MAX_DENSE or min(tensor.dims, default=0) < 0:
            raise ValueError(f"sparse tensor {tensor.values.name!r} has shape {list(tensor.dims)}")
        if tensor.HasField("values"):
            yield tensor.values
            yield tensor.indices


def _check_tensors(path: Path, model: ModelProto) -> int:
    """Checks every tensor's declared size against its bytes, and gives the bytes of the external files."""
    external: dict[Path, int] = {}
    try:
        for nodes, graph in [(model.graph.node, model.graph), *((item.node, None) for item in model.functions)]:
            for tensor in _tensors(nodes, graph):
                _check_tensor(path, tensor, external)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, one_line(error)) from error
    return sum(external.values())


def _check_tensor(path: Path, tensor: TensorProto, external: dict[Path, int]) -> None:
    """Raises ValueError where the tensor has other bytes than its type and shape say."""
    if any(dim < 0 for dim in tensor.dims):
        raise ValueError(f"tensor {tensor.name!r} has shape {list(tensor.dims)}")
    elements = prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        have, expected, unit = len(tensor.string_data), elements, "strings"
    elif tensor.data_location == TensorProto.EXTERNAL:
        have, expected, unit = _external_bytes(path, tensor, external), _bytes(tensor.data_type, elements), "bytes"
    elif tensor.HasField("raw_data"):
        have, expected, unit = len(tensor.raw_data), _bytes(tensor.data_type, elements), "bytes"
    else:
        field = helper.tensor_dtype_to_field(tensor.data_type)
        bits = _BITS.get(tensor.data_type, 8)
        expected = -(-elements * bits // 8) * (2 if tensor.data_type in _COMPLEX else 1)
        have, unit = len(getattr(tensor, field)), f"entries of {field}"
    if have != expected:
        raise ValueError(
            f"tensor {tensor.name!r} of shape {list(tensor.dims)} needs {expected} {unit}, the file has {have}"
        )


def _bytes(data_type: int, elements: int) -> int:
    bits = _BITS.get(data_type) or 8 * helper.tensor_dtype_to_np_dtype(data_type).itemsize
    return -(-elements * bits // 8)


def _external_bytes(path: Path, tensor: TensorProto, external: dict[Path, int]) -> int:
    """Bytes of the tensor in its external file, whose size is put into `external`."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    folder, file = path.parent.resolve(), path.parent / location
    if not location or Path(location).is_absolute() or not file.resolve().is_relative_to(folder):
        raise InputError(f"{path}: external data {location!r} of {tensor.name!r} is not in the file's folder: refused")
    if not file.is_file():
        raise InputError(f"{path}: external data {location!r} of {tensor.name!r} is missing")
    size = external[file.resolve()] = file.stat().st_size
    offset = int(entries.get("offset", 0))
    length = int(entries.get("length", size - offset))
    if offset < 0 or length < 0 or offset + length > size:
        raise ValueError(f"tensor {tensor.name!r} is at {offset} + {length} in {location!r} of {size} bytes")
    return length


def _without_weights(model: ModelProto) -> ModelProto:
    """A copy in which large initializers are inputs: onnx's native code takes no model over 2 GiB."""
    light = ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy_field(light, field, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _copy_field(light.graph, field, value)
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if not _is_large(tensor):
            light.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def _copy_field(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _restore_weights(light: ModelProto, model: ModelProto) -> None:
    """Undoes `_without_weights` in `light`, which may have been inlined since."""
    light.graph.initializer.extend(tensor for tensor in model.graph.initializer if _is_large(tensor))
    inputs = {value.name for value in model.graph.input}
    kept = [value for value in light.graph.input if value.name in inputs]
    del light.graph.input[:]
    light.graph.input.extend(kept)


def _is_large(tensor: TensorProto) -> bool:
    """True for weights; shapes, indices and the like, whose values shape inference reads, are smaller."""
    return prod(tensor.dims) > 1024 or tensor.data_location == TensorProto.EXTERNAL


def input_shapes(
    path: Path, graph: GraphProto, batch: int | None, input_shape: Sequence[int] | None
) -> dict[str, Shape]:
    """Input name -> shape for `batch` samples; initializers that are listed as inputs are none.

    Without `batch`, each input has the number of samples that the file fixes for it, or one.

    Raises:
        InputError: a shape is left open, or does not fit what the file declares.
    """
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    if input_shape is not None and len(inputs) != 1:
        raise InputError(f"{path}: an input shape can be given for a model of one input, it has {len(inputs)}")
    return {value.name: _input_shape(path, value, batch, input_shape) for value in inputs}


def _input_shape(path: Path, value: onnx.ValueInfoProto, batch: int | None, input_shape: Sequence[int] | None) -> Shape:
    tensor = value.type.tensor_type
    declared = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
    if batch is None:
        batch = next(iter(declared), None) or 1
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
    for name, shape in inputs.items():
        _check_elements(path, name, shape)
    sized = _without_weights(model)
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
    except Exception as error:  # onnx's errors share no base class
        raise InputError(f"{path}: its shapes do not fit together: {one_line(error)}") from error
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {name: array.shape for name, array in constants(graph)}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
            _check_elements(path, value.name, shapes[value.name])
    return shapes


def _check_elements(path: Path, name: str, shape: Shape) -> None:
    if any(size < 0 for size in shape) or prod(shape) > _MAX_ELEMENTS:
        raise InputError(f"{path}: tensor {name!r} has an impossible shape: {list(shape)}")


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
    """Its message on one line, cut where it is long, or its type where there is none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}..."
