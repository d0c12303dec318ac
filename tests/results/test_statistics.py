"""Intervals and paired tests, against other ways to compute them."""

import math

import numpy as np
import pytest
from scipy import stats

from onnxprune.common.shares import mcnemar, paired_shares
from onnxprune.results.statistics import (
    Difference,
    corrected,
    interval_over_seeds,
    mean_interval,
    paired_difference,
    repetition,
)


def test_the_interval_of_a_mean_is_students() -> None:
    values = np.array([1.0, 2.0, 4.5])
    expected = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("differences", "lost", "gained", "real"),
    [
        ([1.0, 1.1, 0.9], 20, 60, True),
        ([1.0, -1.1, 0.9], 20, 60, False),  # the seeds do not agree
        ([0.28, 0.28, 0.28], 0, 3, False),  # an image each: by luck all the same
        ([-1.0, -1.1, -0.9], 60, 20, True),
        ([5.0], 2, 20, True),
        ([0.5], 9, 11, False),
        ([5.0], None, None, False),  # of one seed and no images nothing is known
        ([1.0, 1.1, 0.9], None, None, True),
    ],
)
def test_a_difference_is_real_beyond_seeds_and_images(
    differences: list[float], lost: int | None, gained: int | None, real: bool
) -> None:
    found = paired_difference(np.array(differences), lost, gained, 360, repeated=1)
    assert found.real is real
    assert (found.mean, found.seeds) == (pytest.approx(np.mean(differences)), len(differences))
    p_values = [stats.ttest_1samp(differences, 0).pvalue] if np.ptp(differences) else []
    p_values += [] if lost is None or gained is None else [mcnemar(lost, gained)]
    assert found.p_value == pytest.approx(max(p_values, default=1.0))
    intervals = [mean_interval(np.array(differences))] if len(differences) > 1 else []
    if lost is not None and gained is not None:
        intervals.append(paired_shares(lost, gained, 360 * len(differences)))
    if intervals:
        assert (found.low, found.high) == max(intervals, key=lambda interval: interval.high - interval.low)


def test_what_cancels_out_is_no_negative_zero() -> None:
    right = 100 * np.array([[321, 320], [317, 318]]) / 360
    found = paired_difference(right[:, 1] - right[:, 0], 1, 1, 360, repeated=1)
    assert f"{found.mean:+.2f}" == "+0.00"


def test_seeds_that_agree_by_chance_tell_nothing_where_images_are_not_known() -> None:
    found = paired_difference(np.array([0.25, 0.25]), None, None, 0, repeated=2)
    assert (found.p_value, found.real) == (1.0, False)


def test_many_comparisons_are_corrected_by_holm() -> None:
    p_values = [0.012, 0.2, 0.001, 0.02, 0.026]
    found = corrected([Difference(1.0, 0.5, 1.5, 3, value, value < 0.05) for value in p_values])
    # 0.001 * 5, 0.012 * 4 and 0.02 * 3: the third one is not below 0.05, and so none after it
    assert [difference.real for difference in found] == [True, False, True, False, False]
    assert [difference.p_value for difference in found] == p_values
    assert corrected([]) == []


def test_among_equally_good_ways_a_winner_is_rarely_found() -> None:
    """Seeds that differ more than images do, as trained networks are: 30 comparisons, three seeds."""
    random, winners = np.random.default_rng(0), 0
    for _ in range(100):
        family = []
        for _ in range(30):
            points = random.normal(0, 0.5 * math.sqrt(2), 3)
            gained = np.round(300 + 50 * points).astype(int)  # of 800 discordant images of 10,000
            family.append(paired_difference(points, int((800 - gained).sum()), int(gained.sum()), 10_000, 1))
        winners += any(difference.real for difference in corrected(family))
    assert winners <= 10, "5 % of 100, and what chance adds to that"


def test_what_seeds_differ_in_on_the_same_images_is_one_observation() -> None:
    """Ways that are as good, but differ on a few images of any test set whatever the seed: new test sets each time."""
    random, images, seeds, tries = np.random.default_rng(0), 1000, 5, 400
    real, missed = 0, 0
    for _ in range(tries):
        systematic = random.choice([-1, 0, 1], images, p=[0.03, 0.94, 0.03])
        chance = random.choice([-1, 0, 1], (seeds, images), p=[0.02, 0.96, 0.02])
        shifts = np.where(systematic != 0, systematic, chance)
        lost, gained = int((shifts < 0).sum()), int((shifts > 0).sum())
        found = paired_difference(100 * shifts.mean(axis=1), lost, gained, images, repetition(shifts))
        real += found.real
        missed += not found.low <= 0 <= found.high
    assert real <= 0.07 * tries, "5 %, and what chance adds to that; 30 % if each were an image of its own"
    assert missed <= 0.07 * tries


def test_repetition_is_one_of_other_images_and_the_number_of_seeds_of_the_same() -> None:
    assert repetition(np.array([[1, -1, 0, 0], [0, 0, 1, 0]])) == 1
    assert repetition(np.array([[1, -1, 0, 0]] * 3)) == 3
    assert repetition(np.array([[1, 0], [-1, 0]])) == 1  # not less, by chance
    assert repetition(np.zeros((2, 4), int)) == 1
    same = paired_difference(np.array([1.0, 1.0, 1.0]), 3 * 5, 3 * 15, 1000, 3)
    assert same.p_value == pytest.approx(mcnemar(5, 15))
    assert (same.low, same.high) == pytest.approx(paired_shares(5, 15, 1000))


def test_the_interval_over_seeds_is_no_narrower_than_that_over_images() -> None:
    images = np.array([[95.0, 98.0], [95.2, 98.4], [95.1, 98.1]])
    assert interval_over_seeds(np.array([97.0, 97.0, 97.0]), images) == pytest.approx((95.1, 98.1666667))
    apart = np.array([90.0, 95.0, 99.0])
    assert interval_over_seeds(apart, images) == mean_interval(apart)
    assert interval_over_seeds(apart[:2], np.full((2, 2), np.nan)) == mean_interval(apart[:2])
