"""The figures that a verdict rests on: of two files that were counted and timed in the same rounds."""

from collections.abc import Sequence

import numpy as np

from onnxprune.analysis.verdict import Facts
from onnxprune.graph.counts import Counts
from onnxprune.graph.tensors import Shape
from onnxprune.runtime.processor import vector_channels
from onnxprune.runtime.timing import confidence_interval, twin_noise


def facts_of(
    counts: tuple[Counts, Counts],
    times: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    speedup: float,
    fixed_share: float,
    device: str,
) -> Facts:
    base, other = counts
    vector = vector_channels(device)
    complete = base.comparable and other.comparable
    traffic = [_traffic(part) for part in counts]
    return Facts(
        speedup=speedup,
        interval=confidence_interval(
            np.stack([times[0][0], times[1][0]], axis=1), np.stack([times[0][1], times[1][1]], axis=1)
        ),
        noise=twin_noise(*times),
        theoretical=_theoretical(base.macs, other.macs) if complete else None,
        bytes_ratio=base.file_bytes / other.file_bytes,
        zero_share=1 - other.effective_macs / other.macs if other.macs and complete else 0.0,
        misaligned_share=_misaligned(other, base, vector) if complete else 0.0,
        vector=vector,
        traffic_ratio=traffic[0] / traffic[1] if traffic[0] and traffic[1] else None,
        fixed_share=min(1.0, fixed_share),
        rounds=len(times[0][0]),
    )


def _theoretical(base: int, other: int) -> float | None:
    if not base and not other:
        return 1.0
    return base / other if base and other else None


def _misaligned(counts: Counts, base: Counts, vector: int) -> float:
    """Share of the MACs in nodes with weights whose output channels are no multiple of `vector`, nor as many as a node
    of the base has."""
    usual = {width for _, width in _widths(base)}
    total = sum(macs for macs, width in _widths(counts) if width % vector and width not in usual)
    return total / counts.macs if counts.macs else 0.0


def _widths(counts: Counts) -> list[tuple[int, int]]:
    """MACs and output channels of the nodes with weights."""
    return [
        (node.macs, _channels(node.operator, node.output_shape))
        for node in counts.nodes
        if node.weight_shape is not None and node.output_shape
    ]


def _channels(operator: str, output: Shape) -> int:
    return output[1] if "Conv" in operator and len(output) > 1 else output[-1]


def _traffic(counts: Counts) -> int | None:
    total = 0
    for node in counts.nodes:
        if node.repeats and node.activation_bytes is None:
            return None
        total += node.repeats * ((node.activation_bytes or 0) + node.weight_bytes)
    return total
