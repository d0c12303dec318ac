"""In which steps of channels the time of convolutions falls, measured with this machine's onnxruntime."""

import functools
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxprune.common.temporary import temporary_folder
from onnxprune.runtime.lock import timing_lock
from onnxprune.runtime.runs import fresh_run
from onnxprune.runtime.timing import interleave

# step -> a width that is an odd multiple of it, and the next multiple of twice the step
_PAIRS = {4: (44, 48), 8: (40, 48), 16: (48, 64)}
_COARSEST = 32
MEASURING_STEPS = "measuring in which steps of channels convolutions get faster"  # what people are told meanwhile
_SIDE = 14  # of the images
_CONVOLUTIONS = 3  # one after the other, so that layouts are changed at the ends alone
_SECONDS = 0.6
_LONGEST = 3.0


@functools.cache
def measured_step(threads: int = 1) -> int:
    """The finest step of channels, 4 to 32, in which narrower convolutions are faster; measured while no other process
    is timing.

    A width between two multiples of twice the step has to save at least half of what its fewer multiplications would:
    where it does not, kernels compute the next multiple in its place.

    Args:
        threads: of the processor.
    """
    widths = sorted({width for pair in _PAIRS.values() for width in pair})
    with temporary_folder() as folder:
        runs = []
        for width in widths:
            path = Path(folder) / f"{width}.onnx"
            onnx.save(_convolutions(width), path)
            runs.append(fresh_run(path, (1, 1, _SIDE, _SIDE), "cpu", threads))
        with timing_lock():
            times = interleave(runs, _SECONDS, warmup_seconds=0.05, longest=_LONGEST)
    median = {width: float(np.median(found)) for width, found in zip(widths, times, strict=True)}
    return chosen(median)


def chosen(median: dict[int, float]) -> int:
    """The step that times of networks of some widths speak for."""
    for step, (narrow, wide) in _PAIRS.items():
        saved = 1 - median[narrow] / median[wide]
        if saved >= (1 - (narrow / wide) ** 2) / 2:
            return step
    return _COARSEST


def _convolutions(width: int) -> onnx.ModelProto:
    random = np.random.default_rng(0)
    nodes, weights, name, inputs = [], [], "x", 1
    for number in range(_CONVOLUTIONS):
        weight = random.normal(size=(width, inputs, 3, 3), scale=0.1).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(helper.make_node("Conv", [name, f"w{number}"], [f"c{number}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        name, inputs = f"r{number}", width
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["y"]))
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 1, _SIDE, _SIDE])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", width, 1, 1])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
