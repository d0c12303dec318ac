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
    misaligned = [_misaligned(part, vector) for part in counts]
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
        misaligned_share=max(0.0, misaligned[1] - misaligned[0]) if complete else 0.0,
        vector=vector,
        traffic_ratio=traffic[0] / traffic[1] if traffic[0] and traffic[1] else None,
        fixed_share=min(1.0, fixed_share),
        rounds=len(times[0][0]),
    )


def _theoretical(base: int, other: int) -> float:
    return base / other if other else float("inf") if base else 1.0


def _misaligned(counts: Counts, vector: int) -> float:
    """Share of the MACs in nodes with weights whose output channels are no multiple of `vector`."""
    total = sum(
        node.macs
        for node in counts.nodes
        if node.weight_shape is not None and node.output_shape and _channels(node.operator, node.output_shape) % vector
    )
    return total / counts.macs if counts.macs else 0.0


def _channels(operator: str, output: Shape) -> int:
    return output[1] if "Conv" in operator and len(output) > 1 else output[-1]


def _traffic(counts: Counts) -> int | None:
    sizes = [node.activation_bytes for node in counts.nodes]
    known = [size for size in sizes if size is not None]
    return sum(known) + sum(node.weight_bytes for node in counts.nodes) if len(known) == len(sizes) else None
