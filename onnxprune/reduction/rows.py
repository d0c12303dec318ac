"""Samples of an operator with weights: what it reads, and what it should give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxprune.reduction.moments import Moments


@dataclass
class Rows:
    """Samples of a site.

    Attributes:
        x: what it reads (groups, rows, features).
        wanted: what it should give (groups, rows, outputs).
        beside: what is added to it before a ReLU, likewise; None where no ReLU follows.
    """

    x: np.ndarray
    wanted: np.ndarray
    beside: np.ndarray | None

    def error(self, weights: np.ndarray, bias: np.ndarray) -> float:
        """Mean squared error, summed over outputs, after the ReLU where there is one."""
        gap = self._predicted(weights, bias)
        if self.beside is None:
            gap -= self.wanted
        else:
            gap = np.maximum(gap + self.beside, 0) - np.maximum(self.wanted + self.beside, 0)
        return float(np.square(gap, dtype=np.float64).sum() / gap.shape[1])

    def variance(self) -> float:
        """Of the answers, after the ReLU where there is one, summed over outputs."""
        target = self.wanted if self.beside is None else np.maximum(self.wanted + self.beside, 0)
        return float(target.var(1, dtype=np.float64).sum())

    def attainable(self, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """Answers to aim at: what a ReLU cuts off may be anything below zero (Zhang et al. 2015, 1411.4229)."""
        if self.beside is None:
            return self.wanted
        found = self._predicted(weights, bias)
        np.minimum(found, -self.beside, out=found)
        return np.maximum(found, self._let_through, out=found)

    def moments(self, wanted: np.ndarray) -> Moments:
        """Of what is read and these answers."""
        found = Moments.empty(len(self.x), self.x.shape[2], wanted.shape[2])
        found.add(self.x, wanted)
        return found

    def part(self, start: int, stop: int) -> Rows:
        """Some of the rows."""
        beside = None if self.beside is None else self.beside[:, start:stop]
        return Rows(self.x[:, start:stop], self.wanted[:, start:stop], beside)

    @cached_property
    def _let_through(self) -> np.ndarray:
        """The answers that a ReLU does not cut off, and minus infinity in place of the others."""
        return np.where(self.wanted + self.beside <= 0, np.float32(-np.inf), self.wanted)

    def _predicted(self, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.x @ weights.transpose(0, 2, 1).astype(self.x.dtype)
        found += bias[:, None].astype(self.x.dtype)
        return found


def joined(parts: Sequence[Rows]) -> Rows:
    """All of them together."""
    beside = [part.beside for part in parts if part.beside is not None]
    return Rows(
        np.concatenate([part.x for part in parts], 1),
        np.concatenate([part.wanted for part in parts], 1),
        np.concatenate(beside, 1) if len(beside) == len(parts) else None,
    )
