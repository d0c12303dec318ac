"""What latencies say, and what they do not."""

import pandas as pd
import pytest

from onnxprune.results.timings import is_tie


def seeds(*speedups: float, noise: float = 0.02) -> pd.DataFrame:
    return pd.DataFrame({"speedup": speedups, "speedup_noise": noise, "int8_speedup": 3.0, "int8_speedup_noise": 0.01})


@pytest.mark.parametrize(
    ("speedups", "tie"),
    [
        ((1.5,), False),
        ((0.7,), False),
        ((1.04,), True),  # within the floor of the study
        ((1.5, 1.6, 1.4), False),
        ((1.06, 0.93, 2.63), True),  # a mean of 1.54 that one seed makes
        ((1.5, 1.5, 1.04), True),
        ((0.9, 0.8), False),
    ],
)
def test_seeds_have_to_agree_beyond_the_noise(speedups: tuple[float, ...], tie: bool) -> None:
    assert is_tie(seeds(*speedups), 0.05) is tie


def test_the_noise_of_a_row_and_the_second_file_count_for_themselves() -> None:
    assert is_tie(seeds(1.5, noise=0.6), 0.05)
    assert not is_tie(seeds(1.5, noise=0.6), 0.05, "int8_")
