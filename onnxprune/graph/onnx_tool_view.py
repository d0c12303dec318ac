"""What onnx-tool counts of the same graph, beside our own figures."""

import contextlib
import io
import warnings
from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, helper

from onnxprune.common.errors import one_line
from onnxprune.common.limits import time_limited
from onnxprune.graph.tensors import Shape

_MOST_BYTES = 2**31  # it works on copies

_MOST_ELEMENTS = 2**28

_SECONDS = 4.0  # it computes some constants element by element

_MOST_NODES = 10_000  # its time grows with their square


def onnx_tool_ops(
    model: ModelProto, inputs: Mapping[str, Shape], weight_bytes: int, largest: int
) -> tuple[int | None, dict[int, int], str | None]:
    """onnx-tool's total and its figures by position of the node, or None, nothing and why.

    It prints, warns and even exits; nothing of that may leave here.

    Args:
        weight_bytes: of all constants.
        largest: elements of the largest tensor at run time: it makes some of them.
    """
    if largest > _MOST_ELEMENTS:
        return None, {}, f"onnx-tool is not asked about tensors of over {_MOST_ELEMENTS:,} elements"
    if weight_bytes > _MOST_BYTES or len(model.graph.node) > _MOST_NODES:
        limits = f"{_MOST_BYTES / 2**30:.0f} GiB or {_MOST_NODES:,} nodes"
        return None, {}, f"onnx-tool is not asked about models over {limits}"
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    for index, node in enumerate(model.graph.node):
        node.name = f"node {index}"
    silent = io.StringIO()
    try:
        with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import onnx_tool

            fed = {
                name: np.zeros(shape, helper.tensor_dtype_to_np_dtype(types[name])) for name, shape in inputs.items()
            }
            with time_limited(_SECONDS):
                graph = onnx_tool.Model(model).graph  # whose nodes are in order, as the checker saw to
                graph.shape_infer(fed)
                graph.profile()
            found = {int(name.removeprefix("node ")): int(node.macs[0]) for name, node in graph.nodemap.items()}
            return int(graph.macs[0]), found, None
    except (Exception, SystemExit) as error:
        return None, {}, f"onnx-tool failed: {one_line(error)}"
