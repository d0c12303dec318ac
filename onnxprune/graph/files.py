"""ONNX files read with care: what they declare is checked against the bytes that are there."""

from collections.abc import Iterable, Iterator
from math import inf, prod
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.common.errors import InputError, one_line
from onnxprune.common.files import check_is_file
from onnxprune.graph.batches import declare_batch
from onnxprune.graph.light import is_large, without_weights
from onnxprune.graph.macs import MICROSOFT
from onnxprune.graph.nodes import subgraphs
from onnxprune.graph.tensors import BITS, external_bytes, external_file, packed_bytes

_PROTOBUF_LIMIT = 2**31 - 1

_MAX_DENSE = 2**28  # of a sparse tensor, which becomes dense

_MAX_NODES = 1_000_000

_MAX_FUNCTIONS = 300  # Python's recursion ends at 1000 calls, of which each function nested in another takes three

IR_WITH_FREE_INITIALIZERS = 4  # before, the format wants each to be listed as an input; onnxruntime never did

# From which opset ONNX has operators that onnxruntime runs in its domain at any, and writes: GroupNormalization was
# withdrawn before, SimplifiedLayerNormalization never was ONNX's.
_SINCE = {"GroupNormalization": 21, "LayerNormalization": 17, "SimplifiedLayerNormalization": inf}

_COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)


def load(path: Path) -> tuple[ModelProto, int]:
    """The model, with functions inlined and sparse constants dense as at run time, and its bytes on disk.

    What a file declares is checked against the bytes that are there before anything is allocated for it. External data
    over 2 GiB stay outside: `values` maps them. A batch that is declared free, but is one size alone, is of that size.

    Raises:
        InputError: it cannot be read, is damaged or no ONNX file, its opset is not known here, or its external
            data is missing or not in its folder.
    """
    model = _parse(path)
    external: dict[Path, int] = {}
    _check_tensors(path, model, external)
    outside = sum(external.values())
    _check_opset(path, model)
    _check_functions(path, model)
    light = without_weights(model)
    _pass_over_what_runs(light)
    try:
        onnx.checker.check_model(_without_unregistered(light))
        if model.functions:
            light = onnx.inliner.inline_local_functions(light)
            _restore(light, model)
            model = light
        if outside <= _PROTOBUF_LIMIT:
            for tensor in _tensors(model.graph.node, model.graph):
                if tensor.data_location == TensorProto.EXTERNAL:
                    tensor.raw_data = external_bytes(path, tensor)
                    tensor.data_location = TensorProto.DEFAULT
                    del tensor.external_data[:]
        for sparse in model.graph.sparse_initializer:
            model.graph.initializer.append(numpy_helper.from_array(_dense(sparse), sparse.values.name))
        del model.graph.sparse_initializer[:]
        for node in model.graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.name == "sparse_value":
                    dense = numpy_helper.from_array(_dense(attribute.sparse_tensor))
                    attribute.CopyFrom(helper.make_attribute("value", dense))
    except Exception as error:  # onnx's errors share no base class
        raise _damaged(path, one_line(error)) from error
    declare_batch(path, model)
    return model, path.stat().st_size + outside


def files_of(path: Path) -> list[Path]:
    """The file, and those of its external data.

    Raises:
        InputError: likewise.
    """
    external: dict[Path, int] = {}
    model = _parse(path)
    _check_tensors(path, model, external)
    return [path, *external]


def _parse(path: Path) -> ModelProto:
    check_is_file(path)
    try:
        if path.stat().st_size > _PROTOBUF_LIMIT:
            raise InputError(f"{path}: over 2 GiB, which an ONNX file can only be with its weights in external data")
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
            raise InputError(f"{path}: opset {opset.version} is not supported; 1 to {newest} are")


def _check_functions(path: Path, model: ModelProto) -> None:
    """Refuses functions that call themselves, and those that would be inlined into absurdly many nodes."""
    functions = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int | None] = {}

    def size(nodes: Iterable[NodeProto]) -> int:
        return sum(
            called((node.domain, node.op_type)) + sum(size(graph.node) for graph in subgraphs(node)) for node in nodes
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


def _tensors(nodes: Iterable[NodeProto], graph: GraphProto | None = None) -> Iterator[TensorProto]:
    """Every tensor in the nodes and in the graph, subgraphs included, and the values and indices of sparse ones."""
    sparse = list(graph.sparse_initializer) if graph is not None else []
    yield from graph.initializer if graph is not None else ()
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                sparse.append(attribute.sparse_tensor)
            sparse += attribute.sparse_tensors
        for subgraph in subgraphs(node):
            yield from _tensors(subgraph.node, subgraph)
    for tensor in sparse:
        if prod(tensor.dims) > _MAX_DENSE or min(tensor.dims, default=0) < 0:
            raise ValueError(f"sparse tensor {tensor.values.name!r} has shape {list(tensor.dims)}")
        if tensor.HasField("values"):
            yield tensor.values
            yield tensor.indices


def _check_tensors(path: Path, model: ModelProto, external: dict[Path, int]) -> None:
    """Checks every tensor's declared size against its bytes, and puts the sizes of external files into `external`."""
    try:
        for nodes, graph in [(model.graph.node, model.graph), *((item.node, None) for item in model.functions)]:
            for tensor in _tensors(nodes, graph):
                _check_tensor(path, tensor, external)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, one_line(error)) from error


def _check_tensor(path: Path, tensor: TensorProto, external: dict[Path, int]) -> None:
    """Raises ValueError where the tensor has other bytes than its type and shape say."""
    if any(dim < 0 for dim in tensor.dims):
        raise ValueError(f"tensor {tensor.name!r} has shape {list(tensor.dims)}")
    elements = prod(tensor.dims)
    if tensor.data_type == TensorProto.STRING:
        have, expected, unit = len(tensor.string_data), elements, "strings"
    elif tensor.data_location == TensorProto.EXTERNAL:
        have, expected, unit = (
            _external_bytes(path, tensor, external),
            packed_bytes(tensor.data_type, elements),
            "bytes",
        )
    elif tensor.HasField("raw_data"):
        have, expected, unit = len(tensor.raw_data), packed_bytes(tensor.data_type, elements), "bytes"
    else:
        field = helper.tensor_dtype_to_field(tensor.data_type)
        bits = BITS.get(tensor.data_type, 8)
        expected = -(-elements * bits // 8) * (2 if tensor.data_type in _COMPLEX else 1)
        have, unit = len(getattr(tensor, field)), f"entries of {field}"
    if have != expected:
        raise ValueError(
            f"tensor {tensor.name!r} of shape {list(tensor.dims)} needs {expected} {unit}, the file has {have}"
        )


def _external_bytes(path: Path, tensor: TensorProto, external: dict[Path, int]) -> int:
    """Bytes of the tensor in its external file, whose size is put into `external`."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = external_file(path, tensor)
    size = external[file] = file.stat().st_size
    offset = int(entries.get("offset", 0))
    length = int(entries.get("length", size - offset))
    if offset < 0 or length < 0 or offset + length > size:
        raise ValueError(f"tensor {tensor.name!r} is at {offset} + {length} in {entries['location']!r} of {size} bytes")
    return length


def _pass_over_what_runs(light: ModelProto) -> None:
    """Fills in what onnx's checker asks for, and what onnxruntime and its inference do without."""
    light.ir_version = max(light.ir_version, IR_WITH_FREE_INITIALIZERS)
    light.graph.name = light.graph.name or "graph"
    for value in [*light.graph.input, *light.graph.output]:
        kind = value.type.WhichOneof("value")
        if kind == "tensor_type":
            value.type.tensor_type.shape.SetInParent()
    for value in light.graph.output:
        if not value.HasField("type"):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            value.type.tensor_type.shape.SetInParent()
    waiting = [*light.graph.node, *(node for function in light.functions for node in function.node)]
    while waiting:
        for graph in subgraphs(waiting.pop()):
            graph.name = graph.name or "graph"
            waiting += graph.node


def _without_unregistered(light: ModelProto) -> ModelProto:
    """For the checker, which refuses what onnxruntime runs in ONNX's own domain at versions that do not have it: there
    the copy says that it is onnxruntime's."""
    version = next((entry.version for entry in light.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if not any(_unregistered(light.graph, version)):
        return light
    checked = ModelProto()
    checked.CopyFrom(light)
    for node in _unregistered(checked.graph, version):
        node.domain = MICROSOFT
    if not any(entry.domain == MICROSOFT for entry in checked.opset_import):
        checked.opset_import.add(domain=MICROSOFT, version=1)
    return checked


def _unregistered(graph: GraphProto, version: int) -> Iterator[NodeProto]:
    for node in graph.node:
        if node.domain in ("", "ai.onnx") and version < _SINCE.get(node.op_type, 0):
            yield node
        for inner in subgraphs(node):
            yield from _unregistered(inner, version)


def _restore(light: ModelProto, model: ModelProto) -> None:
    """Undoes `without_weights` and what the checker was given in `light`, which may have been inlined since."""
    light.ir_version = model.ir_version
    del light.graph.output[:]
    light.graph.output.extend(model.graph.output)
    light.graph.initializer.extend(tensor for tensor in model.graph.initializer if is_large(tensor))
    del light.graph.input[:]
    light.graph.input.extend(model.graph.input)


def _dense(sparse: onnx.SparseTensorProto) -> np.ndarray:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    array = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 2:
        array[tuple(indices.T)] = values
    else:
        array.flat[indices] = values
    return array
