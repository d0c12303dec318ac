"""The shapes of a graph's tensors, subgraphs included, once its inputs have theirs."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
import onnx.inliner
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnxprune.common.errors import InputError, one_line
from onnxprune.graph.light import is_large, without_weights
from onnxprune.graph.nodes import operator_type, used_names
from onnxprune.graph.tensors import Shape, constants

_MAX_ELEMENTS = 2**32  # of a tensor at run time; real ones have some 10^9 at most

_MAX_PASSES = 20  # of shape inference, each of which tells the outputs of some loops

_MAX_INFERENCES = 1000  # of all graphs and subgraphs: loops within loops multiply


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
    sized = without_weights(model)
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
                a.name: _infer_body(path, model, found, node, a.g, budget=budget)
                for a in node.attribute
                if a.HasField("g")
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
    path: Path, outer_model: ModelProto, outer: Inferred, node: NodeProto, body: GraphProto, *, budget: Iterator[int]
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
    small = {tensor.name: tensor for tensor in constants(outer_model.graph) if not is_large(tensor)}
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


def _set_shape(value: onnx.ValueInfoProto, shape: Shape) -> None:
    proto = value.type.tensor_type.shape
    del proto.dim[:]
    proto.SetInParent()
    for size in shape:
        proto.dim.add(dim_value=size)


def _check_elements(path: Path, name: str, shape: Shape) -> None:
    if any(size < 0 for size in shape) or prod(shape) > _MAX_ELEMENTS:
        raise InputError(f"{path}: tensor {name!r} has an impossible shape: {list(shape)}")
