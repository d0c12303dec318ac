"""Random inputs for an onnxruntime session."""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import onnxruntime

from onnxprune.common.errors import InputError

Inputs = dict[str, np.ndarray]


_MAX_BYTES = 8 * 2**30
_FLOATS = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
_INTEGERS = {
    f"tensor({name})": getattr(np, name) for name in ("int8", "int16", "int32", "int64", "uint16", "uint32", "uint64")
}


def random_inputs(
    session: onnxruntime.InferenceSession,
    shapes: Mapping[str, Sequence[int]],
    seed: int = 0,
    values: Mapping[str, np.ndarray] | None = None,
    limits: Mapping[str, int] | None = None,
) -> Inputs:
    """Values for every input of the session: equal seeds give equal values.

    Floats are standard normal and uint8 uniform. Other integers are random below the limit that the graph sets to
    indices, and ones where it sets none; booleans are true: as masks, both keep everything.

    Args:
        shapes: input name -> shape.
        values: of inputs that are given, in the input's type and shape.
        limits: input name -> what its integers must stay below.

    Raises:
        InputError: an input has no shape here, is no tensor, of a type NumPy does not have, or too large.
    """
    inputs, values, limits = session.get_inputs(), values or {}, limits or {}
    for value in inputs:
        if not value.type.startswith("tensor("):
            raise InputError(f"no random values can be made for input {value.name!r}, which is {value.type}")
        if value.name not in shapes:
            raise InputError(f"no shape is known for input {value.name!r}")
    random = np.random.default_rng(seed)
    size = sum(prod(shapes[value.name]) for value in inputs)
    if size * 4 > _MAX_BYTES:
        raise InputError(f"its inputs have {size:,} elements, more than fit into {_MAX_BYTES / 2**30:.0f} GiB")
    return {
        value.name: values[value.name]
        if value.name in values
        else _values(value.name, value.type, shapes[value.name], random, limits.get(value.name))
        for value in inputs
    }


def _values(name: str, kind: str, shape: Sequence[int], random: np.random.Generator, limit: int | None) -> np.ndarray:
    if kind in _FLOATS:
        return np.asarray(random.standard_normal(shape, np.float32)).astype(_FLOATS[kind])
    if kind in _INTEGERS and limit is not None:
        most = min(limit, np.iinfo(_INTEGERS[kind]).max)
        return np.asarray(random.integers(0, most, shape)).astype(_INTEGERS[kind])
    if kind == "tensor(uint8)":
        return np.asarray(random.integers(0, 256, shape, np.uint8))
    if kind in _INTEGERS:
        return np.ones(shape, _INTEGERS[kind])
    if kind == "tensor(bool)":
        return np.ones(shape, bool)
    raise InputError(f"no random values can be made for input {name!r}, which is {kind}")
