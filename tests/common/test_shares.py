"""Intervals and tests of shares of images, against other ways to compute them."""

import math

import pytest
from scipy import stats

from onnxprune.common.shares import mcnemar, paired_shares, wilson, within


@pytest.mark.parametrize(("right", "images"), [(0, 10), (50, 50), (351, 360), (360, 360), (9123, 10_000)])
def test_wilsons_interval(right: int, images: int) -> None:
    expected = stats.binomtest(right, images).proportion_ci(0.95, "wilson")
    found = wilson(right, images)
    assert found == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-4)
    assert [found[0] == 0, found[1] == 100] == [right == 0, right == images]


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (5, 4), (10, 2), (34, 8), (2, 60)])
def test_mcnemars_test_is_the_binomial_one(lost: int, gained: int) -> None:
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == pytest.approx(expected)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_the_interval_of_paired_shares_by_hand() -> None:
    """Of 8 images, one is lost and three are gained: with half a pair in each cell 1.5 and 3.5 of 10."""
    half = 1.959964 * math.sqrt(1.5 + 3.5 - 2**2 / 10) / 10
    assert paired_shares(1, 3, 8) == pytest.approx((100 * (0.2 - half), 100 * (0.2 + half)))


def test_a_limit_holds_but_for_rounding() -> None:
    assert within(92.5 - 91.3, 1.2), "which is a little more in binary"
    assert not within(1.2001, 1.2)
