"""What this machine does at best: multiply-adds and bytes a second, each measured with onnxruntime's own kernels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from onnxprune.common.errors import InputError
from onnxprune.common.temporary import temporary_folder
from onnxprune.runtime import helper as helper_process
from onnxprune.runtime.bystanders import Bystanders
from onnxprune.runtime.lock import timing_lock
from onnxprune.runtime.random_inputs import Inputs
from onnxprune.runtime.runs import bound_run
from onnxprune.runtime.session import open_session
from onnxprune.runtime.sizes import timing_limit
from onnxprune.runtime.timing import interleave

_LONGEST = 2.0  # seconds of a measurement; of those below a run takes at most some 0.1
_RUNS = 5  # at least
_SIDE = {"cpu": 1024, "cuda": 4096}  # of the matrices that are multiplied
_ELEMENTS = 2**25  # float32, of each tensor that is added: 128 MiB, beyond the caches
_TYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "int8": np.int8}


@dataclass(frozen=True)
class Roofline:
    """The roof of Williams et al. 2009, Communications of the ACM 52(4), of one machine, device and number of threads.

    Attributes:
        macs_per_second: type of numbers -> multiply-adds a second of a large matrix product, its fastest run.
        bytes_per_second: of adding two tensors far larger than the caches, read and written; its fastest run.
        busy: what else the machine did meanwhile, so that it can do more; None where it did nothing.
    """

    device: str
    threads: int
    macs_per_second: dict[str, float]
    bytes_per_second: float
    busy: str | None

    @property
    def ridges(self) -> dict[str, float]:
        """Type of numbers -> MACs a byte from which on compute bounds a node, not memory."""
        return {kind: macs / self.bytes_per_second for kind, macs in self.macs_per_second.items()}

    def bound(self, macs_per_byte: float | None, kind: str | None) -> str | None:
        """Whether a node that multiplies is bound by "compute" or "memory"; None where it does not, or is not known."""
        ridge = self.ridges.get(kind or "")
        if not macs_per_byte or ridge is None:
            return None
        return "compute" if macs_per_byte >= ridge else "memory"


def measure(device: str, threads: int, kinds: Sequence[str], seconds: float) -> Roofline:
    """Measures the roof; called in the helper process.

    Args:
        kinds: types of numbers to multiply; those that onnxruntime has no product of are left out.
        seconds: of each measurement.

    Raises:
        InputError: CUDA was asked for and does not run.
    """
    helper_process.stage("measuring the roofline", timing_limit(_LONGEST * (1 + len(kinds))), quiet=True)
    side = _SIDE[device]
    with temporary_folder() as folder, timing_lock(helper_process.say):
        bystanders = Bystanders()

        def times_of(model: ModelProto, feed: Inputs) -> np.ndarray:
            """Milliseconds (runs,)."""
            path = Path(folder) / "model.onnx"
            onnx.save(model, path)
            run = bound_run(open_session(path, device=device, threads=threads), feed, device)
            (times,) = interleave([run], min(seconds, _LONGEST), 0, _RUNS, longest=_LONGEST)
            return times

        products = {}
        for kind in kinds:
            if kind in _TYPES:
                try:
                    products[kind] = times_of(*_product(side, kind))
                except InputError:  # no kernel
                    continue
        additions = times_of(*_addition())
        relative = np.concatenate([times / np.median(times) for times in (*products.values(), additions)])
        disturbance = bystanders.disturbance(relative, threads)
    moved = 3 * _ELEMENTS * np.dtype(np.float32).itemsize
    return Roofline(
        device,
        threads,
        {kind: 1000 * side**3 / float(times.min()) for kind, times in products.items()},
        1000 * moved / float(additions.min()),
        disturbance.busy,
    )


def _product(side: int, kind: str) -> tuple[ModelProto, Inputs]:
    """Two square matrices, the second of them a weight."""
    values = np.random.default_rng(0).integers(0, 9, (side, side)).astype(_TYPES[kind])
    if kind == "int8":  # activations without sign: what kernels are made for
        return _model("MatMulInteger", "x w", {"x": values.astype(np.uint8)}, {"w": values}, np.int32)
    return _model("MatMul", "x w", {"x": values}, {"w": values}, values.dtype)


def _addition() -> tuple[ModelProto, Inputs]:
    values = np.ones(_ELEMENTS, np.float32)
    return _model("Add", "a b", {"a": values, "b": values.copy()}, {}, values.dtype)


def _model(operator: str, names: str, feed: Inputs, weights: Inputs, result: Any) -> tuple[ModelProto, Inputs]:
    """A model of one node, and what to feed it."""
    kind = helper.np_dtype_to_tensor_dtype
    graph = helper.make_graph(
        [helper.make_node(operator, names.split(), ["y"])],
        "peak",
        [helper.make_tensor_value_info(name, kind(value.dtype), value.shape) for name, value in feed.items()],
        [helper.make_tensor_value_info("y", kind(np.dtype(result)), None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), feed
