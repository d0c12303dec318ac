"""Constants of a graph: their values, and what they take in bytes."""

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, TensorProto, helper, numpy_helper

from onnxprune.common.errors import InputError
from onnxprune.graph.nodes import operator_type, subgraphs

Shape = tuple[int, ...]

BITS = {  # types smaller than a byte, which are packed
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    **{
        value: 2
        for value in (getattr(TensorProto, name, None) for name in ("UINT2", "INT2"))  # since onnx 1.20
        if value is not None
    },
}

_KNOWN = frozenset(TensorProto.DataType.values())  # which takes time to ask for


def values(path: Path, tensor: TensorProto) -> np.ndarray:
    """The values of a constant of the model at `path`; those of external data are read when they are used."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    if tensor.data_type in BITS or not prod(tensor.dims):
        held = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=external_bytes(path, tensor))
        return numpy_helper.to_array(held)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return np.memmap(
        external_file(path, tensor),
        dtype=helper.tensor_dtype_to_np_dtype(tensor.data_type),
        mode="r",
        offset=int(entries.get("offset", 0)),
        shape=tuple(tensor.dims),
    )


def external_file(path: Path, tensor: TensorProto) -> Path:
    """The file that holds a tensor of the model at `path`: beside it, or beside the file that `path` is a link to.

    Real paths decide whether it is the model's own: in a cache of Hugging Face's layout both are links into one folder.

    Raises:
        InputError: it is missing, or leads elsewhere.
    """
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    named = f"{path}: external data {location!r} of {tensor.name!r}"
    folders = (path.parent.resolve(), path.resolve().parent)
    if not location or Path(location).is_absolute():
        raise InputError(f"{named} is not in the file's folder: refused")
    files = [folder / location for folder in folders]
    file = next((file for file in files if file.is_file()), files[0])
    if not any(file.resolve().is_relative_to(folder) for folder in folders):
        raise InputError(f"{named} is not in the file's folder: refused")
    if not file.is_file():
        raise InputError(f"{named} is missing")
    return file.resolve()


def external_bytes(path: Path, tensor: TensorProto) -> bytes:
    """The bytes of a tensor in its external file.

    Raises:
        InputError: that is missing, or leads elsewhere.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    with external_file(path, tensor).open("rb") as file:
        file.seek(int(entries.get("offset", 0)))
        return file.read(int(entries.get("length", -1)))


def tensor_bytes(data_type: int, shape: Shape) -> int | None:
    """Of a tensor of this element type; None for strings and unknown types, types smaller than a byte are packed."""
    if data_type == TensorProto.STRING or data_type not in _KNOWN:
        return None
    return packed_bytes(data_type, prod(shape))


def stored_bytes(tensor: TensorProto) -> int:
    """Of a constant, without the names and lengths around it."""
    if tensor.data_type == TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    return packed_bytes(tensor.data_type, prod(tensor.dims))


def packed_bytes(data_type: int, elements: int) -> int:
    bits = BITS.get(data_type) or 8 * helper.tensor_dtype_to_np_dtype(data_type).itemsize
    return -(-elements * bits // 8)


def constants(graph: GraphProto) -> Iterator[TensorProto]:
    """Every initializer and Constant node of the graph itself, by the name it has there."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute if operator_type(node) == "Constant" else ():
            tensor = _constant(attribute)
            if tensor is not None:
                tensor.name = node.output[0]
                yield tensor


def constants_within(graph: GraphProto) -> Iterator[TensorProto]:
    """Those of the graph and of its subgraphs."""
    yield from constants(graph)
    for node in graph.node:
        for inner in subgraphs(node):
            yield from constants_within(inner)


def _constant(attribute: onnx.AttributeProto) -> TensorProto | None:
    """The value of a Constant node; None for one that is sparse or a string."""
    if attribute.name == "value":
        return attribute.t
    if attribute.name in ("value_int", "value_float", "value_ints", "value_floats"):
        values = np.asarray(helper.get_attribute_value(attribute))
        return numpy_helper.from_array(values.astype(np.float32 if "float" in attribute.name else np.int64))
    return None
