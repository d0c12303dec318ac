"""Pruning of files: what comes out, what is checked, what is kept, what is refused."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import here
import numpy as np
import onnx
import onnxruntime
import pytest
import trained
from onnx import TensorProto, helper
from pruned import model, random

import onnxprune
from onnxprune import InputError, RunError
from onnxprune.graph import surgery
from onnxprune.graph.network import Network, metadata, read
from onnxprune.reduction import prune as pruning
from onnxprune.reduction import units
from onnxprune.reduction.allocation import allocate, cost
from onnxprune.reduction.preparation import prepare
from onnxprune.reduction.result import PruneReport
from onnxprune.reduction.selection import _rank, rank_groups
from onnxprune.reduction.sensitivity import Sensitivity
from onnxprune.reduction.settings import CRITERIA, FROM_SAMPLES, UNITS
from onnxprune.runtime import stages

CONVS = """(float[n,3,8,8] x) => (float[n,4] y) {
    a = Conv <pads = [1,1,1,1]> (x, wa, ba) ra = Relu(a)
    b = Conv <pads = [1,1,1,1]> (ra, wb) rb = Relu(b)
    c = Conv <pads = [1,1,1,1]> (rb, wc) s = Add(c, ra)
    p = GlobalAveragePool(s) f = Flatten(p) y = Gemm <transB = 1> (f, wy) }"""
CONV_WEIGHTS = {
    "wa": (16, 3, 3, 3), "ba": (16,), "wb": (24, 16, 3, 3), "wc": (16, 24, 3, 3), "wy": (4, 16),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of these tests need no process of their own to be tried in."""
    here.without_helper(monkeypatch, pruning)


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    return trained.mlp(tmp_path / "mlp.onnx", author="somebody", accuracy="97.5", mean="[0.0]", std="[1.0]")


@pytest.fixture
def convs(tmp_path: Path) -> Path:
    onnx.save(model(CONVS, CONV_WEIGHTS), tmp_path / "convs.onnx")
    return tmp_path / "convs.onnx"


def prune(path: Path, **settings: object) -> PruneReport:
    return onnxprune.prune(path, **{"latency": False, "channel_align": 1, **settings})  # type: ignore[arg-type]


def outputs(path: Path, **feed: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feed)


def weights_of(path: Path, result: str) -> np.ndarray:
    """Of the node that gives this tensor."""
    network = read(path)
    return network.weights[next(node.input[1] for node in network.nodes if node.output[0] == result)]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What comes out


@pytest.mark.parametrize(
    "product",
    [
        "s = MatMul(h, stack)",
        "v = Mul(h, h) s = Gemm <transA = 1> (h, v)",
        "u = Unsqueeze(h, ends) v = Abs(u) s = Conv(u, v)",
    ],
)
def test_macs_are_those_of_profile_where_a_product_has_no_weights_to_cut(product: str, tmp_path: Path) -> None:
    made = model(f"(float[6, 4] x) => (float s) {{ h = MatMul(x, wa) {product} }}", {"wa": (4, 8), "stack": (3, 8, 5)})
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 1]), "ends"))
    onnx.save(made, tmp_path / "net.onnx")
    counts = onnxprune.profile(tmp_path / "net.onnx", latency=False).counts
    assert counts.complete
    assert counts.macs > 6 * 4 * 8
    report = prune(tmp_path / "net.onnx", dry_run=True)
    assert report.before.macs == report.after.macs == counts.macs  # no output tells that there are 6 samples


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("c = Constant <value = bool {1}> ()", [8, 6, 4, 5]),
        ("s = Shape (r) size = Gather (s, second) c = Equal (size, sixteen)", [8, 6, 4, 5]),
        ("s = Shape (r) size = Gather (s, first) c = Less (size, many)", [16, 12, 4, 5]),
        ("m = ReduceMax <keepdims = 0> (x) l = Cast <to = 7> (m) c = Less (l, many)", [16, 12, 4, 5]),
    ],
)
def test_the_branch_of_an_if_that_neither_data_nor_free_sizes_decide_is_followed(
    condition: str, kept: list[int], tmp_path: Path
) -> None:
    text = f"""(float[n, 8] x) => (float[n, 5] y) {{
        a = MatMul (x, wa) r = Relu (a) {condition}
        f = If (c) <
            then_branch = yes () => (float[n, 12] t) {{
                again = Constant <value = bool {{1}}> ()
                t = If (again) <
                    then_branch = same () => (float[n, 12] u) {{ b = MatMul (r, wb) u = Relu (b) }},
                    else_branch = other () => (float[n, 12] v) {{ v = MatMul (r, wb) }}
                >
            }},
            else_branch = no () => (float[n, 12] e) {{ e = MatMul (r, wb) }}
        >
        h = MatMul (f, wh) s2 = Relu (h) y = MatMul (s2, wy) }}"""
    made = model(text, {"wa": (8, 16), "wb": (16, 12), "wh": (12, 8), "wy": (8, 5), "sixteen": np.int64(16),
                        "many": np.int64(10**6), "first": np.int64(0), "second": np.int64(1)})  # fmt: skip
    (branch,) = (node for node in made.graph.node if node.op_type == "If")
    inner = branch.attribute[0].g.node[1].attribute[0].g
    held = next(tensor for tensor in made.graph.initializer if tensor.name == "wb")
    held_too = onnx.TensorProto.FromString(held.SerializeToString())
    held_too.name = "own"
    inner.initializer.append(held_too)
    inner.node[0].input[1] = "own"
    onnx.save(made, tmp_path / "m.onnx")
    report = prune(tmp_path / "m.onnx", sparsity=50, recovery=())
    widths = {name: group.kept for group in report.groups for name in group.producers}
    assert [widths.get("a"), widths.get("f/b", 12), widths["h"], widths["y"]] == kept
    x = random(3, 8, seed=3)
    assert outputs(report.output, x=x)[0].shape == (3, 5)
    counts = onnxprune.profile(report.output, latency=False).counts
    assert (counts.macs, counts.params) == (report.after.macs, report.after.params)


def test_what_subgraphs_multiply_and_hold_stays_as_it_was(tmp_path: Path) -> None:
    text = """(float[n, 4] x) => (float[n, 6] y) {
        a = MatMul (x, wa)
        r = Relu (a)
        b = MatMul (r, wb)
        [rounds] y = Loop (three, , b) <body = g (int64 i, bool go, float[n, 6] s) => (bool on, float[n, 6] t) {
            on = Identity (go)
            t = MatMul (s, wc)
        }>
    }"""
    made = model(text, {"wa": (4, 8), "wb": (8, 6), "wc": (6, 6), "three": np.int64(3)})
    held = next(tensor for tensor in made.graph.initializer if tensor.name == "wc")
    made.graph.node[-1].attribute[0].g.initializer.append(held)
    made.graph.initializer.remove(held)
    onnx.save(made, tmp_path / "net.onnx")
    report = prune(tmp_path / "net.onnx", sparsity=50, recovery=())
    assert report.before.macs == 4 * 8 + 8 * 6 + 3 * 36
    assert report.after.macs == 4 * 4 + 4 * 6 + 3 * 36
    assert (report.before.params, report.after.params) == (4 * 8 + 8 * 6 + 36, 4 * 4 + 4 * 6 + 36)
    for path, side in ((report.source, report.before), (report.output, report.after)):
        counts = onnxprune.profile(path, latency=False).counts
        assert (counts.macs, counts.params) == (side.macs, side.params)


def test_what_a_scan_gives_may_have_shapes_that_only_its_inputs_tell(tmp_path: Path) -> None:
    text = """(float[n, 6, 8] x) => (float[n, 5] y) {
        t = Transpose <perm = [1, 0, 2]> (x) a = MatMul (t, wa) r = Relu (a) f = ReduceSum <keepdims = 0> (r, first)
        s, all = Scan <num_scan_inputs = 1, body = g (float h, float v) => (float i, float o) {
            u = Add (h, v) i = Tanh (u) o = Identity (i)
        }> (f, r)
        b = MatMul (s, wb) q = Relu (b) y = MatMul (q, wy) }"""
    made = model(text, {"first": [0], "wa": (8, 16), "wb": (16, 12), "wy": (12, 5)})
    for value in next(node for node in made.graph.node if node.op_type == "Scan").attribute:
        for inner in (*value.g.input, *value.g.output):
            inner.type.tensor_type.ClearField("shape")
    onnx.save(made, tmp_path / "net.onnx")
    report = prune(tmp_path / "net.onnx", sparsity=50)
    assert [group.kept for group in report.groups] == [16, 6, 5]
    assert outputs(report.output, x=np.ones((3, 6, 8), np.float32))[0].shape == (3, 5)


@pytest.mark.parametrize(
    ("text", "macs"),
    [
        (  # time first: the batch is that of the lengths, of the output, of neither
            """(float[7,n,6] x, int32[n] l) => (float[n,4] y) { a, h = RNN <hidden_size = 8> (x, w, u, "", l)
            s = Squeeze (h, zero) y = MatMul (s, v) }""",
            7 * 8 * (6 + 8) + 8 * 4,
        ),
        (
            """(float[7,1,6] x) => (float[1,4] y) { a, h = RNN <hidden_size = 8> (x, w, u) s = Squeeze (h, zero)
            y = MatMul (s, v) }""",
            7 * 8 * (6 + 8) + 8 * 4,
        ),
        (
            """(float[n,8] x) => (int64[k,2] i) { z = MatMul (x, v) r = Relu (z) y = MatMul (r, t) b = Greater (y, o)
            j = NonZero (b) i = Transpose (j) }""",
            8 * 4 + 4 * 4,
        ),
        (
            """(float[1,8] x, float[50,4] queries) => (float[1,50] y) { h = MatMul (x, v) r = Relu (h)
            y = Gemm <transB = 1> (r, queries) }""",
            8 * 4 + 50 * 4,
        ),
    ],
)
def test_macs_are_those_of_one_sample(text: str, macs: int, tmp_path: Path) -> None:
    weights = {"w": (1, 8, 6), "u": (1, 8, 8), "v": (8, 4), "t": (4, 4), "zero": [0], "o": np.float32(0)}
    onnx.save(model(text, weights), tmp_path / "m.onnx")
    assert prune(tmp_path / "m.onnx", dry_run=True).before.macs == macs


def test_half_of_the_units_go_and_the_rest_works(convs: Path) -> None:
    report = prune(convs, sparsity=50, recovery=())  # which may give nodes biases
    assert report.output == convs.with_name("convs-structured-50.onnx")
    weights = read(report.output).weights
    assert {name: weights[name].shape for name in CONV_WEIGHTS} == {
        "wa": (8, 3, 3, 3), "ba": (8,), "wb": (12, 8, 3, 3), "wc": (8, 12, 3, 3), "wy": (4, 8),
    }  # fmt: skip
    assert outputs(report.output, x=np.ones((3, 3, 8, 8), np.float32))[0].shape == (3, 4)
    onnx.checker.check_model(str(report.output), full_check=True)
    assert report.check < 1e-4
    assert [(group.units, group.kept) for group in report.groups] == [(16, 8), (24, 12), (4, 4)]
    assert report.groups[2].frozen == "they are the model's output 'y'"
    assert report.share_gone == 0.5
    kept = sum(weights[name].size for name in CONV_WEIGHTS)
    assert (report.after.params, report.after.nonzero_params) == (kept, kept)
    assert report.after.macs == 64 * 9 * (3 * 8 + 8 * 12 + 12 * 8) + 8 * 4
    assert report.before.macs == 64 * 9 * (3 * 16 + 16 * 24 + 24 * 16) + 16 * 4
    assert report.before.bytes == convs.stat().st_size
    assert report.after.bytes == report.output.stat().st_size


# computed sizes that are equal by chance in runs, as of what is padded up to a multiple: text, weights and the shapes
# of x that the original takes
SAME_PADDING = """(float[n,3,h,w] x) => (float[n,4] y) {
    a = Conv <pads = [1,1,1,1]> (x, wa)
    s = Shape (x) hw = Slice (s, two, four) d = Mod (hw, two) o = Sub (one, d) e = Div (o, two) l = Sub (o, e)
    b = Add (l, d) pads = Concat <axis = 0> (nought, l, nought, b) p = Pad (a, pads)
    c = Conv <strides = [2,2]> (p, wc) g = GlobalMaxPool (c) f = Flatten (g) y = MatMul (f, wy) }"""
UP_AGAIN = """(float[n,3,h,w] x) => (float[n,4] y) {
    a = Conv <pads = [1,1,1,1]> (x, wa) p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)
    c = ConvTranspose <strides = [2,2]> (p, wc) sa = Shape (a) ha = Slice (sa, two, four) sc = Shape (c)
    hc = Slice (sc, two, four) d = Sub (ha, hc) pads = Concat <axis = 0> (nought, nought, nought, d) q = Pad (c, pads)
    t = Concat <axis = 1> (a, q) g = GlobalMaxPool (t) f = Flatten (g) y = MatMul (f, wy) }"""
SQUEEZED_AT_ONE = """(float[n,8] x) => (float y) {
    a = MatMul (x, wa) r = Relu (a) z = MatMul (r, wz) s = Shape (z) n = Gather (s, first) alone = Equal (n, second)
    y = If (alone) <
        then_branch = one () => (float t) { t = Squeeze (z, nought) },
        else_branch = more () => (float e) { e = Identity (z) }
    > }"""
POSITIONS = """(int64[n,t] x) => (float[n,t,4] y) {
    s = Shape (x) t = Gather (s, second) p = Range (first, t, second) e = Gather (we, x) o = Gather (wo, p)
    a = Add (e, o) h = MatMul (a, wa) r = Relu (h) y = MatMul (r, wz) }"""
UP_TO_A_LIMIT = """(float[n,t,8] x) => (float[n,m,4] y) {
    s = Shape (x) t = Slice (s, one, two) l = Min (t, most) c = Slice (x, zero, l, one) d = Shape (c)
    k = Slice (d, one, two) m = Slice (d, zero, one) h = MatMul (c, wa) o = Mul (k, four)
    flat = Concat <axis = 0> (m, o, four) f = Reshape (h, flat) a = Concat <axis = 0> (m, k, sixteen)
    r = Reshape (f, a) y = MatMul (r, wz) }"""
CLAMPED = """(float[t,n,8] x) => (float[m,n,4] y) {
    c = Slice (x, zero, most, zero) d = Shape (c) k = Slice (d, zero, two) h = MatMul (c, wa)
    split = Concat <axis = 0> (k, four, rest) r = Reshape (h, split) a = ReduceMax <axes = [2], keepdims = 0> (r)
    y = MatMul (a, wz) }"""
CONSTANTS = {
    "one": [1],
    "two": [2],
    "four": [4],
    "nought": [0, 0],
    "first": np.int64(0),
    "second": np.int64(1),
    "zero": [0],
}
BY_CHANCE = {
    "same padding": (
        SAME_PADDING, {"wa": (8, 3, 3, 3), "wc": (6, 8, 3, 3), "wy": (6, 4)},
        [(1, 3, 16, 16), (1, 3, 17, 17), (2, 3, 31, 16)],
    ),
    "up again": (
        UP_AGAIN, {"wa": (8, 3, 3, 3), "wc": (8, 6, 2, 2), "wy": (14, 4)},
        [(1, 3, 16, 16), (1, 3, 17, 19), (2, 3, 8, 9)],
    ),
    "squeezed at one": (SQUEEZED_AT_ONE, {"wa": (8, 16), "wz": (16, 4)}, [(2, 8), (1, 8), (3, 8)]),
    "positions": (
        POSITIONS, {"we": (20, 16), "wo": (32, 16), "wa": (16, 24), "wz": (24, 4)}, [(1, 20), (2, 7), (3, 32)],
    ),
    "up to a limit": (
        UP_TO_A_LIMIT, {"wa": (8, 16), "wz": (16, 4), "most": [12], "sixteen": [16]},
        [(1, 20, 8), (2, 21, 8), (3, 7, 8)],
    ),
    "up to a limit below all sizes": (
        UP_TO_A_LIMIT, {"wa": (8, 16), "wz": (16, 4), "most": [3], "sixteen": [16]},
        [(1, 20, 8), (2, 21, 8), (3, 2, 8)],
    ),
    "clamped along the first axis": (
        CLAMPED, {"wa": (8, 16), "wz": (4, 4), "most": [3], "rest": [4]}, [(20, 1, 8), (5, 2, 8), (2, 3, 8)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_CHANCE)
@pytest.mark.parametrize("given", [0, 1])
def test_what_depends_on_free_sizes_stays_computed_where_it_is_equal_by_chance(
    name: str, given: int, tmp_path: Path
) -> None:
    text, weights, shapes = BY_CHANCE[name]
    path = tmp_path / "net.onnx"
    onnx.save(model(text, {**CONSTANTS, **weights}), path)
    whole = prune(path, sparsity=0, recovery=(), shapes={"x": shapes[given]}, output=tmp_path / "whole.onnx")
    half = prune(path, sparsity=50, recovery=(), shapes={"x": shapes[given]}, output=tmp_path / "half.onnx")
    assert all(group.frozen is None for group in half.groups[:-1])
    for shape in shapes:
        x = np.random.default_rng(0).integers(0, 20, shape)
        feed = {"x": x if name == "positions" else x.astype(np.float32)}
        (expected,) = outputs(path, **feed)
        np.testing.assert_allclose(outputs(whole.output, **feed)[0], expected, 1e-4, 1e-3)
        assert outputs(half.output, **feed)[0].shape == expected.shape


def test_without_data_it_is_repaired_from_noise(mlp: Path) -> None:
    random = np.random.default_rng(1)
    feed = {"pixels": random.standard_normal((64, 64)).astype(np.float32)}
    wanted = outputs(mlp, **feed)[0]
    errors = []
    for recovery in ((), ("bias", "ridge", "match")):
        report = prune(mlp, sparsity=50, recovery=recovery)
        assert report.output is not None
        assert bool(report.repairs) == bool(recovery)
        assert report.samples is None
        errors.append(float(np.abs(outputs(report.output, **feed)[0] - wanted).mean()))
    assert errors[1] < 0.8 * errors[0]


ONE_AT_A_TIME = """(float[n,8] x) => (float[n,4] y) {
    a = MatMul (x, wa) r = Relu (a) flat = Reshape (r, size) y = MatMul (flat, wy) }"""
TWO_BATCHES = """(float[3,8] x, float[5,8] z) => (float[5,4] y) {
    a = MatMul (x, wa) r = Relu (a) flat = Reshape (r, size) b = MatMul (flat, wy) s = ReduceSum <keepdims = 0> (b)
    c = MatMul (z, wc) t = Relu (c) again = Reshape (t, other) d = MatMul (again, wd) y = Add (d, s) }"""


@pytest.mark.parametrize(
    ("text", "weights", "batches"),
    [
        (ONE_AT_A_TIME, {"wa": (8, 16), "wy": (16, 4), "size": [1, 16]}, {"x": 1}),
        (ONE_AT_A_TIME, {"wa": (8, 16), "wy": (16, 4), "size": [2, 16]}, {"x": 2}),
        (ONE_AT_A_TIME, {"wa": (8, 16), "wy": (16, 4), "size": [8, -1]}, {"x": 8}),
        (
            TWO_BATCHES,
            {"wa": (8, 16), "wc": (8, 16), "wy": (16, 4), "wd": (16, 4), "size": [3, 16], "other": [5, 16]},
            {"x": 3, "z": 5},
        ),
    ],
)
def test_batches_are_of_the_size_that_the_network_runs_at(
    text: str, weights: dict, batches: dict[str, int], tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(model(text, weights), path)
    report = prune(path, sparsity=50)
    assert report.repairs
    feed = {name: np.ones((batch, 8), np.float32) for name, batch in batches.items()}
    assert outputs(report.output, **feed)[0].shape == outputs(path, **feed)[0].shape
    declared = {value.name: value.type.tensor_type.shape.dim for value in onnx.load(report.output).graph.input}
    assert {name: first.dim_value for name, (first, _) in declared.items()} == batches
    if len(batches) == 1:
        data = {"x": np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)}
        assert prune(path, sparsity=50, data=data).fidelity.samples == 8


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    wa = np.ones((8, 16), np.float32)
    wa[0, 0] = np.nan
    text = "(float[n,8] x) => (float[n,4] y) { a = MatMul (x, wa) y = MatMul (a, wy) }"
    onnx.save(model(text, {"wa": wa, "wy": (16, 4)}), path)
    with pytest.raises(InputError, match="its weights 'wa' have numbers that are NaN"):
        prune(path, sparsity=50)


@pytest.mark.parametrize("shapes", [{"x": (2, 6), "q": (16, 5)}, {"q": (16, 5), "x": (2, 6)}])
def test_inputs_have_the_first_sizes_that_are_given(shapes: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    text = """(float[n,6] x, float[m,5] q) => (float[n,4] y) {
        a = MatMul (x, wa) r = Relu (a) b = MatMul (r, wb) c = MatMul (q, wc) s = Relu (c) d = MatMul (s, wd)
        e = Reshape (d, four) f = ReduceMean <axes = [0, 1], keepdims = 0> (e) y = Add (b, f) }"""
    weights = {"wa": (6, 16), "wb": (16, 4), "wc": (5, 12), "wd": (12, 4), "four": [4, 4, 4]}
    onnx.save(model(text, weights), tmp_path / "m.onnx")
    prepared = prepare(tmp_path / "m.onnx", shapes)
    assert {name: value.shape for name, value in prepared.feed.items()} == shapes
    report = prune(tmp_path / "m.onnx", sparsity=50, shapes=shapes)
    assert [group.kept for group in report.groups] == [8, 4, 6]


def test_a_batch_normalization_is_fitted_as_if_it_were_folded_into_its_convolution(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weights = {"wa": random.standard_normal((8, 3, 3, 3)), "wb": random.standard_normal((6, 8, 3, 3))}
    gamma, beta, mean, variance = random.uniform(0.5, 2, (4, 6))
    gamma[0] *= -1
    scale = gamma / np.sqrt(variance + 1e-5)
    body = """(float[n,3,8,8] x) => (float[n,6] y) {{
        a = Conv <pads = [1,1,1,1]> (x, wa) ra = Relu(a)
        {} rb = Relu(b) p = GlobalAveragePool(rb) y = Flatten(p) }}"""
    whole = {**weights, "g": gamma, "o": beta, "m": mean, "v": variance}
    folded = {"wa": weights["wa"], "wb": weights["wb"] * scale[:, None, None, None], "bb": beta - mean * scale}
    made = {}
    for name, nodes, own in (
        ("whole", "c = Conv <pads = [1,1,1,1]> (ra, wb) b = BatchNormalization(c, g, o, m, v)", whole),
        ("folded", "b = Conv <pads = [1,1,1,1]> (ra, wb, bb)", folded),
    ):
        arrays = {key: value.astype(np.float32) for key, value in own.items()}
        onnx.save(model(body.format(nodes), arrays), tmp_path / f"{name}.onnx")
        data = {"x": np.random.default_rng(1).standard_normal((64, 3, 8, 8), np.float32)}
        # pairs are fitted in steps, in which rounding grows
        report = prune(tmp_path / f"{name}.onnx", sparsity=50, data=data, recovery=("bias", "ridge", "match"))
        assert report.output is not None
        made[name] = outputs(report.output, **data)[0]
    assert made["whole"] == pytest.approx(made["folded"], abs=1e-3)


def test_losses_of_groups_are_measured_among_each_other(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def error(self: Sensitivity, gone: Mapping[int, int]) -> float:
        weights = {0: 1.0, 1: 9.0 if len(gone) > 1 else 1.0}  # the second matters more where the first lost units too
        return sum(weights[place] * count**2 for place, count in gone.items()) / 1e4

    monkeypatch.setattr(Sensitivity, "error", error)
    kept = []
    for powers in ((), (0.5, 1.0)):
        monkeypatch.setattr("onnxprune.reduction.units._POWERS", powers)
        report = prune(mlp, target="macs=0.5", data=trained.unlabelled())
        assert report.after.macs <= 0.5 * report.before.macs
        kept.append([group.kept for group in report.groups[:2]])
    assert kept[1][0] < kept[0][0]
    assert kept[1][1] > kept[0][1]


def test_a_group_that_no_matrix_reads_is_probed_at_half_of_its_units() -> None:
    ranking = _rank(0, np.arange(8.0), [], 8)
    assert ranking.order.tolist() == list(range(8))
    assert ranking.probed == 4


EINSUMS = {
    "data first": ('b = Einsum <equation = "nld,de->nle"> (r, wb)', {"wb": (12, 5)}),
    "weights first": ('b = Einsum <equation = "de, nld -> nle"> (wb, r)', {"wb": (12, 5)}),
    "moved": ('m = Einsum <equation = "nld,ed->enl"> (r, wb) b = Transpose <perm = [1,2,0]> (m)', {"wb": (5, 12)}),
}


@pytest.mark.parametrize("name", EINSUMS)
@pytest.mark.parametrize(("technique", "criterion"), [("structured", "wanda"), ("neuron", "activation")])
def test_units_that_an_einsum_reads_are_judged_as_those_that_a_product_reads(
    name: str, technique: str, criterion: str, tmp_path: Path
) -> None:
    data = {"x": np.random.default_rng(0).standard_normal((64, 4, 6)).astype(np.float32)}
    found = []
    for code, weights in (("b = MatMul (r, wb)", {"wb": (12, 5)}), EINSUMS[name]):
        built = model(
            f"(float[n,4,6] x) => (float y) {{ a = MatMul (x, wa) r = Relu (a) {code} y = Relu (b) }}", weights
        )
        wa, wb = random(6, 12, seed=1), random(12, 5, seed=2)
        del built.graph.initializer[:]
        wb = wb.T if weights["wb"] == (5, 12) else wb
        built.graph.initializer.extend(
            onnx.numpy_helper.from_array(value, key) for key, value in (("wa", wa), ("wb", wb))
        )
        onnx.save(built, tmp_path / "m.onnx")
        settings = {"technique": technique, "criterion": criterion, "recovery": ()}
        report = prune(tmp_path / "m.onnx", sparsity=50, data=data, **settings)
        found.append((weights_of(report.output, "a"), report.groups[0].error_added))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == pytest.approx(found[1][1])


def test_held_out_samples_are_counted_where_the_output_has_places_first(tmp_path: Path) -> None:
    text = "(float[n,5,8] x) => (float[5,n,4] y) { a = MatMul (x, w) r = Relu (a) b = MatMul (r, v) "
    built = model(f"{text} y = Transpose <perm = [1,0,2]> (b) }}", {"w": (8, 16), "v": (16, 4)})
    onnx.save(built, tmp_path / "m.onnx")
    data = {"x": np.random.default_rng(0).standard_normal((511, 5, 8)).astype(np.float32)}
    report = prune(tmp_path / "m.onnx", sparsity=50, data=data, recovery=())
    assert report.fidelity.samples == 63  # an eighth, in batches of 32 and 31


def test_of_two_copies_in_concatenated_groups_one_stays(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    first, second = random.standard_normal((2, 16, 6))
    second[:, 0] = first[:, 0]
    second[:, 3] *= 0.1  # what the second group can do without, once the first has lost its copy
    weights = {"wa": first, "wb": second, "wy": random.choice([-1.0, 1.0], (12, 3))}
    body = """(float[n,16] x) => (float[n,3] y) {
        a = MatMul (x, wa) b = MatMul (x, wb) c = Concat <axis = 1> (a, b) y = MatMul (c, wy) }"""
    onnx.save(model(body, {name: value.astype(np.float32) for name, value in weights.items()}), tmp_path / "m.onnx")
    batches = [{"x": random.standard_normal((32, 16)).astype(np.float32)} for _ in range(20)]
    rankings = rank_groups(prepare(tmp_path / "m.onnx").graph, batches, "obs")
    assert [ranking.order[0] for ranking in rankings.values()] == [0, 3]


@pytest.mark.parametrize(
    "part",
    [
        "p = Slice (r, zero, five, one)",
        "p, unused = Split <axis = 1> (r, sizes)",
        "p = Gather <axis = 1> (r, chosen)",
    ],
)
@pytest.mark.parametrize("samples", [True, False])
def test_units_that_nobody_reads_go_first_and_cost_nothing(part: str, samples: bool, tmp_path: Path) -> None:
    body = f"(float[n,8] x) => (float[n,5] y) {{ h = Gemm (x, w, b) r = Relu (h) {part} y = Gemm (p, v, c) }}"
    weights = {
        "w": (8, 16), "b": (16,), "v": (5, 5), "c": (5,), "zero": [0], "five": [5], "one": [1], "sizes": [5, 11],
        "chosen": [0, 3, 5, 7, 11],
    }  # fmt: skip
    onnx.save(model(body, weights), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    data = {"data": {"x": x}} if samples else {}
    report = prune(tmp_path / "m.onnx", target="macs=0.5", **data)
    assert {(group.units, group.kept) for group in report.groups} == {(5, 5), (11, 1)}
    assert report.output is not None
    ((expected,), (found,)) = (outputs(path, x=x) for path in (tmp_path / "m.onnx", report.output))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    half = prune(tmp_path / "m.onnx", sparsity=50, **data)
    assert {(group.units, group.kept) for group in half.groups} == {(5, 5), (5, 3), (11, 5)}


def test_without_data_what_would_take_long_is_not_repaired(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.reduction.units._MOST_WORK", 1e5)
    assert not prune(mlp, sparsity=50).repairs
    assert prune(mlp, sparsity=50, data=trained.unlabelled()).repairs


def test_nothing_goes_at_0_and_all_but_a_unit_at_100(convs: Path, mlp: Path) -> None:
    same = prune(convs, sparsity=0)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32)}
    assert same.output is not None
    assert np.allclose(outputs(convs, **feed)[0], outputs(same.output, **feed)[0], rtol=1e-5)
    assert same.share_gone == 0
    least = prune(mlp, sparsity=100, data=trained.unlabelled())
    assert [group.kept for group in least.groups] == [1, 1, 10]
    assert least.output is not None
    assert outputs(least.output, pixels=np.ones((2, 64), np.float32))[0].shape == (2, 10)


@pytest.mark.parametrize("technique", CRITERIA)
def test_each_criterion_of_each_technique(technique: str, mlp: Path) -> None:
    made = {}
    for criterion in CRITERIA[technique]:
        data = trained.unlabelled(64) if criterion in FROM_SAMPLES else None
        report = prune(mlp, sparsity=50, technique=technique, criterion=criterion, data=data, recovery=())
        assert report.output is not None
        made[criterion] = weights_of(report.output, "h2")
        assert report.share_gone == pytest.approx(0.5, abs=1e-3)
        assert made[criterion].shape == ((24, 16) if technique in UNITS else (48, 32))
        assert (report.fidelity is None) == (data is None)
    assert not any(np.array_equal(made["random"], found) for name, found in made.items() if name != "random")


def test_criteria_from_the_weights_keep_what_they_say(tmp_path: Path) -> None:
    weights = np.diag([1.0, 4.0, 2.0, 3.0]).astype(np.float32)
    built = model(
        "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }",
        {"w": weights, "v": (4, 3)},
    )
    onnx.save(built, tmp_path / "m.onnx")
    for criterion in ("l1", "l2"):
        report = prune(tmp_path / "m.onnx", sparsity=50, criterion=criterion)
        assert report.output is not None
        assert read(report.output).weights["w"].max(0).tolist() == [4, 3]


def test_recovery_helps_on_digits_it_has_not_seen(mlp: Path) -> None:
    whole = trained.accuracy(mlp)
    found = {}
    for name, settings in {
        "plain": {"recovery": ()},
        "bias": {"recovery": ("bias",)},
        "ridge": {"recovery": ("ridge",)},
        "all": {},
    }.items():
        report = prune(mlp, sparsity=60, criterion="l1", data=trained.unlabelled(), **settings)
        assert report.output is not None
        found[name] = trained.accuracy(report.output)
        assert report.fidelity is not None
        assert report.fidelity_plain is not None
        assert set(report.recovered) <= {"none", *settings.get("recovery", ("bias", "ridge", "match", "pairs"))}
        if name == "plain":
            assert report.fidelity == report.fidelity_plain
        else:
            assert report.fidelity.relative_error < report.fidelity_plain.relative_error
    assert found["plain"] < found["bias"] < found["ridge"] <= found["all"] + 1
    assert found["plain"] < whole - 10
    assert found["all"] > whole - 5


@pytest.mark.parametrize("technique", (*UNITS, "weight"))
@pytest.mark.parametrize("batch", ["n", "32"])
def test_held_out_samples_measure_alone(technique: str, batch: str, tmp_path: Path) -> None:
    """Others in their place leave the network as it was, and the fidelity is what they tell."""
    weights = {"w": random(16, 16), "b": random(16, seed=1), "v": random(16, 4)}
    text = f"(float[{batch},16] x) => (float[{batch},4] y) {{ a = Gemm (x, w, b) r = Relu (a) y = MatMul (r, v) }}"
    onnx.save(model(text, weights), tmp_path / "m.onnx")
    drawn = np.random.default_rng(1)
    x = drawn.normal(0, 1, (64, 16)).astype(np.float32)
    held_out = np.random.default_rng(0).permutation(64)[-8 if batch == "n" else -32 :]
    made = []
    for _ in range(2):
        report = prune(tmp_path / "m.onnx", sparsity=50, technique=technique, data={"x": x})
        assert report.output is not None and report.fidelity is not None and report.fidelity_plain is not None
        whole, left = (outputs(path, x=x[held_out])[0] for path in (tmp_path / "m.onnx", report.output))
        assert report.fidelity.relative_error == pytest.approx(np.linalg.norm(whole - left) / np.linalg.norm(whole))
        assert report.fidelity_plain.relative_error > report.fidelity.relative_error
        made.append({name: value.tobytes() for name, value in read(report.output).weights.items()})
        x[held_out] = drawn.normal(1, 2, (len(held_out), 16))
    assert made[0] == made[1]


@pytest.mark.parametrize("batch", ["n", "4"])
def test_parts_of_a_network_run_where_onnxruntime_needs_the_sizes_of_what_they_read(batch: str, tmp_path: Path) -> None:
    """Of an Attention that reads tensors of unknown sizes it takes a wrong width, which what follows does not fit."""
    text = f"""(float[{batch},5,8] x) => (float[{batch},5,8] y) {{
        q = MatMul (x, wq) k = MatMul (x, wk) v = MatMul (x, wv)
        a = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)
        o = MatMul (a, wo) r = Relu (o) y = MatMul (r, wy) }}"""
    weights = {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "wo": (8, 16), "wy": (16, 8)}
    onnx.save(model(text, weights, opset=23), tmp_path / "m.onnx")
    report = prune(tmp_path / "m.onnx", sparsity=25, technique="unstructured", data={"x": random(60, 5, 8)})
    assert report.output is not None and report.fidelity is not None and report.fidelity_plain is not None
    left = read(report.output).weights
    assert sum(np.count_nonzero(left[name]) for name in weights) == 0.75 * 448
    assert report.fidelity.relative_error < report.fidelity_plain.relative_error


@pytest.mark.parametrize("channel_align", [1, 16])  # matrix products have no steps
def test_macs_come_within_a_unit_of_the_target(channel_align: int, mlp: Path) -> None:
    for data in (None, trained.unlabelled()):
        report = prune(mlp, target="macs=0.5", data=data, channel_align=channel_align)
        step = max(64 + 32, 48 + 10) / report.before.macs  # the most that a unit takes with it
        assert 0.5 - step < report.after.macs / report.before.macs <= 0.5
        shares = [group.kept / group.units for group in report.groups if group.frozen is None]
        assert shares[0] != shares[1]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_no_group_could_keep_its_next_width_within_the_target(share: float, convs: Path) -> None:
    graph = prepare(convs).graph
    costs = cost(graph)
    losses = {
        place: np.arange(len(group.units) + 1.0) ** 2 for place, group in enumerate(graph.groups) if not group.frozen
    }
    widths = {place: [*range(4, len(loss), 4)] for place, loss in losses.items()}
    counts = allocate(graph, losses, share, costs, widths)

    def left(gone: dict[int, int]) -> float:
        kept = np.ones(len(graph.groups))
        for place, number in gone.items():
            kept[place] -= number / len(graph.groups[place].units)
        return costs.of(kept) / costs.of(np.ones(len(kept)))

    assert counts and left(counts) <= share
    for place, number in counts.items():
        assert number % 4 == 0
        assert left({**counts, place: number - 4}) > share


def test_a_target_of_latency_is_searched_with_the_clock(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that says 0.2 + 0.8 of the share of the parameters."""
    asked = []

    def clock(original: Network, pruned: Network, feed: dict, threads: int, say: Callable[[str], None]) -> float:
        sizes = [sum(value.size for value in network.weights.values()) for network in (pruned, original)]
        asked.append(0.2 + 0.8 * sizes[0] / sizes[1])
        return asked[-1]

    monkeypatch.setattr(units, "relative_latency", clock)
    monkeypatch.setattr(units, "node_times", lambda network, feed, threads: dict.fromkeys(range(5), 1.0))
    report = prune(mlp, target="latency=0.6")
    assert 0.2 + 0.8 * report.after.params / report.before.params == pytest.approx(
        max(found for found in asked if found <= 0.6), abs=1e-6
    )
    assert report.after.params > 0.4 * report.before.params
    with pytest.raises(InputError, match=r"brings it to 0\.1 of its latency: the fastest one took 0\.2"):
        prune(mlp, target="latency=0.1")


def test_a_largest_drop_takes_what_it_may(mlp: Path) -> None:
    reports = [prune(mlp, max_drop=drop, data=trained.unlabelled()) for drop in (0, 20)]
    for report, drop in zip(reports, (0, 20), strict=True):
        assert report.fidelity is not None
        assert report.fidelity.agreement is not None
        assert report.fidelity.agreement >= 100 - drop
    assert reports[1].after.macs < reports[0].after.macs < reports[0].before.macs


def test_what_cannot_be_compared_is_pruned_all_the_same(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **how: object) -> None:
        raise InputError("its shapes do not fit together")

    monkeypatch.setattr("onnxprune.reduction.output_file.compare", refused)
    report = prune(mlp, sparsity=50, latency=True)
    assert report.output is not None and report.output.is_file()
    assert report.comparison == ()
    assert report.not_compared == "its shapes do not fit together"


def test_without_scores_a_largest_drop_is_of_fidelity(mlp: Path, tmp_path: Path) -> None:
    model = onnx.load(mlp)
    model.graph.node.append(onnx.helper.make_node("Unsqueeze", ["scores", "axis"], ["boxes"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("boxes", onnx.TensorProto.FLOAT, ["n", 1, 10]))
    onnx.save(model, tmp_path / "boxes.onnx")
    reports = [prune(tmp_path / "boxes.onnx", max_drop=drop, data=trained.unlabelled()) for drop in (2, 30)]
    for report, drop in zip(reports, (2, 30), strict=True):
        assert report.fidelity is not None
        assert report.fidelity.agreement is None
        assert 100 * report.fidelity.relative_error <= drop
    assert reports[1].after.macs < reports[0].after.macs <= reports[0].before.macs


def test_single_weights_go_in_each_layer_or_over_all(mlp: Path) -> None:
    each = prune(mlp, technique="weight", sparsity=75)
    assert [layer.zeros / layer.weights for layer in each.layers] == [0.75] * 3
    over_all = prune(mlp, technique="unstructured", sparsity=75)
    shares = [layer.zeros / layer.weights for layer in over_all.layers]
    assert max(shares) - min(shares) > 0.05
    assert sum(layer.zeros for layer in over_all.layers) == 0.75 * sum(layer.weights for layer in over_all.layers)
    assert over_all.output is not None
    before, after = weights_of(mlp, "h1"), weights_of(over_all.output, "h1")
    assert np.array_equal(after[after != 0], before[after != 0])
    assert np.abs(before[after == 0]).max() <= np.abs(after[after != 0]).min()
    assert over_all.before.params == over_all.after.params
    assert over_all.after.nonzero_params == int(np.count_nonzero(after)) + sum(
        int(np.count_nonzero(value)) for name, value in read(over_all.output).weights.items() if name != "w1"
    )


@pytest.mark.parametrize("technique", ["weight", "unstructured"])
def test_the_share_of_zeros_is_exact_from_samples_too(technique: str, mlp: Path) -> None:
    plain = prune(mlp, technique=technique, sparsity=75, criterion="l1")
    assert plain.output is not None
    by_magnitude = trained.accuracy(plain.output)
    report = prune(mlp, technique=technique, sparsity=75, data=trained.unlabelled())
    assert sum(layer.zeros for layer in report.layers) == pytest.approx(0.75 * (64 * 48 + 48 * 32 + 320), abs=3)
    assert report.output == plain.output
    assert report.replaced
    assert trained.accuracy(report.output) > by_magnitude + 1


@pytest.mark.parametrize("criterion", ["obs", "wanda"])
def test_weights_that_stay_make_up_for_those_that_go(criterion: str, tmp_path: Path) -> None:
    """Half of the inputs are the other half once more, whose weights are larger."""
    random = np.random.default_rng(0)
    weights = np.concatenate([random.uniform(0.2, 0.4, (6, 4)), random.uniform(0.8, 1, (6, 4))]).astype(np.float32)
    onnx.save(model("(float[n,12] x) => (float[n,4] y) { y = MatMul (x, w) }", {"w": weights}), tmp_path / "m.onnx")
    half = random.standard_normal((256, 6)).astype(np.float32)
    data = {"x": np.concatenate([half, half], 1)}
    report = prune(tmp_path / "m.onnx", technique="weight", criterion=criterion, sparsity=50, data=data)
    assert report.fidelity is not None and report.fidelity_plain is not None
    assert report.fidelity_plain.relative_error > 0.2
    assert report.fidelity.relative_error < 0.02


@pytest.mark.parametrize("criterion", ["obs", "wanda"])
def test_fewer_samples_than_features_make_it_no_worse(criterion: str, tmp_path: Path) -> None:
    """They fit almost any weights, of which what is independent tells nothing."""
    text = "(float[n,64] x) => (float[n,32] y) { y = MatMul (x, w) }"
    random = np.random.default_rng(0)
    onnx.save(model(text, {"w": random.standard_normal((64, 32)).astype(np.float32)}), tmp_path / "m.onnx")
    data = {"x": random.standard_normal((40, 64)).astype(np.float32)}
    report = prune(tmp_path / "m.onnx", technique="weight", criterion=criterion, sparsity=50, data=data)
    assert report.fidelity is not None and report.fidelity_plain is not None
    assert report.fidelity.relative_error < 1.1 * report.fidelity_plain.relative_error < 0.4


@pytest.mark.parametrize("technique", ["weight", "unstructured"])
@pytest.mark.parametrize("criterion", ["obs", "wanda"])
@pytest.mark.parametrize("sparsity", [5, 30, 50])
def test_groups_of_few_weights_lose_the_share_together(
    technique: str, criterion: str, sparsity: float, tmp_path: Path
) -> None:
    text = "(float[n,16,6,6] x) => (float[n,16,4,4] y) { y = Conv <group = 16> (x, w) }"
    onnx.save(model(text, {"w": (16, 1, 3, 3)}), tmp_path / "m.onnx")
    data = {"x": np.random.default_rng(0).standard_normal((64, 16, 6, 6)).astype(np.float32)}
    report = prune(tmp_path / "m.onnx", sparsity=sparsity, technique=technique, criterion=criterion, data=data)
    assert [layer.zeros for layer in report.layers] == [round(sparsity / 100 * 144)]


def test_why_there_is_no_accuracy_is_said(tmp_path: Path) -> None:
    """The labels are of ten classes."""
    text = (
        "(float[n,1,28,28] x) => (float[n,{}] y) {{ f = Flatten (x) h = MatMul (f, w) r = Relu (h) y = MatMul (r, v) }}"
    )
    how: dict = {"data": "digits", "mean": [0.0], "std": [1.0], "samples": 64, "latency": False}
    for outputs, said in ((10, None), (5, "no output has a score for each of the classes of digits")):
        built = model(text.format(outputs), {"w": (784, 16), "v": (16, outputs)})
        onnx.save(built, tmp_path / "m.onnx")
        reports = (
            onnxprune.prune(tmp_path / "m.onnx", sparsity=50, **how),
            onnxprune.quantize(tmp_path / "m.onnx", **how),
        )
        for report in reports:
            assert report.not_tested == said
            assert (report.accuracy is None) == (said is not None)


def test_matrix_products_have_no_steps(tmp_path: Path) -> None:
    built = model(
        "(float[n,4] x) => (float[n,3] y) {"
        "h = MatMul(x, a) r = Relu(h) k = MatMul(r, b) s = Relu(k) y = MatMul(s, c) }",
        {"a": (4, 64), "b": (64, 6), "c": (6, 3)},
    )
    onnx.save(built, tmp_path / "m.onnx")
    for sparsity, kept in ((30, [45, 4]), (50, [32, 3]), (3, [62, 6])):
        report = prune(tmp_path / "m.onnx", sparsity=sparsity, channel_align=16)
        assert [group.kept for group in report.groups[:2]] == kept


# The check


def wrong(change: Callable[[Network], None]) -> Callable[..., Network]:
    right = surgery.shrink

    def shrink(graph: object, keep: np.ndarray) -> Network:
        network = right(graph, keep)  # type: ignore[arg-type]
        change(network)
        return network

    return shrink


def one_channel_of_the_wrong_unit(network: Network) -> None:
    weights = network.weights["wc"].copy()
    weights[:, [0, 1]] = weights[:, [1, 0]]
    network.weights["wc"] = weights


def test_a_wrong_channel_is_found_and_nothing_written(convs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surgery, "shrink", wrong(one_channel_of_the_wrong_unit))
    with pytest.raises(RunError, match=r"differs from the original with the removed units masked.*not written"):
        prune(convs, sparsity=50)
    assert files(convs.parent) == ["convs.onnx"]


def test_a_wrong_channel_is_found_behind_a_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = CONVS.replace("(float[n,4] y)", "(int64[n] label)").replace(
        "y = Gemm", "y0 = Gemm"
    ).replace("(f, wy) }", "(f, wy) label = ArgMax <axis = 1, keepdims = 0> (y0) }")  # fmt: skip
    onnx.save(model(text, CONV_WEIGHTS), tmp_path / "m.onnx")
    assert prune(tmp_path / "m.onnx", sparsity=50).check < 1e-4
    monkeypatch.setattr(surgery, "shrink", wrong(one_channel_of_the_wrong_unit))
    with pytest.raises(RunError, match="not written"):
        prune(tmp_path / "m.onnx", sparsity=50)


# What is kept


def test_the_file_says_how_it_was_made_and_keeps_what_it_said(mlp: Path) -> None:
    report = prune(mlp, sparsity=50, data=trained.unlabelled(), seed=3)
    assert report.output is not None
    said = {entry.key: entry.value for entry in onnx.load(report.output).metadata_props}
    assert said["author"] == "somebody"
    assert said["mean"] == "[0.0]"
    assert "accuracy" not in said  # it was that of the original
    assert said["pruned_from"] == "mlp.onnx"
    assert said["pruned_from_sha256"] == hashlib.sha256(mlp.read_bytes()).hexdigest()
    assert said["pruned_by"] == f"onnxprune {onnxprune.__version__}"
    assert (said["technique"], said["criterion"], said["sparsity"]) == ("structured", "obs", "50")
    asked = json.loads(said["prune_settings"])
    assert asked == {
        "sparsity": 50, "channel_align": 1, "recovery": ["bias", "ridge", "match", "pairs"], "samples": 512, "seed": 3,
    }  # fmt: skip


def test_inputs_outputs_and_opset_are_kept(tmp_path: Path) -> None:
    built = model(
        "(float[n,8] second, float[n,4] first) => (float[n,5] z, float[n,5] a) {"
        "h = MatMul(second, w1) r = Relu(h) k = MatMul(first, w2) s = Relu(k) c = Concat <axis = 1> (r, s)"
        "z = MatMul(c, w3) a = Relu(z) }",
        {"w1": (8, 16), "w2": (4, 16), "w3": (32, 5)},
        opset=15,
    )
    built.graph.doc_string = "a graph"
    onnx.save(built, tmp_path / "m.onnx")
    report = prune(tmp_path / "m.onnx", sparsity=50)
    assert report.output is not None
    made = onnx.load(report.output)
    assert list(made.graph.input) == list(built.graph.input)
    assert list(made.graph.output) == list(built.graph.output)
    assert list(made.opset_import) == list(built.opset_import)
    assert (made.ir_version, made.graph.name, made.graph.doc_string) == (8, built.graph.name, "a graph")


def test_the_same_again_gives_the_same_bytes(mlp: Path) -> None:
    for settings in (
        {"sparsity": 50, "data": trained.unlabelled()},
        {"sparsity": 50, "technique": "unstructured", "data": trained.unlabelled()},
        {"target": "macs=0.5", "criterion": "random"},
    ):
        first, second, other = (
            prune(mlp, output=mlp.with_name(f"{name}.onnx"), seed=seed, **settings)  # type: ignore[arg-type]
            for name, seed in (("one", 0), ("two", 0), ("other", 1))
        )
        assert first.output is not None
        assert second.output is not None
        assert other.output is not None
        assert first.output.read_bytes() == second.output.read_bytes()
        assert first.output.read_bytes() != other.output.read_bytes()


def test_what_is_kept_on_disk_meanwhile_gives_the_same_bytes(convs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"x": np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)}
    in_memory = prune(convs, sparsity=50, data=data, output=convs.with_name("memory.onnx"))
    stored = []
    store = stages.Stages._store
    monkeypatch.setattr(stages.Stages, "_store", lambda *args: stored.append(args) or store(*args))
    monkeypatch.setattr(stages, "_IN_MEMORY", 0)
    on_disk = prune(convs, sparsity=50, data=data, output=convs.with_name("disk.onnx"))
    assert stored
    assert in_memory.output is not None
    assert on_disk.output is not None
    assert in_memory.output.read_bytes() == on_disk.output.read_bytes()


def test_a_dry_run_says_the_same_and_writes_nothing(convs: Path) -> None:
    dry = prune(convs, sparsity=50, dry_run=True)
    assert files(convs.parent) == ["convs.onnx"]
    assert dry.output is None
    real = prune(convs, sparsity=50, recovery=())  # which may give nodes biases
    assert dry.groups == real.groups
    assert dataclasses.replace(dry.after, bytes=0) == dataclasses.replace(real.after, bytes=0)
    assert prune(convs, dry_run=True).share_gone == 0


@pytest.mark.parametrize(
    "settings", [{"sparsity": 60, "technique": "unstructured"}, {"max_drop": 5.0}], ids=["unstructured", "max-drop"]
)
def test_a_dry_run_says_what_the_repaired_network_decides(settings: dict, mlp: Path) -> None:
    dry, real = (prune(mlp, data=trained.unlabelled(), dry_run=dry, **settings) for dry in (True, False))
    assert dry.output is None
    assert real.share_gone > 0.1
    assert (dry.layers, dry.groups) == (real.layers, real.groups)
    assert dataclasses.replace(dry.after, bytes=0) == dataclasses.replace(real.after, bytes=0)


def test_a_dry_run_shows_a_file_in_which_all_is_frozen(tmp_path: Path) -> None:
    onnx.save(model("(float[n,4] x) => (float[n,3] y) { y = MatMul(x, w) }", {"w": (4, 3)}), tmp_path / "m.onnx")
    assert [group.frozen for group in prune(tmp_path / "m.onnx", dry_run=True).groups] == [
        "they are the model's output 'y'"
    ]
    with pytest.raises(InputError, match=r"no unit of it can be removed: they are the model's output 'y'"):
        prune(tmp_path / "m.onnx", sparsity=50)


def test_a_group_normalization_of_opset_18_has_a_scale_for_each_group(tmp_path: Path) -> None:
    """onnx has withdrawn it, so that its checker refuses the file; onnxruntime runs it."""
    text = """(float[n,3,8,8] x) => (float[n,2,8,8] y) {
        a = Conv (x, w)
        b = GroupNormalization <num_groups = 4> (a, s, t)
        y = Conv (b, v)
    }"""
    made = model(text, {"w": (8, 3, 1, 1), "s": (4,), "t": (4,), "v": (2, 8, 1, 1)}, 18)
    onnx.save(made, tmp_path / "m.onnx")
    report = prune(tmp_path / "m.onnx", sparsity=50, recovery=())
    assert [(group.units, group.kept, group.width) for group in report.groups if group.frozen is None] == [(4, 2, 2)]
    weights = read(report.output).weights
    assert [weights[name].shape for name in "wst"] == [(4, 3, 1, 1), (2,), (2,)]
    assert report.check < 1e-4


def test_weights_that_are_not_followed_are_named_where_nothing_can_go(tmp_path: Path) -> None:
    text = """(float[n,2,4] x) => (float[n,2,8] y) {
        h = Einsum <equation = "bli,ij->blj"> (x, w)
        y, kept = com.microsoft.Attention <num_heads = 2> (h, v, k)
    }"""
    onnx.save(model(text, {"w": (4, 8), "v": (8, 24), "k": (24,)}), tmp_path / "m.onnx")
    kinds = "Einsum with such weights is not supported; com.microsoft.Attention with such weights is not supported"
    with pytest.raises(InputError, match=f"no unit of it can be removed: {kinds}$"):
        prune(tmp_path / "m.onnx", sparsity=50)


def test_the_report_as_tables_and_json(mlp: Path) -> None:
    report = prune(mlp, sparsity=50, data=trained.unlabelled())
    table = report.groups_table()
    assert table["kept"].tolist() == [24, 16, 10]
    assert table["error_added"].notna().tolist() == [True, True, False]
    assert json.loads(json.dumps(report.as_json(), allow_nan=False))["groups"][0]["kept"] == 24


def test_the_comparison_is_of_the_two_files(mlp: Path) -> None:
    report = onnxprune.prune(mlp, sparsity=50, seconds=0.01, batch_sizes=(1, 4), threads=1)
    assert [entry.path for entry in report.comparison] == [mlp, report.output] * 2
    assert [entry.batch for entry in report.comparison] == [1, 1, 4, 4]
    assert report.comparison[1].verdict is not None


# What kinds of files there are


def test_kinds_of_inputs_and_names(tmp_path: Path) -> None:
    def of(text: str, weights: dict, **settings: object) -> PruneReport:
        onnx.save(model(text, weights), tmp_path / "m.onnx")
        return prune(tmp_path / "m.onnx", sparsity=50, **settings)

    ids = (
        "(int64[n,t] ids) => (float[n,t,5] y) { e = Gather(table, ids) h = MatMul(e, w) r = Relu(h) y = MatMul(r, v) }"
    )
    sizes: dict = {"table": (20, 8), "w": (8, 16), "v": (16, 5)}
    with pytest.raises(InputError, match=r"leaves sizes open.*--input ids:1x\?"):
        of(ids, sizes)
    data = {"ids": np.random.default_rng(0).integers(0, 20, (40, 6))}
    assert [group.kept for group in of(ids, sizes, shapes={"ids": (1, 6)}, data=data).groups] == [4, 8, 5]
    one = (
        "(float[1,3,8,8] x) => (float[1,5] y) {"
        "h = Conv(x, w) r = Relu(h) p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, v) }"
    )
    report = of(one, {"w": (16, 3, 3, 3), "v": (16, 5)}, data={"x": np.ones((16, 3, 8, 8), np.float32)})
    assert report.groups[0].kept == 8
    free = one.replace("[1,3,8,8]", "[n,3,h,w]").replace("[1,5]", "[n,5]")
    free = free.replace("h = Conv(x, w)", "h0 = Conv(x, w)").replace("Relu(h)", "Relu(h0)")
    assert of(free, {"w": (16, 3, 3, 3), "v": (16, 5)}, shapes={"x": (2, 3, 9, 9)}).groups[0].kept == 8


def test_half_precision_is_held_to_its_own_tolerance(tmp_path: Path) -> None:
    text = "(float16[n,64] x) => (float16[n,10] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
    rng = np.random.default_rng(0)
    weights = {"w": (64, 48), "v": (48, 10)}
    built = model(text, {name: rng.standard_normal(shape).astype(np.float16) for name, shape in weights.items()})
    onnx.save(built, tmp_path / "m.onnx")
    report = prune(tmp_path / "m.onnx", sparsity=50, data={"x": rng.standard_normal((64, 64)).astype(np.float16)})
    assert report.output is not None
    assert read(report.output).weights["w"].dtype == np.float16
    assert report.check < 1e-2


@pytest.mark.parametrize("technique", ["structured", "weight"])
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_weights_that_are_cast_at_run_time_stay_stored_as_they_are(technique: str, kind: str, tmp_path: Path) -> None:
    numbers = onnx.helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind.upper()))
    text = """(float[n,64] x) => (float[n,10] y) {
        ws = Cast <to = 1> (w) wt = Transpose (ws) h = MatMul(x, wt) r = Relu(h) vs = Cast <to = 1> (v)
        y = MatMul(r, vs) }"""
    shapes = {"w": (256, 64), "v": (256, 10)}
    weights = {name: random(*shape, seed=1).astype(numbers) for name, shape in shapes.items()}
    onnx.save(model(text, weights), tmp_path / "m.onnx")
    data = {"x": random(256, 64, seed=2)}
    report = prune(tmp_path / "m.onnx", sparsity=50, technique=technique, data=data)
    stored = [value for value in read(report.output).weights.values() if value.ndim == 2]
    assert [value.dtype for value in stored] == [numbers, numbers]
    left = 0.5 if technique == "structured" else 1
    assert report.after.bytes < left * report.before.bytes + 4096
    assert report.fidelity.relative_error < report.fidelity_plain.relative_error
    found = np.concatenate([outputs(report.output, x=data["x"])[0], outputs(tmp_path / "m.onnx", x=data["x"])[0]], 1)
    assert np.corrcoef(found[:, :10].ravel(), found[:, 10:].ravel())[0, 1] > 0.9


@pytest.mark.parametrize("kind", [TensorProto.BFLOAT16, TensorProto.FLOAT16])
def test_weights_that_are_stored_in_16_bits_are_counted(kind: int, tmp_path: Path) -> None:
    built = model(
        "(float[n,8] x) => (float[n,4] y) {"
        "a = Cast <to = 1> (wa) h = MatMul(x, a) r = Relu(h) b = Cast <to = 1> (wb) y = MatMul(r, b) }",
        {"wa": (8, 16), "wb": (16, 4)},
    )
    for tensor in built.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, kind, value.shape, value.ravel()))
    onnx.save(built, tmp_path / "m.onnx")
    report = prune(tmp_path / "m.onnx", sparsity=50)
    assert (report.before.params, report.after.params) == (8 * 16 + 16 * 4, 8 * 8 + 8 * 4)
    assert prepare(tmp_path / "m.onnx").tolerance == 1e-2


def renamed(built: onnx.ModelProto) -> onnx.ModelProto:
    """With names as TensorFlow and PyTorch give them."""
    for node in built.graph.node:
        node.name = f"/net/{node.output[0]}:{node.op_type}"
        node.input[:] = [f"/t/{name}:0" for name in node.input]
        node.output[:] = [f"/t/{name}:0" for name in node.output]
    for value in (*built.graph.input, *built.graph.output, *built.graph.initializer):
        value.name = f"/t/{value.name}:0"
    return built


@pytest.mark.parametrize("external", [False, True])
def test_odd_names_and_external_data(external: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    built = renamed(model(CONVS, CONV_WEIGHTS))
    if external:
        onnx.save_model(built, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    else:
        onnx.save(built, path)
    images = np.random.default_rng(0).standard_normal((32, 3, 8, 8), np.float32)
    report = prune(path, sparsity=50, data={"/t/x:0": images})
    assert report.output is not None
    assert outputs(report.output, **{"/t/x:0": images})[0].shape == (32, 4)
    assert report.before.bytes == sum(file.stat().st_size for file in tmp_path.iterdir() if file != report.output)
    if external:
        with pytest.raises(InputError, match="this is the file to prune, or its external data"):
            prune(path, sparsity=50, output=tmp_path / "weights.bin")


def test_outputs_that_are_no_tensors(tmp_path: Path) -> None:
    text = (
        "(float[n,8] x) => (float[n,3] p) { h = MatMul(x, w) r = Relu(h) l = MatMul(r, v) p = Softmax <axis = 1> (l) }"
    )
    built = model(text, {"w": (8, 16), "v": (16, 3)}, domains=("ai.onnx.ml",))
    built.graph.node.append(helper.make_node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]))
    entry = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    del built.graph.output[:]
    built.graph.output.append(helper.make_value_info("z", helper.make_sequence_type_proto(entry)))
    onnx.save(built, tmp_path / "m.onnx")
    report = prune(tmp_path / "m.onnx", sparsity=50)
    assert report.output is not None
    assert [group.kept for group in report.groups] == [8, 3]
    assert sum(outputs(report.output, x=np.ones((1, 8), np.float32))[0][0].values()) == pytest.approx(1)
    with pytest.raises(InputError, match="none of its outputs is a tensor of floating-point numbers"):
        prune(tmp_path / "m.onnx", sparsity=50, data={"x": np.ones((64, 8), np.float32)})


def test_what_is_random_is_refused_as_that(tmp_path: Path) -> None:
    text = "(float[n,8] x) => (float[n,3] y) { h = MatMul(x, w) r = Dropout(h, half, training) y = MatMul(r, v) }"
    weights = {"w": (8, 16), "v": (16, 3), "half": np.float32(0.5), "training": np.bool_(True)}
    onnx.save(model(text, weights), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"m\.onnx: its outputs are random \(Dropout\): export it for inference"):
        prune(tmp_path / "m.onnx", sparsity=50)


def test_quantised_files_and_trees_are_refused_with_what_to_do(tmp_path: Path) -> None:
    zero, one = np.zeros((), np.int8), np.ones((), np.float32)
    text = (
        "(float[n,8] x) => (float[n,3] y) {q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = MatMul(d, w) }"
    )
    onnx.save(model(text, {"s": one, "z": zero, "w": (8, 3)}), tmp_path / "qdq.onnx")
    with pytest.raises(InputError, match="quantised: prune the file with floating-point weights, and quantise"):
        prune(tmp_path / "qdq.onnx", sparsity=50)
    tree = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, nodes_treeids=[0], nodes_nodeids=[0],
        nodes_featureids=[0], nodes_modes=["LEAF"], nodes_values=[0.0], nodes_truenodeids=[0], nodes_falsenodeids=[0],
        target_treeids=[0], target_nodeids=[0], target_ids=[0], target_weights=[1.0],
    )  # fmt: skip
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ("n", 2)), ("y", ("n", 1)))
    ]
    graph = helper.make_graph([tree], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "tree.onnx")
    with pytest.raises(InputError, match="a tree ensemble has no layers to prune"):
        prune(tmp_path / "tree.onnx", sparsity=50)


@pytest.mark.slow
def test_a_file_over_2_gib(tmp_path: Path) -> None:
    built = model(
        "(float[n,8] x) => (float[n,4] y) {"
        "h = MatMul(x, a) r = Relu(h) k = MatMul(r, b) s = Relu(k) y = MatMul(s, c) }",
        {"a": (8, 24_000), "b": (24_000, 24_000), "c": (24_000, 4)},
    )
    onnx.save_model(built, tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    del built
    report = prune(tmp_path / "m.onnx", sparsity=2)
    assert report.output is not None
    assert report.after.bytes > 2**31
    assert files(tmp_path) == ["m-structured-2.onnx", "m-structured-2.onnx.data", "m.data", "m.onnx"]
    assert outputs(report.output, x=np.ones((1, 8), np.float32))[0].shape == (1, 4)


def test_what_was_measured_of_another_file_is_not_kept(mlp: Path) -> None:
    built = onnx.load(mlp)
    stale = {"accuracy": "1", "fidelity": "2", "control": "random", "technique": "neuron", "spec_hash": "abc"}
    onnx.helper.set_model_props(built, {**stale, "author": "somebody"})
    onnx.save(built, mlp)
    pruned = metadata(read(prune(mlp, sparsity=50, output=mlp.with_name("pruned.onnx")).output).model)
    assert pruned.keys().isdisjoint({"accuracy", "fidelity", "control", "spec_hash"})
    assert (pruned["technique"], pruned["author"]) == ("structured", "somebody")
    small = onnxprune.quantize(mlp, dynamic=True, latency=False, output=mlp.with_name("small.onnx"))
    assert metadata(read(small.output).model).keys().isdisjoint({"accuracy", "fidelity"})


def test_it_is_told_that_the_step_of_channels_is_measured(mlp: Path) -> None:
    told = []
    prune(mlp, sparsity=50, channel_align="auto", dry_run=True, advance=lambda what, done, total: told.append(what))
    assert told[0] == "measuring in which steps of channels convolutions get faster"


@pytest.mark.parametrize("technique", ["structured", "weight"])
def test_files_whose_weights_are_inputs_as_once_they_had_to_be_stay_valid(technique: str, tmp_path: Path) -> None:
    text = CONVS.replace("y = Gemm <transB = 1> (f, wy)", "y = Gemm <transB = 1> (f, wy, by)")
    built = model(text, {**CONV_WEIGHTS, "by": (4,)}, opset=9)
    built.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in built.graph.initializer
    )
    built.ir_version = 3
    del built.opset_import[1:]
    onnx.checker.check_model(built, full_check=True)
    onnx.save(built, tmp_path / "old.onnx")
    report = prune(tmp_path / "old.onnx", sparsity=50, technique=technique)
    assert report.output is not None
    written = onnx.load(report.output)
    onnx.checker.check_model(written, full_check=True)
    assert written.ir_version == 4 and [value.name for value in written.graph.input] == ["x"]


@pytest.mark.parametrize("technique", ["weight", "unstructured"])
@pytest.mark.parametrize("criterion", ["l1", "wanda", "obs"])
def test_before_recovery_is_the_network_that_was_asked_for(technique: str, criterion: str, mlp: Path) -> None:
    how = {"technique": technique, "criterion": criterion, "sparsity": 70, "data": trained.unlabelled()}
    alone = prune(mlp, recovery=(), output=mlp.with_name("alone.onnx"), **how)
    assert alone.fidelity is not None and alone.fidelity_plain is not None
    assert alone.fidelity_plain.relative_error == pytest.approx(alone.fidelity.relative_error, rel=1e-4)
    if criterion != "l1":  # magnitudes know no samples
        repaired = prune(mlp, output=mlp.with_name("repaired.onnx"), **how)
        assert repaired.fidelity is not None and repaired.fidelity_plain is not None
        assert repaired.fidelity.relative_error < repaired.fidelity_plain.relative_error


def test_a_share_of_macs_that_cannot_be_reached_is_refused(convs: Path) -> None:
    with pytest.raises(
        InputError, match=r"no pruning brings it to 0.001 of its MACs: the smallest that was found has 0\.\d+ of them"
    ):
        prune(convs, target="macs=0.001")
    assert files(convs.parent) == ["convs.onnx"]
    left = prune(convs, target="macs=0.3")
    assert left.after.macs <= 0.3 * left.before.macs


def test_weights_that_are_stored_in_8_bits_are_quantised_too(tmp_path: Path) -> None:
    built = model(
        "(float[n,6] x) => (float[n,4] y) { w = DequantizeLinear(q, s) y = MatMul(x, w) }",
        {"q": np.ones((6, 4), np.int8), "s": np.float32(0.1)},
    )
    onnx.save(built, tmp_path / "net.onnx")
    with pytest.raises(InputError, match="it is quantised: prune the file with floating-point weights"):
        prune(tmp_path / "net.onnx", sparsity=50)
    with pytest.raises(InputError, match="it is quantised already"):
        onnxprune.quantize(tmp_path / "net.onnx", dynamic=True, latency=False)


def test_sparse_constants_are_weights_like_others(tmp_path: Path) -> None:
    dense = np.where(np.random.default_rng(0).random((6, 8)) < 0.5, 0, 1.5).astype(np.float32)
    places = np.flatnonzero(dense)
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("values", TensorProto.FLOAT, [len(places)], dense.ravel()[places]),
        helper.make_tensor("places", TensorProto.INT64, [len(places)], places),
        dense.shape,
    )
    built = model(
        "(float[n,6] x) => (float[n,4] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }", {"w": dense, "v": (8, 4)}
    )
    node = helper.make_node("Constant", [], ["w"], sparse_value=sparse)
    del built.graph.initializer[0]
    built.graph.node.insert(0, node)
    onnx.save(built, tmp_path / "net.onnx")
    assert np.array_equal(read(tmp_path / "net.onnx").weights["w"], dense)
    report = prune(tmp_path / "net.onnx", sparsity=50, recovery=())
    assert report.after.params == 6 * 4 + 4 * 4
