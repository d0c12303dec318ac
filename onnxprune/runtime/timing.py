"""Latency of ONNX files, measured interleaved so that a speed-up is a ratio from one run."""

import contextlib
import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnxruntime

from onnxprune.common.errors import InputError
from onnxprune.runtime.random_inputs import Feed, random_feed
from onnxprune.runtime.session import open_session

WARMUP_SECONDS = 0.2
_WARMUP_RUNS = 3  # at least, where a run takes long
PRECISION = 0.02  # half of the 95 % confidence interval of a point's speedup, relative, where its timing may end
_ROUNDS_BETWEEN = 10  # looks at the precision so far
_PROFILED_RUNS = 100
_CONTAINERS = {"If", "Loop", "Scan"}  # their time is that of the nodes within, which are timed too
_RUNS_FOR_P99 = 1000  # fewer leave less than ten runs beyond it


@dataclass(frozen=True)
class Latency:
    """Milliseconds a run (a batch); `p99_ms` is None for fewer than 1000 runs, `std_ms` is over the runs."""

    median_ms: float
    p90_ms: float
    p99_ms: float | None
    mean_ms: float
    std_ms: float
    runs: int


@dataclass(frozen=True)
class Comparison:
    """Two files timed in the same rounds.

    Attributes:
        speedup: median of the base / median of the other.
        noise: the noise floor: relative difference between the medians of two sessions of the base, timed in
            these same rounds. A speed-up within 1 +- noise is a tie.
    """

    base: Latency
    other: Latency
    speedup: float
    noise: float


def twin_noise(times: Sequence[np.ndarray], twins: Sequence[np.ndarray]) -> float:
    """The noise floor of a ratio of medians: how far sessions of the same file were apart, relative, all files added.

    Args:
        times: milliseconds (rounds,) of one session a file; `twins` of another session each.
    """
    medians = [[float(np.median(part)) for part in parts] for parts in (times, twins)]
    return sum(abs(first - twin) / min(first, twin) for first, twin in zip(*medians, strict=True))


@dataclass(frozen=True)
class KernelTime:
    """Kernels of one operator type, as onnxruntime's own profiler timed them.

    Attributes:
        operator: after onnxruntime's optimisations, which fuse operators and change layouts.
        provider: "CPU" or "CUDA".
        count: kernels a run.
        ms: milliseconds a run, all of them together.
        share: percentage of all kernels' time.
    """

    operator: str
    provider: str
    count: int
    ms: float
    share: float


def interleave(
    runs: Sequence[Callable[[], Any]],
    seconds: float,
    warmup_seconds: float = WARMUP_SECONDS,
    min_runs: int = 20,
    enough: Callable[[list[np.ndarray]], bool] = lambda times: False,
) -> list[np.ndarray]:
    """Makes every run once a round, and gives each one's milliseconds (rounds,), in order of the rounds.

    The order changes from round to round through rotations and reversals, so that no run always follows the same one.

    Args:
        runs: what to time, each a call.
        seconds: length of the measurement, all runs together; a longer one where `min_runs` rounds need it.
        warmup_seconds: for each run, before the first round; at least three calls.
        enough: whether the times so far, of which there are `min_runs`, make more rounds unnecessary.
    """
    for run in runs:
        end = time.perf_counter() + warmup_seconds
        for _ in range(_WARMUP_RUNS):
            run()
        while time.perf_counter() < end:
            run()
    rounds: list[list[int]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < min_runs or time.perf_counter() < end:
        if len(rounds) >= min_runs and len(rounds) % _ROUNDS_BETWEEN == 0 and enough(_milliseconds(rounds)):
            break
        nanoseconds = [0] * len(runs)
        for index in _order(len(rounds), len(runs)):
            start = time.perf_counter_ns()
            runs[index]()
            nanoseconds[index] = time.perf_counter_ns() - start
        rounds.append(nanoseconds)
    return _milliseconds(rounds)


def _milliseconds(rounds: list[list[int]]) -> list[np.ndarray]:
    return list(np.array(rounds, dtype=np.float64).T / 1e6)


def precise(ratios: np.ndarray) -> bool:
    """Whether the 95 % confidence interval of the median of independent ratios (rounds,) is within 2 % of it.

    The interval is that of order statistics, which holds for any distribution (Conover 1999, Practical Nonparametric
    Statistics, section 3.2).
    """
    ordered = np.sort(ratios)
    half = 0.98 * math.sqrt(len(ratios))  # 1.96 standard deviations of the rank, which is binomial
    low = max(0, math.floor(len(ratios) / 2 - half) - 1)
    high = min(len(ratios) - 1, math.ceil(len(ratios) / 2 + half))
    return bool(ordered[high] - ordered[low] <= 2 * PRECISION * np.median(ordered))


def summarise(times_ms: np.ndarray) -> Latency:
    """Statistics of milliseconds a run (runs,)."""
    p50, p90, p99 = (float(value) for value in np.percentile(times_ms, (50, 90, 99)))
    return Latency(
        median_ms=p50,
        p90_ms=p90,
        p99_ms=p99 if times_ms.size >= _RUNS_FOR_P99 else None,
        mean_ms=float(times_ms.mean()),
        std_ms=float(times_ms.std()),
        runs=int(times_ms.size),
    )


def compare(
    base_path: Path,
    other_path: Path,
    input_shape: Sequence[int],
    batch: int,
    *,
    device: str,
    threads: int,
    seconds: float,
) -> Comparison:
    """Times `other_path` against `base_path` in fresh sessions on the same random images.

    Other measurements are kept out by holding `timing_lock` around this.

    Args:
        input_shape: of one sample, without the batch.
        seconds: of the measurement at most, both files together; it ends when the speedup is known to 2 %.

    Raises:
        InputError: a file cannot be run on this device, or not on an input of this shape.
    """
    paths = (base_path, other_path, base_path, other_path)
    times = interleave(
        [_fresh_run(path, (batch, *input_shape), device, threads) for path in paths],
        seconds,
        0,  # three runs each: the processor has been busy, and the rounds go on with it
        enough=lambda times: precise((times[0] + times[2]) / (times[1] + times[3])),
    )
    base, other = (summarise(np.concatenate(times[first::2])) for first in (0, 1))
    return Comparison(
        base=base,
        other=other,
        speedup=base.median_ms / other.median_ms,
        noise=twin_noise(times[:2], times[2:]),
    )


def time_kernels(
    path: Path, shapes: Mapping[str, Sequence[int]], *, device: str, threads: int, seconds: float = 1.0
) -> tuple[KernelTime, ...]:
    """Times the kernels of the ONNX file by onnxruntime's own profiler, on random inputs; slowest first.

    Raises:
        InputError: the file cannot be run on this device, or not on inputs of these shapes.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(path, device=device, threads=threads, profile_to=Path(folder))
        run = bound_run(session, random_feed(session, shapes), device)
        first = time.perf_counter()
        run()
        # The profiler keeps at most a million events, and every run adds one a node.
        runs = max(3, min(_PROFILED_RUNS, int(seconds / (time.perf_counter() - first))))
        for _ in range(runs - 1):
            run()
        events = json.loads(Path(session.end_profiling()).read_text())
    return _kernel_times(events, runs)


def _kernel_times(events: list[dict[str, Any]], runs: int) -> tuple[KernelTime, ...]:
    """Means over all runs but the first, which warms up: each run's nodes come in the same order."""
    nodes = [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    nodes = [event for event in nodes[len(nodes) // runs :] if event["args"]["op_name"] not in _CONTAINERS]
    microseconds: Counter[tuple[str, str]] = Counter()
    kernels: Counter[tuple[str, str]] = Counter()
    for event in nodes:
        key = (event["args"]["op_name"], event["args"]["provider"].removesuffix("ExecutionProvider"))
        microseconds[key] += event["dur"]
        kernels[key] += 1
    total = microseconds.total() or 1
    return tuple(
        KernelTime(
            operator=operator,
            provider=provider,
            count=round(kernels[operator, provider] / (runs - 1)),
            ms=spent / 1000 / (runs - 1),
            share=100 * spent / total,
        )
        for (operator, provider), spent in microseconds.most_common()
    )


def on_cpu(path: Path, kernels: Sequence[KernelTime]) -> str | None:
    """What a session on CUDA runs on the CPU all the same, in words; None where that is nothing.

    Raises:
        InputError: it is everything: numbers of such a session would be the CPU's.
    """
    others = [kernel for kernel in kernels if kernel.provider != "CUDA"]
    if not others:
        return None
    if len(others) == len(kernels):
        raise InputError(f"{path}: none of its operators runs on CUDA here; use --device cpu")
    listed = ", ".join(f"{kernel.count} {kernel.operator}" for kernel in others)
    return f"onnxruntime runs these kernels on the CPU, having none for CUDA: {listed}"


@contextlib.contextmanager
def timing_lock() -> Iterator[None]:
    """Waits until no other onnxprune process of this user is timing, and keeps others waiting meanwhile.

    The system drops the lock when the process ends, however it ends. It does not nest within a process.
    """
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""  # on Windows the folder is the user's own
    path = Path(tempfile.gettempdir()) / f"onnxprune-timing{user}.lock"
    with path.open("a") as file:
        _lock(file)
        yield  # closing the file unlocks it


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        while True:
            try:
                return msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            except OSError:  # it gives up after ten seconds
                continue

else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)


def _order(round_number: int, count: int) -> list[int]:
    """Rotated by one every two rounds, and reversed in every other: for three sessions all six orders."""
    start = round_number // 2 % count
    order = [(start + step) % count for step in range(count)]
    return order[::-1] if round_number % 2 else order


def bound_run(session: onnxruntime.InferenceSession, feed: Feed, device: str) -> Callable[[], Any]:
    """One run of the session on `feed`, to be called.

    On CUDA input and output stay on the device: transfers are no part of a run, waiting for the result is.
    """
    if device == "cpu":
        return lambda: session.run(None, feed)
    binding = session.io_binding()
    for name, values in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(values, "cuda", 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda", 0)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def transfer(session: onnxruntime.InferenceSession, feed: Feed) -> Callable[[], Any]:
    """Moving the inputs of one run to the GPU and its outputs back, to be called; the run itself is made once, here."""
    binding = session.io_binding()
    inputs = {name: onnxruntime.OrtValue.ortvalue_from_numpy(values, "cuda", 0) for name, values in feed.items()}
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda", 0)
    session.run_with_iobinding(binding)

    def move() -> None:
        for name, value in inputs.items():
            value.update_inplace(feed[name])
        binding.synchronize_inputs()
        binding.copy_outputs_to_cpu()

    return move


def _fresh_run(path: Path, shape: tuple[int, ...], device: str, threads: int) -> Callable[[], Any]:
    """One run of a fresh session on its one input, tried once: a wrong input is an error before anything is timed."""
    session = open_session(path, device=device, threads=threads)
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise InputError(f"{path}: expected a model of one input, got {len(inputs)}")
    try:
        run = bound_run(session, random_feed(session, {inputs[0].name: shape}), device)
        run()
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(
            f"{path}: input {inputs[0].name!r} is {inputs[0].type} of shape {inputs[0].shape}, "
            f"it does not run on shape {list(shape)}"
        ) from error
    return run
