"""Nodes that onnxruntime has fused, taken apart as a file is read."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from pruned import random

import onnxprune
from onnxprune.graph.network import read
from onnxprune.graph.nodes import operator_type

CONV = "y = com.microsoft.FusedConv <pads = [1, 1, 1, 1], strides = [2, 2], {}> (x, w{})"
GEMM = "f = Flatten (x) y = com.microsoft.FusedGemm <alpha = 0.5, transB = 1, {}> (f, v, b)"
MATMUL = "y = com.microsoft.FusedMatMul <{}> ({})"
CASES = {
    "relu": CONV.format('activation = "Relu"', ", b"),
    "a sum and a leaky relu": CONV.format('activation = "LeakyRelu", activation_params = [0.3]', ", b, z"),
    "a sum alone": CONV.format("group = 1", ", b, z"),
    "limits": CONV.format('activation = "Clip", activation_params = [-0.5, 1.5]', ""),
    "hard sigmoid": CONV.format('activation = "HardSigmoid", activation_params = [0.3, 0.4]', ""),
    "a gemm": GEMM.format('activation = "Tanh"'),
    "a gemm with a leaky relu": GEMM.format('activation = "LeakyRelu", activation_alpha = 0.3'),
    "a matrix": MATMUL.format("alpha = 0.25", "x, m"),
    "a matrix transposed": MATMUL.format("transB = 1", "x, n"),
    "two computed tensors": f"r = Relu (x) {MATMUL.format('transB = 1', 'r, r')}",
    "two tensors": MATMUL.format("transA = 1, alpha = 3.0", "x, x"),
}
WEIGHTS = {"w": (6, 4, 3, 3), "b": (6,), "z": (2, 6, 4, 3), "v": (6, 4 * 7 * 5), "m": (5, 6), "n": (6, 5)}


def outputs(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})


def write(path: Path, body: str, opset: int) -> onnx.ModelProto:
    header = f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    model = onnx.parser.parse_model(f"{header} net (float[n, 4, 7, 5] x) => (float y) {{ {body} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.initializer.extend(
        numpy_helper.from_array(random(*shape, seed=seed), name) for seed, (name, shape) in enumerate(WEIGHTS.items())
    )
    onnx.save(model, path)
    return model


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("case", CASES)
def test_they_give_what_the_fused_node_gave(case: str, opset: int, tmp_path: Path) -> None:
    fused = write(tmp_path / "m.onnx", CASES[case], opset)
    network = read(tmp_path / "m.onnx")
    assert not [node for node in network.nodes if "." in operator_type(node)]
    x = random(2, 4, 7, 5, seed=9)
    for found, expected in zip(outputs(network.proto(), x), outputs(fused, x), strict=True):
        np.testing.assert_allclose(found, expected, 1e-5, 1e-5)


def test_a_file_that_onnxruntime_optimised_is_pruned_and_quantised_as_the_one_that_it_was(tmp_path: Path) -> None:
    body = """c = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = Relu (c) f = Flatten (r)
        h = Gemm <transB = 1> (f, u) s = Relu (h)
        y = MatMul (s, o)"""
    model = write(tmp_path / "m.onnx", body, 17)
    model.graph.initializer.append(numpy_helper.from_array(random(32, 6 * 7 * 5), "u"))
    model.graph.initializer.append(numpy_helper.from_array(random(32, 3), "o"))
    onnx.save(model, tmp_path / "m.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(tmp_path / "m.onnx", options)
    kinds = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert kinds[:3] == ["FusedConv", "Flatten", "FusedGemm"]
    for technique in ("structured", "weight"):
        plain, fused = (
            onnxprune.prune(tmp_path / name, sparsity=50, technique=technique, recovery=(), latency=False)
            for name in ("m.onnx", "fused.onnx")
        )
        assert [group.kept for group in fused.groups] == [group.kept for group in plain.groups]
        assert fused.after.macs == plain.after.macs
        assert fused.after.nonzero_params == plain.after.nonzero_params
    plain, fused = (
        onnxprune.quantize(tmp_path / name, dynamic=True, latency=False) for name in ("m.onnx", "fused.onnx")
    )
    assert [layer.reason for layer in fused.layers] == [layer.reason for layer in plain.layers]
    made = [node.op_type for node in onnx.load(fused.output).graph.node]
    assert made.count("MatMulInteger") == sum(not layer.reason for layer in fused.layers) == 2


def test_what_a_file_holds_before_is_that_of_profile(tmp_path: Path) -> None:
    """Constants that nothing reads are among it, and numbers that fused nodes have as attributes are not."""
    model = write(tmp_path / "m.onnx", "r = com.microsoft.FusedMatMul <alpha = 0.5> (x, m) y = MatMul (r, o)", 17)
    model.graph.initializer.append(numpy_helper.from_array(random(6, 3), "o"))
    onnx.save(model, tmp_path / "m.onnx")
    report = onnxprune.prune(tmp_path / "m.onnx", sparsity=50, dry_run=True)
    counts = onnxprune.profile(tmp_path / "m.onnx", latency=False).counts
    assert (report.before.params, report.before.bytes) == (counts.params, counts.file_bytes)


def test_a_file_laid_out_for_a_processor_is_refused(tmp_path: Path) -> None:
    model = write(tmp_path / "m.onnx", "y = com.microsoft.nchwc.Conv (x, w)", 17)
    model.opset_import.add(domain="com.microsoft.nchwc", version=1)
    onnx.save(model, tmp_path / "m.onnx")
    for reduce in (onnxprune.prune, onnxprune.quantize):
        with pytest.raises(onnxprune.InputError, match=r"one kind of processor \(com.microsoft.nchwc.Conv\)"):
            reduce(tmp_path / "m.onnx", **({"sparsity": 50} if reduce is onnxprune.prune else {"dynamic": True}))


@pytest.mark.parametrize(
    ("node", "opset"),
    [
        ("n = LayerNormalization <axis = -1> (a, s, t)", 14),
        ("n = SimplifiedLayerNormalization <axis = -1> (a, s)", 18),
        ("n, one, two, sum = com.microsoft.SkipLayerNormalization (a, a, s, t)", 18),
        ("n, one, two, sum = com.microsoft.SkipSimplifiedLayerNormalization (a, a, s)", 18),
    ],
)
def test_normalisations_of_onnxruntime_are_taken(node: str, opset: int, tmp_path: Path) -> None:
    """It writes LayerNormalization at any opset, and gives the sum that it normalises to what comes behind."""
    header = f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    model = onnx.parser.parse_model(
        f"""{header} net (float[n, 4, 8] x) => (float[n, 4, 5] y) {{ a = MatMul (x, w) {node} b = MatMul (n, v)
        r = Relu (b) c = MatMul (r, u) q = Add (c, {"sum" if "sum" in node else "n"}) y = MatMul (q, o) }}"""
    )
    shapes = {"w": (8, 16), "s": (16,), "t": (16,), "v": (16, 32), "u": (32, 16), "o": (16, 5)}
    if "t)" not in node:
        del shapes["t"]
    model.graph.initializer.extend(numpy_helper.from_array(random(*shape), name) for name, shape in shapes.items())
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    onnxruntime.InferenceSession(path)
    counts = onnxprune.profile(path, latency=False).counts
    assert counts.macs == 4 * (8 * 16 + 2 * 16 * 32 + 16 * 5)
    assert counts.complete
    assert counts.notes == ()
    assert counts.peak_activation_bytes is not None
    pruned = onnxprune.prune(path, sparsity=50, latency=False, recovery=())
    assert [group.kept for group in pruned.groups if group.frozen is None] == [16]
    quantized = onnxprune.quantize(path, dynamic=True, latency=False)
    assert not any(layer.reason for layer in quantized.layers)
