"""The shapes of a graph's inputs: what the file fixes, and what is given."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
from onnx import GraphProto

from onnxprune.common.errors import InputError
from onnxprune.graph.tensors import Shape


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
