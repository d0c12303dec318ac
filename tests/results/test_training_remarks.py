"""Bases that fine-tuning alone makes better or worse are said to be so."""

from typing import Any

import pandas as pd
import pytest

from onnxprune.results.training_remarks import (
    dead_units,
    gain_of_control,
    remark_on_control,
    remark_on_finetuning,
    training_remarks,
)


def rows(controls: list[float], bases: list[float], images: int = 10_000, **changes: Any) -> pd.DataFrame:
    """The 0 % control of each base, and a pruned point that is far better, which does not count."""
    found = []
    for seed, (accuracy, base) in enumerate(zip(controls, bases, strict=True)):
        same = {"base_accuracy": base, "base_id": f"base{seed}", "test_images": images, "control": "none"}
        same |= {"schedule": "one-shot", **changes}
        found += [{**same, "sparsity": 0.0, "accuracy": accuracy}, {**same, "sparsity": 50.0, "accuracy": 99.0}]
    return pd.DataFrame(found)


@pytest.mark.parametrize(
    ("controls", "bases", "images", "gain"),
    [
        ([92.5], [90.0], 10_000, 2.5),
        ([90.9], [90.0], 10_000, 0.9),  # less than a point, but beyond the interval of 0.82
        ([90.7], [90.0], 10_000, None),
        ([91.1], [90.0], 100, 1.1),  # more than a point, whatever the interval
        ([90.9], [90.0], 100, None),
        ([93.0, 89.0], [90.0, 91.0], 10_000, None),  # by the mean over seeds
        ([88.0], [90.0], 10_000, -2.0),
        ([89.05], [90.0], 10_000, None),  # worse, by less than a point
        ([88.5], [90.0], 100, None),  # worse by what may be chance
    ],
)
def test_when_the_control_is_not_as_good_as_the_base(
    controls: list[float], bases: list[float], images: int, gain: float | None
) -> None:
    found = gain_of_control(rows(controls, bases, images))
    assert found is None if gain is None else found == pytest.approx(gain)
    assert (remark_on_control(rows(controls, bases, images)) is None) == (gain is None)


def test_it_is_said_by_how_much_it_is_worse_and_what_to_do() -> None:
    said = remark_on_control(rows([88.0], [90.0]))
    assert said is not None
    assert "2.00 points worse" in said
    assert "--finetune-learning-rate" in said


def test_it_is_said_by_how_much_it_is_better_and_what_to_do() -> None:
    said = remark_on_control(rows([92.5], [90.0]))
    assert said is not None
    assert "2.50 points better" in said
    assert "--updates" in said


def test_a_schedule_that_does_not_go_on_from_the_base_says_nothing_of_it() -> None:
    assert remark_on_control(rows([95.0], [90.0], schedule="at-init")) is None
    assert remark_on_control(rows([95.0], [90.0], control="scratch")) is None


def test_dead_units_of_bases_that_are_known() -> None:
    assert dead_units(rows([90.0], [90.0])) == 0
    assert dead_units(rows([90.0], [90.0]).assign(base_dead_units=[3, None])) == 3


def finetuned(*points: dict[str, Any], images: int = 10_000, **changes: Any) -> pd.DataFrame:
    same = {"technique": "weight", "criterion": "l1", "test_images": images, "schedule": "one-shot", "control": "none"}
    same |= {"granularity": "unit", "channel_align": 8, "seed": 0, "base_id": "b", "base_accuracy": 90.0, **changes}
    return pd.DataFrame([{**same, **point} for point in points])


def point(sparsity: float, before: float, after: float, seed: int = 0) -> dict[str, Any]:
    return {"sparsity": sparsity, "before_finetuning_accuracy": before, "accuracy": after, "seed": seed}


def test_it_is_said_how_many_networks_fine_tuning_made_worse() -> None:
    table = finetuned(point(0, 90, 80), point(50, 90, 89.5), point(80, 85, 83), point(90, 80, 60), point(95, 50, 70))
    said = remark_on_finetuning(table)
    assert said is not None
    assert said.startswith(
        "fine-tuning made 2 of 4 pruned networks worse than they were before, weight l1 90 % by 20.00 "
    )
    assert "--finetune-learning-rate" in said
    assert said in training_remarks(table)
    assert remark_on_finetuning(table[table["sparsity"].isin((0, 50, 95))]) is None


def test_of_what_is_not_fine_tuned_nothing_is_said_and_a_control_is_named() -> None:
    others = [{**point(90, 80, 10), "control": "scratch"}, {**point(90, 80, 10), "schedule": "at-init"}]
    assert remark_on_finetuning(finetuned(*others)) is None
    chance = {**point(90, 20, 12), "control": "random"}
    said = remark_on_finetuning(finetuned(point(90, 80, 85), chance, *others))
    assert said is not None
    assert "made 1 of 2 pruned networks worse than they were before, weight l1, random, 90 % by 8.00 points" in said


@pytest.mark.parametrize(
    ("points", "images", "loss"),
    [
        ([point(90, 80, 78.5)], 10_000, "1.50"),
        ([point(90, 80, 78.5)], 100, None),  # may be chance
        ([point(90, 80, 79.5)], 1_000_000, None),  # less than a point
        ([point(90, 80, 77, seed=0), point(90, 80, 82, seed=1)], 10_000, None),  # by the mean over seeds
        ([point(90, 80, 72, seed=0), point(90, 80, 82, seed=1)], 10_000, "3.00"),
    ],
)
def test_a_network_is_worse_beyond_a_point_and_the_interval(
    points: list[dict[str, Any]], images: int, loss: str | None
) -> None:
    said = remark_on_finetuning(finetuned(*points, images=images))
    assert said is None if loss is None else said and f"the pruned network {loss} points worse" in said


def test_fidelity_has_points_too() -> None:
    table = finetuned(point(90, float("nan"), float("nan")), fidelity=60.0, before_finetuning_fidelity=80.0)
    said = remark_on_finetuning(table)
    assert said is not None and "20.00 points worse" in said
