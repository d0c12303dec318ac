"""Recurrent layers are fitted too: what twins of lost units say is led through them."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from pruned import model

from onnxprune.graph import surgery
from onnxprune.reduction.preparation import prepare
from onnxprune.reduction.recovery import recover
from onnxprune.reduction.selection import rank_groups

STEPS, INPUTS, HIDDEN = 7, 6, 5  # the last two of half a layer: units have twins
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
RANDOM = np.random.default_rng(0)


def twins(path: Path, kind: str, directions: int, attributes: str) -> Path:
    """A layer before, a recurrent one and a layer after; each unit of the first two is there twice, and has 0.3 and 0.7
    of what reads it."""

    def random(*shape: int) -> np.ndarray:
        return RANDOM.normal(0, 0.6, shape).astype(np.float32)

    def doubled(value: np.ndarray, axis: int) -> np.ndarray:
        return np.concatenate([0.3 * value, 0.7 * value], axis).astype(np.float32)

    gates, half = GATES[kind], HIDDEN
    first, inner, outer = random(4, INPUTS), random(directions, gates * half, INPUTS), random(directions * half, 3)
    hidden, bias = random(directions, gates * half, half), random(directions, 2 * gates * half)

    def each_gate(value: np.ndarray, parts: int) -> np.ndarray:  # (directions, parts * half, ...): units twice
        return np.concatenate([np.concatenate([part, part], 1) for part in np.split(value, parts, 1)], 1)

    weights = {
        "first": np.concatenate([first, first], 1),
        "w": doubled(each_gate(inner, gates), 2),
        "r": doubled(each_gate(hidden, gates), 2),
        "b": each_gate(bias, 2 * gates),
        "last": np.concatenate([doubled(part, 0) for part in np.split(outer, directions)]),
        "shape": np.array([0, 0, -1]),
    }
    built = model(
        f"(float[n,{STEPS},4] x) => (float[n,{STEPS},3] y) {{ h = MatMul (x, first) a = Tanh (h) "
        f"t = Transpose <perm = [1, 0, 2]> (a) s = {kind} <hidden_size = {2 * half} {attributes}> (t, w, r, b) "
        "p = Transpose <perm = [2, 0, 1, 3]> (s) f = Reshape (p, shape) y = MatMul (f, last) }",
        weights,
    )
    onnx.save(built, path)
    return path


@pytest.mark.parametrize(
    ("kind", "directions", "attributes", "most"),
    [
        ("LSTM", 1, "", 0.05),
        ("LSTM", 1, ', direction = "reverse"', 0.05),
        ("LSTM", 2, ', direction = "bidirectional"', 0.05),
        ("GRU", 1, ", linear_before_reset = 1", 0.05),
        ("RNN", 1, "", 0.05),
        ("GRU", 1, "", None),  # its states are multiplied by a gate first: only the inputs are fitted
    ],
)
def test_a_twin_takes_the_part_of_the_lost_one(
    kind: str, directions: int, attributes: str, most: float | None, tmp_path: Path
) -> None:
    path = twins(tmp_path / "m.onnx", kind, directions, attributes)
    prepared = prepare(path)
    graph = prepared.graph
    keep = np.ones(graph.count, bool)
    lost = [group for group in graph.groups if group.frozen is None]
    assert sorted(len(group.units) for group in lost) == [2 * HIDDEN, 2 * INPUTS]
    for group in lost:
        for unit in group.units[: len(group.units) // 2]:
            keep[unit] = False
    shrunk = surgery.shrink(graph, keep)
    batches = [{"x": RANDOM.normal(0, 1, (16, STEPS, 4)).astype(np.float32)} for _ in range(10)]
    fitted, fits = recover(graph, keep, shrunk, batches, 2)

    def error(network: onnx.ModelProto) -> float:
        found = [
            onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(
                None, {"x": np.random.default_rng(5).normal(0, 1, (40, STEPS, 4)).astype(np.float32)}
            )[0]
            for each in (onnx.load(path), network)
        ]
        return float(np.linalg.norm(found[0] - found[1]) / np.linalg.norm(found[0]))

    before, after = (error(each.proto()) for each in (shrunk, fitted))
    assert before > 0.3, "a twin alone does not do"
    assert after < (most or before / 2)
    assert len(fits) == (2 if most is None else 3)
    assert [list(node.output) for node in fitted.nodes] == [list(node.output) for node in shrunk.nodes]


@pytest.mark.parametrize(
    ("kind", "directions", "attributes"),
    [
        ("LSTM", 2, ', direction = "bidirectional"'),
        ("GRU", 1, ", linear_before_reset = 1"),
        ("RNN", 1, ', direction = "reverse"'),
    ],
)
def test_one_of_each_pair_of_twins_goes_first_and_costs_nothing(
    kind: str, directions: int, attributes: str, tmp_path: Path
) -> None:
    graph = prepare(twins(tmp_path / "m.onnx", kind, directions, attributes)).graph
    batches = [{"x": RANDOM.normal(0, 1, (16, STEPS, 4)).astype(np.float32)} for _ in range(10)]
    rankings = rank_groups(graph, batches, "obs")
    assert len(rankings) == 2
    for ranking in rankings.values():
        pairs = len(ranking.order) // 2
        assert sorted(ranking.order[:pairs] % pairs) == list(range(pairs))
        assert ranking.loss[pairs] < 0.02 and ranking.loss[-1] > 0.3, ranking.loss


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("without", ["Squeeze (s, one)", "Reshape (s, rows)"])
def test_units_of_a_recurrent_layer_are_found_at_a_batch_of_one_too(
    batch: int, kind: str, without: str, tmp_path: Path
) -> None:
    built = model(
        f"(float[n,t,4] x) => (float[n,t,3] y) {{ h = Transpose <perm = [1, 0, 2]> (x)"
        f"s = {kind} <hidden_size = 10> (h, w, r) f = {without} p = Transpose <perm = [1, 0, 2]> (f)"
        "y = MatMul (p, last) }",
        {
            "w": (1, 10 * GATES[kind], 4),
            "r": (1, 10 * GATES[kind], 10),
            "last": (10, 3),
            "one": [1],
            "rows": [0, -1, 10],
        },
    )
    onnx.save(built, tmp_path / "m.onnx")
    groups = prepare(tmp_path / "m.onnx", {"x": (batch, 5, 4)}).graph.groups
    assert [(len(group.units), group.frozen is None) for group in groups] == [(10, True), (3, False)]
