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

from onnxprune.analysis.correspondence import OutputDifference, difference, pair_names
from onnxprune.common.errors import InputError, one_line
from onnxprune.graph.counting import count_model
from onnxprune.graph.counts import Counts
from onnxprune.graph.files import load
from onnxprune.graph.shapes import input_shapes, input_values
from onnxprune.graph.tensors import Shape
from onnxprune.runtime.bystanders import Bystanders, Disturbance
from onnxprune.runtime.kernels import on_cpu, time_kernels
from onnxprune.runtime.lock import timing_lock
from onnxprune.runtime.probe import probe
from onnxprune.runtime.random_inputs import Inputs, random_inputs
from onnxprune.runtime.runs import bound_run
from onnxprune.runtime.session import check_cuda, open_session
from onnxprune.runtime.timing import (
    LONGEST_SECONDS,
    PLANNED_ROUNDS,
    Latency,
    interleave,
    median_interval,
    summarise,
    twin_noise,
)

_RESAMPLES = 1000
_CONFIDENCE = 95
_NOTHING = '<ir_version: 8, opset_import: ["": 13]> nothing (float[1] x) => (float[1] y) { y = Identity (x) }'

# When a reason is given; shares and ratios that a person would call much.
_MUCH_LESS = 0.8  # of the theoretical speedup
_MANY_ZEROS = 0.2  # of the multiplications
_MUCH_MISALIGNED = 0.2  # of the MACs
_MUCH_FIXED = 0.2  # of the latency
_BEYOND = 1.1  # of the theoretical speedup


@dataclass(frozen=True)
class Facts:
    """What a verdict rests on: a file against its base, at one batch size.

    Attributes:
        speedup: median latency of the base / of the file.
        interval: its 95 % confidence interval.
        noise: how far sessions of the same file were apart, relative. A speedup within 1 +- noise is none.
        theoretical: MACs of the base / of the file; None where those of either cannot all be told.
        bytes_ratio: bytes on disk of the base / of the file.
        zero_share: share of the file's multiplications that are by stored zeros; 0 where not all can be told.
        misaligned_share: share of its MACs in nodes whose output channels fill the vectors less well than the base's;
            likewise.
        vector: channels that fill a vector.
        traffic_ratio: bytes that all nodes read and write, base / file; None where a size is not known.
        fixed_share: share of the file's latency that a run of one trivial operator takes too.
        rounds: in which all files were timed.
    """

    speedup: float
    interval: tuple[float, float]
    noise: float
    theoretical: float | None
    bytes_ratio: float
    zero_share: float
    misaligned_share: float
    vector: int
    traffic_ratio: float | None
    fixed_share: float
    rounds: int


@dataclass(frozen=True)
class Verdict:
    """`outcome` is "faster", "slower" or "no real difference"; the reasons end with what to do, if anything."""

    outcome: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """A file at one batch size; what compares it with the base is None for the base itself.

    Attributes:
        placement: what a session on CUDA runs on the CPU all the same; None where that is nothing.
        disturbance: what else the machine did while the files were timed.
        pairing: how inputs and outputs correspond to the base's, where their names do not tell.
    """

    path: Path
    batch: int | None
    counts: Counts
    latency: Latency
    placement: str | None
    facts: Facts | None
    verdict: Verdict | None
    outputs: OutputDifference | None
    disturbance: Disturbance
    pairing: str | None


def judge(facts: Facts) -> Verdict:
    """What the figures say."""
    low, high = facts.interval
    if low > 1 + facts.noise:
        outcome = "faster"
    elif high < 1 - facts.noise:
        outcome = "slower"
    else:
        outcome = "no real difference"
    theory = facts.theoretical
    short = theory is not None and facts.speedup < _MUCH_LESS * theory
    reasons = []
    if theory is None:
        reasons.append("what to expect is not known: not all MACs of the two files can be told, see profile")
    elif low > theory * (1 + facts.noise) * _BEYOND and outcome == "faster":
        reasons.append(
            f"beyond theory: its MACs explain {theory:.2f}x only; the rest is other work that is gone, another kernel "
            "or type of numbers, or a disturbed measurement: look at it before you rely on it"
        )
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
    if short and theory is not None and facts.traffic_ratio is not None and facts.traffic_ratio < _MUCH_LESS * theory:
        reasons.append(
            f"memory-bound: MACs fell {theory:.2f} times, the bytes that its nodes read and write only "
            f"{facts.traffic_ratio:.2f} times; prune the layers with the largest outputs"
        )
    if outcome != "faster" and facts.bytes_ratio > 1 / _MUCH_LESS:
        reasons.append(f"its file is {facts.bytes_ratio:.2f} times smaller all the same")
    if outcome == "no real difference" and theory is not None and not reasons:
        same = theory is not None and theory < 1 / _MUCH_LESS
        reasons.append("it does the same work" if same else "no reason is apparent")
    if facts.rounds < PLANNED_ROUNDS:
        reasons.append(
            f"few rounds: {facts.rounds} instead of {PLANNED_ROUNDS}, since runs take long and a measurement ends "
            f"after {LONGEST_SECONDS:g} s; the interval is the wider for it, and --seconds makes it longer"
        )
    return Verdict(outcome, tuple(reasons))


def compare(
    base: Path,
    others: Sequence[Path],
    *,
    batch_sizes: Sequence[int] = (),
    shapes: Mapping[str, Shape] | None = None,
    values: Mapping[str, Any] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    seconds: float = 3.0,
    say: Callable[[str], None] = lambda line: None,
) -> list[Entry]:
    """Times and counts files side by side: one entry a batch size and file, the base's first.

    All are run on the same random input, in turn, two sessions each. Inputs and outputs correspond by their names, and
    those whose names differ by their position among these.

    Args:
        batch_sizes: default: what the base fixes, else 1.
        shapes: input name of the base -> shape with the batch, where it leaves more open.
        values: input name of the base -> its values, or one number for all of them; other inputs are random.
        threads: of the processor, within an operator; default: one for each core.
        seconds: length of the measurement at each batch size, all files together.
        say: gets a line where another process is timing, and has to be waited for.

    Raises:
        InputError: a file cannot be read or run, runs nothing on CUDA where that was asked for, or does not take the
            base's input.
    """
    if device == "cuda":
        check_cuda()
    threads = threads or os.cpu_count() or 1
    entries = []
    for size in batch_sizes or (None,):
        entries += _compare(base, others, size, shapes or {}, values or {}, device, threads, seconds, say)
    return entries


def _compare(
    base: Path,
    others: Sequence[Path],
    size: int | None,
    shapes: Mapping[str, Shape],
    values: Mapping[str, Any],
    device: str,
    threads: int,
    seconds: float,
    say: Callable[[str], None],
) -> list[Entry]:
    paths = [base, *others]
    counts: list[Counts] = []
    resolved: list[dict[str, Shape]] = []
    names: list[dict[str, str]] = []
    fed: Inputs = {}  # what is given for the base
    arrays = {name: np.asarray(value) for name, value in values.items()}
    for path in paths:
        model, file_bytes = load(path)
        if resolved:
            names.append(_paired_inputs(path, model, base, resolved[0]))
            here = {own: arrays[theirs] for own, theirs in names[-1].items() if theirs in arrays}
            taken = {own: resolved[0][theirs] for own, theirs in names[-1].items()}
            resolved.append(input_shapes(path, model.graph, None, taken, here))
        else:
            resolved.append(input_shapes(path, model.graph, size, shapes, arrays))
            names.append({name: name for name in resolved[0]})
            here = arrays
        given = input_values(path, model.graph, resolved[-1], here)
        counts.append(count_model(path, model, file_bytes, resolved[-1], given))
        probe(
            path,
            resolved[-1],
            device=device,
            threads=threads,
            values=given,
            limits=counts[-1].index_limits,
            file_bytes=file_bytes,
        )
        fed = fed or given
    placements = [
        _placement(path, own, threads, counted.index_limits) if device == "cuda" else None
        for path, own, counted in zip(paths, resolved, counts, strict=True)
    ]
    sessions = [open_session(path, device=device, threads=threads) for path in [*paths, *paths]]
    first = random_inputs(sessions[0], resolved[0], values=fed, limits=_shared_limits(names, counts))
    feeds = [
        _same_feed(path, session, sessions[0], first, own)
        for path, session, own in zip(paths * 2, sessions, names * 2, strict=True)
    ]
    answers = [_answer(path, session, feed) for path, session, feed in zip(paths, sessions, feeds, strict=False)]
    runs = [bound_run(session, feed, device) for session, feed in zip(sessions, feeds, strict=True)]
    with timing_lock(say):
        bystanders = Bystanders()
        *times, nothing = interleave([*runs, _nothing(device, threads)], seconds)
        disturbances = [bystanders.disturbance(part, threads) for part in times[: len(paths)]]
    batch = size or next((shape[0] for shape in resolved[0].values() if shape), None)
    firsts, twins = times[: len(paths)], times[len(paths) :]
    latencies = [summarise(np.concatenate(pair)) for pair in zip(firsts, twins, strict=True)]
    entries = [Entry(base, batch, counts[0], latencies[0], placements[0], None, None, None, disturbances[0], None)]
    for index in range(1, len(paths)):
        facts = _facts(
            (counts[0], counts[index]),
            ([firsts[0], firsts[index]], [twins[0], twins[index]]),
            latencies[0].median_ms / latencies[index].median_ms,
            float(np.median(nothing)) / latencies[index].median_ms,
            device,
        )
        theirs, own = ([value.name for value in sessions[at].get_outputs()] for at in (0, index))
        outputs, by_position = difference(theirs, own, answers[0], answers[index])
        renamed = [f"{own!r} with {theirs!r}" for own, theirs in names[index].items() if own != theirs] + by_position
        pairing = f"paired by position, their names differ: {', '.join(renamed)}" if renamed else None
        entries.append(
            Entry(
                paths[index],
                batch,
                counts[index],
                latencies[index],
                placements[index],
                facts,
                judge(facts),
                outputs,
                disturbances[index],
                pairing,
            )
        )
    return entries


def _placement(path: Path, shapes: Mapping[str, Shape], threads: int, limits: Mapping[str, int]) -> str | None:
    return on_cpu(path, time_kernels(path, shapes, device="cuda", threads=threads, seconds=0, limits=limits))


def _paired_inputs(path: Path, model: Any, base: Path, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """The file's inputs -> the base's.

    Raises:
        InputError: there are more or fewer.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in initializers]
    if len(names) != len(shapes):
        raise InputError(f"{path}: it has {len(names)} inputs, {base} has {len(shapes)}: they cannot be compared")
    return pair_names(names, list(shapes))


def _shared_limits(names: Sequence[Mapping[str, str]], counts: Sequence[Counts]) -> dict[str, int]:
    """Of the base's inputs: what every file takes."""
    limits: dict[str, int] = {}
    for own, counted in zip(names, counts, strict=True):
        for name, limit in counted.index_limits.items():
            limits[own[name]] = min(limit, limits.get(own[name], limit))
    return limits


def _same_feed(path: Path, session: Any, base: Any, feed: Inputs, names: Mapping[str, str]) -> Inputs:
    """The base's input under the names that the other file has for it."""
    kinds = {value.name: value.type for value in base.get_inputs()}
    for own in session.get_inputs():
        if own.type != kinds[names[own.name]]:
            raise InputError(f"{path}: its input {own.name!r} is {own.type}, the base's is {kinds[names[own.name]]}")
    return {own: feed[theirs] for own, theirs in names.items()}


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
    ratios = np.empty(_RESAMPLES)
    for index in range(_RESAMPLES):
        starts = random.integers(0, rounds - length + 1, blocks)
        drawn = (starts[:, None] + np.arange(length)).ravel()[:rounds]
        ratios[index] = np.median(base[drawn]) / np.median(other[drawn])
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
