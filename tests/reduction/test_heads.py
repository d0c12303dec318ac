"""Heads of attention are turned so that what can go is in the same channels of all, and compute what they did."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from pruned import model

from onnxprune.graph.channels import ChannelGraph
from onnxprune.reduction.heads import turned
from onnxprune.reduction.preparation import Prepared, difference, prepare
from onnxprune.reduction.samples import read_samples
from onnxprune.reduction.selection import rank_groups
from onnxprune.reduction.settings import PruneSettings
from onnxprune.reduction.units import Outcome, UnitPruning
from onnxprune.runtime.execution import open_network, run

PLACES, INPUTS, HEADS, WIDTH, RANK = 6, 10, 2, 4, 2
RANDOM = np.random.default_rng(0)
DATA = {"x": RANDOM.normal(0, 1, (256, PLACES, INPUTS)).astype(np.float32)}


def attention(path: Path, queries: str = "sq = Mul (q, scale)", silent: bool = False) -> Prepared:
    """One matrix makes queries, keys and values of two heads, each in two dimensions of the four that it has.

    Args:
        queries: how they are scaled.
        silent: the first head has weights of zero.
    """

    def made() -> np.ndarray:  # (inputs, heads, width)
        inner = RANDOM.normal(0, 1, (HEADS, RANK, WIDTH))
        return np.einsum("ihr,hrw->ihw", RANDOM.normal(0, 0.5, (INPUTS, HEADS, RANK)), inner)

    weights = {
        "qkv": np.stack([made() for _ in range(3)], 1).reshape(INPUTS, -1).astype(np.float32),
        "proj": RANDOM.normal(0, 1, (HEADS * WIDTH, 5)).astype(np.float32),
        "b": np.zeros(5, np.float32),
        "scale": np.float32(0.5),
        "slope": np.array([1, 2, 3, 4], np.float32),
        "split": np.array([0, PLACES, 3, HEADS, WIDTH]),
        "merged": np.array([0, PLACES, HEADS * WIDTH]),
        "zero": np.array(0),
        "one": np.array(1),
        "two": np.array(2),
    }
    if silent:
        weights["qkv"].reshape(INPUTS, 3, HEADS, WIDTH)[:, :, 0] = 0
    built = model(
        f"(float[n,{PLACES},{INPUTS}] x) => (float[n,{PLACES},5] y) {{ l = MatMul (x, qkv) s = Reshape (l, split) "
        "t = Transpose <perm = [2, 0, 3, 1, 4]> (s) q = Gather (t, zero) k = Gather (t, one) v = Gather (t, two) "
        f"{queries} kt = Transpose <perm = [0, 1, 3, 2]> (k) a = MatMul (sq, kt) p = Softmax (a) z = MatMul (p, v) "
        "u = Transpose <perm = [0, 2, 1, 3]> (z) m = Reshape (u, merged) o = MatMul (m, proj) y = Add (o, b) }",
        weights,
    )
    onnx.save(built, path)
    return prepare(path)


def gap(prepared: Prepared, graph: ChannelGraph) -> float:
    with open_network(graph.network) as session:
        return difference(prepared.outputs, run(session, prepared.feed))


def half(path: Path) -> tuple[Prepared, Outcome]:
    """A file, and what is left of it once half of its units are gone."""
    prepared = prepare(path)
    samples = read_samples(DATA, prepared.source, None, count=256)  # type: ignore[arg-type]
    settings = PruneSettings(sparsity=50, recovery=("ridge",)).resolved(True)
    return prepared, UnitPruning(path, prepared, settings, samples, lambda *_: None).outcome()


def test_half_of_each_head_goes_where_half_says_nothing(tmp_path: Path) -> None:
    attention(tmp_path / "m.onnx")
    prepared, made = half(tmp_path / "m.onnx")
    assert sum(map(len, made.removed.values())) == WIDTH - RANK
    assert gap(prepared, replace(prepared.graph, network=made.network)) < 0.03


def test_turned_heads_compute_what_they_did_with_their_channels_in_order(tmp_path: Path) -> None:
    prepared = attention(tmp_path / "m.onnx")
    graph = turned(prepared.graph, [DATA])
    assert gap(prepared, graph) < prepared.tolerance
    weights = next(value for value in graph.network.weights.values() if value.shape == (INPUTS, 3 * HEADS * WIDTH))
    sizes = np.linalg.norm(weights.reshape(INPUTS, 3, HEADS, WIDTH), axis=0)
    assert sizes[..., :RANK].min() > 20 * sizes[..., RANK:].max()


def test_heads_that_say_nothing_stay_as_they_are(tmp_path: Path) -> None:
    prepared = attention(tmp_path / "m.onnx", silent=True)
    graph = turned(prepared.graph, [DATA])
    weights = next(value for value in graph.network.weights.values() if value.shape == (INPUTS, 3 * HEADS * WIDTH))
    assert not weights.reshape(INPUTS, 3, HEADS, WIDTH)[:, :, 0].any()
    assert gap(prepared, graph) < prepared.tolerance


@pytest.mark.parametrize("queries", ["sq = Mul (q, slope)", "sq = Tanh (q)"])
def test_scores_whose_channels_differ_between_are_left(tmp_path: Path, queries: str) -> None:
    prepared = attention(tmp_path / "m.onnx", queries)
    graph = turned(prepared.graph, [DATA])
    before, after = (
        next(value for value in network.weights.values() if value.shape == (INPUTS, 3 * HEADS * WIDTH))
        for network in (prepared.graph.network, graph.network)
    )
    assert np.array_equal(before[:, : 2 * HEADS * WIDTH], after[:, : 2 * HEADS * WIDTH])
    assert not np.array_equal(before[:, 2 * HEADS * WIDTH :], after[:, 2 * HEADS * WIDTH :])
    assert gap(prepared, graph) < prepared.tolerance


@pytest.mark.parametrize(
    "text",
    [
        f"float[n,{PLACES},{PLACES}] y) {{ t = Transpose <perm = [0, 2, 1]> (k) a = MatMul (q, t) y = Softmax (a)",
        f"float[n,{PLACES},{INPUTS}] y) {{ y = Attention <q_num_heads = 1, kv_num_heads = 1> (q, k, x)",
    ],
)
def test_a_channel_of_scores_is_judged_by_what_it_adds_to_them(text: str, tmp_path: Path) -> None:
    """Not by queries or keys alone: the first channel has large queries, and keys of nothing."""
    weights = {"wq": RANDOM.normal(0, 1, (INPUTS, 4)), "wk": RANDOM.normal(0, 1, (INPUTS, 4))}
    weights["wq"][:, 0] *= 10
    weights["wk"][:, 0] *= 0.001
    built = model(
        f"(float[n,{PLACES},{INPUTS}] x) => ({text.replace('{', '{ q = MatMul (x, wq) k = MatMul (x, wk)')} }}",
        {name: value.astype(np.float32) for name, value in weights.items()},
        23,
    )
    onnx.save(built, tmp_path / "m.onnx")
    (ranking,) = rank_groups(prepare(tmp_path / "m.onnx").graph, [DATA], "obs").values()
    assert ranking.order[0] == 0
    assert ranking.loss[1] < 1e-3 < 0.05 < ranking.loss[2]


APART = (
    "q1 = Reshape (q, apart) k1 = Reshape (k, apart) v1 = Reshape (v, apart) q2 = Transpose <perm = [0, 2, 1, 3]> (q1) "
)
BACK = "o1 = Transpose <perm = [0, 2, 1, 3]> (o0) o = Reshape (o1, back)"
PRODUCTS = "{0}0 = MatMul (x, w{0}) {0} = Add ({0}0, b{0})"
MADE = " ".join(PRODUCTS.format(name) for name in "qkv")
FORMS = {  # the same attention
    "parts": f"{MADE} {APART} k2 = Transpose <perm = [0, 2, 3, 1]> (k1) v2 = Transpose <perm = [0, 2, 1, 3]> (v1) "
    f"a = MatMul (q2, k2) s = Mul (a, half) p = Softmax (s) o0 = MatMul (p, v2) {BACK}",
    "of four dimensions": f"{MADE} {APART} k2 = Transpose <perm = [0, 2, 1, 3]> (k1) "
    f"v2 = Transpose <perm = [0, 2, 1, 3]> (v1) o0 = Attention (q2, k2, v2) {BACK}",
    "of three dimensions": f"{MADE} o = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)",
    "of onnxruntime": f"{MADE} o = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v)",
    "with its weights": "o = com.microsoft.Attention <num_heads = 2> (x, w, b)",
}


def test_attention_as_one_operator_is_pruned_and_repaired_as_its_parts_are(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    parts = {
        name: np.einsum("ihr,hrw->ihw", *(random.normal(0, 0.7, size) for size in ((INPUTS, 2, 3), (2, 3, WIDTH))))
        for name in "qkv"
    }
    weights = {f"w{name}": value.reshape(INPUTS, -1).astype(np.float32) for name, value in parts.items()}
    weights |= {f"b{name}": random.normal(0, 0.1, HEADS * WIDTH).astype(np.float32) for name in "qkv"}
    weights |= {kind: np.concatenate([weights[f"{kind}{name}"] for name in "qkv"], -1) for kind in "wb"}
    weights |= {"wo": random.normal(0, 1, (HEADS * WIDTH, 5)).astype(np.float32), "half": np.float32(WIDTH**-0.5)}
    weights |= {"apart": np.array([0, PLACES, HEADS, WIDTH]), "back": np.array([0, PLACES, HEADS * WIDTH])}
    found = {}
    for form, text in FORMS.items():
        used = {name: value for name, value in weights.items() if re.search(rf"[(, ]{name}[,)]", f"{text} (wo)")}
        header = f"(float[n,{PLACES},{INPUTS}] x) => (float[n,{PLACES},5] y)"
        onnx.save(model(f"{header} {{ {text} y = MatMul (o, wo) }}", used, 23), tmp_path / "m.onnx")
        prepared, made = half(tmp_path / "m.onnx")
        free = [group for group in prepared.graph.groups if group.frozen is None]
        lost = round(gap(prepared, replace(prepared.graph, network=made.network)), 3)
        found[form] = [
            [len(group.units) for group in free],
            {place: len(gone) for place, gone in made.removed.items()},
            lost,
        ]
    assert found["parts"][0] == [WIDTH, WIDTH]
    assert all(given == found["parts"] for given in found.values()), found
