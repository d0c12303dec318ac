"""The shapes of a graph's inputs: what the file fixes, and what is given."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
from onnx import GraphProto, ValueInfoProto, helper

from onnxprune.common.errors import InputError, one_line
from onnxprune.graph.tensors import Shape


def input_shapes(
    path: Path,
    graph: GraphProto,
    batch: int | None = None,
    given: Mapping[str, Shape] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Shape]:
    """Name -> shape of every input that is a tensor; initializers that are listed as inputs are none.

    A free size that is given for one input is that of all inputs that call it by the same name.

    Args:
        batch: the first size of the inputs that leave it open; without it, what is given, else one.
        given: input name -> shape with the batch, where the file leaves it open.
        values: of inputs; an array's shape counts as given, a single number is for all elements.

    Raises:
        InputError: a shape is left open, or does not fit what the file declares.
    """
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in initializers}
    wanted = {**(given or {}), **{name: value.shape for name, value in (values or {}).items() if value.ndim}}
    unknown = [name for name in (*wanted, *(values or {})) if name not in inputs]
    if unknown:
        raise InputError(f"{path}: there is no input {unknown[0]!r}; the inputs are {_listed(inputs.values())}")
    tensors = {name: value for name, value in inputs.items() if value.type.HasField("tensor_type")}
    for name in wanted:
        _check_fit(path, inputs[name], wanted[name])
    bound = _bound_names(tensors.values(), batch, wanted)
    found = {name: _sizes(value, batch, wanted.get(name), bound) for name, value in tensors.items()}
    missing = [tensors[name] for name, sizes in found.items() if sizes is None or None in sizes]
    if missing:
        raise InputError(f"{path}: {_missing(missing, found)}")
    shapes = {name: tuple(size for size in sizes or () if size is not None) for name, sizes in found.items()}
    for name, value in (values or {}).items():
        if value.ndim and shapes.get(name) != value.shape:
            raise InputError(f"{path}: the values of input {name!r} are {list(value.shape)}, not {list(shapes[name])}")
    batched = [shape[0] for shape in shapes.values() if shape]
    if batch is not None and batched and batch not in batched:
        raise InputError(f"{path}: it takes batches of {batched[0]}, not {batch}: {_listed(inputs.values())}")
    return shapes


def input_values(
    path: Path, graph: GraphProto, shapes: Mapping[str, Shape], values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The values in the shape and type that the inputs have.

    Raises:
        InputError: an input takes no such values.
    """
    found = {}
    for value in graph.input:
        if value.name not in values:
            continue
        given = np.asarray(values[value.name])
        try:
            kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            cast = np.broadcast_to(given, shapes[value.name]).astype(kind)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{path}: input {value.name!r} does not take these values: {one_line(error)}") from error
        if (
            given.dtype.kind in "biuf"
            and kind.kind in "iu"
            and not np.array_equal(cast, np.broadcast_to(given, cast.shape))
        ):
            raise InputError(f"{path}: input {value.name!r} is {kind.name}, which does not hold the values given")
        found[value.name] = cast
    return found


def _declared(value: ValueInfoProto) -> list[int | None] | None:
    """Sizes of an input, None for those that are free; None where it has no shape."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None for dim in tensor.shape.dim]


def _check_fit(path: Path, value: ValueInfoProto, wanted: Shape) -> None:
    declared = _declared(value)
    if declared is None:
        return
    fits = [have in (None, want) for have, want in zip(declared, wanted, strict=False)]
    if len(declared) != len(wanted) or not all(fits):
        raise InputError(f"{path}: {list(wanted)} does not fit the input {_listed([value])}")


def _bound_names(inputs: Collection[ValueInfoProto], batch: int | None, wanted: Mapping[str, Shape]) -> dict[str, int]:
    """Name of a free size -> what it is: the batch where it comes first, what is given for an input, or one."""
    bound: dict[str, int] = {}
    for value in inputs:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param and axis == 0 and batch is not None:
                bound[dim.dim_param] = batch
            elif dim.dim_param and value.name in wanted:
                bound.setdefault(dim.dim_param, wanted[value.name][axis])
    for value in inputs:
        first = next(iter(value.type.tensor_type.shape.dim), None)
        if first is not None and first.dim_param:
            bound.setdefault(first.dim_param, 1)
    return bound


def _sizes(
    value: ValueInfoProto, batch: int | None, wanted: Shape | None, bound: Mapping[str, int]
) -> list[int | None] | None:
    """Sizes of an input, None for those that are still open; None where it has no shape."""
    declared = _declared(value)
    if declared is None:
        return None if wanted is None else list(wanted)
    sizes: list[int | None] = []
    for axis, (size, dim) in enumerate(zip(declared, value.type.tensor_type.shape.dim, strict=True)):
        if size is None and axis == 0 and batch is not None:
            size = batch
        elif size is None and wanted is not None:
            size = bound[dim.dim_param] if batch is not None and dim.dim_param in bound else wanted[axis]
        elif size is None:
            size = bound.get(dim.dim_param, 1 if axis == 0 else None)
        sizes.append(size)
    return sizes


def _missing(values: Iterable[ValueInfoProto], found: Mapping[str, list[int | None] | None]) -> str:
    """What is left open, and how to give all of it; a free size that inputs share by its name is asked for once."""
    asked: set[str] = set()
    needed = []
    for value in values:
        dims = zip(value.type.tensor_type.shape.dim, found[value.name] or (), strict=True)
        names = [dim.dim_param for dim, size in dims if size is None]
        if not names or not all(names) or not asked.issuperset(names):
            needed.append(value)
        asked.update(names)
    listed = ", ".join(repr(value.name) for value in needed)
    options = " ".join(
        f"--input {value.name}:{'x'.join(str(size or '?') for size in found[value.name] or ()) or '1x3x224x224'}"
        for value in needed
    )
    if all(found[value.name] is None for value in needed):
        return f"input {listed} has no shape: give one, as in {options}"
    subject = f"input {listed} leaves" if len(needed) == 1 else f"inputs {listed} leave"
    return f"{subject} sizes open, {_listed(needed)}: give {options}"


def _listed(values: Iterable[ValueInfoProto]) -> str:
    """The inputs as the file declares them: "input [batch, 3, 224, 224]"."""
    texts = []
    for value in values:
        dims = value.type.tensor_type.shape.dim
        sizes = [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
        texts.append(f"{value.name} [{', '.join(sizes)}]")
    return ", ".join(texts)
