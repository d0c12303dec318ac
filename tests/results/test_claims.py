"""Which way to prune is better: never one inside noise."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from onnxprune.results.claims import between_ways, beyond_controls, sentences

IMAGES = 400


class Rows:
    """A table of made-up rows, and which images each gets right."""

    def __init__(self) -> None:
        self.right: dict[str, np.ndarray] = {}
        self.rows: list[dict[str, Any]] = []

    def add(self, technique: str, seed: int, right: np.ndarray, **changes: Any) -> None:
        folder = f"point{len(self.rows)}"
        self.right[folder] = right
        usual = {
            "model": "cnn", "dataset": "digits", "batch_size": 32, "technique": technique, "criterion": "l1",
            "schedule": "one-shot", "granularity": None, "control": "none", "sparsity": 50.0, "seed": seed,
            "accuracy": 100 * right.mean(), "test_images": len(right), "collapsed": False, "folder": folder,
            "network_id": folder,
        }  # fmt: skip
        self.rows.append({**usual, **changes})

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows).convert_dtypes()


def drawn(seed: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random(IMAGES) < share


def test_a_better_one_is_told_with_its_interval() -> None:
    found = Rows()
    for seed in range(3):
        found.add("weight", seed, drawn(seed, 0.95))
        found.add("structured", seed, drawn(100 + seed, 0.80))
    (claim,) = between_ways(found.table, found.right.get)
    accuracy = found.table.pivot(index="seed", columns="technique", values="accuracy").astype(float)
    assert claim.difference.mean == pytest.approx((accuracy["weight"] - accuracy["structured"]).mean())
    assert claim.difference.real
    (line,) = sentences([claim])
    assert line.startswith("cnn on digits, batch 32: weight l1 against structured l1: better at 50 % (+")


def test_what_rests_on_fewer_seeds_than_the_rest_says_so() -> None:
    """As where a point failed, or is not run yet: one seed has McNemar's test alone."""
    found = Rows()
    for sparsity, seeds in ((20.0, 2), (50.0, 1), (80.0, 1)):
        for seed in range(seeds):
            found.add("weight", seed, drawn(seed, 0.95), sparsity=sparsity)
            found.add("structured", seed, drawn(100 + seed, 0.95 if sparsity == 80 else 0.5), sparsity=sparsity)
    found.add("weight", 1, drawn(1, 0.95))  # without its partner
    (line,) = sentences(between_ways(found.table, found.right.get))
    assert "better at 50 % of 1 seed (+" in line
    assert "80 % of 1 seed" in line.partition("within noise at ")[2]
    assert "20 % of" not in line


def test_there_is_no_winner_inside_noise() -> None:
    """Ways that differ by chance alone, at many sparsities."""
    found = Rows()
    for number in range(40):
        for seed in range(3):
            for technique in ("weight", "structured", "neuron"):
                found.add(technique, seed, drawn(1000 * number + len(found.rows), 0.9), sparsity=1.0 + number)
    claims = between_ways(found.table, found.right.get)
    assert len(claims) == 3 * 40
    assert not [claim for claim in claims if claim.difference.real]
    assert all("within noise at 1 %, 2 %" in line for line in sentences(claims))


def test_the_same_network_and_two_that_have_collapsed_are_no_comparison() -> None:
    found = Rows()
    for sparsity, changes in ((0.0, {"network_id": "dense"}), (100.0, {"collapsed": True})):
        for technique in ("weight", "structured"):
            found.add(technique, 0, drawn(1, 0.5), sparsity=sparsity, **changes)
    assert between_ways(found.table, found.right.get) == []


def test_where_nothing_was_pruned_no_way_is_better() -> None:
    found = Rows()
    for sparsity in (0.0, 50.0):
        found.add("weight", 0, drawn(0, 0.95), sparsity=sparsity)
        found.add("structured", 0, drawn(1, 0.5), sparsity=sparsity)
    assert [claim.sparsity for claim in between_ways(found.table, found.right.get)] == [50.0]


def test_batch_sizes_are_not_mixed() -> None:
    found = Rows()
    found.add("weight", 0, drawn(0, 0.95), batch_size=32)
    found.add("structured", 0, drawn(1, 0.5), batch_size=256)
    assert between_ways(found.table, found.right.get) == []


def test_parts_of_the_curve_that_are_beyond_the_controls_are_named() -> None:
    found = Rows()
    for seed in range(3):
        for sparsity, share in ((50.0, 0.9), (90.0, 0.6)):
            found.add("weight", seed, drawn(seed, 0.9), sparsity=sparsity)
            found.add("weight", seed, drawn(10 + seed, share), sparsity=sparsity, control="random")
    (line,) = sentences(beyond_controls(found.table, found.right.get))
    assert "weight l1 against weight l1 by random: better at 90 % (+" in line
    assert line.endswith("within noise at 50 %")


def test_what_finds_its_own_sparsity_is_not_compared_at_what_was_asked() -> None:
    rows = Rows()
    for seed in range(3):
        rows.add("weight", seed, drawn(seed, 0.9))
        rows.add("structured", seed, drawn(10 + seed, 0.5))
    assert len(between_ways(rows.table, rows.right.get)) == 1
    rows.rows[1::2] = [{**row, "schedule": "adaptive"} for row in rows.rows[1::2]]
    assert between_ways(rows.table, rows.right.get) == []
