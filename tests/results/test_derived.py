"""Columns of the table that follow from other rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import finish

from onnxprune.common.files import make_folder, write_text
from onnxprune.common.shares import mcnemar, paired_shares, wilson
from onnxprune.results import derived, store
from onnxprune.results.seeds import change
from onnxprune.results.tables import result_table, write_tables
from onnxprune.results.timings import remarks
from onnxprune.settings.point import Point
from onnxprune.settings.sweep import Sweep

IMAGES = 40


def sweep_of(runs: Path, **settings: Any) -> tuple[Path, list[Point]]:
    plan = Sweep.parse({"name": "study", "model": "cnn", "dataset": "digits", **settings})
    folder = make_folder(runs / "study")
    write_text(folder / store.SPEC, plan.to_toml())
    return folder, plan.points


def made(folder: Path, point: Point, wrong: range, **changes: Any) -> Path:
    """A finished point that gets these images wrong."""
    path = finish(folder, point)
    right = ~np.isin(np.arange(IMAGES), wrong)
    store.write_right(path, right)
    record = store.finished_record(path) or {}
    record["metrics"] |= {"test_images": IMAGES, "accuracy": 100 * float(right.mean()), **changes}
    store.finish(path, record)
    return path


def test_a_row_is_compared_with_its_control_image_by_image(tmp_path: Path) -> None:
    folder, (dense, pruned) = sweep_of(tmp_path, technique="weight", sparsity=[0, 50])
    control = made(folder, dense, range(4))
    path = made(folder, pruned, range(3, 12), base_accuracy=80.0)
    table = write_tables(folder).set_index("sparsity")
    row = table.loc[50]
    assert row["control_point"] == control.name
    assert (row["control_accuracy"], row["accuracy"]) == (90, 77.5)
    assert row["accuracy_change"] == -12.5
    assert (row["images_lost"], row["images_gained"]) == (8, 3)
    assert row["accuracy_change_p_value"] == pytest.approx(mcnemar(8, 3))
    assert (row["accuracy_change_low"], row["accuracy_change_high"]) == pytest.approx(paired_shares(8, 3, IMAGES))
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx(wilson(31, IMAGES))
    assert (row["base_accuracy_low"], row["base_accuracy_high"]) == pytest.approx(wilson(32, IMAGES))
    own = ("accuracy_change", "accuracy_change_low", "accuracy_change_high", "images_lost", "images_gained")
    assert [table.loc[0, name] for name in own] == [0] * 5
    pd.testing.assert_frame_equal(result_table(folder).set_index("sparsity"), table)  # from the derived file
    (path / store.RIGHT).write_bytes((path / store.RIGHT).read_bytes()[:-1] + b"\x00")
    made(folder, dense, range(5))  # so that the pair is looked at again
    damaged = result_table(folder).set_index("sparsity").loc[50]
    assert damaged["accuracy_change"] == 77.5 - 87.5
    assert damaged[["images_lost", "images_gained", "accuracy_change_p_value", "accuracy_change_low"]].isna().all()


def test_what_is_right_is_believed_only_with_the_accuracy_in_the_record(tmp_path: Path) -> None:
    folder, (point,) = sweep_of(tmp_path, technique="weight", sparsity=[0])
    path = made(folder, point, range(7))
    found = store.right_images(path)
    assert found is not None
    assert (~found).nonzero()[0].tolist() == [*range(7)]
    assert (path / store.RIGHT).stat().st_size < 200
    made(folder, point, range(7), accuracy=50.0)
    assert store.right_images(path) is None


def test_what_is_trained_from_scratch_is_compared_with_what_is_too(tmp_path: Path) -> None:
    folder, points = sweep_of(tmp_path, technique="weight", control="none,random,scratch", sparsity=[0, 50])
    wrong = {
        ("none", 0): 4,
        ("none", 50): 6,
        ("random", 0): 4,
        ("random", 50): 9,
        ("scratch", 0): 8,
        ("scratch", 50): 7,
    }
    for point in points:
        made(folder, point, range(wrong[point.control, point.sparsity]))
    table = result_table(folder).set_index(["control", "sparsity"])
    assert table["accuracy_change"].to_dict() == {
        ("none", 0): 0, ("none", 50): -5, ("random", 0): 0, ("random", 50): -12.5, ("scratch", 0): 0,
        ("scratch", 50): 2.5,
    }  # fmt: skip
    alone = result_table(folder).query("control != 'scratch' or sparsity > 0")
    assert derived.control_rows(alone)[(alone["control"] == "scratch").to_numpy()].isna().all()


def test_the_control_is_of_the_same_training_and_seed(tmp_path: Path) -> None:
    settings = {"technique": "weight,structured", "schedule": "one-shot,agp", "control": "none,random"}
    folder, points = sweep_of(tmp_path, **{**settings, "schedule": "one-shot"}, seeds=2, sparsity=[0, 50])
    for point in points:
        if not (point.technique == "structured" and point.sparsity == 0):
            made(folder, point, range(point.seed + 1))
    agp = Sweep.parse({"model": "cnn", "dataset": "digits", "schedule": "agp", "technique": "weight", "sparsity": 50})
    made(folder, agp.points[0], range(3))
    rows = result_table(folder).set_index(["schedule", "technique", "control", "sparsity", "seed"])
    for seed in (0, 1):
        dense = rows.loc["one-shot", "weight", "none", 0, seed]
        for technique in ("weight", "structured"):  # without a 0 % of its own, another's of the same training
            for control in ("none", "random"):
                assert rows.loc["one-shot", technique, control, 50, seed]["control_point"] == dense["folder"]
    alone = rows.loc["agp", "weight", "none", 50, 0]
    assert alone[["control_point", "control_accuracy", "accuracy_change", "images_lost"]].isna().all()


def test_latencies_of_other_moments_are_brought_to_one(tmp_path: Path) -> None:
    folder, points = sweep_of(tmp_path, technique="structured", sparsity=[0, 50, 80])
    timed = [(1.0, 1.0), (4.0, 2.0), (1.2, 4.0)]  # the machine was busy once
    for point, (base, speedup) in zip(points, timed, strict=True):
        made(folder, point, range(1), base_latency_ms_median=base, latency_ms_median=base / speedup, speedup=speedup)
    table = result_table(folder)
    assert table["latency_ms_paired"].tolist() == pytest.approx([1.2, 0.6, 0.3])
    assert table["latency_ms_median"].tolist() == pytest.approx([1.0, 2.0, 0.3])
    (said,) = remarks(table)
    assert said.startswith("The base's latency was 1.000 to 4.000 ms over the sweep, a range of 250 % of its median")
    twice = pd.concat([table, table.assign(model="slp", base_macs=1)])
    assert [text.partition(" was")[0] for text in remarks(twice)] == [
        f"The base's latency (model {model})" for model in (table["model"][0], "slp")
    ]


def test_a_busy_machine_and_speedups_beyond_theory_are_said(tmp_path: Path) -> None:
    folder, points = sweep_of(tmp_path, technique="structured", sparsity=[0, 50])
    for point in points:
        made(folder, point, range(1), timing_disturbed=None, timing_load_average=0.5, speedup_beyond_theory=False)
    assert remarks(result_table(folder)) == []
    busy = {"timing_disturbed": "a loud neighbour", "timing_load_average": 7.25, "speedup_beyond_theory": True}
    made(folder, points[1], range(1), **busy)
    disturbed, beyond = remarks(result_table(folder))
    assert "1 of 2 points: a loud neighbour (load average up to 7.2)" in disturbed
    assert "Beyond theory: 1 of 2 speedups are higher" in beyond, "marks are of one table alone"


def test_of_several_disturbed_timings_the_worst_is_named(tmp_path: Path) -> None:
    folder, points = sweep_of(tmp_path, technique="structured", sparsity=[0, 50, 80])
    for point, cores in zip(points, (1.4, 1.7, 1.4), strict=True):
        busy = f"other processes kept {cores} of 2 cores busy"
        made(folder, point, range(1), timing_disturbed=busy, timing_other_cores=cores)
    table = result_table(folder)
    (said,) = remarks(table.assign(timing_load_average=pd.NA))  # Windows has none
    assert "3 of 3 points, at worst: other processes kept 1.7 of 2 cores busy. `onnxprune" in said


def test_a_smaller_network_that_is_slower_beyond_noise_is_said(tmp_path: Path) -> None:
    folder, points = sweep_of(tmp_path, technique="structured", sparsity=[0, 20, 50])
    for point, macs, speedup in zip(points, (100, 70, 40), (0.8, 0.97, 2.0), strict=True):
        made(folder, point, range(1), macs=macs, base_macs=100, speedup=speedup, speedup_noise=0.05)
    assert remarks(result_table(folder)) == [], "as large, within noise, and faster"
    made(folder, points[1], range(1), macs=70, base_macs=100, speedup=0.81, speedup_noise=0.05)
    (said,) = remarks(result_table(folder))
    assert said.startswith("Smaller and slower: 1 of 3 points have fewer MACs than the base and take longer (0.81x")
    assert "--channel-align auto" in said


def test_a_control_does_not_differ_from_itself_whatever_the_seeds(tmp_path: Path) -> None:
    folder, points = sweep_of(tmp_path, technique="weight", sparsity=[0, 50], seeds=3)
    for point in points:
        made(folder, point, range(2 + point.seed + (point.sparsity > 0)))
    table = result_table(folder)
    dense, pruned = (change(table[table["sparsity"] == sparsity]) for sparsity in (0, 50))
    assert dense is not None and tuple(dense) == (0.0, 0.0, 0.0, 3, 1.0, False)
    assert pruned is not None and pruned.mean == pytest.approx(-100 / IMAGES)
    assert pruned.low < pruned.mean < pruned.high
