"""Heads of attention are turned so that what can go is in the same channels of all, and compute what they did."""

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
from onnxprune.reduction.units import UnitPruning
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


def test_half_of_each_head_goes_where_half_says_nothing(tmp_path: Path) -> None:
    prepared = attention(tmp_path / "m.onnx")
    samples = read_samples(DATA, prepared.source, None, count=256)  # type: ignore[arg-type]
    settings = PruneSettings(sparsity=50, recovery=("ridge",)).resolved(True)
    made = UnitPruning(tmp_path / "m.onnx", prepared, settings, samples, lambda *_: None).outcome()
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


def test_a_channel_of_scores_is_judged_by_what_it_adds_to_them(tmp_path: Path) -> None:
    """Not by queries or keys alone: the first channel has large queries, and keys of nothing."""
    weights = {"wq": RANDOM.normal(0, 1, (INPUTS, 4)), "wk": RANDOM.normal(0, 1, (INPUTS, 4))}
    weights["wq"][:, 0] *= 10
    weights["wk"][:, 0] *= 0.001
    built = model(
        f"(float[n,{PLACES},{INPUTS}] x) => (float[n,{PLACES},{PLACES}] y) {{ q = MatMul (x, wq) k = MatMul (x, wk) "
        "t = Transpose <perm = [0, 2, 1]> (k) a = MatMul (q, t) y = Softmax (a) }",
        {name: value.astype(np.float32) for name, value in weights.items()},
    )
    onnx.save(built, tmp_path / "m.onnx")
    (ranking,) = rank_groups(prepare(tmp_path / "m.onnx").graph, [DATA], "obs").values()
    assert ranking.order[0] == 0
    assert ranking.loss[1] < 1e-3 < 0.05 < ranking.loss[2]
