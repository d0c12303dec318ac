"""The figures that a verdict rests on: of two files that were counted and timed in the same rounds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxprune.analysis.verdict import Facts
from onnxprune.graph.counts import Counts
from onnxprune.graph.tensors import Shape
from onnxprune.runtime.timing import PLANNED_ROUNDS, median_interval, twin_noise

_DRAWN_AT_ONCE = 2**16  # rounds: bounds the memory
_RESAMPLES = 1000
_CONFIDENCE = 95


def facts_of(
    counts: tuple[Counts, Counts],
    times: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    speedup: float,
    fixed_share: float,
    device: str,
) -> Facts:
    base, other = counts
    vector = vector_channels(device)
    complete = base.complete and other.complete
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


def confidence_interval(base: np.ndarray, other: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of median(base) / median(other), by a moving block bootstrap of the rounds.

    Neighbouring rounds are alike, since the machine is slower in some seconds than in others: blocks of the cube root
    of their number are drawn together (Kuensch 1989, The Annals of Statistics 17). Of few rounds that gives too narrow
    an interval: it is widened to that of the median of the rounds' own ratios.

    Args:
        base, other: milliseconds (rounds, sessions).
    """
    rounds = len(base)
    length = max(1, round(rounds ** (1 / 3)))
    blocks = -(-rounds // length)
    random = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // rounds)
    ratios = np.empty(_RESAMPLES)
    for done in range(0, _RESAMPLES, at_once):
        samples = min(at_once, _RESAMPLES - done)
        starts = random.integers(0, rounds - length + 1, (samples, blocks))
        drawn = (starts[:, :, None] + np.arange(length)).reshape(samples, -1)[:, :rounds]
        ratios[done : done + samples] = np.median(base[drawn], (1, 2)) / np.median(other[drawn], (1, 2))
    low, high = (float(end) for end in np.percentile(ratios, [(100 - _CONFIDENCE) / 2, (100 + _CONFIDENCE) / 2]))
    if rounds < PLANNED_ROUNDS:
        least, most = median_interval(base.sum(1) / other.sum(1))
        return min(low, least), max(high, most)
    return low, high


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


def vector_channels(device: str) -> int:
    """Channels of float32 that fill a vector register: 16 with AVX-512, else 8; the GPU's matrix units want 8."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return 8
    return 16 if device == "cpu" and "avx512f" in flags else 8
