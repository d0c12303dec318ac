"""Weights that several operators multiply by: they stay one, and are fitted as one."""

from pathlib import Path

import here
import numpy as np
import onnx
import pytest
from pruned import Weights, model

import onnxprune
from onnxprune.graph.network import read
from onnxprune.reduction import prune as pruning
from onnxprune.reduction.result import PruneReport
from onnxprune.reduction.sites import sites

SAMPLES = np.random.default_rng(0).standard_normal((256, 24)).astype(np.float32)
NETWORKS: dict[str, tuple[str, Weights]] = {
    "a layer that repeats": (
        """(float[n,24] x) => (float[n,5] y) {
        h = Gemm (x, wi, bi)
        a0 = Gemm (h, wa, ba) b0 = Relu (a0) c0 = Gemm (b0, wb, bb) s0 = Add (c0, h) t0 = Tanh (s0)
        a1 = Gemm (t0, wa, ba) b1 = Relu (a1) c1 = Gemm (b1, wb, bb) s1 = Add (c1, t0) t1 = Tanh (s1)
        a2 = Gemm (t1, wa, ba) b2 = Relu (a2) c2 = Gemm (b2, wb, bb) s2 = Add (c2, t1) t2 = Tanh (s2)
        y = Gemm (t2, wy, by) }""",
        {
            "wi": (24, 16), "bi": (16,), "wa": (16, 64), "ba": (64,), "wb": (64, 16), "bb": (16,), "wy": (16, 5),
            "by": (5,),
        },
    ),
    "a head for two scales": (
        """(float[n,24] x) => (float[n,3,43] y) {
        i = Reshape (x, image) p = Conv <pads = [1,1]> (i, w0, b0) q = Relu (p) m = MaxPool <kernel_shape = [6]> (q)
        f = Conv <pads = [1,1]> (q, w1, b1) g = Relu (f) h = Conv (g, w2, b2)
        j = Conv <pads = [1,1]> (m, w1, b1) k = Relu (j) l = Conv (k, w2, b2)
        y = Concat <axis = 2> (h, l) }""",
        {
            "image": [0, 1, 24], "w0": (16, 1, 3), "b0": (16,), "w1": (32, 16, 3), "b1": (32,), "w2": (3, 32, 1),
            "b2": (3,),
        },
    ),
}  # fmt: skip
LATE_BIAS = """(float[n,24] x) => (float[n,5] y) {
    h = MatMul (x, wh) r = Relu (h)
    a0 = MatMul (r, wa)
    b0 = MatMul (r, wb) b1 = Add (b0, bb) b2 = Relu (b1) c0 = MatMul (b2, wc) c1 = Relu (c0)
    a1 = Add (a0, ba) a2 = Relu (a1) d = Concat <axis = 1> (a2, c1) y = MatMul (d, wy) }"""


@pytest.fixture(autouse=True)
def _no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of these tests need no process of their own to be tried in."""
    here.without_helper(monkeypatch, pruning)


def saved(folder: Path, text: str, weights: Weights) -> Path:
    """With weights of a size at which what they give stays of one."""
    built = model(text, weights)
    for tensor in built.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype == np.float32 and value.ndim > 1:
            read_at_once = value.shape[0] if value.ndim == 2 else value[0].size
            value = (value / np.sqrt(read_at_once)).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    onnx.save(built, folder / "net.onnx")
    np.savez(folder / "samples.npz", x=SAMPLES)
    return folder / "net.onnx"


@pytest.fixture(params=NETWORKS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return saved(tmp_path, *NETWORKS[request.param])


def prune(path: Path, **settings: object) -> PruneReport:
    data = path.with_name("samples.npz")
    return onnxprune.prune(path, latency=False, channel_align=1, sparsity=50, data=data, **settings)  # type: ignore[arg-type]


def names(path: Path) -> set[str]:
    return set(read(path).weights)


def error(report: PruneReport) -> float:
    assert report.fidelity is not None
    return report.fidelity.relative_error


@pytest.mark.parametrize("criterion", ["l1", "obs"])
def test_units_go_from_all_that_share_them_and_what_is_left_is_repaired(path: Path, criterion: str) -> None:
    plain = prune(path, criterion=criterion, recovery=(), output=path.with_name("plain.onnx"))
    repaired = prune(path, criterion=criterion, output=path.with_name("repaired.onnx"))
    assert names(plain.output) == names(repaired.output) == names(path)
    assert plain.after.params == repaired.after.params < 0.62 * plain.before.params
    assert error(repaired) < 0.8 * error(plain)


@pytest.mark.parametrize("technique", ["weight", "unstructured"])
def test_single_weights_go_from_all_that_share_them(path: Path, technique: str) -> None:
    plain = prune(path, technique=technique, criterion="l1", output=path.with_name("plain.onnx"))
    chosen = prune(path, technique=technique, criterion="obs", output=path.with_name("chosen.onnx"))
    assert names(plain.output) == names(chosen.output) == names(path)
    matrices = [value for value in read(chosen.output).weights.values() if value.ndim > 1]
    zeros = sum(int((value == 0).sum()) for value in matrices)
    assert zeros == pytest.approx(sum(value.size for value in matrices) / 2, abs=len(matrices))
    assert error(chosen) < 0.8 * error(plain)


def test_operators_are_fitted_as_one_where_their_biases_are_one(tmp_path: Path) -> None:
    found = sites(read(saved(tmp_path, *NETWORKS["a head for two scales"])))
    assert [(site.result, [other.result for other in site.together], site.is_first) for site in found] == [
        ("p", ["p"], True),
        ("f", ["f", "j"], True),
        ("h", ["h", "l"], True),
        ("j", ["f", "j"], False),
        ("l", ["h", "l"], False),
    ]
    assert not any(site.fixed for site in found)


def test_weights_with_another_bias_in_each_place_stay_as_they_are(tmp_path: Path) -> None:
    text, weights = NETWORKS["a head for two scales"]
    path = saved(tmp_path, text.replace("j = Conv <pads = [1,1]> (m, w1, b1)", "j = Conv <pads = [1,1]> (m, w1, b3)"), {
        **weights, "b3": (32,),
    })  # fmt: skip
    assert [site.result for site in sites(read(path)) if site.fixed] == ["f", "j"]
    plain = prune(path, criterion="l1", recovery=(), output=tmp_path / "plain.onnx")
    repaired = prune(path, criterion="l1", output=tmp_path / "repaired.onnx")
    before, after = (read(report.output).weights for report in (plain, repaired))
    assert before.keys() == after.keys() == names(path)
    assert np.array_equal(before["w1"], after["w1"])
    assert not np.array_equal(before["w2"], after["w2"])
    assert error(repaired) < error(plain)


@pytest.mark.parametrize("technique", ["structured", "unstructured"])
def test_a_bias_may_be_added_after_other_operators_have_run(technique: str, tmp_path: Path) -> None:
    weights = {
        "wh": (24, 32), "wa": (32, 24), "ba": (24,), "wb": (32, 24), "bb": (24,), "wc": (24, 24), "wy": (48, 5),
    }  # fmt: skip
    path = saved(tmp_path, LATE_BIAS, weights)
    plain = prune(path, technique=technique, criterion="l1", recovery=(), output=tmp_path / "plain.onnx")
    repaired = prune(path, technique=technique, output=tmp_path / "repaired.onnx")
    assert error(repaired) < 0.7 * error(plain)


ODD = {  # one kernel or matrix in places that read it in other ways -> text, weights, whether both are fitted as one
    "strides": (
        "a = Conv <strides = [2], pads = [1,1]> (i, w1, b1) b = Conv <dilations = [2], pads = [1,1]> (i, w1, b1)",
        {"w1": (12, 8, 3), "b1": (12,)},
        True,
    ),
    "groups": (
        "a = Conv (i, w1) g = Concat <axis = 1> (i, i) b = Conv <group = 2> (g, w1)",
        {"w1": (12, 8, 3)},
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("technique", ["structured", "unstructured"])
def test_one_kernel_read_in_other_ways(name: str, technique: str, tmp_path: Path) -> None:
    middle, weights, together = ODD[name]
    text = f"""(float[n,24] x) => (float[n,5] y) {{
        r = Reshape (x, image) h = Conv (r, w0, b0) i = Relu (h) {middle} c = Relu (a) d = Relu (b)
        e = ReduceMean <axes = [2], keepdims = 0> (c) f = ReduceMean <axes = [2], keepdims = 0> (d)
        j = Add (e, f) y = Gemm (j, wy, by) }}"""
    more = {"image": [0, 1, 24], "w0": (8, 1, 3), "b0": (8,), "wy": (12, 5), "by": (5,)}
    path = saved(tmp_path, text, {**more, **weights})
    found = {site.result: site for site in sites(read(path))}
    assert (len(found["a"].together), found["a"].fixed) == ((2, False) if together else (1, True))
    plain = prune(path, technique=technique, criterion="l1", recovery=(), output=tmp_path / "plain.onnx")
    repaired = prune(path, technique=technique, criterion="obs", output=tmp_path / "repaired.onnx")
    assert names(repaired.output) == names(path)
    assert error(repaired) < error(plain)


def test_one_matrix_and_its_transpose_are_not_fitted_as_one(tmp_path: Path) -> None:
    text = """(float[n,24] x) => (float[n,24] y) {
        a = Gemm (x, w1) b = Relu (a) c = Gemm <transB = 1> (b, w1) d = Relu (c) y = Gemm (d, w2) }"""
    path = saved(tmp_path, text, {"w1": (24, 16), "w2": (24, 24)})
    assert [site.fixed for site in sites(read(path))] == [True, True, False]
    assert names(prune(path, technique="unstructured").output) == {*names(path), "y_bias"}


@pytest.mark.parametrize(
    "last", ["y = Gemm <transB = 1> (h, table)", "t = Transpose (table) y = MatMul (h, t)"], ids=["gemm", "transpose"]
)
def test_a_table_of_embeddings_that_also_multiplies_is_stored_once(last: str, tmp_path: Path) -> None:
    text = f"""(int64[n,3] x) => (float[n,200] y) {{
        e = Gather (table, x) f = Reshape (e, flat) a = Gemm (f, w1, b1) b = Relu (a) h = Gemm (b, w2) {last} }}"""
    weights: Weights = {"table": (200, 16), "flat": [-1, 48], "w1": (48, 32), "b1": (32,), "w2": (32, 16)}
    path = saved(tmp_path, text, weights)
    assert [site.result for site in sites(read(path)) if site.fixed] == (["y"] if "Gemm" in last else [])
    data = {"x": np.random.default_rng(0).integers(0, 200, (128, 3))}
    report = onnxprune.prune(path, sparsity=50, data=data, latency=False, channel_align=1)
    assert report.groups[1].kept == 16
    assert report.after.params < report.before.params
    assert names(report.output) <= {*names(path), "a_bias", "h_bias", "y_bias"}


def test_a_score_for_each_of_twins_stays_one(tmp_path: Path) -> None:
    text = """(float[n,24] x) => (float[n,5] y) {
        a = Gemm (x, wa) b = Relu (a) c = Gemm (x, wc) d = Relu (c) s = Gemm (b, ws, bs) t = Gemm (d, ws, bs)
        e = Mul (b, s) f = Mul (d, t) g = Concat <axis = 1> (e, f) y = Gemm (g, wy, by) }"""
    weights: Weights = {"wa": (24, 16), "wc": (24, 16), "ws": (16, 1), "bs": (1,), "wy": (32, 5), "by": (5,)}
    path = saved(tmp_path, text, weights)
    for technique in ("structured", "unstructured"):
        report = prune(path, technique=technique, output=tmp_path / f"{technique}.onnx")
        assert names(report.output) <= {*names(path), "a_bias", "c_bias"}
    alone = prune(path, technique="unstructured", criterion="obs", recovery=(), output=tmp_path / "alone.onnx")
    assert alone.fidelity_plain is not None
    assert error(alone) == pytest.approx(alone.fidelity_plain.relative_error, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        (
            """(float[n,24] x) => (float[n,5] y) { a = MatMul (x, w1) b, c = Split <axis = 1> (a, sizes)
            d = Add (b, k1) e = Add (c, k2) f = Mul (d, e) y = MatMul (f, w2) }""",
            {"w1": (24, 32), "sizes": [16, 16], "k1": (16,), "k2": (16,), "w2": (16, 5)},
        ),
        (
            """(float[4,2,6] x) => (float[2,3] y) { h = MatMul (x, wi) a, b = LSTM <hidden_size = 8> (h, w, u)
            c = Add (b, k) d = Add (a, m) e = ReduceMean <axes = [0], keepdims = 0> (d) f = Add (c, e)
            s = Squeeze (f, zero) y = MatMul (s, wy) }""",
            {
                "wi": (6, 12), "w": (1, 32, 12), "u": (1, 32, 8), "k": (1, 1, 8), "m": (1, 1, 8), "zero": [0],
                "wy": (8, 3),
            },
        ),
    ],
    ids=["split", "lstm"],
)  # fmt: skip
def test_constants_may_be_added_to_several_outputs_of_one_node(text: str, weights: Weights, tmp_path: Path) -> None:
    path = saved(tmp_path, text, weights)
    report = onnxprune.prune(path, latency=False, channel_align=1, sparsity=50)
    assert report.after.params < 0.7 * report.before.params
