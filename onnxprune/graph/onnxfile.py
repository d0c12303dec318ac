"""ONNX files: read with care, and the shapes of their tensors."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import Message  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.common.errors import InputError

Shape = tuple[int, ...]

_PROTOBUF_LIMIT = 2**31 - 1
_MAX_ELEMENTS = 2**32  # of a tensor at run time; real ones have some 10^9 at most
_MAX_DENSE = 2**28  # of a sparse tensor, which becomes dense
_MAX_NODES = 1_000_000
_MAX_MESSAGE = 300  # names in a damaged file can be megabytes long
_MAX_FUNCTIONS = 300  # Python's recursion ends at 1000 calls, of which each function nested in another takes three

_MAX_PASSES = 20  # of shape inference, each of which tells the outputs of some loops
_MAX_INFERENCES = 1000  # of all graphs and subgraphs: loops within loops multiply

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

    What a file declares is checked against the bytes that are there before anything is allocated for it. External data
    over 2 GiB stay outside: `values` maps them.

    Raises:
        InputError: it cannot be read, is damaged or no ONNX file, its opset is not known here, or its external
            data is missing or not in its folder.
    """
    model = _parse(path)
    external_bytes = _check_tensors(path, model)
    _check_opset(path, model)
    _check_functions(path, model)
    light = _without_weights(model)
    try:
        onnx.checker.check_model(light)
        if model.functions:
            light = onnx.inliner.inline_local_functions(light)
            _restore_weights(light, model)
            model = light
        if external_bytes <= _PROTOBUF_LIMIT:
            onnx.load_external_data_for_model(model, str(path.parent))
        for sparse in model.graph.sparse_initializer:
            model.graph.initializer.append(numpy_helper.from_array(_dense(sparse), sparse.values.name))
        del model.graph.sparse_initializer[:]
    except Exception as error:  # onnx's errors share no base class
        raise _damaged(path, one_line(error)) from error
    return model, path.stat().st_size + external_bytes


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


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs among its attributes."""
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


def values(path: Path, tensor: TensorProto) -> np.ndarray:
    """The values of a constant of the model at `path`; those of external data are read when they are used."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if tensor.data_type in _BITS or not prod(tensor.dims):
        return numpy_helper.to_array(tensor, str(path.parent))
    return np.memmap(
        path.parent / entries["location"],
        dtype=helper.tensor_dtype_to_np_dtype(tensor.data_type),
        mode="r",
        offset=int(entries.get("offset", 0)),
        shape=tuple(tensor.dims),
    )


def tensor_bytes(data_type: int, shape: Shape) -> int | None:
    """Of a tensor of this element type; None for strings and unknown types, types smaller than a byte are packed."""
    if data_type == TensorProto.STRING or data_type not in TensorProto.DataType.values():
        return None
    return _bytes(data_type, prod(shape))


def stored_bytes(tensor: TensorProto) -> int:
    """Of a constant, without the names and lengths around it."""
    if tensor.data_type == TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    return _bytes(tensor.data_type, prod(tensor.dims))


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
    path: Path, graph: GraphProto, batch: int | None = None, given: Mapping[str, Shape] | None = None
) -> dict[str, Shape]:
    """Name -> shape of every input that is a tensor; initializers that are listed as inputs are none.

    Args:
        batch: the first size of the inputs that leave it open; without it, one. Other inputs keep theirs.
        given: input name -> shape with the batch, where the file leaves it open.

    Raises:
        InputError: a shape is left open, or does not fit what the file declares.
    """
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in initializers}
    given = given or {}
    unknown = [name for name in given if name not in inputs]
    if unknown:
        raise InputError(f"{path}: there is no input {unknown[0]!r}; the inputs are {_listed(inputs.values())}")
    shapes = {
        name: _input_shape(path, value, batch, given.get(name))
        for name, value in inputs.items()
        if value.type.HasField("tensor_type")
    }
    batched = [shape[0] for shape in shapes.values() if shape]
    if batch is not None and batched and batch not in batched:
        raise InputError(f"{path}: it takes no batch of {batch}, but {batched[0]}: {_listed(inputs.values())}")
    return shapes


def _input_shape(path: Path, value: onnx.ValueInfoProto, batch: int | None, given: Shape | None) -> Shape:
    tensor = value.type.tensor_type
    declared = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
    name = f"{path}: input {value.name!r}"
    if given is not None:
        wanted: list[int | None] = list(given)
    elif not tensor.HasField("shape"):
        raise InputError(f"{name} has no shape: give one, as in --input {value.name}:1x3x224x224")
    else:
        wanted = list(declared)
        if wanted:
            wanted[0] = wanted[0] or batch or 1
        if None in wanted:
            sizes = "x".join(str(size or "?") for size in wanted)
            raise InputError(f"{name} leaves sizes open, {_listed([value])}: give --input {value.name}:{sizes}")
    fits = [have in (None, want) for have, want in zip(declared, wanted, strict=False)]
    if tensor.HasField("shape") and (len(declared) != len(wanted) or not all(fits)):
        raise InputError(f"{name} is {_listed([value])}, which {list(wanted)} does not fit")
    return tuple(size for size in wanted if size is not None)


def _listed(values: Iterable[onnx.ValueInfoProto]) -> str:
    """The inputs as the file declares them: "input [batch, 3, 224, 224]"."""
    texts = []
    for value in values:
        dims = value.type.tensor_type.shape.dim
        sizes = [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
        texts.append(f"{value.name} [{', '.join(sizes)}]")
    return ", ".join(texts)


@dataclass(frozen=True)
class Inferred:
    """What is known of the tensors of a graph once its inputs have shapes.

    Attributes:
        shapes: name -> shape, of those whose shape is known.
        types: name -> element type, of those that are tensors.
        bodies: position of a node -> attribute -> the same of that subgraph, outer names included.
    """

    shapes: dict[str, Shape]
    types: dict[str, int]
    bodies: dict[int, dict[str, "Inferred"]]


def infer_shapes(path: Path, model: ModelProto, inputs: Mapping[str, Shape]) -> Inferred:
    """Infers the shapes of the model's tensors, subgraphs included.

    Raises:
        InputError: shapes contradict each other, or are absurd.
    """
    for name, shape in inputs.items():
        _check_elements(path, name, shape)
    sized = _without_weights(model)
    graph = sized.graph
    declared = _declared(graph, inputs)
    del graph.value_info[:]  # may hold the sizes of another batch
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in graph.input:
        if value.name in inputs:
            _set_shape(value, inputs[value.name])
    return _infer(path, sized, iter(range(_MAX_INFERENCES)), declared)


def _declared(graph: GraphProto, inputs: Mapping[str, Shape]) -> dict[str, onnx.ValueInfoProto]:
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
            found[value.name] = helper.make_tensor_value_info(value.name, tensor.elem_type, shape)
    return found


def _infer(
    path: Path, model: ModelProto, budget: Iterator[int], declared: Mapping[str, onnx.ValueInfoProto]
) -> Inferred:
    """Infers a model whose inputs have shapes; what a loop carries has the shape that it comes in and goes out with.

    Args:
        declared: what is taken for the outputs of operators that ONNX does not know.
    """
    for _ in range(_MAX_PASSES):
        if next(budget, None) is None:
            raise InputError(f"{path}: its loops are nested too deeply to infer shapes")
        try:
            graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
        except Exception as error:  # onnx's errors share no base class
            raise InputError(f"{path}: its shapes do not fit together: {one_line(error)}") from error
        found = Inferred({}, {}, {})
        for tensor in constants(graph):
            found.shapes[tensor.name], found.types[tensor.name] = tuple(tensor.dims), tensor.data_type
        for value in [*graph.input, *graph.value_info, *graph.output]:
            if not value.type.HasField("tensor_type"):
                continue
            tensor_type = value.type.tensor_type
            found.types[value.name] = tensor_type.elem_type
            if tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor_type.shape.dim):
                found.shapes[value.name] = tuple(dim.dim_value for dim in tensor_type.shape.dim)
                _check_elements(path, value.name, found.shapes[value.name])
        news: list[onnx.ValueInfoProto] = []
        for index, node in enumerate(graph.node):
            if "." in operator_type(node):
                news += [declared[name] for name in node.output if name in declared and name not in found.shapes]
            bodies = {
                a.name: _infer_body(path, model, found, node, a.g, budget) for a in node.attribute if a.HasField("g")
            }
            if bodies:
                found.bodies[index] = bodies
                news += [
                    helper.make_tensor_value_info(name, found.types[name], shape)
                    for name, shape in _output_shapes(node, bodies).items()
                    if name in found.types and name not in found.shapes
                ]
        if not news:
            break
        known = {value.name for value in news}
        kept = [value for value in model.graph.value_info if value.name not in known]
        del model.graph.value_info[:]
        model.graph.value_info.extend([*kept, *news])
        for value in model.graph.output:
            if value.name in known:
                value.CopyFrom(next(new for new in news if new.name == value.name))
    return found


def _infer_body(
    path: Path, outer_model: ModelProto, outer: Inferred, node: NodeProto, body: GraphProto, budget: Iterator[int]
) -> Inferred:
    """The tensors of a subgraph of `node`, whose inputs have the shapes that the node hands in."""
    model = ModelProto(ir_version=outer_model.ir_version, opset_import=outer_model.opset_import)
    model.graph.CopyFrom(body)
    graph = model.graph
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    handed = _handed_in(node, len(graph.input), outer.shapes)
    for value, shape in zip(graph.input, handed, strict=True):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
            if shape is not None:
                _set_shape(value, shape)
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {name for inner in graph.node for name in inner.output}
    for name in used_names(graph) - own:
        if name in outer.types:
            graph.input.append(helper.make_tensor_value_info(name, outer.types[name], outer.shapes.get(name)))
    small = {tensor.name: tensor for tensor in constants(outer_model.graph) if not _is_large(tensor)}
    graph.initializer.extend(
        TensorProto.FromString(small[value.name].SerializeToString())
        for value in graph.input
        if value.name in small and value.name not in own
    )
    found = _infer(path, model, budget, {})
    carried = _carried(node, len(body.input))
    changing = [
        value.name
        for value, output in zip(graph.input[carried], body.output[_outputs_of(node, carried)], strict=False)
        if found.shapes.get(value.name) != found.shapes.get(output.name)
    ]
    if changing:  # what is carried changes its shape from one round to the next: it is none that can be told
        for value in graph.input:
            if value.name in changing:
                value.type.tensor_type.ClearField("shape")
        found = _infer(path, model, budget, {})
    return found


def _carried(node: NodeProto, inputs: int) -> slice:
    """Of a body's inputs, those that are handed from round to round."""
    if node.op_type == "Loop":
        return slice(2, inputs)
    if node.op_type == "Scan":
        return slice(0, inputs - scanned(node))
    return slice(0, 0)


def _outputs_of(node: NodeProto, carried: slice) -> slice:
    """Of a body's outputs, those that are the next round's `carried` inputs: a Loop's first one is its condition."""
    shift = 1 if node.op_type == "Loop" else 0
    return slice(carried.start - shift, carried.stop - shift)


def scanned(node: NodeProto) -> int:
    """How many of a Scan's inputs it goes through, the last ones."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "num_scan_inputs"), 0)


def scan_axis(node: NodeProto, index: int) -> int:
    """The axis along which a Scan goes through the `index`-th of these."""
    axes = next((list(a.ints) for a in node.attribute if a.name == "scan_input_axes"), [0])
    return axes[index] if index < len(axes) else 0


def _handed_in(node: NodeProto, count: int, shapes: Mapping[str, Shape]) -> list[Shape | None]:
    """Shapes of a body's inputs in the first round."""
    found: list[Shape | None] = [None] * count
    if node.op_type == "Loop":
        found = [(), (), *(shapes.get(name) for name in node.input[2:])]
    elif node.op_type == "Scan":
        found = [shapes.get(name) for name in node.input]
        first = len(found) - scanned(node)
        for position in range(first, len(found)):
            shape = found[position]
            if shape:
                axis = scan_axis(node, position - first) % len(shape)
                found[position] = (*shape[:axis], *shape[axis + 1 :])
    return [*found, *[None] * count][:count]


def _output_shapes(node: NodeProto, bodies: Mapping[str, Inferred]) -> dict[str, Shape]:
    """Shapes of the node's outputs that its subgraphs tell: what is carried, and what both branches agree on."""
    graphs = {attribute.name: attribute.g for attribute in node.attribute if attribute.name in bodies}
    if node.op_type == "If" and len(graphs) == 2:
        per_branch = [[bodies[name].shapes.get(o.name) for o in graph.output] for name, graph in graphs.items()]
        pairs = zip(node.output, *per_branch, strict=False)
        return {name: first for name, first, second in pairs if first is not None and first == second}
    if node.op_type not in ("Loop", "Scan") or "body" not in graphs:
        return {}
    carried = _outputs_of(node, _carried(node, len(graphs["body"].input)))
    shapes = [bodies["body"].shapes.get(output.name) for output in graphs["body"].output[carried]]
    return {name: shape for name, shape in zip(node.output, shapes, strict=False) if shape is not None}


def used_names(graph: GraphProto) -> set[str]:
    """Names that the graph's nodes and outputs read, subgraphs included."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for inner in subgraphs(node):
            names |= used_names(inner)
    return names - {""}


def _set_shape(value: onnx.ValueInfoProto, shape: Shape) -> None:
    proto = value.type.tensor_type.shape
    del proto.dim[:]
    proto.SetInParent()
    for size in shape:
        proto.dim.add(dim_value=size)


def _check_elements(path: Path, name: str, shape: Shape) -> None:
    if any(size < 0 for size in shape) or prod(shape) > _MAX_ELEMENTS:
        raise InputError(f"{path}: tensor {name!r} has an impossible shape: {list(shape)}")


def constants(graph: GraphProto) -> Iterator[TensorProto]:
    """Every initializer and Constant node of the graph itself, by the name it has there."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute if operator_type(node) == "Constant" else ():
            tensor = _constant(attribute)
            if tensor is not None:
                tensor.name = node.output[0]
                yield tensor


def _constant(attribute: onnx.AttributeProto) -> TensorProto | None:
    """The value of a Constant node; None for one that is sparse or a string."""
    if attribute.name == "value":
        return attribute.t
    if attribute.name in ("value_int", "value_float", "value_ints", "value_floats"):
        values = np.asarray(helper.get_attribute_value(attribute))
        return numpy_helper.from_array(values.astype(np.float32 if "float" in attribute.name else np.int64))
    return None


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
