"""Windows that pages are looked at in."""

from typing import Any

import pytest

INK = {"light": "#1b1f24", "dark": "#e8eaed"}

WINDOWS = pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (390, "dark"),
        # a second each: what they tell of the width and of the colours, the first two tell
        pytest.param(1280, "dark", marks=pytest.mark.slow),
        pytest.param(390, "light", marks=pytest.mark.slow),
    ],
)


def charts_that_fit(browser: Any, width: int, scheme: str) -> dict[str, str | None]:
    """Name of each chart of a page -> its words for those who do not see it; the page fits the window, and its charts
    are drawn, fit too, and have the ink of the scheme."""
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    charts = browser.execute_script(
        "return [...document.querySelectorAll('.chart')]"
        ".map(c => [c.id, c._fullLayout?.width, c._fullLayout?.font.color, c.ariaLabel])"
    )
    for name, wide, ink, _ in charts:
        assert 0 < wide <= width, name
        assert ink == INK[scheme], name
    return {name: words for name, _, _, words in charts}
