"""What can be said of the accuracies of several networks: intervals and paired tests, all at 95 %."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onnxprune.common.shares import SIGNIFICANT, Interval, mcnemar, paired_shares

_DIGITS = 9  # of points, behind which there is rounding alone


def mean_interval(values: np.ndarray) -> Interval:
    """Student's interval of the mean of two independent values or more (n,)."""
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.975)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return Interval(mean - half, mean + half)


def interval_over_seeds(values: np.ndarray, images: np.ndarray) -> Interval:
    """The interval of the mean of what networks of several seeds have: Student's, but none narrower than the networks'
    own on average, which few seeds that agree by chance would have.

    Args:
        values: of the networks (seeds,).
        images: the ends of their own intervals, over images (seeds, 2); NaN where there are none.
    """
    return _no_narrower(mean_interval(values), Interval(*images.mean(axis=0).tolist()))


def _no_narrower(seeds: Interval, images: Interval) -> Interval:
    """The interval over seeds, or the one over images where that is known and wider."""
    return images if images.high - images.low > seeds.high - seeds.low else seeds


class Difference(NamedTuple):
    """How much more accurate some networks are than others of the same seeds, in points.

    Attributes:
        mean: over the seeds.
        low, high: its 95 % interval: over seeds (Student), or, of one seed, over images; NaN where it is not known.
        seeds: pairs of networks.
        p_value: that there is no difference: the larger one of Student's test over seeds, where there are several, and
            McNemar's over images, those of all seeds together. Few seeds may agree by luck, and images tell nothing of
            how much seeds differ. 1 where neither is known.
        real: whether it is beyond noise: a p-value below 0.05, corrected where it is one of many (`corrected`).
    """

    mean: float
    low: float
    high: float
    seeds: int
    p_value: float
    real: bool


def paired_difference(
    differences: np.ndarray, lost: int | None, gained: int | None, images: int, repeated: float
) -> Difference:
    """What pairs of networks that differ in one thing tell of it.

    Seeds share their test images, and often differ on the same ones. Those are not several observations: counts and
    images are divided by how often one is repeated (Rao and Scott 1992, Biometrics 48: the design effect).

    Args:
        differences: of each pair's accuracies, second minus first, in points (seeds,).
        lost: images that only the first of a pair gets right, over all pairs; `gained`: likewise; None: not known.
        images: of the test set.
        repeated: see `repetition`; where it is not known the most that it can be, the number of seeds.
    """
    seeds = len(differences)
    interval, p_values = Interval(math.nan, math.nan), []
    if lost is not None and gained is not None:
        interval = paired_shares(lost / repeated, gained / repeated, seeds * images / repeated)
        p_values.append(mcnemar(lost / repeated, gained / repeated))
    if seeds > 1 and (p_values or np.ptp(differences) > 0):  # few that agree by chance tell nothing by themselves
        p_values.append(_student(differences))
    if seeds > 1:
        interval = _no_narrower(mean_interval(differences), interval)
    p_value = max(p_values, default=1.0)
    mean = round(float(np.mean(differences)), _DIGITS) + 0.0  # what cancels out is 0, and not -7e-15, shown as -0.00
    return Difference(mean, *interval, seeds, p_value, p_value < SIGNIFICANT)


def repetition(shifts: np.ndarray) -> float:
    """How often a difference is met again on the same image by other seeds: 1 where each seed differs on images of its
    own, the number of seeds where all differ on the same ones.

    It is the variance of what images sum up to over seeds, against that of as many independent ones, and never below 1.

    Args:
        shifts: whether the second of each pair of networks alone gets an image right, 1, or the first alone, -1, or
            neither (seeds, images).
    """
    differing = int(np.abs(shifts).sum())
    return max(1.0, float(np.square(shifts.sum(axis=0)).sum()) / differing) if differing else 1.0


def _student(values: np.ndarray) -> float:
    """The p-value of Student's test that the mean of two independent values or more (n,) is zero."""
    from scipy.special import stdtr

    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    if deviation == 0:
        return 0.0 if mean else 1.0
    return 2 * float(stdtr(len(values) - 1, -abs(mean) / deviation * math.sqrt(len(values))))


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The same, real only where the chance that any of them is taken for real and is none stays below 5 %.

    By Holm's procedure (1979, Scandinavian Journal of Statistics 6): the smallest p-value times the number of
    comparisons, the next one times one less, and so on until one is not significant.
    """
    found = [difference._replace(real=False) for difference in differences]
    for done, place in enumerate(sorted(range(len(found)), key=lambda place: found[place].p_value)):
        if not found[place].p_value * (len(found) - done) < SIGNIFICANT:  # nor where it is not known
            break
        found[place] = found[place]._replace(real=True)
    return found
