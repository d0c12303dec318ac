"""A browser for the pages, where there is one."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = [shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")]
    if not all(programs):
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def opened(browser: Any) -> Callable[..., Any]:
    """Opens a page at a width, in a colour scheme, and gives the browser; nothing may be complained of or fetched.

    To open one takes a second: what is open stays, and who changes something puts it back.
    """
    shown: tuple[Path, int, str] | None = None

    def show(page: Path, width: int, scheme: str) -> Any:
        nonlocal shown
        if (page, width, scheme) == shown:
            return browser
        shown = page, width, scheme
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get(page.as_uri())
        assert [entry["message"] for entry in browser.get_log("browser")] == []
        assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []
        return browser

    return show
