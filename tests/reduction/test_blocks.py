"""Each group of a convolution loses the channels that matter least to it, wherever they are in it."""

from pathlib import Path

import numpy as np
import onnx
from pruned import model

from onnxprune.reduction.blocks import ordered
from onnxprune.reduction.preparation import Prepared, difference, prepare
from onnxprune.reduction.samples import read_samples
from onnxprune.reduction.settings import PruneSettings
from onnxprune.reduction.units import UnitPruning
from onnxprune.runtime.execution import open_network, run

GROUPS, PLACES = 3, 4
RANDOM = np.random.default_rng(0)
DATA = {"x": RANDOM.normal(0, 1, (64, 5, 6, 6)).astype(np.float32)}


def network(path: Path, slope: str = "ra = Relu (na)") -> Prepared:
    """Two channels of each group say nothing: others in every group, on both sides of the grouped convolution."""
    channels = GROUPS * PLACES
    weights = {name: RANDOM.normal(0, 0.5, shape).astype(np.float32) for name, shape in SHAPES.items()}
    quiet = np.concatenate([PLACES * group + RANDOM.permutation(PLACES)[:2] for group in range(GROUPS)])
    silent = np.concatenate([PLACES * group + RANDOM.permutation(PLACES)[:2] for group in range(GROUPS)])
    weights["wb"] = weights["wb"].reshape(channels, PLACES, 3, 3)
    for channel in quiet:
        weights["wb"][channel // PLACES * PLACES : (channel // PLACES + 1) * PLACES, channel % PLACES] *= 1e-3
    weights["wc"][:, silent] *= 1e-3
    weights["v"] = np.square(weights["v"]) + 0.5
    weights["slopes"] = np.abs(weights["slopes"])
    built = model(
        "(float[n,5,6,6] x) => (float[n,4] y) { a = Conv (x, wa, ba) na = BatchNormalization (a, s, o, m, v) "
        f"{slope} b = Conv <group = {GROUPS}, pads = [1,1,1,1]> (ra, wb, bb) rb = Relu (b) "
        "c = Conv (rb, wc) g = GlobalAveragePool (c) y = Flatten (g) }",
        weights,
    )
    onnx.save(built, path)
    return prepare(path)


SHAPES = {
    "wa": (12, 5, 1, 1), "ba": (12,), "s": (12,), "o": (12,), "m": (12,), "v": (12,), "slopes": (12, 1, 1),
    "wb": (12, 4, 3, 3), "bb": (12,), "wc": (4, 12, 1, 1),
}  # fmt: skip


def gap(prepared: Prepared, changed: object) -> float:
    with open_network(changed) as session:  # type: ignore[arg-type]
        return difference(prepared.outputs, run(session, prepared.feed))


def test_half_of_each_group_goes_where_half_says_nothing(tmp_path: Path) -> None:
    for slope in ("ra = Relu (na)", "ra = PRelu (na, slopes)"):
        prepared = network(tmp_path / "m.onnx", slope)
        samples = read_samples(DATA, prepared.source, None, count=64)  # type: ignore[arg-type]
        settings = PruneSettings(sparsity=50, recovery=("bias",)).resolved(True)
        made = UnitPruning(tmp_path / "m.onnx", prepared, settings, samples, lambda *_: None).outcome()
        assert [len(units) for units in made.removed.values()] == [2, 2]
        assert gap(prepared, made.network) < 0.02


def test_channels_in_another_order_compute_what_they_did(tmp_path: Path) -> None:
    prepared = network(tmp_path / "m.onnx")
    graph = ordered(prepared.graph, [DATA])
    assert gap(prepared, graph.network) < 1e-6
    weights = next(value for value in graph.network.weights.values() if value.shape == (12, 4, 3, 3))
    assert np.abs(weights[:, :2]).max() < 0.01 < 0.1 < np.abs(weights[:, 2:]).max((0, 2, 3)).min()


def test_a_convolution_may_read_channels_of_several_tensors_in_each_group(tmp_path: Path) -> None:
    """As after a channel shuffle of what is concatenated; half of what a group reads of either says nothing."""
    weights = {name: RANDOM.normal(0, 0.5, shape).astype(np.float32) for name, shape in SHUFFLED.items()}
    of_first = np.array([1, 1, 0, 0, 1, 1, 0, 0], bool)
    silent = np.array([[1, 0, 1, 0, 0, 1, 0, 1], [0, 1, 1, 0, 1, 0, 0, 1]], bool)
    weights["wg"].reshape(2, 4, 8)[:] *= np.where(silent, 1e-3, 1)[:, None]
    text = """(float[n,5,6,6] x) => (float[n,4] y) { a = Conv (x, wa) ra = Relu (a) b = Conv (x, wb) rb = Relu (b)
        t = Concat <axis = 1> (ra, rb) p = Reshape (t, split) q = Transpose <perm = [0,2,1,3,4]> (p)
        u = Reshape (q, whole) g = Conv <group = 2> (u, wg) rg = Relu (g) c = Conv (rg, wc)
        m = GlobalAveragePool (c) y = Flatten (m) }"""
    onnx.save(model(text, {**weights, "split": [-1, 4, 4, 6, 6], "whole": [-1, 16, 6, 6]}), tmp_path / "m.onnx")
    prepared = prepare(tmp_path / "m.onnx")
    graph = ordered(prepared.graph, [DATA])
    assert gap(prepared, graph.network) < 1e-6
    (wg,) = (value for value in graph.network.weights.values() if value.shape == (8, 8, 1, 1))
    quiet = np.abs(wg).reshape(2, 4, 8).max(1) < 0.01
    assert (quiet[0] == quiet[1]).all() and quiet[0, of_first].sum() == quiet[0, ~of_first].sum() == 2


SHUFFLED = {"wa": (8, 5, 1, 1), "wb": (8, 5, 1, 1), "wg": (8, 8, 1, 1), "wc": (4, 8, 1, 1)}
