"""Least squares from sums over samples."""

import numpy as np
import pytest

from onnxprune.reduction.moments import Moments, Ridge, factor, inverse


@pytest.mark.parametrize(("groups", "features"), [(1, 5), (6, 5), (2, 150)])  # alone, together, one by one
@pytest.mark.parametrize("intercept", [True, False])
def test_ridge_is_that_of_each_group_by_the_normal_equations(groups: int, features: int, intercept: bool) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((groups, 400, features)) + 1
    y = random.standard_normal((groups, 400, 3)) + x[:, :, :3]
    start = random.standard_normal((groups, 3, features))
    moments = Moments.empty(groups, features, 3)
    moments.add(x[:, :100], y[:, :100])
    moments.add(x[:, 100:], y[:, 100:])
    found = Ridge(moments, start, 0.01, intercept).weights(moments)
    for group in range(groups):
        inputs, answers = x[group], y[group]
        if intercept:
            inputs, answers = inputs - inputs.mean(0), answers - answers.mean(0)
        gram = inputs.T @ inputs / 400
        damped = gram + 0.01 * np.trace(gram) / features * np.eye(features)
        change = np.linalg.solve(damped, inputs.T @ (answers - inputs @ start[group].T) / 400)
        assert found[group] == pytest.approx(start[group] + change.T)


def test_a_group_whose_inputs_never_change_keeps_its_weights() -> None:
    x = np.random.default_rng(0).standard_normal((2, 50, 4))
    x[1] = 3.0
    start = np.ones((2, 2, 4))
    moments = Moments.empty(2, 4, 2)
    moments.add(x, np.zeros((2, 50, 2)))
    found = Ridge(moments, start, 0.01, True).weights(moments)
    assert np.abs(found[0]).max() < 0.1
    assert (found[1] == 1).all()


@pytest.mark.parametrize("diagonal", [[-1e30, 1e-3], [-1e34, 1e34, -1e20], [0.0, 0.0]])
def test_a_diagonal_that_is_all_rounding_is_damped_away(diagonal: list[float]) -> None:
    lower = np.tril(factor(np.diag(diagonal), 1e-5)[0])
    assert np.isfinite(lower).all()
    assert (np.diagonal(lower) > 0).all()


def test_a_matrix_that_rounding_left_indefinite_is_damped_until_it_is_not() -> None:
    random = np.random.default_rng(0)
    x = (1000 + 1e-3 * random.standard_normal((64, 40))).astype(np.float32)
    gram = ((x.T @ x) / 64 - np.outer(x.mean(0), x.mean(0))).astype(np.float64)
    assert np.linalg.eigvalsh(gram).min() < 0
    lower = np.tril(factor(gram, 1e-4)[0])
    assert np.isfinite(lower).all()
    assert np.isfinite(inverse(gram, 1e-4)).all()
    good = np.diag([1.0, 2.0, 3.0])
    assert inverse(good, 0.5) == pytest.approx(np.diag([1 / 2, 1 / 3, 1 / 4]))


def test_what_is_not_finite_is_an_error() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        factor(np.full((2, 2), np.nan), 1e-3)
