"""Damaged files through pruning: a result or one line, in time, in bounded memory, never a crash."""

import random
from pathlib import Path

import fuzz
import numpy as np
import onnx
import pytest
from pruned import model

SOURCES = {
    "residual": (
        """(float[n,3,6,6] x) => (float[n,4] y) {
        a = Conv <pads = [1,1,1,1]> (x, wa)
        b = BatchNormalization (a, s, o, m, v) r = Relu (b)
        c = Conv <pads = [1,1,1,1], group = 8> (r, wc) t = Add (c, r) u, k = Split <axis = 1> (t, sizes)
        q = Concat <axis = 1> (k, u) g = GlobalAveragePool (q) f = Flatten (g) y = Gemm <transB = 1> (f, wy) }""",
        {
            "wa": (8, 3, 3, 3), "s": (8,), "o": (8,), "m": (8,), "v": np.ones(8, np.float32), "wc":
        (8, 1, 3, 3), "sizes": [4, 4],
            "wy": (4, 8),
        },
    ),
    "attention": (
        """(float[n,5,8] x) => (float[n,5,8] y) {
        q0 = MatMul (x, wq) k0 = MatMul (x, wk) v0 = MatMul (x, wv) q1 = Reshape (q0, heads) k1 = Reshape (k0, heads)
        v1 = Reshape (v0, heads) q = Transpose <perm = [0,2,1,3]> (q1) k = Transpose <perm = [0,2,3,1]> (k1)
        v = Transpose <perm = [0,2,1,3]> (v1) s = MatMul (q, k) p = Softmax (s) o0 = MatMul (p, v)
        o1 = Transpose <perm = [0,2,1,3]> (o0) o = Reshape (o1, flat) z = MatMul (o, wo) y = Add (z, x) }""",
        {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "wo": (8, 8), "heads": [0, 5, 2, 4], "flat": [0, 5, 8]},
    ),
    "recurrent": (
        """(float[4,2,6] x) => (float[2,3] y) {
        h = MatMul (x, wi) r = Relu (h) a, b = LSTM <hidden_size = 5> (r, w, u) s = Squeeze (b, zero)
        y = MatMul (s, wy) }""",
        {"wi": (6, 8), "w": (1, 20, 8), "u": (1, 20, 5), "zero": [0], "wy": (5, 3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("number", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_mutants_end_in_a_result_or_one_line(number: int, tmp_path: Path) -> None:
    rng = random.Random(number)
    sources = []
    for name, (text, weights) in SOURCES.items():
        onnx.save(model(text, weights), tmp_path / f"{name}.onnx")
        sources.append(tmp_path / f"{name}.onnx")
    whole = list(fuzz.outcomes(sources, "prune"))
    assert [row[1] for row in whole] == ["ok"] * len(sources), whole
    if number > 100:
        sources += [file for file in fuzz.foreign_files() if file.stat().st_size < 300_000]
    mutants = [tmp_path / f"{index}.onnx" for index in range(number)]
    for mutant in mutants:
        source = sources[rng.randrange(3)] if rng.random() < 0.7 else rng.choice(sources)
        mutant.write_bytes(fuzz.mutate(source.read_bytes(), rng))
    rows = list(fuzz.outcomes(mutants, "prune"))
    assert [row for row in rows if row[1] not in ("ok", "refused")] == []
    assert all("\n" not in row[2] for row in rows)
    assert {row[1] for row in rows} == {"ok", "refused"}
