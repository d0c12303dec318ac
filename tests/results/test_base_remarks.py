"""Bases that fine-tuning alone makes better or worse are said to be so."""

from typing import Any

import pandas as pd
import pytest

from onnxprune.results.base_remarks import dead_units, gain_of_control, remark_on_control


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
