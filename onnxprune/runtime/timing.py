"""Latency of ONNX files, measured interleaved so that a speed-up is a ratio from one run."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.runtime.bystanders import Bystanders, Disturbance
from onnxprune.runtime.runs import fresh_run

WARMUP_SECONDS = 0.2

_WARMUP_RUNS = 3  # at least, where a run takes long; where it takes very long, one

PLANNED_ROUNDS = 20  # at least, where they fit in

LONGEST_SECONDS = 30.0  # of a measurement with its warm-up, where so many rounds do not fit into what was asked for

LEAST_ROUNDS = (
    6  # all the same: the range of six independent values covers their median with 97 %, that of five not 95 %
)

_WARMUP_SHARE = 0.25  # of the longest time, for all calls to warm up but the first ones

PRECISION = 0.02  # half of the 95 % confidence interval of a point's speedup, relative, where its timing may end

_ROUNDS_BETWEEN = 10  # looks at the precision so far

_DRAWN_AT_ONCE = 2**16  # rounds: bounds the memory
_RESAMPLES = 1000
_CONFIDENCE = 95

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
        interval: its 95 % confidence interval.
        noise: the noise floor: relative difference between the medians of two sessions of the base, timed in
            these same rounds. A speed-up within 1 +- noise is a tie.
        disturbance: what else the machine did meanwhile.
    """

    base: Latency
    other: Latency
    speedup: float
    interval: tuple[float, float]
    noise: float
    disturbance: Disturbance


def twin_noise(times: Sequence[np.ndarray], twins: Sequence[np.ndarray]) -> float:
    """The noise floor of a ratio of medians: how far sessions of the same file were apart, relative, all files added.

    Args:
        times: milliseconds (rounds,) of one session a file; `twins` of another session each.
    """
    medians = [[float(np.median(part)) for part in parts] for parts in (times, twins)]
    return sum(abs(first - twin) / min(first, twin) for first, twin in zip(*medians, strict=True))


def interleave(
    runs: Sequence[Callable[[], Any]],
    seconds: float,
    warmup_seconds: float = WARMUP_SECONDS,
    min_runs: int = PLANNED_ROUNDS,
    enough: Callable[[list[np.ndarray]], bool] = lambda times: False,
    longest: float = LONGEST_SECONDS,
) -> list[np.ndarray]:
    """Makes every run once a round, and gives each one's milliseconds (rounds,), in order of the rounds.

    The order changes from round to round through rotations and reversals, so that no run always follows the same one.

    Args:
        runs: what to time, each a call.
        seconds: length of the measurement, all runs together; a longer one where `min_runs` rounds need it.
        warmup_seconds: for each run, before the first round, though no more than `seconds`; at least three calls, where
            they take no longer than a quarter of `longest` for all runs, and else at least one.
        enough: whether the times so far, of which there are `min_runs`, make more rounds unnecessary.
        longest: seconds from the first call after which no round begins, though there be fewer than `min_runs`, unless
            there are fewer than `LEAST_ROUNDS` or `seconds` ask for more.
    """
    begin = time.perf_counter()
    for run in runs:
        end = time.perf_counter() + min(warmup_seconds, seconds)
        for number in range(_WARMUP_RUNS):
            if number and time.perf_counter() > begin + _WARMUP_SHARE * longest:
                break
            run()
        while time.perf_counter() < end:
            run()
    rounds: list[list[int]] = []
    end = time.perf_counter() + seconds
    last = max(end, begin + longest)
    least = min(min_runs, LEAST_ROUNDS)
    while (now := time.perf_counter()) < end or len(rounds) < (min_runs if now < last else least):
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
    """Whether the 95 % confidence interval of the median of independent ratios (rounds,) is within 2 % of it."""
    low, high = median_interval(ratios)
    return len(ratios) >= LEAST_ROUNDS and bool(high - low <= 2 * PRECISION * np.median(ratios))


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """95 % confidence interval of the median of independent values (rounds,), of which there are `LEAST_ROUNDS`.

    It is that of order statistics, which holds for any distribution (Conover 1999, Practical Nonparametric Statistics,
    section 3.2).
    """
    ordered = np.sort(values)
    half = 0.98 * math.sqrt(len(values))  # 1.96 standard deviations of the rank, which is binomial
    low = max(0, math.floor(len(values) / 2 - half) - 1)
    high = min(len(values) - 1, math.ceil(len(values) / 2 + half))
    return float(ordered[low]), float(ordered[high])


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
    others: Sequence[Path],
    input_shape: Sequence[int],
    batch: int,
    *,
    device: str,
    threads: int,
    seconds: float,
) -> list[Comparison]:
    """Times files against a base in fresh sessions on the same random images, all in the same rounds.

    Other measurements are kept out by holding `timing_lock` around this.

    Args:
        input_shape: of one sample, without the batch.
        seconds: of the measurement, all files together; it ends when every speedup is known to 2 %, and not before
            there are as many rounds as `interleave` makes at least.

    Raises:
        InputError: a file cannot be run on this device, or not on an input of this shape.
    """
    paths = (base_path, *others)
    count = len(paths)

    def enough(times: list[np.ndarray]) -> bool:
        pairs = [first + twin for first, twin in zip(times[:count], times[count:], strict=True)]
        return all(precise(pairs[0] / pair) for pair in pairs[1:])

    runs = [fresh_run(path, (batch, *input_shape), device, threads) for path in (*paths, *paths)]
    bystanders = Bystanders()
    # three runs each before: the processor has been busy, and the rounds go on with it
    times = interleave(runs, seconds, 0, enough=enough)
    disturbance = bystanders.disturbance(np.concatenate(times[::count]), threads)
    pairs = [times[place::count] for place in range(count)]  # of each file, those of its two sessions
    base, *found = (summarise(np.concatenate(pair)) for pair in pairs)
    return [
        Comparison(
            base=base,
            other=other,
            speedup=base.median_ms / other.median_ms,
            interval=confidence_interval(np.stack(pairs[0], axis=1), np.stack(pair, axis=1)),
            noise=twin_noise([pairs[0][0], pair[0]], [pairs[0][1], pair[1]]),
            disturbance=disturbance,
        )
        for other, pair in zip(found, pairs[1:], strict=True)
    ]


def _order(round_number: int, count: int) -> list[int]:
    """Rotated by one every two rounds, and reversed in every other: for three sessions all six orders."""
    start = round_number // 2 % count
    order = [(start + step) % count for step in range(count)]
    return order[::-1] if round_number % 2 else order
