"""Damaged files through pruning: a result or one line, in time, in bounded memory, never a crash."""

import random
from pathlib import Path

import fuzz
import onnx
import pytest
from pruned import KINDS, model


@pytest.mark.parametrize("number", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_mutants_end_in_a_result_or_one_line(number: int, tmp_path: Path) -> None:
    rng = random.Random(number)
    sources = []
    for name, (text, weights) in KINDS.items():
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
