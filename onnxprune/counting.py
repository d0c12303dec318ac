"""What an ONNX file costs to run and to store: MACs, parameters, operators, bytes."""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import google.protobuf.message
import numpy as np
import onnx
import onnx.inliner
from onnx import numpy_helper

from onnxprune.errors import InputError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class OpCount:
    """Nodes of one operator type, their MACs and the parameters they use; shared ones count at the first user."""

    count: int
    macs: int
    params: int


@dataclass(frozen=True)
class Counts:
    """
    Attributes:
        macs: multiply-accumulates of Conv, ConvTranspose, Gemm and MatMul, their integer variants included, for
            `batch` samples. Biases are not counted; multiplications by padding are.
        effective_macs: without the multiplications by zeros stored in a constant weight. Padding as in `macs`.
        flops: 2 * macs.
        params: elements of floating-point initializers, and of constants of any other kind that are the weight or
            bias of such an operator. Shapes and indices are no parameters.
        nonzero_params: those that are not zero (for integers: not at the zero point).
        file_bytes: of the file and of the external data it names.
        operators: operator type ("domain.Type" outside ONNX's own) -> what its nodes cost.
        onnx_tool_ops: onnx-tool's total, which also counts biases, activations, pooling and BatchNorm; None where
            it cannot handle the file.
        onnx_tool_note: why it is None.
        uncounted: operator type -> nodes of it whose multiplications are not in `macs`: operators outside ONNX's
            own, and those of ONNX with loops, branches or matrix products within.
    """

    macs: int
    effective_macs: int
    flops: int
    params: int
    nonzero_params: int
    file_bytes: int
    operators: dict[str, OpCount]
    onnx_tool_ops: int | None
    onnx_tool_note: str | None
    uncounted: dict[str, int]

    @property
    def sparsity(self) -> float:
        """Percentage of the parameters that are zero; 0 without parameters."""
        return 100 * (1 - self.nonzero_params / self.params) if self.params else 0.0


def count(path: Path, batch: int = 1, input_shape: Sequence[int] | None = None) -> Counts:
    """Counts of the ONNX file for `batch` samples.

    Args:
        input_shape: of one sample, without the batch; needed where the file's one input leaves it open.

    Raises:
        InputError: not an ONNX file, or one whose shapes cannot be known.
    """
    model, file_bytes = _load(path)
    inputs = _input_shapes(path, model.graph, batch, input_shape)
    shapes = _infer_shapes(path, model, inputs)
    stored = _Stored(model.graph)
    costs = {node.output[0]: _cost(path, node, shapes, stored) for node in model.graph.node if _key(node) in _MATRIX}
    owned = stored.params_by_user()
    zeros = stored.zeros_of_params()
    ops, note = _onnx_tool_ops(model, inputs)
    macs = sum(dense for dense, _ in costs.values())
    params = sum(stored.arrays[name].size for name in stored.params)
    return Counts(
        macs=macs,
        effective_macs=sum(effective for _, effective in costs.values()),
        flops=2 * macs,
        params=params,
        nonzero_params=params - zeros,
        file_bytes=file_bytes,
        operators={},
        onnx_tool_ops=ops,
        onnx_tool_note=note,
        uncounted={},
    )
