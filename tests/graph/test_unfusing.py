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


ATTENTION = {  # attributes, and what is read but the data
    "plain": ("", "w, b"),
    "of counted keys": ("", "w, b, counted"),
    "of some keys": ("mask_filter_value = -100.0", "w, b, some"),
    "of some keys for each query": ("", "w, b, each"),
    "looking back alone": ("unidirectional = 1, scale = 0.7", "w, b"),
    "with scores added": ("", "w, b, , , added"),
    "of narrow values": ("qkv_hidden_sizes = [12, 12, 6]", "w30, b30"),
}
OF_ATTENTION = {
    "w": random(8, 36), "b": random(36), "w30": random(8, 30), "b30": random(30), "b24": random(24),
    "added": random(1, 1, 5, 5),
    "counted": np.array([3, 4], np.int32), "some": np.array([[1, 1, 0, 1, 1], [1, 1, 1, 1, 0]], np.int32),
    "each": np.tril(np.ones((2, 5, 5), np.int32)),
}  # fmt: skip
MULTI_HEAD = "com.microsoft.MultiHeadAttention"


def write_attention(path: Path, node: str, inputs: str = "float[n, 5, 8] x") -> onnx.ModelProto:
    header = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
    model = onnx.parser.parse_model(f"{header} net ({inputs}) => (float y) {{ {node} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in OF_ATTENTION.items())
    onnx.save(model, path)
    return model


@pytest.mark.parametrize("case", ATTENTION)
def test_attention_is_products_with_weights_and_their_heads(case: str, tmp_path: Path) -> None:
    attributes, inputs = ATTENTION[case]
    attributes = f"num_heads = 3{', ' if attributes else ''}{attributes}"
    fused = write_attention(tmp_path / "m.onnx", f"y = com.microsoft.Attention <{attributes}> (x, {inputs})")
    network = read(tmp_path / "m.onnx")
    assert [operator_type(node) for node in network.nodes] == ["MatMul"] * 3 + ["Add"] * 3 + [MULTI_HEAD]
    assert sum(network.weights[node.input[1]].size for node in network.nodes[:3]) == 8 * (30 if "30" in inputs else 36)
    x = random(2, 5, 8, seed=9)
    np.testing.assert_allclose(outputs(network.proto(), x)[0], outputs(fused, x)[0], 1e-4, 1e-5)


def test_shares_of_macs_are_those_of_its_parts(tmp_path: Path) -> None:
    node = "a = com.microsoft.Attention <num_heads = 3> (x, w, b) y = MatMul (a, o)"
    model = write_attention(tmp_path / "m.onnx", node)
    model.graph.initializer.append(numpy_helper.from_array(random(12, 6), "o"))
    onnx.save(model, tmp_path / "m.onnx")
    macs = [5 * 8 * 12] * 3 + [5 * 5 * (12 + 12), 5 * 12 * 6]
    assert onnxprune.profile(tmp_path / "m.onnx", latency=False).counts.macs == sum(macs)
    layers = onnxprune.quantize(tmp_path / "m.onnx", dynamic=True, latency=False).layers
    assert [layer.macs_share for layer in layers] == pytest.approx([part / sum(macs) for part in macs])


def test_weights_of_two_attentions_are_taken_apart_once(tmp_path: Path) -> None:
    twice = (
        "a = com.microsoft.Attention <num_heads = 3> (x, w, b) c = com.microsoft.Attention <num_heads = 3> (x, w, b)"
    )
    fused = write_attention(tmp_path / "m.onnx", f"{twice} y = Add (a, c)")
    network = read(tmp_path / "m.onnx")
    assert sum(value.size for value in network.weights.values()) == 8 * 36 + 36
    x = random(2, 5, 8, seed=9)
    np.testing.assert_allclose(outputs(network.proto(), x)[0], outputs(fused, x)[0], 1e-4, 1e-5)


def test_biases_of_heads_are_sums(tmp_path: Path) -> None:
    fused = write_attention(tmp_path / "m.onnx", f"y = {MULTI_HEAD} <num_heads = 4> (x, x, x, b24)")
    network = read(tmp_path / "m.onnx")
    assert [operator_type(node) for node in network.nodes] == ["Add"] * 3 + [MULTI_HEAD]
    x = random(2, 5, 8, seed=9)
    np.testing.assert_allclose(outputs(network.proto(), x)[0], outputs(fused, x)[0], 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        ("y = com.microsoft.Attention <num_heads = 3> (x, w, b, ends)", "float[n, 5, 8] x, int32[4] ends"),
        ("y, p = com.microsoft.Attention <num_heads = 3> (x, w, b)", "float[n, 5, 8] x"),
        ("v = Relu (w) y = com.microsoft.Attention <num_heads = 3> (x, v, b)", "float[n, 5, 8] x"),
        (f"r = Relu (b) y = {MULTI_HEAD} <num_heads = 4> (q, q, q, r)", "float[n, 5, 12] q"),
    ],
)
def test_attention_of_another_form_stays(node: str, inputs: str, tmp_path: Path) -> None:
    """By a mask of first and last keys, of keys and values that are kept, and of what is computed."""
    model = write_attention(tmp_path / "m.onnx", node, inputs)
    kinds = [operator_type(node) for node in read(tmp_path / "m.onnx").nodes]
    assert kinds == [operator_type(node) for node in model.graph.node]


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
    assert f"{node.partition('=')[2].split()[0].split('.')[-1]} looks across them" in [
        group.frozen for group in pruned.groups
    ]
    quantized = onnxprune.quantize(path, dynamic=True, latency=False)
    assert not any(layer.reason for layer in quantized.layers)
