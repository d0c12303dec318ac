"""Intervals and paired tests, against other ways to compute them."""

import math

import numpy as np
import pytest
from scipy import stats

from onnxprune.results.statistics import (
    Difference,
    corrected,
    mcnemar,
    mean_interval,
    paired_difference,
    paired_shares,
    wilson,
)


@pytest.mark.parametrize(("right", "images"), [(0, 10), (351, 360), (360, 360), (9123, 10_000)])
def test_wilsons_interval(right: int, images: int) -> None:
    expected = stats.binomtest(right, images).proportion_ci(0.95, "wilson")
    assert wilson(right, images) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-4)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (5, 4), (10, 2), (34, 8), (2, 60)])
def test_mcnemars_test_is_the_binomial_one(lost: int, gained: int) -> None:
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(expected)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_the_interval_of_paired_shares_by_hand() -> None:
    """Of 8 images, one is lost and three are gained: with half a pair in each cell 1.5 and 3.5 of 10."""
    half = 1.959964 * math.sqrt(1.5 + 3.5 - 2**2 / 10) / 10
    assert paired_shares(1, 3, 8) == pytest.approx((100 * (0.2 - half), 100 * (0.2 + half)))


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
    found = paired_difference(np.array(differences), lost, gained, 360)
    assert found.real is real
    assert (found.mean, found.seeds) == (pytest.approx(np.mean(differences)), len(differences))
    p_values = [stats.ttest_1samp(differences, 0).pvalue] if np.ptp(differences) else []
    p_values += [] if lost is None or gained is None else [mcnemar(lost, gained)]
    assert found.p_value == pytest.approx(max(p_values, default=1.0))
    if len(differences) > 1:
        assert (found.low, found.high) == mean_interval(np.array(differences))
    elif lost is not None and gained is not None:
        assert (found.low, found.high) == paired_shares(lost, gained, 360)


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
            family.append(paired_difference(points, int((800 - gained).sum()), int(gained.sum()), 10_000))
        winners += any(difference.real for difference in corrected(family))
    assert winners <= 10, "5 % of 100, and what chance adds to that"
