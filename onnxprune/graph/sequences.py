"""Sequences of tensors, by the shapes of their elements."""

from collections.abc import Callable, Mapping

import numpy as np
from onnx import NodeProto

from onnxprune.graph.macs import Site
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.tensors import Shape

Sequence = tuple[Shape, ...]
Values = Callable[[str], np.ndarray | None]

_MAX_LENGTH = 2**16


def sequence_made(
    node: NodeProto, shapes: Mapping[str, Shape], sequences: Mapping[str, Sequence], value: Values
) -> Sequence | None:
    """The sequence that a node makes; None where it makes none, or not all of it is known.

    Args:
        value: gives the value of a tensor that depends on no data.
    """
    kind = operator_type(node)
    first = node.input[0] if node.input else ""
    if kind == "SequenceEmpty":
        return ()
    if kind == "SequenceConstruct":
        known = [shapes[name] for name in node.input if name in shapes]
        return tuple(known) if len(known) == len(node.input) else None
    if kind == "SplitToSequence":
        return _split(node, shapes.get(first), value)
    held = sequences.get(first)
    if held is None or kind not in ("Identity", "SequenceErase", "SequenceInsert"):
        return None
    if kind == "Identity":
        return held
    elements = list(held)
    added = shapes.get(node.input[1]) if kind == "SequenceInsert" else None
    position = _position(node, 2 if kind == "SequenceInsert" else 1, value, len(elements))
    if kind == "SequenceInsert" and added is not None and position is not None:
        elements.insert(position, added)
    elif kind == "SequenceErase" and position is not None and elements:
        del elements[position if position < len(elements) else -1]
    else:
        return None
    return tuple(elements)


def tensor_taken(node: NodeProto, sequences: Mapping[str, Sequence], value: Values) -> Shape | None:
    """The shape of the tensor that a node takes out of a sequence; None where it takes none, or it is not known."""
    held = sequences.get(node.input[0]) if node.input else None
    kind = operator_type(node)
    if held is None:
        return None
    if kind == "SequenceAt" and held:
        position = _position(node, 1, value, len(held))
        return held[position] if position is not None and position < len(held) else None
    if kind == "ConcatFromSequence" and held:
        site = Site(node, [], [])
        axis = site.attribute("axis", 0)
        if site.attribute("new_axis", 0):
            axis += (len(held[0]) + 1) * (axis < 0)
            return (*held[0][:axis], len(held), *held[0][axis:])
        axis += len(held[0]) * (axis < 0)
        if any(len(shape) != len(held[0]) for shape in held) or axis >= len(held[0]):
            return None
        return (*held[0][:axis], sum(shape[axis] for shape in held), *held[0][axis + 1 :])
    return None


def _position(node: NodeProto, index: int, value: Values, length: int) -> int | None:
    """Of an element; at the end where the input is left out, None where its value is not known."""
    if len(node.input) <= index or not node.input[index]:
        return length
    found = value(node.input[index])
    return None if found is None or found.size != 1 else int(found.item()) + length * (int(found.item()) < 0)


def _split(node: NodeProto, shape: Shape | None, value: Values) -> Sequence | None:
    site = Site(node, [], [])
    axis = site.attribute("axis", 0)
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    axis %= len(shape)
    size, rest = shape[axis], (shape[:axis], shape[axis + 1 :])
    if not site.has(1):
        element = (*rest[0], 1, *rest[1]) if site.attribute("keepdims", 1) else rest[0] + rest[1]
        return (element,) * size if size <= _MAX_LENGTH else None
    split = value(node.input[1])
    if split is None:
        return None
    if split.ndim:
        parts = [int(part) for part in split.ravel()]
    else:
        step = max(1, int(split))
        if size > step * _MAX_LENGTH:
            return None
        parts = [min(step, size - start) for start in range(0, size, step)]
    return tuple((*rest[0], part, *rest[1]) for part in parts)
