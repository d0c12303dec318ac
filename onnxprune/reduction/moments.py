"""Sums over samples that least squares needs, streamed: memory does not grow with their number."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # relative to the mean of the Gram matrix's diagonal

_MOST_TENFOLD = 30
_FEW = 128  # features of groups that are solved for together


@dataclass
class Moments:
    """Second moments of rows x (groups, rows, features) and answers y (groups, rows, outputs), in float64."""

    count: int
    x: np.ndarray  # (groups, features)
    y: np.ndarray  # (groups, outputs)
    xx: np.ndarray  # (groups, features, features)
    xy: np.ndarray  # (groups, features, outputs)
    yy: np.ndarray  # (groups, outputs)

    @staticmethod
    def empty(groups: int, features: int, outputs: int) -> Moments:
        """Of no samples."""
        return Moments(
            0,
            np.zeros((groups, features)),
            np.zeros((groups, outputs)),
            np.zeros((groups, features, features)),
            np.zeros((groups, features, outputs)),
            np.zeros((groups, outputs)),
        )

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Adds samples: products in their own precision, sums in float64."""
        turned = x.transpose(0, 2, 1)
        self.count += x.shape[1]
        self.x += x.sum(1, dtype=np.float64)
        self.y += y.sum(1, dtype=np.float64)
        self.xx += turned @ x
        self.xy += turned @ y
        self.yy += np.square(y, dtype=np.float64).sum(1)

    def with_answers(self, x: np.ndarray, y: np.ndarray) -> Moments:
        """Of the same rows x, which are all of them, and other answers."""
        return Moments(
            self.count,
            self.x,
            y.sum(1, dtype=np.float64),
            self.xx,
            (x.transpose(0, 2, 1) @ y).astype(np.float64),
            np.square(y, dtype=np.float64).sum(1),
        )

    @property
    def finite(self) -> bool:
        """Whether no sum overflowed: where one did, they tell nothing."""
        return all(np.isfinite(sums).all() for sums in (self.x, self.y, self.xx, self.xy, self.yy))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )

    def centred(self, intercept: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Covariances xx, xy, yy where there is an intercept, else the plain means of products."""
        count = max(1, self.count)
        return (
            self.gram(intercept),
            self.products(intercept),
            self.yy / count - float(intercept) * (self.y / count) ** 2,
        )

    def gram(self, intercept: bool) -> np.ndarray:
        """The first of these alone (groups, features, features)."""
        return self._centre(self.xx, self.x, intercept)

    def products(self, intercept: bool) -> np.ndarray:
        """The second of these alone (groups, features, outputs)."""
        return self._centre(self.xy, self.y, intercept)

    def _centre(self, sums: np.ndarray, other: np.ndarray, intercept: bool) -> np.ndarray:
        count = max(1, self.count)
        found = sums / count
        if intercept:
            found -= (self.x / count)[:, :, None] * (other / count)[:, None, :]
        return found

    def intercept(self, weights: np.ndarray) -> np.ndarray:
        """The bias (groups, outputs) with which weights (groups, outputs, features) hit the mean of the answers."""
        count = max(1, self.count)
        return (self.y - np.einsum("gof,gf->go", weights, self.x)) / count

    def error(self, weights: np.ndarray, bias: np.ndarray) -> float:
        """Mean squared error of the answers, summed over outputs."""
        count = max(1, self.count)
        fitted = np.einsum("gof,gfo->go", weights, self.xy)
        square = np.einsum("gof,gfo->go", weights, self.xx @ weights.transpose(0, 2, 1))
        linear = np.einsum("gof,gf->go", weights, self.x)
        total = self.yy - 2 * fitted + square + 2 * bias * (linear - self.y) + count * bias**2
        return float(total.sum() / count)


def factor(matrix: np.ndarray, damping: float) -> tuple[np.ndarray, bool]:
    """Cholesky factor, as scipy gives it, of a matrix of moments with a share of the mean of its diagonal added to it.

    The share grows until the matrix is positive definite: sums of products in 32 bits can leave it indefinite where
    the means of what is read are large beside its deviations.
    """
    if not np.isfinite(matrix).all():
        raise np.linalg.LinAlgError("not finite")
    mean = max(float(np.abs(np.diagonal(matrix)).mean()), 1e-12)  # negative where it is all rounding
    for tenfold in range(_MOST_TENFOLD):
        damped = matrix.copy()
        damped[np.diag_indices_from(damped)] += damping * mean * 10**tenfold
        with contextlib.suppress(np.linalg.LinAlgError):
            return scipy.linalg.cho_factor(damped, lower=True, overwrite_a=True, check_finite=False)
    raise np.linalg.LinAlgError("not to be made positive definite")


def inverse(matrix: np.ndarray, damping: float) -> np.ndarray:
    """Of what `factor` factors."""
    found, _ = scipy.linalg.lapack.dpotri(factor(matrix, damping)[0], lower=1, overwrite_c=1)
    lower = np.tril(found)
    return np.asarray(lower + np.tril(lower, -1).T)


class Ridge:
    """Least squares of one set of rows for several sets of answers.

    Ridge regression (Hoerl and Kennard 1970) of what the start leaves over, so that directions that the samples do not
    show keep their weights.

    Args:
        start: weights (groups, outputs, features) that the penalty draws towards.
        penalty: relative to the mean of the diagonal of each group's Gram matrix; more where `factor` needs it.
    """

    def __init__(self, moments: Moments, start: np.ndarray, penalty: float, intercept: bool) -> None:
        self._start, self._intercept = start, intercept
        self._gram = moments.gram(intercept)
        self._explained = self._gram @ start.transpose(0, 2, 1)
        means = np.trace(self._gram, axis1=1, axis2=2) / self._gram.shape[2]
        self._good = means > 0
        self._factors: list[Any] = []
        self._inverses: np.ndarray | None = None
        if len(self._gram) > 1 and self._gram.shape[2] <= _FEW:
            damping = np.where(self._good, penalty * means, 1.0)
            self._inverses = np.linalg.inv(self._gram + damping[:, None, None] * np.eye(self._gram.shape[2]))
        else:
            self._factors = [factor(matrix, penalty) for matrix in self._gram]

    def weights(self, moments: Moments) -> np.ndarray:
        """Weights (groups, outputs, features) for the answers of these moments of the same rows."""
        left = moments.products(self._intercept) - self._explained
        left[~self._good] = 0
        if self._inverses is not None:
            change = self._inverses @ left
        else:
            pairs = zip(self._factors, left, strict=True)
            change = np.stack([scipy.linalg.cho_solve(*pair, check_finite=False) for pair in pairs])
        return np.asarray(self._start + change.transpose(0, 2, 1))
