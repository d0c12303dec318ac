"""What an ONNX file costs to run and to store: MACs, parameters, operators, bytes."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto

from onnxprune.graph.counts import Counts, NodeCount, OpCount
from onnxprune.graph.files import load
from onnxprune.graph.index_limits import index_limits
from onnxprune.graph.inference import infer_shapes
from onnxprune.graph.macs import is_uncounted
from onnxprune.graph.nodes import label
from onnxprune.graph.onnx_tool_view import onnx_tool_ops
from onnxprune.graph.shapes import input_shapes, input_values
from onnxprune.graph.tensors import Shape
from onnxprune.graph.walk import UNKNOWN_SHAPE, Walk


def count(
    path: Path,
    batch: int | None = None,
    shapes: Mapping[str, Shape] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
) -> Counts:
    """Counts of an ONNX file.

    Args:
        batch: samples, where the inputs leave their first size open; default one.
        shapes: input name -> shape with the batch, where the file leaves more open.
        values: of inputs, where they decide what runs.

    Raises:
        InputError: not an ONNX file, or the shapes of its inputs are missing or do not fit.
    """
    model, file_bytes = load(path)
    resolved = input_shapes(path, model.graph, batch, shapes, values)
    return count_model(path, model, file_bytes, resolved, input_values(path, model.graph, resolved, values or {}))


def count_model(
    path: Path,
    model: ModelProto,
    file_bytes: int,
    inputs: Mapping[str, Shape],
    values: Mapping[str, np.ndarray] | None = None,
) -> Counts:
    """Counts of a loaded model, which is used up by it.

    Args:
        file_bytes: of the file and its external data.
        inputs: shapes of all inputs.
        values: of inputs, where they are given: they may decide shapes, rounds of loops and branches.

    Raises:
        InputError: shapes contradict each other, or are absurd.
    """
    inferred = infer_shapes(path, model, inputs, values)
    walk = Walk(path, inferred, model.graph)
    nodes = walk.nodes
    largest = max(map(prod, inferred.shapes.values()), default=0)
    limits = index_limits(model, inferred, inputs)
    ops, per_node, note = onnx_tool_ops(model, inputs, walk.weight_bytes, largest)  # last: it may change the model
    nodes = [
        node if index is None else replace(node, onnx_tool_ops=per_node.get(index))
        for index, node in zip(walk.positions, nodes, strict=True)
    ]
    operators: dict[str, OpCount] = {}
    for node in nodes:
        before = operators.get(node.operator, OpCount(0, 0, 0))
        operators[node.operator] = OpCount(before.count + 1, before.macs + node.macs, before.params + node.params)
    macs = sum(node.macs for node in nodes)
    uncounted = Counter(node.operator for node in nodes if node.repeats and is_uncounted(node.operator))
    return Counts(
        macs=macs,
        effective_macs=sum(node.effective_macs for node in nodes),
        flops=2 * macs,
        params=walk.params,
        nonzero_params=walk.nonzero_params,
        file_bytes=file_bytes,
        weight_bytes=walk.weight_bytes,
        peak_activation_bytes=None if walk.activations is None else walk.activations.peak,
        peak_held=() if walk.activations is None else walk.activations.held,
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1].macs, item[0]))),
        nodes=tuple(nodes),
        onnx_tool_ops=ops,
        onnx_tool_note=note,
        uncounted=dict(sorted(uncounted.items())),
        complete=walk.complete and not uncounted,
        exact=walk.exact,
        notes=(
            *(
                f"{name}: not counted, as this operator is not known here (nodes: {number})"
                for name, number in sorted(uncounted.items())
            ),
            *walk.gaps,
            *_notes(nodes),
            *(f"input {name!r} is {list(shape)}: it has no elements" for name, shape in inputs.items() if 0 in shape),
        ),
        index_limits=limits,
    )


def macs_within(node: NodeProto, counts: Iterable[NodeCount]) -> int:
    """MACs of the subgraphs of a node of the main graph, among the counts of its file."""
    inner = tuple(f"{label(node)}/{item.name}/" for item in node.attribute if item.HasField("g"))
    return sum(count.macs for count in counts if inner and count.name.startswith(inner))


def node_counts(path: Path, model: ModelProto, shapes: Mapping[str, Shape]) -> list[NodeCount]:
    """Those of `count_model`, without onnx-tool's."""
    return Walk(path, infer_shapes(path, model, shapes), model.graph).nodes


def _notes(nodes: Iterable[NodeCount]) -> list[str]:
    """What nodes leave open: one line for all that say the same, or are not counted for want of a shape."""
    said: dict[str, list[NodeCount]] = {}
    for node in nodes:
        if node.note:
            said.setdefault("" if node.note.startswith(UNKNOWN_SHAPE) else node.note, []).append(node)
    lines = []
    for same in said.values():
        first = f"{same[0].operator} {same[0].name!r}: {same[0].note}"
        kinds = Counter(node.operator for node in same)
        counted = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        lines.append(first + (f"; likewise in all {len(same)} nodes: {counted}" if len(same) > 1 else ""))
    return lines
