"""ONNX's types of values: the shapes in them, read, set and checked."""

from collections.abc import Iterable
from math import prod
from pathlib import Path

from onnx import TypeProto, ValueInfoProto

from onnxprune.common.errors import InputError
from onnxprune.graph.tensors import Shape

_MAX_ELEMENTS = 2**32  # of a tensor at run time; real ones have some 10^9 at most


def shape_of(kind: TypeProto) -> Shape | None:
    tensor = kind.tensor_type
    if not kind.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    shape = tuple(dim.dim_value for dim in tensor.shape.dim if dim.HasField("dim_value"))
    return shape if len(shape) == len(tensor.shape.dim) else None


def set_shape(kind: TypeProto, shape: Shape) -> None:
    proto = kind.tensor_type.shape
    del proto.dim[:]
    proto.SetInParent()
    for size in shape:
        proto.dim.add(dim_value=size)


def forget_shapes(values: Iterable[ValueInfoProto]) -> None:
    for value in values:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")


def is_of_maps(kind: TypeProto) -> bool:
    return kind.HasField("sequence_type") and kind.sequence_type.elem_type.HasField("map_type")


def check_elements(path: Path, name: str, shape: Shape) -> None:
    if any(size < 0 for size in shape) or prod(shape) > _MAX_ELEMENTS:
        raise InputError(f"{path}: tensor {name!r} has an impossible shape: {list(shape)}")
