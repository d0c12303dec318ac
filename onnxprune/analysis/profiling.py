"""What an ONNX file of any framework is, what it costs, and how fast onnxruntime runs it.

Neither onnx nor NumPy is imported here: what needs them is done in the helper process (`analysis.profiled_file`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.common.environment import usable_cores
from onnxprune.common.errors import InputError, RunError
from onnxprune.common.files import identities
from onnxprune.runtime.helper import Limits, guarded, refusals
from onnxprune.runtime.sizes import bytes_around, reading_seconds, run_memory, timing_limit

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from onnxprune.graph.counts import Counts, NodeCount
    from onnxprune.graph.tensors import Shape
    from onnxprune.runtime.bystanders import Disturbance
    from onnxprune.runtime.kernels import KernelTime
    from onnxprune.runtime.roofline import Roofline
    from onnxprune.runtime.timing import Latency

_ROOFLINE_SHARE = 8  # a measurement of latency is so many times as long as each of the roofline


@dataclass(frozen=True)
class Value:
    """An input or output of the graph.

    Attributes:
        kind: element type of a tensor ("float32"), else what it is ("sequence").
        shape: a dim is a number, the name of one that varies, or None; None where nothing is declared.
    """

    name: str
    kind: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class Header:
    """What a file says of itself; `opsets` is domain -> version, ONNX's own domain first as "ai.onnx"."""

    opsets: dict[str, int]
    ir_version: int
    producer: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True)
class BatchLatency:
    """Latency of runs of `batch` samples in a session of their own.

    Attributes:
        batch: None where no input has a batch.
        latency: after `warmup_seconds`; on CUDA without transfers.
        samples_per_second: batch / median.
        transfer: of the inputs to the GPU and the outputs back; None on a CPU.
        disturbance: what else the machine did meanwhile.
    """

    batch: int | None
    warmup_seconds: float
    latency: Latency
    samples_per_second: float
    transfer: Latency | None
    disturbance: Disturbance


@dataclass(frozen=True)
class BatchKernels:
    """onnxruntime's own times of the kernels in runs of `batch` samples, by operator, slowest first."""

    batch: int | None
    kernels: tuple[KernelTime, ...]


@dataclass(frozen=True)
class Profile:
    """A profiled ONNX file.

    Attributes:
        batch: samples that `counts` are for; None where no input has a batch.
        device, threads: where latency was measured.
        latencies: one a batch size; empty where it was not asked for, or could not be measured.
        kernels: likewise.
        roofline: what the machine does at best; None where latency was not measured.
        placement: what a session on CUDA runs on the CPU all the same; None where that is nothing.
        missing: what could not be measured, and why.
        remarks: what latency was measured on, where that is not what it should be.
    """

    path: Path
    header: Header
    batch: int | None
    counts: Counts
    device: str
    threads: int
    latencies: tuple[BatchLatency, ...]
    kernels: tuple[BatchKernels, ...]
    roofline: Roofline | None
    placement: str | None
    missing: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def operators(self) -> pd.DataFrame:
        """One row an operator type: operator, count, macs, params, share (percentage of the MACs)."""
        total = self.counts.macs or 1
        return _table(
            {"operator": name, **asdict(entry), "share": 100 * entry.macs / total}
            for name, entry in self.counts.operators.items()
        )

    @property
    def nodes(self) -> pd.DataFrame:
        """One row a node: see `node_rows`."""
        return _table(self.node_rows)

    @property
    def node_rows(self) -> list[dict[str, Any]]:
        """Of each node, in the order of the graph: the fields of `NodeCount`, its macs_per_byte, and its bound."""
        return [
            {**asdict(node), "macs_per_byte": node.macs_per_byte, "bound": self.bound(node)}
            for node in self.counts.nodes
        ]

    def bound(self, node: NodeCount) -> str | None:
        """By the roofline, "compute" or "memory"; None of nodes without MACs, and where it was not measured."""
        return None if self.roofline is None else self.roofline.bound(node.macs_per_byte, node.type)

    @property
    def memory_bound_macs(self) -> int | None:
        """MACs of the nodes that memory bounds; None where the roofline of some MACs was not measured."""
        bounds = [(self.bound(node), node.macs) for node in self.counts.nodes if node.macs]
        if any(bound is None for bound, _ in bounds):
            return None
        return sum(macs for bound, macs in bounds if bound == "memory")

    @property
    def document(self) -> dict[str, Any]:
        """Everything, in types that JSON has."""
        counts, peak = self.counts, self.counts.peak_node
        return {
            "model": str(self.path),
            **asdict(self.header),
            "batch": self.batch,
            **asdict(counts),
            "macs_bound": counts.bound.strip(),
            "nodes": self.node_rows,
            "peak_node": peak and peak.name,
            "sparsity": counts.sparsity,
            "onnx_tool_difference": counts.onnx_tool_difference,
            "device": self.device,
            "threads": self.threads,
            "latency": [asdict(entry) for entry in self.latencies],
            "kernel_times": [asdict(entry) for entry in self.kernels],
            "roofline": self.roofline and asdict(self.roofline) | {"ridges": self.roofline.ridges},
            "memory_bound_macs": self.memory_bound_macs,
            "placement": self.placement,
            "not_measured": list(self.missing),
            "remarks": list(self.remarks),
        }

    @property
    def latency(self) -> pd.DataFrame:
        """One row a batch size: batch, warmup_seconds, median_ms, p90_ms, ..., samples_per_second, transfer_ms."""
        return _table(
            {
                "batch": entry.batch,
                "warmup_seconds": entry.warmup_seconds,
                **asdict(entry.latency),
                "samples_per_second": entry.samples_per_second,
                "transfer_ms": entry.transfer.median_ms if entry.transfer else None,
                "busy": entry.disturbance.busy,
            }
            for entry in self.latencies
        )

    @property
    def kernel_times(self) -> pd.DataFrame:
        """One row a batch size and operator: batch, operator, provider, count, ms, share."""
        return _table({"batch": entry.batch, **asdict(kernel)} for entry in self.kernels for kernel in entry.kernels)


def profile(
    path: str | Path,
    *,
    batch_sizes: Sequence[int] = (),
    shapes: Mapping[str, Shape] | None = None,
    values: Mapping[str, Any] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    seconds: float = 3.0,
    latency: bool = True,
    per_node_time: bool = False,
    roofline: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Profile:
    """Profiles an ONNX file; neither PyTorch nor NNI is imported.

    Example:
        >>> onnxprune.profile("model.onnx", batch_sizes=(1, 32)).latency

    Args:
        batch_sizes: samples a run; the first is that of the counts. Default: what the file fixes, else 1.
        shapes: input name -> shape with the batch, where the file leaves it open.
        values: input name -> its values, or one number for all of them; other inputs are random.
        device: of latency, "cpu" or "cuda".
        threads: of the processor, within an operator; default: one for each core.
        seconds: length of each measurement of latency.
        latency: whether to measure it.
        per_node_time: whether to time kernels by onnxruntime's profiler, in a session of its own.
        roofline: whether to measure with the latency what the machine does at best, which says what bounds the nodes.
        say: gets a line where another process is timing, and has to be waited for.

    Raises:
        InputError: not an ONNX file, a damaged one, shapes that do not fit or are missing, or CUDA was asked for and
            does not run, or runs none of its operators.
    """
    path = Path(path)
    timed = latency or per_node_time
    if timed and device == "cuda":
        from onnxprune.runtime.session import check_cuda

        check_cuda()
    threads = threads or usable_cores()
    before, size = identities([path]), bytes_around(path)
    allowed = Limits(run_memory(size, None))
    asked = (tuple(batch_sizes), dict(shapes or {}), dict(values or {}), reading_seconds(size))
    with refusals(path):
        counted: Counted = guarded("onnxprune.analysis.profiled_file:count_file", path, *asked, limits=allowed)
    counts = counted.counts
    measured = _Measured()
    if timed:
        target = Target(path, device, threads, seconds, counts.index_limits, counted.file_bytes)
        measured = _measure(target, counted.runs, latency, per_node_time, counts.peak_activation_bytes, say)
        if roofline and measured.latencies:
            try:
                measured.roofline = roof = _roofline(target, counts, say)
            except (InputError, RunError) as error:  # the rest is there
                measured.remarks.append(f"no roofline: {str(error).removeprefix('roofline: ')}")
                roof = None
            if roof is not None and roof.busy:
                measured.remarks.append(f"the roofline was measured on a busy machine, which can do more: {roof.busy}")
        measured.remarks.extend(counted.integers)
    if identities([path]) != before:
        raise InputError(f"{path}: changed while it was profiled: do it again")
    return Profile(
        path,
        counted.header,
        counted.runs[0].batch,
        counts,
        device,
        threads,
        tuple(measured.latencies),
        tuple(measured.kernels),
        measured.roofline,
        measured.placement,
        tuple(measured.missing),
        tuple(measured.remarks),
    )


@dataclass(frozen=True)
class Run:
    """What a run is made on: shapes of all inputs, and the values of those that are given."""

    batch: int | None
    shapes: dict[str, Shape]
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class Target:
    """What is timed, and where; see `profile`."""

    path: Path
    device: str
    threads: int
    seconds: float
    limits: Mapping[str, int]
    file_bytes: int


@dataclass(frozen=True)
class Counted:
    """What is known of a file without running it.

    Attributes:
        runs: what is to be run.
        integers: what is said of integer inputs that may be anything.
    """

    header: Header
    runs: list[Run]
    counts: Counts
    integers: list[str]
    file_bytes: int


@dataclass
class _Measured:
    """The fields of `Profile` that come from runs."""

    latencies: list[BatchLatency] = field(default_factory=list)
    kernels: list[BatchKernels] = field(default_factory=list)
    roofline: Roofline | None = None
    placement: str | None = None
    missing: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def _measure(
    target: Target,
    runs: Sequence[Run],
    latency: bool,
    per_node_time: bool,
    peak: int | None,
    say: Callable[[str], None],
) -> _Measured:
    """Times every run, until one cannot be made: a larger batch would not fare better.

    Args:
        peak: bytes of activations at the first batch size.
    """
    from onnxprune.runtime.kernels import on_cpu
    from onnxprune.runtime.probe import probe

    found = _Measured()

    def timed(function: str, run: Run, seconds: float) -> Any:
        """What a function of this module gives in the helper process."""
        with refusals(target.path):
            how = (target, run, seconds, timing_limit(seconds))
            return guarded(f"onnxprune.analysis.profiled_file:{function}", *how, limits=limits, tell=say)

    for position, run in enumerate(runs):
        larger = (run.batch or 1) / (runs[0].batch or 1)
        memory = run_memory(target.file_bytes, peak and int(peak * larger))
        limits = Limits(memory, target.threads, target.device == "cpu")
        try:
            probe(
                target.path,
                run.shapes,
                device=target.device,
                threads=target.threads,
                values=run.values,
                limits=target.limits,
                file_bytes=target.file_bytes,
                memory=memory,
                fresh=False,
            )
            if target.device == "cuda":
                found.placement = on_cpu(target.path, timed("kernels", run, 0).kernels)
            if latency:
                found.latencies.append(timed("latency", run, target.seconds))
            if per_node_time:
                found.kernels.append(timed("kernels", run, 1))
        except InputError as error:
            batches = ", ".join(f"{left.batch:,}" for left in runs[position:] if left.batch is not None)
            where = f" at batch {batches}" if len(runs) > 1 else ""
            found.missing.append(f"latency{where}: {str(error).removeprefix(f'{target.path}: ')}")
            break
    for entry in found.latencies:
        if entry.disturbance.busy:
            where = "" if entry.batch is None else f" at batch {entry.batch:,}"
            found.remarks.append(f"latency{where} was measured on a busy machine: {entry.disturbance.busy}")
    return found


def _roofline(target: Target, counts: Counts, say: Callable[[str], None]) -> Roofline:
    """Of the types of numbers that the file multiplies."""
    kinds = [kind for kind in counts.macs_by_type if kind != "unknown"]
    how = (target.device, target.threads, kinds, target.seconds / _ROOFLINE_SHARE)
    limits = Limits(threads=target.threads, address_space=target.device == "cpu")
    with refusals("roofline"):
        found: Roofline = guarded("onnxprune.runtime.roofline:measure", *how, limits=limits, tell=say)
    return found


def _table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows))
