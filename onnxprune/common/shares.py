"""What shares of images tell: their intervals at 95 %, and whether two of the same images differ."""

import math
from typing import NamedTuple

import numpy as np

SIGNIFICANT = 0.05  # p-values below are no chance

_Z = 1.959964  # standard normal deviations that 95 % are within
_ROUNDING = 1e-9  # 92.5 - 91.3 is a little more than 1.2


def within(points: float, most: float) -> bool:
    """Whether a difference of percentages is at most so many points, but for the rounding of its last digits."""
    return points <= most + _ROUNDING


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
    # of none and of all it ends there, but for rounding
    return Interval(100 * (centre - half) if right > 0 else 0.0, 100 * (centre + half) if right < images else 100.0)


def accuracy_interval(accuracy: float, images: float) -> Interval:
    """Wilson's interval of an accuracy of so many images, in percent; NaN where either is."""
    if math.isnan(accuracy) or math.isnan(images):
        return Interval(math.nan, math.nan)
    return wilson(accuracy * images / 100, int(images))


def discordant(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Of images that are right (N,): how many are by the first network alone, and by the second alone."""
    return int((first & ~second).sum()), int((second & ~first).sum())


def mcnemar(lost: float, gained: float) -> float:
    """The p-value of McNemar's exact test that two networks are right as often (McNemar 1947, Psychometrika 12).

    Args:
        lost: images that only the first one gets right; `gained`: those that only the second one does. Between whole
            numbers, as effective counts are, the binomial distribution is continued by the incomplete beta function.
    """
    from scipy.special import betainc  # scipy.stats takes a second to import

    if not lost + gained:
        return 1.0
    return min(1.0, 2 * float(betainc(max(lost, gained), min(lost, gained) + 1, 0.5)))


def paired_shares(lost: float, gained: float, images: float) -> Interval:
    """The interval of the difference of two shares of the same images, second minus first, in percent.

    Wald's with half a pair added to each of the four cells of the table (Agresti and Min 2005, Statistics in Medicine
    24), which holds for few images and for none that differ. The counts may be effective ones, between whole numbers.
    """
    pairs, less, more = images + 2, lost + 0.5, gained + 0.5
    difference = (more - less) / pairs
    half = _Z * math.sqrt(less + more - (more - less) ** 2 / pairs) / pairs
    return Interval(100 * (difference - half), 100 * (difference + half))
