"""Compares ONNX files with a base: what they cost, what they gain when they are run, and why not more."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

from onnxprune.common.errors import InputError, one_line
from onnxprune.graph.counting import count_model
from onnxprune.graph.counts import Counts
from onnxprune.graph.files import load
from onnxprune.graph.shapes import input_shapes
from onnxprune.graph.tensors import Shape
from onnxprune.runtime.kernels import on_cpu, time_kernels
from onnxprune.runtime.lock import timing_lock
from onnxprune.runtime.probe import probe
from onnxprune.runtime.random_inputs import Inputs, random_inputs
from onnxprune.runtime.runs import bound_run
from onnxprune.runtime.session import check_cuda, open_session
from onnxprune.runtime.timing import Latency, interleave, summarise, twin_noise

_RESAMPLES = 1000
_CONFIDENCE = 95
_NOTHING = '<ir_version: 8, opset_import: ["": 13]> nothing (float[1] x) => (float[1] y) { y = Identity (x) }'

# When a reason is given; shares and ratios that a person would call much.
_MUCH_LESS = 0.8  # of the theoretical speedup
_MANY_ZEROS = 0.2  # of the multiplications
_MUCH_MISALIGNED = 0.2  # of the MACs
_MUCH_FIXED = 0.2  # of the latency


@dataclass(frozen=True)
class Facts:
    """What a verdict rests on: a file against its base, at one batch size.

    Attributes:
        speedup: median latency of the base / of the file.
        interval: its 95 % confidence interval.
        noise: how far sessions of the same file were apart, relative. A speedup within 1 +- noise is none.
        theoretical: MACs of the base / of the file.
        bytes_ratio: bytes on disk of the base / of the file.
        zero_share: share of the file's multiplications that are by stored zeros.
        misaligned_share: share of its MACs in nodes whose output channels fill the vectors less well than the base's.
        vector: channels that fill a vector.
        traffic_ratio: bytes that all nodes read and write, base / file; None where a size is not known.
        fixed_share: share of the file's latency that a run of one trivial operator takes too.
    """

    speedup: float
    interval: tuple[float, float]
    noise: float
    theoretical: float
    bytes_ratio: float
    zero_share: float
    misaligned_share: float
    vector: int
    traffic_ratio: float | None
    fixed_share: float


@dataclass(frozen=True)
class Verdict:
    """`outcome` is "faster", "slower" or "no real difference"; the reasons end with what to do, if anything."""

    outcome: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class OutputDifference:
    """Of the outputs on the same random input.

    Attributes:
        max_abs: the largest absolute difference; None where the outputs do not correspond.
        same_top1: share of the rows whose largest value is at the same place; None for outputs that are not (N, M).
        note: why there are no figures.
    """

    max_abs: float | None
    same_top1: float | None
    note: str | None


@dataclass(frozen=True)
class Entry:
    """A file at one batch size; what compares it with the base is None for the base itself.

    Attributes:
        placement: what a session on CUDA runs on the CPU all the same; None where that is nothing.
    """

    path: Path
    batch: int | None
    counts: Counts
    latency: Latency
    placement: str | None
    facts: Facts | None
    verdict: Verdict | None
    outputs: OutputDifference | None


def judge(facts: Facts) -> Verdict:
    """What the figures say."""
    low, high = facts.interval
    if low > 1 + facts.noise:
        outcome = "faster"
    elif high < 1 - facts.noise:
        outcome = "slower"
    else:
        outcome = "no real difference"
    short = facts.speedup < _MUCH_LESS * facts.theoretical
    reasons = []
    if facts.zero_share > _MANY_ZEROS:
        reasons.append(
            f"zeros left in place: {100 * facts.zero_share:.0f} % of its multiplications are by stored zeros, which "
            "onnxruntime performs all the same; prune units or filters, so that the network shrinks"
        )
    if (short or outcome == "slower") and facts.misaligned_share > _MUCH_MISALIGNED:
        reasons.append(
            f"channels not aligned: {100 * facts.misaligned_share:.0f} % of its MACs are in layers whose width is no "
            f"multiple of {facts.vector}; keep multiples of {facts.vector} (--channel-align {facts.vector})"
        )
    if short and facts.fixed_share > _MUCH_FIXED:
        reasons.append(
            f"too small to matter: {100 * facts.fixed_share:.0f} % of its time is the fixed cost of a run; larger "
            "batches or fewer runs gain more than pruning"
        )
    if short and facts.traffic_ratio is not None and facts.traffic_ratio < _MUCH_LESS * facts.theoretical:
        reasons.append(
            f"memory-bound: MACs fell {facts.theoretical:.2f} times, the bytes that its nodes read and write only "
            f"{facts.traffic_ratio:.2f} times; prune the layers with the largest outputs"
        )
    if outcome != "faster" and facts.bytes_ratio > 1 / _MUCH_LESS:
        reasons.append(f"its file is {facts.bytes_ratio:.2f} times smaller all the same")
    if outcome == "no real difference" and not reasons:
        reasons.append("it does the same work" if facts.theoretical < 1 / _MUCH_LESS else "no reason is apparent")
    return Verdict(outcome, tuple(reasons))


def compare(
    base: Path,
    others: Sequence[Path],
    *,
    batch_sizes: Sequence[int] = (),
    shapes: Mapping[str, Shape] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    seconds: float = 3.0,
) -> list[Entry]:
    """Times and counts files side by side: one entry a batch size and file, the base's first.

    All are run on the same random input, in turn, two sessions each.

    Args:
        batch_sizes: default: what the base fixes, else 1.
        shapes: input name of the base -> shape with the batch, where it leaves more open.
        threads: of the processor, within an operator; default: one for each core.
        seconds: length of the measurement at each batch size, all files together.

    Raises:
        InputError: a file cannot be read or run, runs nothing on CUDA where that was asked for, or does not take the
            base's input.
    """
    if device == "cuda":
        check_cuda()
    threads = threads or os.cpu_count() or 1
    entries = []
    for size in batch_sizes or (None,):
        entries += _compare(base, others, size, shapes, device=device, threads=threads, seconds=seconds)
    return entries


def _compare(
    base: Path,
    others: Sequence[Path],
    size: int | None,
    shapes: Mapping[str, Shape] | None,
    *,
    device: str,
    threads: int,
    seconds: float,
) -> list[Entry]:
    paths = [base, *others]
    counts: list[Counts] = []
    resolved: list[dict[str, Shape]] = []
    for path in paths:
        model, file_bytes = load(path)
        if resolved:
            taken = _by_position(path, model, base, resolved[0])
            resolved.append(input_shapes(path, model.graph, None, taken))
        else:
            resolved.append(input_shapes(path, model.graph, size, shapes))
        counts.append(count_model(path, model, file_bytes, resolved[-1]))
    placements: list[str | None] = []
    for path, own, counted in zip(paths, resolved, counts, strict=True):
        probe(path, own, device=device, threads=threads, file_bytes=counted.file_bytes)
        placements.append(_placement(path, own, threads) if device == "cuda" else None)
    sessions = [open_session(path, device=device, threads=threads) for path in [*paths, *paths]]
    first = random_inputs(sessions[0], resolved[0])
    feeds = [_same_feed(path, session, sessions[0], first) for path, session in zip(paths * 2, sessions, strict=True)]
    answers = [_answer(path, session, feed) for path, session, feed in zip(paths, sessions, feeds, strict=False)]
    runs = [bound_run(session, feed, device) for session, feed in zip(sessions, feeds, strict=True)]
    with timing_lock():
        *times, nothing = interleave([*runs, _nothing(device, threads)], seconds)
    batch = next((shape[0] for shape in resolved[0].values() if shape), None)
    firsts, twins = times[: len(paths)], times[len(paths) :]
    latencies = [summarise(np.concatenate(pair)) for pair in zip(firsts, twins, strict=True)]
    entries = [Entry(base, batch, counts[0], latencies[0], placements[0], None, None, None)]
    for index in range(1, len(paths)):
        facts = _facts(
            (counts[0], counts[index]),
            ([firsts[0], firsts[index]], [twins[0], twins[index]]),
            latencies[0].median_ms / latencies[index].median_ms,
            float(np.median(nothing)) / latencies[index].median_ms,
            device,
        )
        difference = _difference(answers[0], answers[index])
        entries.append(
            Entry(
                paths[index],
                batch,
                counts[index],
                latencies[index],
                placements[index],
                facts,
                judge(facts),
                difference,
            )
        )
    return entries


def _placement(path: Path, shapes: Mapping[str, Shape], threads: int) -> str | None:
    return on_cpu(path, time_kernels(path, shapes, device="cuda", threads=threads, seconds=0))


def _by_position(path: Path, model: Any, base: Path, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The base's shapes by the names that the other file has for its inputs."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in initializers]
    if len(names) != len(shapes):
        raise InputError(f"{path}: it has {len(names)} inputs, {base} has {len(shapes)}: they cannot be compared")
    return dict(zip(names, shapes.values(), strict=True))


def _same_feed(path: Path, session: Any, base: Any, feed: Inputs) -> Inputs:
    """The base's input under the names that the other file has for it."""
    for own, theirs in zip(session.get_inputs(), base.get_inputs(), strict=True):
        if own.type != theirs.type:
            raise InputError(f"{path}: its input {own.name!r} is {own.type}, the base's is {theirs.type}")
    return dict(zip((value.name for value in session.get_inputs()), feed.values(), strict=True))


def _answer(path: Path, session: Any, feed: Inputs) -> list[Any]:
    try:
        return list(session.run(None, feed))
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(f"{path}: onnxruntime cannot run it: {one_line(error)}") from error


def _nothing(device: str, threads: int) -> Callable[[], Any]:
    """A run that does nothing but what every run does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nothing.onnx"
        onnx.save(onnx.parser.parse_model(_NOTHING), path)
        session = open_session(path, device=device, threads=threads)
    return bound_run(session, {"x": np.zeros(1, np.float32)}, device)


def _facts(
    counts: tuple[Counts, Counts],
    times: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    speedup: float,
    fixed_share: float,
    device: str,
) -> Facts:
    base, other = counts
    vector = vector_channels(device)
    misaligned = [_misaligned(part, vector) for part in counts]
    traffic = [_traffic(part) for part in counts]
    return Facts(
        speedup=speedup,
        interval=confidence_interval(
            np.stack([times[0][0], times[1][0]], axis=1), np.stack([times[0][1], times[1][1]], axis=1)
        ),
        noise=twin_noise(*times),
        theoretical=base.macs / other.macs if other.macs else float("inf") if base.macs else 1.0,
        bytes_ratio=base.file_bytes / other.file_bytes,
        zero_share=1 - other.effective_macs / other.macs if other.macs else 0.0,
        misaligned_share=max(0.0, misaligned[1] - misaligned[0]),
        vector=vector,
        traffic_ratio=traffic[0] / traffic[1] if traffic[0] and traffic[1] else None,
        fixed_share=min(1.0, fixed_share),
    )


def confidence_interval(base: np.ndarray, other: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of median(base) / median(other), by a moving block bootstrap of the rounds.

    Neighbouring rounds are alike, since the machine is slower in some seconds than in others: blocks of the cube root
    of their number are drawn together (Kuensch 1989, The Annals of Statistics 17).

    Args:
        base, other: milliseconds (rounds, sessions).
    """
    rounds = len(base)
    length = max(1, round(rounds ** (1 / 3)))
    blocks = -(-rounds // length)
    random = np.random.default_rng(seed)
    ratios = np.empty(_RESAMPLES)
    for index in range(_RESAMPLES):
        starts = random.integers(0, rounds - length + 1, blocks)
        drawn = (starts[:, None] + np.arange(length)).ravel()[:rounds]
        ratios[index] = np.median(base[drawn]) / np.median(other[drawn])
    low, high = np.percentile(ratios, [(100 - _CONFIDENCE) / 2, (100 + _CONFIDENCE) / 2])
    return float(low), float(high)


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


def _difference(base: Sequence[Any], other: Sequence[Any]) -> OutputDifference:
    """Outputs correspond by their position."""
    shapes = [[getattr(value, "shape", None) for value in values] for values in (base, other)]
    if shapes[0] != shapes[1]:
        return OutputDifference(None, None, f"outputs differ in shape: {shapes[0]} and {shapes[1]}")
    pairs = [
        pair for pair in zip(base, other, strict=True) if np.issubdtype(getattr(pair[0], "dtype", object), np.number)
    ]
    if len(pairs) < len(base):
        return OutputDifference(None, None, "outputs are not all numbers")
    differences = [np.abs(a.astype(np.float64) - b).max() for a, b in pairs if a.size]
    first, second = pairs[0]
    same = float((first.argmax(axis=1) == second.argmax(axis=1)).mean()) if first.ndim == 2 and first.size else None
    return OutputDifference(float(max(differences, default=0.0)), same, None)
