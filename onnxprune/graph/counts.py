"""What an ONNX file costs to run and to store, as figures: MACs, parameters, operators, bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxprune.graph.tensors import Shape

NOT_COUNTED = "not counted, "  # how the note of a node begins whose MACs are left out


@dataclass(frozen=True)
class OpCount:
    """Nodes of one operator type, their MACs and their parameters; shared ones count at the first user."""

    count: int
    macs: int
    params: int


@dataclass(frozen=True)
class NodeCount:
    """
    Attributes:
        name: the node's, or that of its first output; "outer/attribute/inner" within a subgraph.
        operator: "Conv", "com.microsoft.QAttention".
        macs, effective_macs: of all its runs.
        params: of the tensors that no node before it uses.
        output_shape: of its first output; None where it is not known.
        weight_shape: of the constant that its MACs multiply by; None where there is none.
        activation_bytes: of its inputs and outputs that are not constant, one run, on average where they differ; None
            where a shape is not known.
        weight_bytes: of the constants that it reads, as stored.
        live_bytes: of all activations that live while it runs, those within its subgraphs included; None where it does
            not run, or a size is not known.
        repeats: runs, within a loop of known length.
        onnx_tool_ops: onnx-tool's figure; None where it has none.
        note: what the count leaves open.
        type: of the numbers that it multiplies, "float32", "int8"; None where there are none, or it is not known.
        groups: of a convolution's channels; 1 for others.
    """

    name: str
    operator: str
    macs: int
    effective_macs: int
    params: int
    output_shape: Shape | None
    weight_shape: Shape | None
    activation_bytes: int | None
    weight_bytes: int
    live_bytes: int | None
    repeats: int
    onnx_tool_ops: int | None
    note: str | None
    type: str | None
    groups: int

    @property
    def macs_per_byte(self) -> float | None:
        """Arithmetic intensity: MACs for each byte of its inputs, constants and outputs; None where it is not known."""
        moved = None if self.activation_bytes is None else self.activation_bytes + self.weight_bytes
        if self.note is not None and self.note.startswith(NOT_COUNTED):
            return None
        return self.macs / self.repeats / moved if moved and self.repeats else None


def in_rounds(counts: Sequence[NodeCount]) -> NodeCount:
    """A node of a loop, by its counts in each round; shapes are those of the last."""
    moved = [count.activation_bytes for count in counts if count.activation_bytes is not None]
    live = [count.live_bytes for count in counts if count.live_bytes is not None]
    return replace(
        counts[-1],
        macs=sum(count.macs for count in counts),
        effective_macs=sum(count.effective_macs for count in counts),
        params=sum(count.params for count in counts),
        activation_bytes=round(sum(moved) / len(moved)) if len(moved) == len(counts) else None,
        live_bytes=max(live) if len(live) == len(counts) else None,
        repeats=sum(count.repeats for count in counts),
    )


@dataclass(frozen=True)
class Held:
    """A tensor that lives when activations take most; `node` is what makes it, None where it is fed."""

    tensor: str
    bytes: int
    node: str | None


@dataclass(frozen=True)
class Counts:
    """
    Attributes:
        macs: multiply-accumulates of all products (`onnxprune.graph.macs`). Biases are not counted; multiplications by
            padding are.
        effective_macs: those without the multiplications by zeros that a constant weight stores.
        flops: 2 * macs.
        params: elements of floating-point initializers, and of other constants that are the weight or bias of
            such an operator. Shapes and indices are no parameters.
        nonzero_params: those that are not zero (quantized ones: not at their zero point).
        file_bytes: of the file and of the external data it names.
        weight_bytes: of all constants, as stored.
        peak_activation_bytes: the most that inputs, intermediate tensors and outputs take at once, when nodes run in
            the order of the file and a tensor lives until its last use; None where a size is not known. Runtimes
            that fuse operators or work in place need less.
        peak_held: the tensors that live then, the largest first; empty where the peak is not known.
        operators: operator type ("domain.Type" outside ONNX's own) -> its nodes, most MACs first.
        nodes: in the order of the file, those of subgraphs after the node that runs them.
        onnx_tool_ops: onnx-tool's total, which also counts biases, activations, pooling and BatchNorm (31 an
            element); None where it cannot handle the file.
        onnx_tool_note: why it is None.
        uncounted: operator type -> number of nodes that may multiply outside `macs`.
        complete: whether nothing that multiplies is missing from `macs`.
        exact: whether no loop may end before the rounds that are counted.
        notes: what the counts leave open, a line each.
        index_limits: input -> what its integers must stay below, where they are indices.
    """

    macs: int
    effective_macs: int
    flops: int
    params: int
    nonzero_params: int
    file_bytes: int
    weight_bytes: int
    peak_activation_bytes: int | None
    peak_held: tuple[Held, ...]
    operators: dict[str, OpCount]
    nodes: tuple[NodeCount, ...]
    onnx_tool_ops: int | None
    onnx_tool_note: str | None
    uncounted: dict[str, int]
    complete: bool
    exact: bool
    notes: tuple[str, ...]
    index_limits: dict[str, int]

    @property
    def comparable(self) -> bool:
        """Whether the MACs are known, so that those of two files make a ratio."""
        return self.complete and self.exact

    @property
    def bound(self) -> str:
        """What stands before the MACs: nothing where they are known."""
        return {(True, True): "", (False, True): "at least ", (True, False): "at most ", (False, False): "about "}[
            self.complete, self.exact
        ]

    @property
    def sparsity(self) -> float:
        """Percentage of the parameters that are zero; 0 where there are none."""
        return 100 * (1 - self.nonzero_params / self.params) if self.params else 0.0

    @property
    def macs_by_type(self) -> dict[str, int]:
        """Type of numbers that are multiplied -> MACs, most first; "unknown" where it cannot be told."""
        found: Counter[str] = Counter()
        for node in self.nodes:
            if node.macs:
                found[node.type or "unknown"] += node.macs
        return dict(found.most_common())

    @property
    def peak_node(self) -> NodeCount | None:
        """The first node that runs when activations take most; None where that is not known."""
        peak = self.peak_activation_bytes
        return next((node for node in self.nodes if peak is not None and node.live_bytes == peak), None)

    @property
    def onnx_tool_difference(self) -> dict[str, int]:
        """What onnx-tool's total has more than `macs` (less: negative), by reason, largest first."""
        if self.onnx_tool_ops is None:
            return {}
        found: Counter[str] = Counter()
        for node in self.nodes:
            if node.onnx_tool_ops is not None and node.onnx_tool_ops != node.macs:
                found[f"{node.operator}: {_reason(node)}"] += node.onnx_tool_ops - node.macs
        rest = self.onnx_tool_ops - self.macs - found.total()
        if rest:
            found["nodes that only one of the two counts"] += rest
        return dict(sorted(found.items(), key=lambda item: -abs(item[1])))


_ONNX_TOOL_COUNTS = {
    "BatchNormalization": "31 an element",
    "MaxPool": "one for each element under the window",
    "AveragePool": "one for each element under the window",
}

_BIASED = {"Conv", "ConvTranspose", "Gemm"}  # one operation more for each element of the output


def _reason(node: NodeCount) -> str:
    """Why onnx-tool's figure for a node is another one."""
    if node.note is not None and node.note.startswith(NOT_COUNTED):
        return f"here {node.note}" if node.repeats == 0 else "here not counted, see the notes"
    if node.repeats == 0:
        return "here not counted, it never runs"
    elements = None if node.output_shape is None else prod(node.output_shape)
    if node.operator in _BIASED and node.onnx_tool_ops is not None and node.onnx_tool_ops - node.macs == elements:
        return "biases"
    return _ONNX_TOOL_COUNTS.get(node.operator, "counted otherwise" if node.macs else "counted as well")
