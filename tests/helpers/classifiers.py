"""Small ONNX classifiers of images, made by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SQUARES = {  # the metadata of a model of test_cli.small_npz's images
    "dataset": "squares",
    "classes": ["0", "1", "2"],
    "input_shape": [1, 12, 12],
    "normalisation": "(pixel / 255 - mean) / std, per channel",
    "mean": [0.25],
    "std": [0.5],
}


def square_finder(size: int = 12) -> np.ndarray:
    """Weights (size * size, 3) whose product with an image is largest for the class of its bright square."""
    weights = np.zeros((3, size, size), np.float32)
    border = (size - 12) // 2
    for label in range(3):
        top = border + 4 * label
        weights[label, top : top + 4, border + 4 : border + 8] = 1
    return weights.reshape(3, -1).T


def classifier(
    path: Path,
    weights: np.ndarray,
    shape: tuple[Any, ...] = ("batch", 1, 12, 12),
    softmax: bool = False,
    metadata: dict[str, Any] | None = None,
) -> Path:
    """Writes a file that flattens images of `shape` and multiplies them by `weights` (pixels, classes)."""
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["product" if softmax else "logits"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["product"], ["logits"], axis=1))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (shape[0], weights.shape[1]))],
        [numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    properties = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in (metadata or {}).items()
    }
    helper.set_model_props(model, properties)
    onnx.save(model, path)
    return path
