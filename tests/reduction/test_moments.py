"""Least squares from sums over samples."""

import numpy as np
import pytest

from onnxprune.reduction.moments import Moments, Ridge


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
