"""What a Loop and a Scan hand to their bodies, and how often a Loop runs its own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from onnx import GraphProto, NodeProto, OperatorSetIdProto

from onnxprune.graph.evaluation import Evaluator
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.tensors import Shape

_MAX_STEPS = 20_000  # nodes of a body times its rounds, when it is followed round by round


class Rounds(NamedTuple):
    """How often a body runs: at most `number` times, exactly so where `exact`; None where there is no such bound.

    `why` is what it depends on where it is not exact.
    """

    number: int | None
    exact: bool
    why: str = ""


def carried(node: NodeProto, inputs: int) -> slice:
    """Of a body's inputs, those that are handed from round to round."""
    if node.op_type == "Loop":
        return slice(2, inputs)
    if node.op_type == "Scan":
        return slice(0, inputs - scanned(node))
    return slice(0, 0)


def outputs_of(node: NodeProto, inputs: slice) -> slice:
    """Of a body's outputs, those that are the next round's carried inputs: a Loop's first one is its condition."""
    shift = 1 if node.op_type == "Loop" else 0
    return slice(inputs.start - shift, inputs.stop - shift)


def scanned(node: NodeProto) -> int:
    """How many of a Scan's inputs it goes through, the last ones."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "num_scan_inputs"), 0)


def scan_axis(node: NodeProto, index: int) -> int:
    """The axis along which a Scan goes through the `index`-th of these."""
    axes = next((list(a.ints) for a in node.attribute if a.name == "scan_input_axes"), [0])
    return axes[index] if index < len(axes) else 0


def stacking_axis(node: NodeProto, index: int, rank: int) -> int:
    """The axis along which the rounds' results make the `index`-th stacked output, of this rank."""
    axes = next((list(a.ints) for a in node.attribute if a.name == "scan_output_axes"), [])
    return axes[index] % rank if index < len(axes) else 0


def handed_names(node: NodeProto) -> list[str]:
    """The node's inputs that a body's inputs come from; a Loop's first two are its own."""
    return {"Loop": ["", "", *node.input[2:]], "Scan": list(node.input)}.get(node.op_type, [])


def handed_in(node: NodeProto, count: int, shapes: Mapping[str, Shape]) -> list[Shape | None]:
    """Shapes of a body's inputs in the first round."""
    found = [shapes.get(name) for name in handed_names(node)]
    if node.op_type == "Loop":
        found[:2] = [(), ()]
    elif node.op_type == "Scan":
        first = len(found) - scanned(node)
        for position in range(first, len(found)):
            shape = found[position]
            if shape:
                axis = scan_axis(node, position - first) % len(shape)
                found[position] = (*shape[:axis], *shape[axis + 1 :])
    return [*found, *[None] * count][:count]


def rounds(
    body: GraphProto,
    opsets: Sequence[OperatorSetIdProto],
    trips: np.ndarray | None,
    condition: np.ndarray | None,
    state: Iterable[np.ndarray | None],
    known: Mapping[str, np.ndarray],
    shapes: Mapping[str, Shape],
) -> Rounds:
    """How often a Loop runs its body, whose values are followed as far as they depend on no data.

    Args:
        trips: at most; None where that is not known, or there is no such limit.
        condition: before the first round; None where it is not known.
        state: what is handed to the first round, None where it is not known.
        known: constants of the body, its own and outer ones.
        shapes: of the tensors within it.
    """
    limit = None if trips is None else max(0, int(trips.item()))
    if limit == 0 or (condition is not None and not condition.item()):
        return Rounds(0, True)
    if condition is None:
        return Rounds(limit, False)
    names = [value.name for value in body.input]
    going_on = body.output[0].name
    producers = {name: node for node in body.node for name in node.output}
    while going_on in producers and operator_type(producers[going_on]) == "Identity":
        going_on = producers[going_on].input[0]
    always = Evaluator(body.node, opsets, known, shapes).value(going_on)
    if going_on == names[1] or (always is not None and always.all()):
        return Rounds(limit, limit is not None)
    values = [*state]
    for number in range(_MAX_STEPS // max(1, len(body.node))):
        if number == limit:
            return Rounds(limit, True)
        handed = [np.asarray(number, np.int64), np.asarray(True), *values]
        here = {name: value for name, value in zip(names, handed, strict=False) if value is not None}
        evaluator = Evaluator(body.node, opsets, {**known, **here}, shapes)
        condition = evaluator.value(going_on)
        if condition is None:
            break
        if not condition.all():
            return Rounds(number + 1, True)
        values = [evaluator.value(output.name) for output in body.output[1 : len(names) - 1]]
    return Rounds(limit, False)
