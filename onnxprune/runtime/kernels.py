"""Times of single kernels, by onnxruntime's own profiler."""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.common.errors import InputError
from onnxprune.common.temporary import temporary_folder
from onnxprune.runtime.random_inputs import random_inputs
from onnxprune.runtime.runs import bound_run
from onnxprune.runtime.session import open_session

_PROFILED_RUNS = 100

_CONTAINERS = {"If", "Loop", "Scan"}  # their time is that of the nodes within, which are timed too


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


def time_kernels(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    *,
    device: str,
    threads: int,
    seconds: float = 1.0,
    values: Mapping[str, np.ndarray] | None = None,
    limits: Mapping[str, int] | None = None,
) -> tuple[KernelTime, ...]:
    """Times the kernels of the ONNX file by onnxruntime's own profiler, on random inputs; slowest first.

    Args:
        values, limits: see `random_inputs`.

    Raises:
        InputError: the file cannot be run on this device, or not on inputs of these shapes.
    """
    nodes, runs = _events(path, shapes, device, threads, seconds, values, limits)
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


def time_nodes(path: Path, shapes: Mapping[str, Sequence[int]], *, threads: int, seconds: float) -> dict[str, float]:
    """Milliseconds a run of each node on the CPU, by the name that onnxruntime has for it.

    Raises:
        InputError: the file cannot be run on inputs of these shapes.
    """
    nodes, runs = _events(path, shapes, "cpu", threads, seconds)
    found: Counter[str] = Counter()
    for event in nodes:
        found[event["name"].removesuffix("_kernel_time")] += event["dur"]
    return {name: spent / 1000 / (runs - 1) for name, spent in found.items()}


def _events(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    device: str,
    threads: int,
    seconds: float,
    values: Mapping[str, np.ndarray] | None = None,
    limits: Mapping[str, int] | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """The profiler's events of nodes in all runs but the first, which warms up, and the number of runs with it."""
    with temporary_folder() as folder:
        session = open_session(path, device=device, threads=threads, profile_to=Path(folder))
        run = bound_run(session, random_inputs(session, shapes, values=values, limits=limits), device)
        first = time.perf_counter()
        run()
        # The profiler keeps at most a million events, and every run adds one a node.
        runs = max(3, min(_PROFILED_RUNS, int(seconds / (time.perf_counter() - first))))
        for _ in range(runs - 1):
            run()
        events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    # each run's nodes come in the same order
    return [event for event in nodes[len(nodes) // runs :] if event["args"]["op_name"] not in _CONTAINERS], runs


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
