"""The type of numbers that a product multiplies."""

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from onnx import NodeProto, TensorProto

_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT16: "int16",
    TensorProto.UINT16: "int16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "int4",
}
_WIDEST = ("float64", "float32", "bfloat16", "float16", "int16", "int8", "int4")
_FIRST = 0  # the input that is no weight, of every product


def is_floating(dtype: np.dtype) -> bool:
    """Whether it is of floating-point numbers, those that NumPy itself does not have among them, as bfloat16."""
    return "float" in dtype.name


def is_quantised(kinds: Iterable[str]) -> bool:
    """Whether any of these operators computes in 8 bits, or brings numbers into them or back."""
    names = [kind.rpartition(".")[2] for kind in kinds]
    return any(
        "quantize" in name.lower() or re.match("Q[A-Z]", name) or "Integer" in name or name.endswith("NBits")
        for name in names
    )


def number_type(node: NodeProto, weights: Sequence[int], stored: Callable[[str], int]) -> str | None:
    """Of its operands the widest type, "float32" or "int8", with or without sign; None where it is not known.

    What DequantizeLinear makes counts as what it is made of: runtimes that know such products compute them in 8 bits.

    Args:
        weights: positions of the inputs that may be weights.
        stored: element type of a tensor, before the DequantizeLinear that makes it; 0 where it is not known.
    """
    positions = dict.fromkeys((*weights, _FIRST))
    if node.op_type.startswith("DynamicQuantize"):  # it brings what it takes into 8 bits by itself
        positions.pop(_FIRST)
    names = [node.input[position] for position in positions if position < len(node.input)]
    found = [_NAMES.get(stored(name)) for name in names if name]
    known = [name for name in found if name is not None]
    return min(known, key=_WIDEST.index) if known and len(known) == len(found) else None
