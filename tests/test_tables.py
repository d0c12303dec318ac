"""Tables for people."""

import pytest

from onnxprune.tables import compact


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (9999, "9999"),
        (10_000, "10k"),
        (408_044, "408k"),
        (1_688_550, "1.689M"),
        (57_829_376, "57.83M"),
        (2_834_161_664, "2.834G"),
        (6.87e12, "6.87T"),
    ],
)
def test_counts_are_shown_to_four_digits(number: float, shown: str) -> None:
    assert compact(number) == shown
