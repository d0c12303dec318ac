"""What is done with a file that is profiled, in the helper process: it is read, counted, run and timed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxprune.analysis.profiling import BatchKernels, BatchLatency, Counted, Header, Run, Target, Value
from onnxprune.graph.counting import count_model
from onnxprune.graph.counts import Counts
from onnxprune.graph.files import load
from onnxprune.graph.shapes import input_shapes, input_values
from onnxprune.graph.tensors import Shape
from onnxprune.runtime import helper
from onnxprune.runtime.helper import stage

_INTEGERS = {getattr(TensorProto, name) for name in ("INT8", "INT16", "INT32", "INT64", "UINT16", "UINT32", "UINT64")}


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


def _runs(
    path: Path,
    model: ModelProto,
    header: Header,
    batch_sizes: Sequence[int],
    shapes: Mapping[str, Shape],
    values: Mapping[str, Any],
) -> list[Run]:
    """One for each batch size."""
    arrays = {name: np.asarray(value) for name, value in values.items()}
    runs = []
    for size in batch_sizes or (None,):
        resolved = input_shapes(path, model.graph, size, shapes, arrays)
        batch = _batch(header, resolved) if size is None else size
        runs.append(Run(batch, resolved, input_values(path, model.graph, resolved, arrays)))
    return runs


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


def latency(target: Target, run: Run, seconds: float, limit: float) -> BatchLatency:
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
    return BatchLatency(run.batch, min(WARMUP_SECONDS, seconds), found, samples, moved, disturbance)


def kernels(target: Target, run: Run, seconds: float, limit: float) -> BatchKernels:
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
