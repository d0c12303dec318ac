"""Quantisation of files: what is converted and how, what stays, what is checked, refused and told."""

import hashlib
import json
from pathlib import Path
from typing import Any

import here
import numpy as np
import onnx
import onnxruntime
import pytest
import trained
from onnx import TensorProto, numpy_helper
from pruned import model

import onnxprune
from onnxprune.common.errors import InputError, RunError, StorageError
from onnxprune.data.dataset import load
from onnxprune.graph.counting import count
from onnxprune.graph.metadata import parse
from onnxprune.graph.network import Network, metadata, read
from onnxprune.quantization import quantize as quantization
from onnxprune.quantization import sensitivity
from onnxprune.quantization.conversion import Converter
from onnxprune.quantization.result import QuantizeReport
from onnxprune.quantization.settings import QuantizeSettings
from onnxprune.runtime.execution import open_network, run

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Whatever tests run before, and in which process."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


@pytest.fixture(autouse=True)
def _without_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    here.without_helper(monkeypatch, quantization)


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    return trained.mlp(tmp_path / "mlp.onnx", mean="[0.0]", std="[1.0]", accuracy="12.0", sparsity="50")


def write(path: Path, text: str, opset: int = 18, **weights: Any) -> Path:
    built = model(text, {name: np.asarray(value, np.float32) for name, value in weights.items()})
    built.opset_import[0].version = opset
    onnx.save(built, path)
    return path


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def quantized(path: Path, **settings: Any) -> QuantizeReport:
    return onnxprune.quantize(path, **{"latency": False, **settings})


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def answer(network: Network, **feed: np.ndarray) -> list[np.ndarray]:
    with open_network(network) as session:
        return list(run(session, feed).values())


def test_a_linear_layer_by_hand(tmp_path: Path) -> None:
    weight, bias = normal(8, 5), normal(5)
    path = write(tmp_path / "m.onnx", "(float[n,8] x) => (float[n,5] y) { y = Gemm (x, w, b) }", w=weight, b=bias)
    x = RANDOM.uniform(-1, 3, (64, 8)).astype(np.float32)
    x[0, :2] = -1, 3  # the range, in the first batch, which calibrates
    report = quantized(path, data={"x": x}, seed=1)
    network = read(report.output)
    (eight,) = [value for value in network.weights.values() if value.dtype == np.int8 and value.ndim == 2]
    scales = [value for value in network.weights.values() if value.dtype == np.float32]
    per_channel = next(
        value for value in scales if value.shape == (5,) and np.allclose(value, np.abs(weight).max(0) / 64)
    )
    assert np.abs(eight).max() == 64  # 7 bits: sums of two products stay within 16
    assert np.abs(eight * per_channel - weight).max() <= per_channel.max() / 2 + 1e-6
    calibrated = x[np.random.default_rng(1).permutation(64)][:56]
    assert any(value.ndim == 0 and np.isclose(value, np.ptp(calibrated) / 255, rtol=1e-5) for value in scales)
    (found,) = answer(network, x=calibrated)
    assert np.abs(found - (calibrated @ weight + bias)).max() < 0.3  # others may be beyond the range of the outputs


def test_the_trained_network_keeps_its_accuracy_in_a_quarter_of_the_bytes(mlp: Path) -> None:
    report = quantized(mlp, data=trained.unlabelled())
    assert trained.accuracy(report.output) >= trained.accuracy(mlp) - 1
    assert report.after.bytes < 0.5 * report.before.bytes
    assert report.after.bytes == report.output.stat().st_size
    assert 0 < report.after.bytes_compressed < report.before.bytes_compressed
    assert report.fidelity is not None
    assert report.fidelity.relative_error < 0.05
    assert {layer.type for layer in report.layers} == {"int8"}
    assert report.converted_share == 1
    counts = count(report.output)
    assert counts.macs_by_type == {"int8": counts.macs}
    assert counts.macs == count(mlp).macs


@pytest.mark.parametrize("calibration", ["entropy", "percentile"])
def test_other_calibrations_run_on_batches_of_several_sizes(calibration: str, mlp: Path) -> None:
    samples = {"pixels": trained.unlabelled()["pixels"][:100]}
    report = quantized(mlp, data=samples, calibration=calibration)
    assert trained.accuracy(report.output) >= trained.accuracy(mlp) - 2
    assert hashlib.sha256(report.output.read_bytes()) != hashlib.sha256(
        quantized(mlp, data=samples).output.read_bytes()
    )


def test_dynamic_needs_no_data_and_float16_keeps_inputs_and_outputs(mlp: Path) -> None:
    dynamic, half = quantized(mlp, dynamic=True), quantized(mlp, type="float16")
    assert [report.output.name for report in (dynamic, half)] == ["mlp-int8-dynamic.onnx", "mlp-float16.onnx"]
    for report, most in ((dynamic, 0.5), (half, 0.6)):
        assert trained.accuracy(report.output) >= trained.accuracy(mlp) - 1
        assert report.after.bytes < most * report.before.bytes
        assert report.drop is None and report.fidelity is None
    found = onnx.load(half.output).graph
    assert {value.type.tensor_type.elem_type for value in (*found.input, *found.output)} == {TensorProto.FLOAT}
    assert count(half.output).macs_by_type == {"float16": count(mlp).macs}


def test_what_is_asked_for_stays_and_the_report_says_so(mlp: Path) -> None:
    report = quantized(mlp, data=trained.unlabelled(), keep=["h1", "scores"])
    assert [(layer.layer, layer.type, layer.reason) for layer in report.layers] == [
        ("h1", "float32", "asked for"), ("h2", "int8", ""), ("scores", "float32", "asked for"),
    ]  # fmt: skip
    assert count(report.output).macs_by_type == {"float32": 64 * 48 + 32 * 10, "int8": 48 * 32}
    assert list(report.layers_table()["layer"]) == ["h1", "h2", "scores"]
    assert json.loads(json.dumps(report.as_json()))["settings"]["keep"] == ["h1", "scores"]


def test_a_layer_that_is_asked_for_stays_with_ranges_found_at_run_time_too(mlp: Path) -> None:
    report = quantized(mlp, dynamic=True, keep=["h2"])
    assert [layer.layer for layer in report.layers if layer.type == "float32"] == ["h2"]
    assert count(report.output).macs_by_type == {"int8": 64 * 48 + 32 * 10, "float32": 48 * 32}


def test_a_weight_that_several_layers_share_is_right_for_each(tmp_path: Path) -> None:
    """onnxruntime's quantiser transposes it in place for each Gemm: here it would be right for neither."""
    text = """(float[n,8] a, float[n,8] b) => (float[n,8] y) {
        first = Gemm <transB = 1> (a, w, k)
        second = Gemm <transB = 1> (b, w, k)
        y = Sub (first, second)
    }"""
    path = write(tmp_path / "twins.onnx", text, w=normal(8, 8), k=normal(8))
    made = read(quantized(path, dynamic=True).output)
    assert len([value for value in made.weights.values() if value.dtype == np.int8 and value.ndim == 2]) == 1
    feed = {"a": normal(16, 8), "b": normal(16, 8)}
    ((expected,), (found,)) = (answer(network, **feed) for network in (read(path), made))
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_product_whose_sum_with_a_computed_tensor_is_fused_is_quantised(tmp_path: Path, dynamic: bool) -> None:
    text = """(float[n,8] x) => (float[n,8] y) {
        [a] first = MatMul (x, w)
        h = Relu (first)
        [b] second = MatMul (h, v)
        y = Add (second, x)
    }"""
    path = write(tmp_path / "residual.onnx", text, w=normal(8, 12), v=normal(12, 8))
    x = normal(256, 8)
    report = quantized(path, **({"dynamic": True} if dynamic else {"data": {"x": x}}))
    assert [(layer.layer, layer.type) for layer in report.layers] == [("a", "int8"), ("b", "int8")]
    ((expected,), (found,)) = (answer(read(file), x=x) for file in (path, report.output))
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)
    assert count(report.output).macs_by_type == {"int8": 2 * 8 * 12}


def test_what_multiplies_in_other_operators_and_in_subgraphs_is_told_to_stay(tmp_path: Path) -> None:
    text = """(float[n,8] x) => (float[n,5] y) {
        [first] a = MatMul (x, w)
        [turned] b = Einsum <equation = "bi,ij->bj"> (a, v)
        [rounds] c = Loop (three, , b) <body = g (int64 i, bool go, float[n,8] s) => (bool on, float[n,8] t) {
            on = Identity (go)
            t = MatMul (s, v)
        }>
        y = MatMul (c, u)
    }"""
    weights = {"w": normal(8, 8), "v": normal(8, 8), "u": normal(8, 5)}
    built = onnx.load(write(tmp_path / "m.onnx", text, **weights))
    built.graph.initializer.append(numpy_helper.from_array(np.int64(3), "three"))
    onnx.save(built, tmp_path / "m.onnx")
    report = quantized(tmp_path / "m.onnx", dynamic=True)
    whole = 5 * 64 + 40
    assert [(layer.layer, layer.macs_share * whole, layer.reason) for layer in report.layers] == [
        ("first", pytest.approx(64), ""),
        ("turned", pytest.approx(64), "onnxruntime has no Einsum in this type, or a slow one"),
        ("rounds", pytest.approx(3 * 64), "its subgraphs stay as they are"),
        ("y", pytest.approx(40), ""),
    ]
    assert report.converted_share == pytest.approx(104 / whole)


@pytest.mark.parametrize("settings", [{"type": "float16"}, {"dynamic": True}])
def test_what_a_branch_reads_from_outside_comes_before_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    text = """(float[n,8] x, bool[1] f) => (float[n,5] y) {
        a = MatMul (x, w)
        b = If (f) <then_branch = g () => (float[n,8] t) { t = Relu (a) },
                    else_branch = h () => (float[n,8] e) { e = Neg (a) }>
        y = MatMul (b, u)
    }"""
    path = write(tmp_path / "m.onnx", text, w=normal(8, 8), u=normal(8, 5))
    report = quantized(path, **settings)
    feed = {"x": normal(4, 8), "f": np.array([True])}
    ((expected,), (found,)) = (answer(read(file), **feed) for file in (path, report.output))
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_scores_that_were_minus_infinity_may_stay_so(tmp_path: Path) -> None:
    text = "(float[n,4] x) => (float[n,3] y) { s = MatMul (x, w)\n y = Add (s, mask) }"
    path = write(tmp_path / "m.onnx", text, w=normal(4, 3), mask=[0, -np.inf, 0])
    made = read(quantized(path, dynamic=True).output)
    (found,) = answer(made, x=normal(5, 4))
    assert (found[:, 1] == -np.inf).all()
    assert np.isfinite(found[:, [0, 2]]).all()


def test_the_most_sensitive_layers_stay_until_no_more_is_lost_on_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One layer alone is spoiled by an outlier in its input; validation says that it must stay, and only it."""
    weight = np.eye(6, dtype=np.float32)
    spoiled = np.diag([1e4, 1, 1, 1, 1, 1]).astype(np.float32)
    text = """(float[n,6] x) => (float[n,6] y) {
        a = MatMul (x, first) b = MatMul (a, wide) c = Mul (b, back) d = MatMul (c, last) y = Identity (d) }"""
    path = write(tmp_path / "m.onnx", text, first=weight, wide=spoiled, back=[1e-4, 1, 1, 1, 1, 1], last=weight)
    samples = {"x": RANDOM.uniform(0, 1, (512, 6)).astype(np.float32)}
    plain = quantized(path, data=samples)
    assert plain.drop is not None and plain.drop > 20
    report = quantized(path, data=samples, max_drop=10, keep=["c"])
    assert report.drop is not None and report.drop <= 10
    stays = {layer.layer: layer for layer in report.layers if layer.reason == "sensitive"}
    assert "b" in stays
    alone = {layer.layer: layer.error_alone for layer in report.layers}
    assert max(alone, key=lambda name: alone[name] or 0) == "b"
    assert len(stays) < 3
    monkeypatch.setattr(sensitivity, "deciding_score", lambda network, original, samples: None)
    with pytest.raises(InputError, match="no output has a score for each class"):
        quantized(path, data=samples, max_drop=10)


def test_what_cannot_be_compared_is_quantised_all_the_same(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **how: object) -> None:
        raise InputError("its shapes do not fit together")

    monkeypatch.setattr("onnxprune.reduction.output_file.compare", refused)
    report = quantized(mlp, data=trained.unlabelled(), latency=True)
    assert report.output.is_file()
    assert report.not_compared == "its shapes do not fit together"


def test_where_no_choice_loses_so_little_nothing_is_written(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([100.0, *[50.0] * 9])
    monkeypatch.setattr(sensitivity, "deciding_score", lambda network, original, samples: next(scores))
    with pytest.raises(RunError, match=r"it loses more than 1 point even where one layer alone"):
        quantized(mlp, data=trained.unlabelled(), max_drop=1)
    assert [path.name for path in mlp.parent.iterdir()] == ["mlp.onnx"]


def test_labels_give_accuracy_on_the_test_images_and_the_drop_on_validation(tmp_path: Path) -> None:
    path = trained.mlp(tmp_path / "mlp.onnx", mean="[0.0]", std="[1.0]")
    report = quantized(path, data=trained.dataset(tmp_path / "digits.npz"), max_drop=1)
    assert report.accuracy is not None
    assert report.accuracy.original == pytest.approx(trained.accuracy(path))
    assert report.accuracy.quantized == pytest.approx(trained.accuracy(report.output))
    assert report.tested is not None and report.tested.intervals[0] == report.tested.intervals[1]
    images = len(np.load(tmp_path / "digits.npz")["y_test"])
    assert (report.tested.images, report.tested.p_value) == (images, 1.0)
    assert report.drop is not None and report.drop <= 1
    assert parse(metadata(read(report.output).model)).accuracy == pytest.approx(report.accuracy.quantized, abs=1e-4)


def test_accuracy_on_other_data_than_the_file_names_is_not_written_into_it(tmp_path: Path) -> None:
    data = trained.dataset(tmp_path / "digits.npz")
    for name, said in ((load(str(data)).name, True), ("other", False)):
        path = trained.mlp(tmp_path / "mlp.onnx", mean="[0.0]", std="[1.0]", dataset=name)
        for report in (quantized(path, data=data), onnxprune.prune(path, sparsity=20, data=data, latency=False)):
            assert report.accuracy is not None and report.output is not None
            assert ("accuracy" in metadata(read(report.output).model)) == said


def test_the_file_says_how_it_was_made_and_keeps_what_still_holds(mlp: Path) -> None:
    report = quantized(mlp, data=trained.unlabelled(), keep=["h2"], seed=3)
    properties = metadata(read(report.output).model)
    assert properties["quantized_from"] == "mlp.onnx"
    assert properties["quantized_from_sha256"] == hashlib.sha256(mlp.read_bytes()).hexdigest()
    assert properties["quantization"] == "int8"
    assert json.loads(properties["quantize_settings"]) == {
        "calibration": "minmax", "keep": ["h2"], "samples": 512, "seed": 3,
    }  # fmt: skip
    assert json.loads(properties["float32_layers"]) == ["h2"]
    assert properties["sparsity"] == "50"  # it is as pruned as before
    assert "accuracy" not in properties  # that was of another file


def test_the_same_again_gives_the_same_bytes_and_says_that_it_replaced_them(mlp: Path) -> None:
    first = quantized(mlp, data=trained.unlabelled(), calibration="percentile")
    before = first.output.read_bytes()
    again = quantized(mlp, data=trained.unlabelled(), calibration="percentile")
    assert again.output.read_bytes() == before
    assert (first.replaced, again.replaced) == (False, True)


CONV = {"w": normal(4, 1, 3, 3), "v": normal(4 * 36, 3)}


@pytest.mark.parametrize(
    ("nodes", "weights", "opset"),
    [
        # a bias (1, N) of MatMul and Add, which the quantiser itself fails on
        ("h = MatMul (x, w) y = Add (h, b)", {"w": normal(6, 6), "b": normal(1, 6)}, 18),
        ("y = Gemm <alpha = 0.5, beta = 2.0> (x, w, b)", {"w": normal(6, 6), "b": normal(6)}, 18),
        ("y = Gemm <transB = 1> (x, w, b)", {"w": normal(6, 6), "b": [1.0]}, 18),
        ("y = Gemm (x, w)", {"w": normal(6, 6)}, 11),
        # the same weights twice, and all zeros
        ("a = MatMul (x, w) r = Relu (a) y = MatMul (r, w)", {"w": normal(6, 6)}, 18),
        ("y = Gemm (x, w, b)", {"w": np.zeros((6, 6)), "b": np.zeros(6)}, 18),
    ],
)  # fmt: skip
def test_forms_of_linear_layers_compute_what_they_did(
    nodes: str, weights: dict[str, np.ndarray], opset: int, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.onnx", f"(float[n,6] x) => (float[n,6] y) {{ {nodes} }}", opset, **weights)
    x = RANDOM.uniform(-1, 1, (60, 6)).astype(np.float32)
    report = quantized(path, data={"x": x})
    assert all(not layer.reason for layer in report.layers)
    few = x[:5]
    (expected,), (found,) = answer(read(path), x=few), answer(read(report.output), x=few)
    assert np.abs(found - expected).max() <= 0.05 * max(1.0, np.abs(expected).max())
    assert read(report.output).outputs == ["y"]


def test_convolutions_with_normalisation_pooling_and_a_gate(tmp_path: Path) -> None:
    text = """(float[n,1,8,8] x) => (float[n,3] y) {
        c = Conv (x, w) b = BatchNormalization (c, s, t, m, z) r = Relu (b) p = GlobalAveragePool (r) g = Sigmoid (p)
        q = Mul (r, g) f = Flatten (q) y = MatMul (f, v) }"""
    weights = {**CONV, "s": [1.0, 2, 3, 4], "t": normal(4), "m": normal(4), "z": [1.0, 1, 2, 2]}
    path = write(tmp_path / "m.onnx", text, **weights)
    x = RANDOM.uniform(-1, 1, (512, 1, 8, 8)).astype(np.float32)  # few go beyond the calibrated range
    report = quantized(path, data={"x": x}, keep=["b"])  # which is a part of the convolution
    assert [(layer.layer, layer.reason) for layer in report.layers] == [("c", "asked for"), ("y", "")]
    whole = quantized(path, data={"x": x})
    assert "BatchNormalization" not in kinds(whole.output)
    assert whole.fidelity is not None
    assert whole.fidelity.relative_error < 0.05


def test_what_cannot_be_converted_stays_with_its_reason(tmp_path: Path) -> None:
    text = """(float[2,3,4] x, float[2,4,3] z) => (float[2,3,5] y) {
        a = MatMul (x, z) b = MatMul (a, w) y = MatMul (b, v) }"""
    path = write(tmp_path / "m.onnx", text, w=normal(2, 3, 6), v=normal(6, 5))
    data = {"x": normal(40, 3, 4), "z": normal(40, 4, 3)}
    reasons = {layer.layer: layer.reason for layer in quantized(path, data=data).layers}
    assert reasons == {"a": "it multiplies two activations", "b": "its weights have 3 dimensions", "y": ""}


ATTENTION = """(float[n,6,8] x) => (float[n,6,3] y) {
    q = MatMul (x, wq) k = MatMul (x, wk) t = Transpose <perm = [0,2,1]> (k) s = MatMul (q, t) a = Mul (s, half)
    c = MatMul (a, x) y = MatMul (c, wo) }"""
BILINEAR = """(float[n,4,5,5] x) => (float[n,4,5,3] y) {
    q = Conv <pads = [1,1,1,1]> (x, wq) r = Relu (q) k = Conv <pads = [1,1,1,1]> (x, wk) s = MatMul (r, k)
    y = MatMul (s, wo) }"""


def computed(path: Path, tmp_path: Path) -> dict[str, str]:
    """Operators that onnxruntime makes of the nodes."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return {
        node.name.partition("_token_")[0]: node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node
    }


@pytest.mark.parametrize(
    ("text", "shape", "weights"),
    [
        (ATTENTION, (6, 8), {"wq": normal(8, 8), "wk": normal(8, 8), "wo": normal(8, 3), "half": [0.5]}),
        (BILINEAR, (4, 5, 5), {"wq": normal(4, 4, 3, 3), "wk": normal(4, 4, 3, 3), "wo": normal(5, 3)}),
    ],
)
def test_a_product_of_activations_in_8_bits_is_told_and_can_be_kept_from_them(
    text: str, shape: tuple[int, ...], weights: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "m.onnx", text, **weights)
    data = {"x": normal(60, *shape)}
    report = quantized(path, data=data)
    (found,) = [layer for layer in report.layers if layer.layer == "s"]
    assert (found.type, found.reason) == ("int8", "")
    assert computed(report.output, tmp_path)["s"] == "QLinearMatMul"
    kept = quantized(path, data=data, keep=["s"])
    (layer,) = [layer for layer in kept.layers if layer.reason == "it multiplies two activations"]
    assert (layer.layer, layer.type) == ("s", "float32")
    made = computed(kept.output, tmp_path)
    assert made["s"] == "MatMul"
    assert made["y"] == "QLinearMatMul"
    assert kept.fidelity is not None and report.fidelity is not None
    assert kept.fidelity.relative_error < 0.1 > report.fidelity.relative_error
    assert count(kept.output).macs_by_type["float32"] == next(n.macs for n in count(kept.output).nodes if n.name == "s")


def test_a_product_of_activations_before_a_relu_is_told_as_the_floats_that_it_is(tmp_path: Path) -> None:
    text = ATTENTION.replace("a = Mul (s, half)", "a = Relu (s)")
    weights = {"wq": normal(8, 8), "wk": normal(8, 8), "wo": normal(8, 3)}
    report = quantized(write(tmp_path / "m.onnx", text, **weights), data={"x": normal(60, 6, 8)})
    reasons = {layer.layer: layer.reason for layer in report.layers}
    assert reasons["s"] == "it multiplies two activations"
    assert computed(report.output, tmp_path)["s"] == "MatMul"


def test_a_file_names_the_operator_sets_that_it_uses(mlp: Path) -> None:
    report = quantized(mlp, data=trained.unlabelled())
    assert [entry.domain for entry in onnx.load(report.output).opset_import] == [""]


def test_nodes_without_names_and_of_the_name_of_another(tmp_path: Path) -> None:
    nodes = "a = MatMul (x, w) b = Relu (a) c = MatMul (b, v) d = Relu (c) y = MatMul (d, u)"
    weights = {name: normal(4, 4) for name in "wvu"}
    path = write(tmp_path / "m.onnx", f"(float[n,4] x) => (float[n,4] y) {{ {nodes} }}", **weights)
    built = onnx.load(path)
    built.graph.node[2].name = "a"
    onnx.save(built, path)
    report = quantized(path, data={"x": normal(64, 4)}, keep=["a"])
    assert [(layer.layer, layer.type) for layer in report.layers] == [
        ("a", "float32"), ("a_2", "int8"), ("y", "int8"),
    ]  # fmt: skip


def test_a_fixed_batch_is_calibrated_by_whole_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "(float[5,6] x) => (float[5,4] y) { y = Gemm (x, w) }", w=normal(6, 4))
    report = quantized(path, data={"x": normal(60, 6)})
    assert report.fidelity is not None
    assert report.fidelity.samples % 5 == 0


def test_a_file_that_takes_one_batch_whatever_it_declares_is_given_those(tmp_path: Path) -> None:
    text = """(float[n,8] x) => (float[m,4] y) {
        a = MatMul (x, wa) size = Constant <value_ints = [%d, 16]> () r = Reshape (a, size) y = MatMul (r, wy) }"""
    weights = {"wa": normal(8, 16), "wy": normal(16, 4)}
    data = {"x": normal(64, 8)}
    free, *fixed = (
        quantized(write(tmp_path / f"{batch}.onnx", text % batch, **weights), data=data).fidelity
        for batch in (-1, 1, 4)
    )
    assert free is not None
    for found in fixed:
        assert found is not None
        assert found.samples == free.samples == 8
        assert found.relative_error == pytest.approx(free.relative_error, rel=0.2)


def test_a_pruned_file_is_quantised_like_any_other(mlp: Path) -> None:
    pruned = onnxprune.prune(mlp, sparsity=50, data=trained.unlabelled(), latency=False, channel_align=1)
    assert pruned.output is not None
    report = quantized(pruned.output, data=trained.unlabelled())
    assert report.after.bytes < pruned.after.bytes
    assert count(report.output).macs_by_type == {"int8": pruned.after.macs}


@pytest.mark.parametrize("how", [{"dynamic": True}, {"type": "float16"}])
def test_weights_that_are_no_numbers_are_refused(how: dict[str, Any], tmp_path: Path) -> None:
    weights = normal(6, 4)
    weights[1, 1] = np.nan
    path = write(tmp_path / "m.onnx", "(float[n,6] x) => (float[n,4] y) { y = MatMul (x, w) }", w=weights)
    with pytest.raises(InputError, match="its weights 'w' have numbers that are NaN"):
        quantized(path, **how)


@pytest.mark.parametrize("data", [None, trained.unlabelled()], ids=["random", "samples"])
def test_outputs_that_are_not_finite_are_refused(
    data: dict[str, np.ndarray] | None, mlp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(self: Converter, keep: object) -> Network:
        network = read(mlp)
        network.weights["b3"] = np.full(10, np.inf, np.float32)
        return network

    monkeypatch.setattr(Converter, "convert", convert)
    with pytest.raises(RunError, match="not finite numbers"):
        quantized(mlp, dynamic=True, data=data)
    assert [each.name for each in mlp.parent.iterdir()] == ["mlp.onnx"]


def test_a_full_disk_is_no_fault_of_the_file(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    text = "(float[n,99] x) => (float[n,99] y) { y = MatMul (x, w) }"
    path = write(tmp_path / "m.onnx", text, w=np.ones((99, 99)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # bytes of a file: as full as a disk can be
    try:
        with pytest.raises(StorageError, match="cannot write to"):
            quantized(path, dynamic=True, latency=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_result_that_does_not_run_is_told_with_the_name_of_the_file(
    mlp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(self: Converter, keep: object) -> Network:
        network = read(mlp)
        network.weights["b3"] = np.zeros(10, np.float16)
        return network

    monkeypatch.setattr(Converter, "convert", convert)
    with pytest.raises(RunError, match=r"mlp\.onnx: quantised, it does not run: .*different types"):
        quantized(mlp, dynamic=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "give --data, or --dynamic"),
        ({"type": "int4"}, "unknown type 'int4': expected int8, float16"),
        ({"calibration": "best"}, "unknown calibration 'best'"),
        ({"dynamic": True, "type": "float16"}, "--dynamic is for int8"),
        ({"max_drop": -1.0}, "max_drop: expected a number from 0 to 100, got -1.0"),
        ({"samples": 1}, "samples: expected a whole number from 2"),
        ({"seed": -1}, "seed: expected a whole number from 0"),
        ({"dynamic": True, "max_drop": 1.0}, "measured on samples: give --data"),
        ({"dynamic": True, "keep": ["h9"]}, "there is no node 'h9'; its layers are called h1, h2, scores"),
        ({"data": {"others": np.ones((4, 64), np.float32)}}, "there is no array 'pixels'"),
    ],
)
def test_what_cannot_be_asked_for(settings: dict[str, Any], words: str, mlp: Path) -> None:
    with pytest.raises(InputError) as told:
        quantized(mlp, **settings)
    assert words in str(told.value)
    assert [path.name for path in mlp.parent.iterdir()] == ["mlp.onnx"]


def test_files_that_have_nothing_to_quantise(mlp: Path, tmp_path: Path) -> None:
    done = quantized(mlp, dynamic=True).output
    with pytest.raises(InputError, match="it is quantised already"):
        quantized(done, dynamic=True, output=tmp_path / "again.onnx")
    path = write(tmp_path / "relu.onnx", "(float[n,4] x) => (float[n,4] y) { y = Relu (x) }")
    with pytest.raises(InputError, match="it has no layers with weights"):
        quantized(path, dynamic=True)
    conv = write(tmp_path / "c.onnx", "(float[n,1,8,8] x) => (float[n,4,6,6] y) { y = Conv (x, w) }", w=CONV["w"])
    with pytest.raises(InputError, match="has no Conv in this type, or a slow one"):
        quantized(conv, dynamic=True)
    double = model("(double[n,4] x) => (double[n,3] y) { y = MatMul (x, w) }", {})
    double.graph.initializer.append(numpy_helper.from_array(np.ones((4, 3)), "w"))
    onnx.save(double, tmp_path / "d.onnx")
    with pytest.raises(InputError, match="its weights are float64: give the file of float32"):
        quantized(tmp_path / "d.onnx", dynamic=True)


def test_inputs_for_which_there_are_no_random_values_are_asked_for(tmp_path: Path) -> None:
    text = "(float[n,8] x, string[n] t) => (float[n,4] y, string[n] u) { y = MatMul (x, w) u = Identity (t) }"
    path = write(tmp_path / "m.onnx", text, w=np.ones((8, 4), np.float32))
    with pytest.raises(InputError, match=r"random values can be made for input 't', which is .*: give --data"):
        quantized(path, dynamic=True)
    data = {"x": np.ones((64, 8), np.float32), "t": np.array(["a"] * 64, object)}
    assert quantized(path, dynamic=True, data=data).output is not None


def test_a_file_that_does_not_run_is_told_as_that(tmp_path: Path) -> None:
    text = """(float[n,4,8] x, float[n,4,8] k) => (float[n,4,8] y) { a = MatMul (x, w)
        y = com.microsoft.MultiHeadAttention <num_heads = 3> (a, k, k) }"""
    path = write(tmp_path / "m.onnx", text, w=np.ones((8, 8), np.float32))
    with pytest.raises(InputError, match="onnxruntime cannot run the model") as raised:
        quantized(path, dynamic=True)
    assert "quantised" not in str(raised.value)


def test_weights_that_are_stored_in_16_bits_and_cast_are_float32(tmp_path: Path) -> None:
    text = "(float[n,8] x) => (float[n,4] y) { s = Cast <to = 1> (w) y = MatMul (x, s) }"
    path = write(tmp_path / "m.onnx", text, w=np.random.default_rng(0).standard_normal((8, 4)).astype(np.float16))
    report = quantized(path, dynamic=True)
    assert [layer.reason for layer in report.layers] == [""]
    assert "MatMulInteger" in [node.op_type for node in onnx.load(report.output).graph.node]


def test_the_comparison_is_of_the_two_files_and_says_what_8_bits_do(mlp: Path) -> None:
    report = onnxprune.quantize(mlp, data=trained.unlabelled(), seconds=0.01, threads=1)
    base, made = report.comparison
    assert (base.path, made.path) == (mlp, report.output)
    assert made.facts is not None and made.facts.quantised is not None
    assert made.facts.quantised.share == 1
    assert made.verdict is not None
    assert made.verdict.reasons[0].startswith("8 bits: 100 % of its MACs")


def test_titles_name_the_type() -> None:
    assert [QuantizeSettings().title, QuantizeSettings(dynamic=True).title] == ["int8", "int8-dynamic"]


def test_shapes_that_contradict_each_other_are_one_line(tmp_path: Path) -> None:
    """onnxruntime takes an output that is a weight and said to have another shape; shape inference does not."""
    path = write(tmp_path / "m.onnx", "(float[n,64] x) => (float[n,32] y) { y = MatMul (x, w) }", w=normal(64, 32))
    built = onnx.load(path)
    built.graph.output.append(onnx.helper.make_tensor_value_info("w", TensorProto.FLOAT, (2, "m")))
    onnx.save(built, path)
    with pytest.raises(InputError, match="quantiser fails on it"):
        quantized(path, dynamic=True)


def test_macs_are_found_whatever_nodes_are_called(tmp_path: Path) -> None:
    built = model(
        "(float[n,6] x) => (float[n,4] y) { a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) d = Relu(c)"
        " y = MatMul(d, w3) }",
        {"w1": normal(6, 30), "w2": normal(30, 20), "w3": normal(20, 4)},
    )
    for node, name in zip(built.graph.node, ("odd\tname", "", "", "", "c"), strict=True):
        node.name = name
    onnx.save(built, tmp_path / "net.onnx")
    found = quantized(tmp_path / "net.onnx", dynamic=True, output=tmp_path / "small.onnx")
    shares = sorted(layer.macs_share for layer in found.layers)
    assert shares == pytest.approx([80 / 860, 180 / 860, 600 / 860])


def test_macs_of_a_layer_that_gives_its_last_state_alone(tmp_path: Path) -> None:
    path = write(
        tmp_path / "net.onnx",
        "(float[5,1,6] x) => (float[1,3] y) { none, h = LSTM<hidden_size=7>(x, w, r) s = Squeeze(h, zero)"
        " y = MatMul(s, wy) }",
        w=normal(1, 28, 6), r=normal(1, 28, 7), wy=normal(7, 3),
    )  # fmt: skip
    built = onnx.load(path)
    built.graph.node[0].output[0] = ""
    built.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    onnx.save(built, path)
    (lstm,) = (node for node in count(path).nodes if node.operator == "LSTM")
    assert lstm.name == "h" and lstm.macs == 5 * 28 * (6 + 7)
    found = quantized(path, dynamic=True, output=tmp_path / "small.onnx")
    assert found.layers[0].macs_share == pytest.approx(lstm.macs / (lstm.macs + 21))


def test_resizing_of_old_opsets_stays_what_it_was(tmp_path: Path) -> None:
    for number, (opset, operator, mode, scale) in enumerate(
        [
            (9, "Upsample", "linear", 2.5),
            (9, "Upsample", "nearest", 2.5),
            (10, "Resize", "linear", 2.5),
            (10, "Resize", "nearest", 1.5),
            (10, "Resize", "nearest", 0.67),
        ]
    ):
        path = write(
            tmp_path / f"{number}.onnx",
            "(float[n,2,6,6] x) => (float[n,3,h,h] y) { a = Conv(x, w, v) b = Relu(a) "
            f'c = {operator}<mode="{mode}">(b, s) y = Conv(c, u, t) }}',
            opset, w=normal(4, 2, 1, 1), v=normal(4), s=[1, 1, scale, scale], u=normal(3, 4, 1, 1), t=normal(3),
        )  # fmt: skip
        data = {"x": normal(64, 2, 6, 6)}
        report = quantized(path, type="float16", data=data, output=tmp_path / "half.onnx")
        assert report.fidelity is not None and report.fidelity.relative_error < 0.01


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_file_that_is_another_network_in_a_later_opset_is_refused(dynamic: bool, tmp_path: Path) -> None:
    """Before opset 13 a Hardmax took the largest of the axis and all after it, which onnx's converter overlooks."""
    text = "(float[n,2,6] x) => (float[n,4] y) { h = Hardmax<axis = 1>(x) f = Flatten(h) y = MatMul(f, w) }"
    path = write(tmp_path / "net.onnx", text, 11, w=normal(12, 4))
    data = None if dynamic else {"x": normal(64, 2, 6)}
    with pytest.raises(InputError, match="of opset 11, and what onnx makes of it for opset 13 gives other outputs"):
        quantized(path, output=tmp_path / "small.onnx", dynamic=dynamic, data=data)
    assert not (tmp_path / "small.onnx").exists()


def test_an_output_that_others_cut_off_is_not_cut_off_itself(tmp_path: Path) -> None:
    path = write(
        tmp_path / "net.onnx",
        "(float[n,8] x) => (float[n,4] y, float[n,16] a) { a = Gemm(x, w, b) c = Relu(a) y = Gemm(c, v, d) }",
        w=normal(8, 16), b=normal(16), v=normal(16, 4), d=normal(4),
    )  # fmt: skip
    data = {"x": normal(128, 8)}
    report = quantized(path, data=data, output=tmp_path / "small.onnx")
    found = answer(read(report.output), **data)
    assert min(value.min() for value in found) < -1
    assert report.fidelity is not None and report.fidelity.relative_error < 0.1


def test_biases_of_channels_without_weights_stay(tmp_path: Path) -> None:
    kernel = normal(8, 3, 1, 1)
    kernel[::2] = 0
    path = write(
        tmp_path / "net.onnx",
        "(float[n,3,4,4] x) => (float[n,8,4,4] y) { y = Conv(x, w, b) }",
        w=kernel, b=np.linspace(0.2, 0.45, 8),
    )  # fmt: skip
    data = {"x": np.abs(normal(64, 3, 4, 4)) * 100}
    report = quantized(path, data=data, output=tmp_path / "small.onnx")
    whole, found = (answer(read(file), **data)[0] for file in (path, report.output))
    assert np.abs(found - whole)[:, ::2].max() < 0.05 * np.abs(whole).max()
    assert found[:, ::2].mean() == pytest.approx(whole[:, ::2].mean(), abs=0.5)


def test_all_test_images_count_where_the_batch_is_fixed(mlp: Path, tmp_path: Path) -> None:
    built = onnx.load(mlp)
    for value in (*built.graph.input, *built.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 100
    onnx.save(built, tmp_path / "fixed.onnx")
    data = trained.dataset(tmp_path / "digits.npz")
    how = {"data": data, "dynamic": True, "output": tmp_path / "small.onnx"}
    free, fixed = (quantized(path, **how) for path in (mlp, tmp_path / "fixed.onnx"))
    assert free.accuracy is not None and fixed.accuracy is not None
    assert fixed.accuracy.original == pytest.approx(free.accuracy.original)


BRANCH = """m = ReduceMax <keepdims = 0> (x) yes = Greater (m, low)
            c = If (yes) <then_branch = g () => (float[n,12] t) { t = MatMul (r, v) },
                             else_branch = h () => (float[n,12] e) { e = Neg (r) }>"""
ROUNDS = """c = Loop (three, , b) <body = g (int64 i, bool go, float[n,12] s) => (bool on, float[n,12] t) {
                on = Identity (go) p = MatMul (r, v) t = Add (s, p) }>"""


@pytest.mark.parametrize("inner", [BRANCH, ROUNDS])
@pytest.mark.parametrize("cut", ["Relu (a)", "Clip (a, low, high)"])
def test_what_subgraphs_read_is_cut_off(inner: str, cut: str, tmp_path: Path) -> None:
    """The quantiser gives what it reads the range of what it gives, and leaves the node out."""
    text = f"""(float[n,8] x) => (float[n,12] y) {{
        a = Gemm (x, w, k) r = {cut} b = MatMul (r, u) {inner} y = Add (b, c) }}"""
    path = write(
        tmp_path / "net.onnx", text, w=normal(8, 16), k=normal(16), u=normal(16, 12), v=normal(16, 12), low=0, high=1
    )  # fmt: skip
    built = onnx.load(path)
    built.graph.initializer.append(numpy_helper.from_array(np.int64(3), "three"))
    onnx.save(built, path)
    report = quantized(path, data={"x": normal(256, 8)})
    assert report.fidelity is not None and report.fidelity.relative_error < 0.05


@pytest.mark.parametrize("branches", [1, 2, 16])
@pytest.mark.parametrize(
    ("gate", "outputs"),
    [
        ("g = Softmax (a) u = Unsqueeze (g, last)", ""),
        ("s = Unsqueeze (a, last) u = Softmax <axis = 1> (s)", ""),
        ("s = Unsqueeze (a, last) u = Softmax <axis = 1> (s)", ", float[n,k,1] u"),
    ],
)
def test_a_gate_whose_branches_are_much_alike_keeps_its_shares(
    gate: str, outputs: str, branches: int, tmp_path: Path
) -> None:
    """onnxruntime's QLinearSoftmax gives 0 for all of them where the scale is that of the range of the samples."""
    text = f"""(float[n,8] x) => (float[n,5] y{outputs.replace("k", str(branches))}) {{
        a = MatMul (x, w) {gate} b = MatMul (x, v) r = Relu (b) e = Reshape (r, split)
        m = Mul (u, e) h = ReduceSum <keepdims = 0> (m, one) y = MatMul (h, z) }}"""
    path = write(tmp_path / "m.onnx", text, w=normal(8, branches) / 50, v=normal(8, 6 * branches), z=normal(6, 5))
    built = onnx.load(path)
    for name, value in (("last", [2]), ("split", [0, branches, 6]), ("one", [1])):
        built.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    onnx.save(built, path)
    report = quantized(path, data={"x": normal(256, 8)})
    assert report.fidelity is not None and report.fidelity.relative_error < 0.5, "shares of 0 are an error of 1"
    assert all(not layer.reason for layer in report.layers)


@pytest.mark.parametrize("perm", [[1, 0, 2], [1, 2, 0], [0, 2, 1]])
def test_transpositions_in_front_of_products_can_be_loaded_in_float16(
    perm: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime's MatmulTransposeFusion crashes on the first two of them."""
    monkeypatch.undo()  # a crash is the helper process's
    width = (6, 8, 10)[perm[-1]]
    text = f"""(float[6,8,10] x) => (float[a,b,5] y) {{
        t = Transpose <perm = {perm}> (x) u = Transpose <perm = {perm}> (x) m = MatMul (t, w) n = MatMul (u, v)
        y = Mul (m, n) }}"""
    path = write(tmp_path / "m.onnx", text, w=normal(width, 5), v=normal(width, 5))
    report = quantized(path, type="float16")
    x = normal(6, 8, 10)
    ((expected,), (found,)) = (answer(read(file), x=x) for file in (path, report.output))
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_with_the_batch_first_in_float16(
    cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # a crash is the helper process's
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[cell]
    text = f"""(float[n,6,8] x) => (float[n,6,5] y) {{
        a = Transpose <perm = [1,0,2]> (x) b = {cell} <hidden_size = 10> (a, w, r) c = Squeeze (b, one)
        d = Transpose <perm = [1,0,2]> (c) e = MatMul (d, v) y = Add (e, k) }}"""
    path = write(
        tmp_path / "m.onnx", text, w=normal(1, gates * 10, 8), r=normal(1, gates * 10, 10), v=normal(10, 5), k=normal(5)
    )  # fmt: skip
    built = onnx.load(path)
    built.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    onnx.save(built, path)
    report = quantized(path, type="float16")
    x = normal(3, 6, 8)
    ((expected,), (found,)) = (answer(read(file), x=x) for file in (path, report.output))
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
    assert count(report.output).macs_by_type["float16"] == count(path).macs


def test_layers_that_read_the_same_can_stay_out_of_float16(tmp_path: Path) -> None:
    text = "(float[n,8] x) => (float[n,8] y) { [a] p = MatMul (x, w) [b] q = MatMul (x, v) y = Mul (p, q) }"
    path = write(tmp_path / "m.onnx", text, w=normal(8, 8), v=normal(8, 8))
    report = quantized(path, type="float16", keep=["a", "b"])
    assert [layer.type for layer in report.layers] == ["float32", "float32"]
    x = normal(3, 8)
    ((expected,), (found,)) = (answer(read(file), x=x) for file in (path, report.output))
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("kept", ["branch", "product"])
def test_bodies_that_stay_out_of_float16_get_floats_from_outside(kept: str, tmp_path: Path) -> None:
    text = """(float[n,8] x) => (float[n,5] y) { [product] h = MatMul (x, w) s = ReduceSum <keepdims = 0> (h)
        c = Greater (s, zero) [branch] y = If (c) <then_branch = a () => (float[n,5] z) { z = MatMul (h, v) },
        else_branch = b () => (float[n,5] k) { r = Relu (h) k = Gemm (r, v, u) }> }"""
    weights = {"w": normal(8, 8), "v": normal(8, 5), "u": normal(5), "zero": 0.0}
    path = write(tmp_path / "m.onnx", text, **weights)
    report = quantized(path, type="float16", keep=[kept])
    assert {layer.layer: layer.type for layer in report.layers if layer.reason} == {kept: "float32"}
    for x in (np.ones((3, 8), np.float32), -np.ones((3, 8), np.float32)):
        ((expected,), (found,)) = (answer(read(file), x=x) for file in (path, report.output))
        np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize(
    "body",
    [
        "o = Max (h, p)",
        "s = Constant <value_floats = [1.0, 2.0]> () r = Resize (h, , s) o = Relu (r)",
        """t = ReduceSum <keepdims = 0> (h) d = Greater (t, zero) o = If (d)
        <then_branch = m () => (float[n,m] u) { j = Tanh (h) u = Min (j, p) },
        else_branch = l () => (float[n,m] e) { e = CumSum (h, one) }>""",
    ],
)
def test_operators_in_bodies_that_float16_leaves_out(body: str, tmp_path: Path) -> None:
    """onnxruntime's converter puts what converts for them into the main graph."""
    text = f"""(float[n,8] x) => (float[n,k] y) {{ p = MatMul (x, w) q = ReduceSum <keepdims = 0> (p)
        c = Greater (q, zero) y = If (c) <then_branch = a () => (float[n,k] o) {{ h = Relu (p) {body} }},
        else_branch = b () => (float[n,k] i) {{ i = Softplus (p) }}> }}"""
    built = onnx.load(write(tmp_path / "m.onnx", text, w=normal(8, 8), zero=0.0))
    built.graph.initializer.append(numpy_helper.from_array(np.array(1), "one"))
    onnx.save(built, tmp_path / "m.onnx")
    report = quantized(tmp_path / "m.onnx", type="float16")
    for sign in (1, -1):
        x = sign * np.ones((3, 8), np.float32)
        ((expected,), (found,)) = (answer(read(file), x=x) for file in (tmp_path / "m.onnx", report.output))
        np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("outputs", ["b", "w, b"])
@pytest.mark.parametrize("settings", [{"type": "float16"}, {}, {"dynamic": True}])
def test_constants_that_are_outputs(outputs: str, settings: dict[str, Any], tmp_path: Path) -> None:
    kinds_of_outputs = ", ".join({"w": "float[8,5] w", "b": "float[5] c"}[name] for name in outputs.split(", "))
    text = f"(float[n,8] x) => (float[n,5] y, {kinds_of_outputs}) {{ y = Gemm (x, w, b) c = Identity (b) }}"
    path = write(tmp_path / "m.onnx", text, w=normal(8, 5), b=normal(5))
    report = quantized(path, data={"x": normal(64, 8)}, **settings)
    pairs = zip(*(answer(read(file), x=np.ones((4, 8), np.float32)) for file in (path, report.output)), strict=True)
    for expected, found in pairs:
        np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())
    assert read(report.output).outputs == read(path).outputs


@pytest.mark.parametrize("settings", [{"type": "float16"}, {}, {"dynamic": True}])
@pytest.mark.parametrize("layers", ["y = Gemm (h, w, b)", "m = MatMul (h, w) y = Add (m, b)"])
def test_layers_behind_operators_whose_types_onnx_does_not_infer(
    layers: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    built = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]>
        m (float[n,8] x) => (float[n,5] y) {{ s = ai.onnx.ml.Scaler <offset = [0.5], scale = [2.0]> (x)
        h = ai.onnx.ml.Imputer <imputed_value_floats = [0.5]> (s) {layers} }}""")
    built.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in (("w", normal(8, 5)), ("b", normal(5)))
    )
    onnx.save(built, tmp_path / "m.onnx")
    report = quantized(tmp_path / "m.onnx", data={"x": normal(256, 8)}, **settings)
    assert report.converted_share == 1
    assert report.fidelity is not None and report.fidelity.relative_error < 0.05


@pytest.mark.parametrize("units", [16, 8])
@pytest.mark.parametrize("back", ["Gemm (r, w, c)", "MatMul (r, w)"])
def test_a_weight_read_both_ways_has_scales_for_each(units: int, back: str, tmp_path: Path) -> None:
    """onnxruntime's quantiser fails on the first, and gives the square one the scales of the wrong axis."""
    text = f"(float[n,8] x) => (float[n,8] y) {{ a = Gemm <transB = 1> (x, w, b) r = Relu (a) y = {back} }}"
    weight = normal(units, 8) * np.geomspace(0.1, 10, 8)
    path = write(tmp_path / "m.onnx", text, w=weight, b=normal(units), c=normal(8))
    report = quantized(path, data={"x": RANDOM.uniform(-1, 1, (512, 8)).astype(np.float32)})
    assert {layer.type for layer in report.layers} == {"int8"}
    eight = [value for value in read(report.output).weights.values() if value.dtype == np.int8 and value.ndim == 2]
    assert [np.abs(value).max() for value in eight] == [64, 64]
    assert sorted(np.abs(value).max(axis).min() for value, axis in zip(eight, (1, 0), strict=True)) == [64, 64]
    assert report.fidelity is not None and report.fidelity.relative_error < 0.05
