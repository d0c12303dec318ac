"""What is known of the tensors of a graph, and what the subgraphs of a node tell of its outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import GraphProto, NodeProto

from onnxprune.graph import loops
from onnxprune.graph.sequences import Sequence
from onnxprune.graph.tensors import Shape


@dataclass
class Inferred:
    """What is known of the tensors of a graph once its inputs have shapes.

    Attributes:
        shapes: name -> shape, of those whose shape is known.
        types: name -> element type, of those that are tensors.
        sequences: name -> shapes of the elements, of sequences of tensors that are known.
        gaps: name -> why its shape is not known: the node or input that makes it so.
        bodies: position of a node -> attribute -> the same of that subgraph, outer names included. A branch that is
            never taken has none.
        rounds: position of a Loop -> how often its body runs.
        followed: position of a Loop whose sizes change from round to round -> its body in each of them.
        values: output of the graph -> its value, of those that depend on no data.
    """

    shapes: dict[str, Shape] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    sequences: dict[str, Sequence] = field(default_factory=dict)
    gaps: dict[str, str] = field(default_factory=dict)
    bodies: dict[int, dict[str, "Inferred"]] = field(default_factory=dict)
    rounds: dict[int, loops.Rounds] = field(default_factory=dict)
    followed: dict[int, list["Inferred"]] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What a subgraph gives for an output of its node; None where it is not known, or no sequence, or no gap."""

    kind: int | None
    shape: Shape | None
    sequence: Sequence | None
    gap: str | None


def results_of_subgraphs(
    node: NodeProto, graphs: Mapping[str, GraphProto], bodies: Mapping[str, Inferred], length: int | None
) -> dict[str, list[Result]]:
    """Output of the node -> what its subgraphs give for it: one for each that may run.

    Args:
        length: rounds of a Loop or Scan, which stacks some outputs.
    """
    found: dict[str, list[Result]] = {}
    for key, body in bodies.items():
        outputs = graphs[key].output
        handed_on = len(outputs)
        if node.op_type in ("Loop", "Scan"):
            part = loops.outputs_of(node, loops.carried(node, len(graphs[key].input)))
            outputs, handed_on = outputs[part.start :], part.stop - part.start
        for position, (name, output) in enumerate(zip(node.output, outputs, strict=False)):
            shape = body.shapes.get(output.name)
            if position >= handed_on and shape is not None:
                axis = loops.stacking_axis(node, position - handed_on, len(shape) + 1)
                shape = None if length is None else (*shape[:axis], length, *shape[axis:])
            result = Result(
                body.types.get(output.name), shape, body.sequences.get(output.name), body.gaps.get(output.name)
            )
            found.setdefault(name, []).append(result)
    found.pop("", None)
    return found
