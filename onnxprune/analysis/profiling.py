"""What an ONNX file of any framework is, what it costs, and how fast onnxruntime runs it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxprune.common.errors import InputError
from onnxprune.graph.counting import count_model
from onnxprune.graph.counts import Counts
from onnxprune.graph.files import load
from onnxprune.graph.shapes import input_shapes
from onnxprune.graph.tensors import Shape

if TYPE_CHECKING:
    import pandas as pd

    from onnxprune.runtime.kernels import KernelTime
    from onnxprune.runtime.timing import Latency


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
    """

    batch: int | None
    warmup_seconds: float
    latency: "Latency"
    samples_per_second: float
    transfer: "Latency | None"


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
    device: str = "cpu",
    threads: int | None = None,
    seconds: float = 3.0,
    latency: bool = True,
    per_node_time: bool = False,
) -> Profile:
    """Profiles an ONNX file; neither PyTorch nor NNI is imported.

    Example:
        >>> onnxprune.profile("model.onnx", batch_sizes=(1, 32)).latency

    Args:
        batch_sizes: samples a run; the first is that of the counts. Default: what the file fixes, else 1.
        shapes: input name -> shape with the batch, where the file leaves it open.
        device: of latency, "cpu" or "cuda".
        threads: of the processor, within an operator; default: one for each core.
        seconds: length of each measurement of latency.
        latency: whether to measure it.
        per_node_time: whether to time kernels by onnxruntime's profiler, in a session of its own.

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
    model, file_bytes = load(path)
    header = _header(model)
    batches = {
        _batch(header, resolved): resolved
        for resolved in (input_shapes(path, model.graph, size, shapes) for size in batch_sizes or (None,))
    }
    first, resolved = next(iter(batches.items()))
    counts = count_model(path, model, file_bytes, resolved)
    del model  # it may be large, and a session holds it once more
    latencies: list[BatchLatency] = []
    kernels: list[BatchKernels] = []
    placement = None
    missing = []
    if timed:
        from onnxprune.runtime.kernels import on_cpu
        from onnxprune.runtime.probe import probe

        for batch, resolved in batches.items():
            try:
                probe(path, resolved, device=device, threads=threads, file_bytes=file_bytes)
            except InputError as error:
                missing.append(f"latency: {str(error).removeprefix(f'{path}: ')}")
                break
            if device == "cuda":
                placement = on_cpu(
                    path, _kernels(path, batch, resolved, device=device, threads=threads, seconds=0).kernels
                )
            if latency:
                latencies.append(_latency(path, batch, resolved, device=device, threads=threads, seconds=seconds))
            if per_node_time:
                kernels.append(_kernels(path, batch, resolved, device=device, threads=threads, seconds=1))
    return Profile(
        path, header, first, counts, device, threads, tuple(latencies), tuple(kernels), placement, tuple(missing)
    )


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


def _latency(
    path: Path, batch: int | None, shapes: Mapping[str, Shape], *, device: str, threads: int, seconds: float
) -> BatchLatency:
    from onnxprune.runtime.lock import timing_lock
    from onnxprune.runtime.random_inputs import random_inputs
    from onnxprune.runtime.runs import bound_run, transfer
    from onnxprune.runtime.session import open_session
    from onnxprune.runtime.timing import WARMUP_SECONDS, interleave, summarise

    session = open_session(path, device=device, threads=threads)
    feed = random_inputs(session, shapes)
    with timing_lock():
        found = summarise(*interleave([bound_run(session, feed, device)], seconds))
        moved = None
        if device == "cuda":
            moved = summarise(*interleave([transfer(session, feed)], seconds / 3))
    return BatchLatency(batch, WARMUP_SECONDS, found, 1000 * (batch or 1) / found.median_ms, moved)


def _kernels(
    path: Path, batch: int | None, shapes: Mapping[str, Shape], *, device: str, threads: int, seconds: float
) -> BatchKernels:
    from onnxprune.runtime.kernels import time_kernels
    from onnxprune.runtime.lock import timing_lock

    with timing_lock():
        return BatchKernels(batch, time_kernels(path, shapes, device=device, threads=threads, seconds=seconds))


def _table(rows: Iterable[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(list(rows))
