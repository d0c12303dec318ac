"""Two operators with a ReLU between them, fitted together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import trained
from pruned import Weights, model, network, random

import onnxprune
from onnxprune.graph.network import Network
from onnxprune.reduction.pairs import Sample, firsts, fit
from onnxprune.reduction.sites import Site, sites
from onnxprune.runtime.execution import open_network, run

HELD_OUT = 2


@dataclass(frozen=True)
class Case:
    text: str
    weights: Weights
    given: tuple[int, ...]


CASES = {
    "convolutions": Case(
        "(float[n,3,9,8] x) => (float y) {"
        "a = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = Relu(a) y = Conv <pads = [0, 1, 2, 1]> (r, v, c) }",
        {"w": (4, 3, 3, 3), "b": (4,), "v": (5, 4, 3, 3), "c": (5,)},
        (3, 9, 8),
    ),
    "strides that leave a border, dilations": Case(
        "(float[n,3,12,12] x) => (float y) {"
        "a = Conv <strides = [2, 1], dilations = [1, 2]> (x, w, b) r = Relu(a)"
        'y = Conv <strides = [2, 3], auto_pad = "SAME_UPPER"> (r, v, c) }',
        {"w": (4, 3, 2, 3), "b": (4,), "v": (5, 4, 2, 2), "c": (5,)},
        (3, 12, 12),
    ),
    "a norm each, no bias": Case(
        "(float[n,3,9,9] x) => (float y) {"
        "p = Conv (x, w) a = BatchNormalization (p, g, b, m, s) r = Relu(a)"
        "q = Conv (r, v) y = BatchNormalization (q, h, c, k, t) }",
        {
            "w": (4, 3, 3, 3), "v": (5, 4, 3, 3),
            "g": np.float32([1, 2, -1, 3]), "b": (4,), "m": (4,), "s": np.float32([1, 2, 3, 4]),
            "h": np.float32([1, -2, 1, 3, 1]), "c": (5,), "k": (5,), "t": np.float32([1, 2, 3, 4, 5]),
        },
        (3, 9, 9),
    ),
    "signals": Case(
        "(float[n,3,15] x) => (float y) { a = Conv (x, w, b) r = Relu(a) y = Conv <strides = [3]> (r, v, c) }",
        {"w": (4, 3, 2), "b": (4,), "v": (5, 4, 4), "c": (5,)},
        (3, 15),
    ),
    "matrix products": Case(
        "(float[n,6] x) => (float y) {"
        "p = MatMul(x, w) a = Add(p, b) r = Relu(a) y = Gemm <transB = 1> (r, v, c) }",
        {"w": (6, 5), "b": (5,), "v": (3, 5), "c": (3,)},
        (6,),
    ),
}  # fmt: skip


def pair_of(built: Network) -> tuple[Site, Site]:
    every = sites(built)
    ((second, first),) = firsts(built, every).items()
    return first, next(site for site in every if site.node == second)


def answers(built: Network, x: np.ndarray) -> np.ndarray:
    with open_network(built) as session:
        return run(session, {"x": x})["y"]


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(
    ("name", "sizes"), [*((name, range(16, 10, -1)) for name in CASES), ("matrix products", [1] * 48)]
)
def test_weights_that_are_a_little_wrong_in_both_are_put_right(
    name: str, sizes: Sequence[int], rectified: bool
) -> None:
    """In batches of these sizes: one of a single row tells nothing of the variance by itself."""
    case = CASES[name]
    right, wrong = (network(model(case.text, case.weights)) for _ in range(2))
    first, second = pair_of(wrong)
    for seed, site in enumerate((first, second)):
        weights = site.matrix(wrong)
        noise = np.random.default_rng(seed).normal(0, 0.1 * weights.std(), weights.shape)
        site.write(wrong, wrong.nodes, weights + noise, site.offset(wrong)[None] + 0.1)
    samples = []
    for seed, size in enumerate(sizes):
        x = random(size, *case.given, seed=seed)
        wanted = answers(right, x)
        samples.append(Sample(x, wanted, random(*wanted.shape, seed=99) if rectified else None))

    def error() -> float:
        gaps = []
        for sample in samples[-HELD_OUT:]:
            found, wanted = answers(wrong, sample.x), sample.wanted
            if sample.beside is not None:
                found, wanted = (np.maximum(value + sample.beside, 0) for value in (found, wanted))
            gaps.append(float(np.square(found - wanted).sum()))
        return sum(gaps)

    before = error()
    after = fit(wrong, first, second, samples, HELD_OUT, 100)
    assert after is not None
    assert error() < 0.02 * before
    targets = [s.wanted if s.beside is None else np.maximum(s.wanted + s.beside, 0) for s in samples[-HELD_OUT:]]
    rows = np.concatenate([np.moveaxis(value, 1, -1).reshape(-1, value.shape[1]) for value in targets])
    variance = float(np.square(rows - rows.mean(0)).sum())
    assert after == pytest.approx(error() / variance, rel=0.05, abs=1e-6)


def test_what_does_not_help_on_held_out_samples_is_left_alone() -> None:
    case = CASES["matrix products"]
    built = network(model(case.text, case.weights))
    first, second = pair_of(built)
    samples = [Sample(x, answers(built, x), None) for x in (random(2, 6, seed=seed) for seed in range(3))]
    samples[0] = Sample(samples[0].x, samples[0].wanted + 5, None)  # says something else than the one held out
    before = built.proto().SerializeToString()
    assert fit(built, first, second, samples, 2, 20) is None
    assert built.proto().SerializeToString() == before


@pytest.mark.parametrize(
    "text",
    [
        "(float[n,6] x) => (float y, float r) { a = Gemm(x, w, b) r = Relu(a) y = Gemm(r, v, c) }",
        "(float[n,6] x) => (float y, float z) { a = Gemm(x, w, b) r = Relu(a) y = Gemm(r, v, c) z = Abs(r) }",
        "(float[n,6] x) => (float y, float z) { a = Gemm(x, w, b) r = Relu(a) y = Gemm(r, v, c) z = Abs(a) }",
        "(float[n,6] x) => (float y) { a = Gemm(x, w, b) r = Tanh(a) y = Gemm(r, v, c) }",
    ],
)
def test_what_others_read_too_makes_no_pair(text: str) -> None:
    built = network(model(text, {"w": (6, 5), "b": (5,), "v": (5, 3), "c": (3,)}))
    assert not firsts(built, sites(built))


def test_prune_comes_nearer_to_the_original_with_pairs_and_the_same_bytes_again(tmp_path: Path) -> None:
    path = trained.mlp(tmp_path / "mlp.onnx", author="somebody", accuracy="97.5", mean="[0.0]", std="[1.0]")
    found = {}
    for name, recovery in {"alone": ("ridge",), "pairs": ("ridge", "pairs"), "again": ("ridge", "pairs")}.items():
        output = tmp_path / f"{name}.onnx"
        how = {"sparsity": 60, "data": trained.unlabelled(), "latency": False, "channel_align": 1}
        found[name] = onnxprune.prune(path, recovery=recovery, output=output, **how)  # type: ignore[arg-type]
    assert found["pairs"].recovered["pairs"] == 2
    assert "pairs" not in found["alone"].recovered
    errors = {name: report.fidelity.relative_error for name, report in found.items() if report.fidelity is not None}
    assert errors["pairs"] < 0.9 * errors["alone"]
    assert onnx.load(tmp_path / "pairs.onnx") == onnx.load(tmp_path / "again.onnx")
