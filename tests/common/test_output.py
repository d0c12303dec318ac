"""What is told to people."""

import pytest

from onnxprune.common.output import plural


@pytest.mark.parametrize(
    ("count", "told"), [(1, "1 point"), (1.0, "1 point"), (0.5, "0.5 points"), (0, "0 points"), (2_000, "2,000 points")]
)
def test_one_thing_is_not_several(count: float, told: str) -> None:
    assert plural(count, "point") == told
