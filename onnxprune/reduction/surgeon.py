"""What one operator loses by units that go, while the others make up for them (Hassibi and Stork 1993, optimal brain
surgeon)."""

from collections.abc import Mapping

import numpy as np
import scipy.linalg

from onnxprune.reduction.moments import factor, inverse

_DAMPING = 1e-3  # of the mean of the Gram matrix's diagonal
_ROUNDING = 1e-12  # likewise, of a part of the inverse


class Consumer:
    """What one operator reads of groups.

    The inverse of the Gram matrix without the units that are gone is the inverse with them less a product of what each
    step took out, as in a Cholesky factorisation with pivots: only what the next step reads of it is computed.

    Attributes:
        units: those of each group among all, by its place.

    Args:
        weights: (groups, outputs, features).
        gram: (groups, features, features) of what it reads.
        features: places of each unit's features (units, size), by the group's place; of one size.
    """

    def __init__(self, node: int, weights: np.ndarray, gram: np.ndarray, features: Mapping[int, np.ndarray]) -> None:
        self.node, self._plain = node, weights
        ends = np.cumsum([len(own) for own in features.values()]).tolist()
        self.units = {
            place: slice(end - len(own), end) for (place, own), end in zip(features.items(), ends, strict=True)
        }
        self._features = np.concatenate(list(features.values()))
        self._inverse, self._taken = np.empty_like(gram), np.empty_like(gram)
        energy = 0.0
        for group, matrix in enumerate(gram):
            energy += float(((weights[group] @ matrix) * weights[group]).sum())
            self._inverse[group] = inverse(matrix, _DAMPING)
        self._energy = max(energy, np.finfo(np.float64).tiny)
        self.restart()

    def restart(self) -> None:
        """Puts all units back."""
        self._weights = self._plain.copy()
        self._steps = 0  # rows (groups, steps, features) of `taken` that are filled
        rows, columns = self._features[:, :, None], self._features[:, None, :]
        self._blocks = self._inverse[:, rows, columns]  # (groups, units, size, size)

    def losses(self, place: int, alive: np.ndarray) -> np.ndarray:
        """Of taking out each of a group's units alone (alive,), relative to the energy of the outputs."""
        total = np.zeros(len(alive))
        units = alive + self.units[place].start
        for weights, every in zip(self._weights, self._blocks, strict=True):
            blocks = every[units]
            columns = weights[:, self._features[units]].transpose(1, 2, 0)  # (units, size, outputs)
            if blocks.shape[1] == 1:
                total += np.square(columns[:, 0]).sum(1) / blocks[:, 0, 0]
            else:
                total += (columns * np.linalg.solve(blocks, columns)).sum((1, 2))
        return total / self._energy

    def remove(self, place: int, units: np.ndarray) -> float:
        """Takes units of a group out, makes up for them by all others, and gives what that costs."""
        gone = self._features[self.units[place]][units].ravel()
        steps = slice(self._steps, self._steps + len(gone))
        total = 0.0
        for weights, start, taken, blocks in zip(self._weights, self._inverse, self._taken, self._blocks, strict=True):
            before = taken[: self._steps]
            rows = start[gone] - before[:, gone].T @ before
            lower, _ = factor(rows[:, gone], _ROUNDING)
            taken[steps] = scipy.linalg.solve_triangular(lower, rows, lower=True, check_finite=False)
            shares = scipy.linalg.solve_triangular(lower, weights[:, gone].T, lower=True, check_finite=False)
            total += float(np.square(shares).sum())
            weights -= shares.T @ taken[steps]
            weights[:, gone] = 0
            fewer = taken[steps][:, self._features].transpose(1, 2, 0)  # (units, size, gone)
            blocks -= fewer @ fewer.transpose(0, 2, 1)
        self._steps = steps.stop
        return total / self._energy

    def repaired(self) -> np.ndarray:
        """The weights (groups, outputs, features) that make up for the units that are gone, which have zeros."""
        return self._weights.copy()
