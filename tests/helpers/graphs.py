"""Small ONNX files for the tests, written from text."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def write(path: Path, body: str, **initializers: np.ndarray) -> Path:
    """Writes the graph "name (inputs) => (outputs) { nodes }", opset 18, with its initializers; returns `path`."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18, "custom" : 1]> {body}')
    for name, array in initializers.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, path)
    return path


def linear(path: Path, weight: np.ndarray, bias: np.ndarray | None = None) -> Path:
    """Images (batch, C, H, W), flattened, times `weight` (classes, C * H * W)."""
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    body = """g (float[batch, c, h, w] input) => (float[batch, classes] logits) {
        flat = Flatten (input)
        logits = Gemm <transB = 1> (flat, weight, bias)
    }"""
    return write(path, body, weight=weight, bias=bias)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def classifier(path: Path, **weights: np.ndarray) -> Path:
    """Five classes of pictures of 3 x 8 x 8, by a convolution `w`, its means, and `v` and `k`; ones by default."""
    body = """net (float[batch, 3, 8, 8] x) => (float[batch, 5] y) {
        [first] c = Conv <pads = [1, 1, 1, 1]> (x, w)
        r = Relu (c)
        p = GlobalAveragePool (r)
        f = Flatten (p)
        [last] y = Gemm <transB = 1> (f, v, k)
    }"""
    return write(path, body, **{"w": ones(4, 3, 3, 3), "v": ones(5, 4), "k": ones(5), **weights})
