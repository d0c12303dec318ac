"""What an ONNX file of any framework is, what it costs, and how fast onnxruntime runs it."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxprune.common.errors import InputError
from onnxprune.common.files import identities
from onnxprune.graph.counting import count_model
from onnxprune.graph.counts import Counts
from onnxprune.graph.files import load
from onnxprune.graph.shapes import input_shapes, input_values
from onnxprune.graph.tensors import Shape
from onnxprune.runtime import helper
from onnxprune.runtime.helper import Limits, guarded, refusals, stage
from onnxprune.runtime.sizes import bytes_around, reading_seconds, run_memory, timing_limit

if TYPE_CHECKING:
    import pandas as pd

    from onnxprune.runtime.bystanders import Disturbance
    from onnxprune.runtime.kernels import KernelTime
    from onnxprune.runtime.timing import Latency


_INTEGERS = {getattr(TensorProto, name) for name in ("INT8", "INT16", "INT32", "INT64", "UINT16", "UINT32", "UINT64")}


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
    latency: "Latency"
    samples_per_second: float
    transfer: "Latency | None"
    disturbance: "Disturbance"


@dataclass(frozen=True)
class BatchKernels:
    """onnxruntime's own times of the kernels in runs of `batch` samples, by operator, slowest first."""

    batch: int | None
    kernels: tuple["KernelTime", ...]


@dataclass(frozen=True)
class Profile:
    """A profiled ONNX file.

    Attributes:
        batch: samples that `counts` are for; None where no input has a batch.
        device, threads: where latency was measured.
        latencies: one a batch size; empty where it was not asked for, or could not be measured.
        kernels: likewise.
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
    placement: str | None
    missing: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def operators(self) -> "pd.DataFrame":
        """One row an operator type: operator, count, macs, params, share (percentage of the MACs)."""
        total = self.counts.macs or 1
        return _table(
            {"operator": name, **asdict(entry), "share": 100 * entry.macs / total}
            for name, entry in self.counts.operators.items()
        )

    @property
    def nodes(self) -> "pd.DataFrame":
        """One row a node, in the order of the graph; the columns are the fields of `NodeCount`."""
        return _table(asdict(node) for node in self.counts.nodes)

    @property
    def latency(self) -> "pd.DataFrame":
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
    def kernel_times(self) -> "pd.DataFrame":
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
    threads = threads or os.cpu_count() or 1
    before, size = identities([path]), bytes_around(path)
    allowed = Limits(run_memory(size, None))
    asked = (tuple(batch_sizes), dict(shapes or {}), dict(values or {}), reading_seconds(size))
    with refusals(path):
        counted: Counted = guarded("onnxprune.analysis.profiling:count_file", path, *asked, limits=allowed)
    counts = counted.counts
    measured = _Measured([], [], None, [], [])
    if timed:
        target = _Target(path, device, threads, seconds, counts.index_limits, counted.file_bytes)
        measured = _measure(target, counted.runs, latency, per_node_time, counts.peak_activation_bytes, say)
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
        measured.placement,
        tuple(measured.missing),
        tuple(measured.remarks),
    )


@dataclass(frozen=True)
class _Run:
    """What a run is made on: shapes of all inputs, and the values of those that are given."""

    batch: int | None
    shapes: dict[str, Shape]
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Target:
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
    runs: list[_Run]
    counts: Counts
    integers: list[str]
    file_bytes: int


def count_file(
    path: Path, batch_sizes: Sequence[int], shapes: Mapping[str, Shape], values: Mapping[str, Any], seconds: float
) -> Counted:
    """Reads and counts a file; called in the helper process.

    Raises:
        InputError: see `profile`.
    """
    stage("reading and counting it", seconds)
    model, file_bytes = load(path)
    header = _header(model)
    runs = _runs(path, model, header, batch_sizes, shapes, values)
    counts = count_model(path, model, file_bytes, runs[0].shapes, runs[0].values)
    return Counted(header, runs, counts, _unguided(model, counts, values), file_bytes)


@dataclass
class _Measured:
    """The fields of `Profile` that come from runs."""

    latencies: list[BatchLatency]
    kernels: list[BatchKernels]
    placement: str | None
    missing: list[str]
    remarks: list[str]


def _runs(
    path: Path,
    model: ModelProto,
    header: Header,
    batch_sizes: Sequence[int],
    shapes: Mapping[str, Shape],
    values: Mapping[str, Any],
) -> list[_Run]:
    """One for each batch size."""
    arrays = {name: np.asarray(value) for name, value in values.items()}
    runs = []
    for size in batch_sizes or (None,):
        resolved = input_shapes(path, model.graph, size, shapes, arrays)
        batch = _batch(header, resolved) if size is None else size
        runs.append(_Run(batch, resolved, input_values(path, model.graph, resolved, arrays)))
    return runs


def _measure(
    target: _Target,
    runs: Sequence[_Run],
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

    found = _Measured([], [], None, [], [])

    def timed(function: str, run: _Run, seconds: float) -> Any:
        """What a function of this module gives in the helper process."""
        with refusals(target.path):
            how = (target, run, seconds, timing_limit(seconds))
            return guarded(f"{__name__}:{function}", *how, limits=limits, tell=say)

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


def _unguided(model: ModelProto, counts: Counts, values: Mapping[str, Any]) -> list[str]:
    """Integer inputs of which nothing tells what they may hold."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    return [
        f"the integers of input {value.name!r} are ones: the graph does not tell what it allows; "
        f"give others by --input {value.name}=VALUE"
        for value in model.graph.input
        if value.type.tensor_type.elem_type in _INTEGERS
        and value.name not in initializers
        and value.name not in values
        and value.name not in counts.index_limits
    ]


def _header(model: ModelProto) -> Header:
    initializers = {tensor.name for tensor in model.graph.initializer}
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    return Header(
        opsets=dict(sorted(opsets.items(), key=lambda item: (item[0] != "ai.onnx", item))),
        ir_version=model.ir_version,
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        inputs=tuple(_value(value) for value in model.graph.input if value.name not in initializers),
        outputs=tuple(_value(value) for value in model.graph.output),
    )


def _value(value: ValueInfoProto) -> Value:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Value(value.name, (kind or "unknown").removesuffix("_type"), None)
    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim)
    return Value(value.name, _type_name(tensor.elem_type), shape)


def _type_name(elem_type: int) -> str:
    if elem_type not in TensorProto.DataType.values():
        return f"type {elem_type}"  # of a later version of ONNX, or damaged
    name: str = TensorProto.DataType.Name(elem_type).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _batch(header: Header, shapes: Mapping[str, Shape]) -> int | None:
    """The first size of the first input that has sizes."""
    return next((shapes[value.name][0] for value in header.inputs if shapes.get(value.name)), None)


def latency(target: _Target, run: _Run, seconds: float, limit: float) -> BatchLatency:
    """Times a run; called in the helper process."""
    from onnxprune.runtime.bystanders import Bystanders
    from onnxprune.runtime.lock import timing_lock
    from onnxprune.runtime.random_inputs import random_inputs
    from onnxprune.runtime.runs import bound_run, transfer
    from onnxprune.runtime.session import open_session
    from onnxprune.runtime.timing import WARMUP_SECONDS, interleave, summarise

    stage("timing", limit, quiet=True)
    session = open_session(target.path, device=target.device, threads=target.threads)
    feed = random_inputs(session, run.shapes, values=run.values, limits=target.limits)
    with timing_lock(helper.say):
        bystanders = Bystanders()
        (times,) = interleave([bound_run(session, feed, target.device)], seconds)
        disturbance = bystanders.disturbance(times, target.threads)
        moved = None
        if target.device == "cuda":
            moved = summarise(*interleave([transfer(session, feed)], seconds / 3))
    found = summarise(times)
    samples = 1000 * (run.batch or 1) / found.median_ms
    return BatchLatency(run.batch, WARMUP_SECONDS, found, samples, moved, disturbance)


def kernels(target: _Target, run: _Run, seconds: float, limit: float) -> BatchKernels:
    """Times the kernels of a run; called in the helper process."""
    from onnxprune.runtime.kernels import time_kernels
    from onnxprune.runtime.lock import timing_lock

    stage("timing", limit, quiet=True)
    with timing_lock(helper.say):
        found = time_kernels(
            target.path,
            run.shapes,
            device=target.device,
            threads=target.threads,
            seconds=seconds,
            values=run.values,
            limits=target.limits,
        )
    return BatchKernels(run.batch, found)


def _table(rows: Iterable[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(list(rows))
