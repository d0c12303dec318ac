"""What can be said of accuracies: intervals and paired tests, all at 95 %."""

import math
from typing import NamedTuple

import numpy as np

_Z = 1.959964  # standard normal deviations that 95 % are within
_SIGNIFICANT = 0.05


class Interval(NamedTuple):
    """From where to where, in the unit of what it is of."""

    low: float
    high: float


def wilson(right: float, images: int) -> Interval:
    """Wilson's interval of a share, in percent (Wilson 1927, Journal of the American Statistical Association 22).

    Args:
        right: images that are, of so many that were looked at.
    """
    share, weight = right / images, _Z**2 / images
    centre = (share + weight / 2) / (1 + weight)
    half = _Z / (1 + weight) * math.sqrt(share * (1 - share) / images + weight / (4 * images))
    return Interval(100 * max(0.0, centre - half), 100 * min(1.0, centre + half))


def mcnemar(lost: int, gained: int) -> float:
    """The p-value of McNemar's exact test that two networks are right as often (McNemar 1947, Psychometrika 12).

    Args:
        lost: images that only the first one gets right; `gained`: those that only the second one does.
    """
    from scipy.special import bdtr  # scipy.stats takes a second to import

    return min(1.0, 2 * float(bdtr(min(lost, gained), lost + gained, 0.5)))


def paired_shares(lost: int, gained: int, images: int) -> Interval:
    """The interval of the difference of two shares of the same images, second minus first, in percent.

    Wald's with half a pair added to each of the four cells of the table (Agresti and Min 2005, Statistics in Medicine
    24), which holds for few images and for none that differ.
    """
    pairs, less, more = images + 2, lost + 0.5, gained + 0.5
    difference = (more - less) / pairs
    half = _Z * math.sqrt(less + more - (more - less) ** 2 / pairs) / pairs
    return Interval(100 * (difference - half), 100 * (difference + half))


def mean_interval(values: np.ndarray) -> Interval:
    """Student's interval of the mean of two independent values or more (n,)."""
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return Interval(mean - half, mean + half)


class Difference(NamedTuple):
    """How much more accurate some networks are than others of the same seeds, in points.

    Attributes:
        mean: over the seeds.
        low, high: its 95 % interval: over seeds (Student), or, of one seed, over images; NaN where it is not known.
        seeds: pairs of networks.
        real: whether it is beyond noise: the interval leaves zero out, and McNemar's test of all images, those of all
            seeds together, has a p-value below 0.05. The second condition stands where few seeds agree by luck.
    """

    mean: float
    low: float
    high: float
    seeds: int
    real: bool


def paired_difference(
    differences: np.ndarray, lost: int | None, gained: int | None, images: int, comparisons: int = 1
) -> Difference:
    """What pairs of networks that differ in one thing tell of it.

    Args:
        differences: of each pair's accuracies, second minus first, in points (seeds,).
        lost: images that only the first of a pair gets right, over all pairs; `gained`: likewise; None: not known.
        images: of the test set.
        comparisons: of which this is one: the p-value is multiplied by their number (Bonferroni), so that among many no
            winner comes of chance alone.
    """
    seeds = len(differences)
    interval = mean_interval(differences) if seeds > 1 else Interval(math.nan, math.nan)
    beyond = interval.low > 0 or interval.high < 0
    if lost is not None and gained is not None:
        if seeds == 1:
            interval = paired_shares(lost, gained, images)
        beyond = (beyond or seeds == 1) and mcnemar(lost, gained) * comparisons < _SIGNIFICANT
    return Difference(float(np.mean(differences)), interval.low, interval.high, seeds, beyond)
