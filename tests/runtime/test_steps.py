"""The step of channels that is chosen by measurement."""

import pytest

from onnxprune.runtime import steps


@pytest.mark.parametrize(
    ("median", "step"),
    [
        ({40: 0.40, 44: 0.50, 48: 0.50, 64: 0.80}, 8),  # an EPYC with AVX2, in ms
        ({40: 0.50, 44: 0.50, 48: 0.50, 64: 0.80}, 16),  # 40 costs what 48 does
        ({40: 0.40, 44: 0.44, 48: 0.50, 64: 0.80}, 4),  # every fourth channel counts
        ({40: 0.80, 44: 0.80, 48: 0.80, 64: 0.80}, 32),
    ],
)
def test_the_finest_step_in_which_time_falls(median: dict[int, float], step: int) -> None:
    assert steps.chosen(median) == step


def test_a_measurement_of_this_machine() -> None:
    steps.measured_step.cache_clear()
    step = steps.measured_step()
    assert step in (4, 8, 16, 32)
    assert steps.measured_step() == step, "measured twice"
