"""A node that is run in PyTorch, the table of what runs it, and how inputs become tensors or numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, helper
from torch import Tensor
from torch.nn import functional as F

from onnxprune.common.errors import InputError
from onnxprune.graph.network import label_of

Value = Tensor | np.ndarray | None

# operator -> what runs it
OPERATORS: dict[str, Callable[..., Tensor | list[Tensor] | np.ndarray]] = {}
# operator -> positions of the inputs that are sizes, places or limits and no data
NUMBERS: dict[str, tuple[int, ...]] = {}
SEVERAL = {"GRU", "LSTM", "Split"}  # operators that are run with all of their outputs, others with the first alone


def operator(*names: str, numbers: tuple[int, ...] = ()) -> Callable[[Any], Any]:
    """Enters a function of a call and its inputs into the table, under the names of the operators that it runs.

    Args:
        numbers: positions of the inputs that are sizes, places or limits and no data.
    """

    def enter(function: Any) -> Any:
        for name in names:
            OPERATORS[name], NUMBERS[name] = function, numbers
        return function

    return enter


@dataclass(frozen=True)
class Call:
    """A node that is run.

    Attributes:
        attributes: name -> value; text as str.
        opset: version of ONNX's operators in its file.
    """

    node: NodeProto
    attributes: Mapping[str, Any]
    opset: int

    @classmethod
    def of(cls, node: NodeProto, opset: int) -> "Call":
        """The node, with its attributes read once."""
        found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        text = {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}
        return cls(node, text, opset)

    def attribute(self, name: str, default: Any = None) -> Any:
        """Its value, or the default where the node does not have it."""
        return self.attributes.get(name, default)

    def refused(self, what: str) -> InputError:
        """The error for a form of the operator that is not known here."""
        return InputError(f"node '{label_of(self.node)}': {self.node.op_type} with {what} cannot be run in PyTorch")


def tensor(value: Tensor | np.ndarray, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.array(value)).to(like.device)


def numbers(value: Value) -> list[Any]:
    """A tensor of sizes, places or limits as Python numbers."""
    assert value is not None
    found = value.tolist()
    return found if isinstance(found, list) else [found]


def number(value: Value) -> Any:
    """A tensor of one element as a Python number."""
    assert value is not None
    return value.item()


def together(*values: Value) -> list[Tensor]:
    """All as tensors, on the device of those that are."""
    like = next(value for value in values if isinstance(value, Tensor))
    return [tensor(value, like) for value in values if value is not None]


def padded(data: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    count = len(pads) // 2
    if not any(pads):
        return data
    flat = [amount for axis in reversed(range(count)) for amount in (pads[axis], pads[count + axis])]
    return F.pad(data, flat, value=value)
