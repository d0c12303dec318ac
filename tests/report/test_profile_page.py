"""`profile --html`: the page on one file, in a real browser where there is one."""

import json
import re
from pathlib import Path
from typing import Any

import graphs
import onnx
import pytest
from windows import WINDOWS, charts_that_fit

from onnxprune.analysis.profiling import profile
from onnxprune.report import profile_charts
from onnxprune.report.profile_page import write

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>&amp;"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("model")
    path = graphs.classifier(folder / "model.onnx")
    model = onnx.load(path)
    model.graph.node[0].name, model.producer_name = HOSTILE, HOSTILE
    onnx.save(model, path)
    return profile(path, threads=1, seconds=0.01, per_node_time=True).document


@pytest.fixture(scope="module")
def page(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "page.html"
    write(document, out)
    return out


def figures(page: Path) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_figures_show_the_nodes(page: Path, document: dict[str, Any]) -> None:
    shown = figures(page)
    (tiles,) = shown["tiles"]["data"]
    assert tiles["values"] == [6932, 6912, 20, 6912, 20]
    assert tiles["labels"][:3] == ["all", "Conv", "Gemm"]
    assert tiles["parents"] == ["", "0", "0", "1", "2"]
    assert sorted(macs for trace in shown["bars"]["data"] for macs in trace["x"]) == [20, 6912]
    memory, peak = shown["memory"]["data"]
    assert memory["y"] == [node["live_bytes"] for node in document["nodes"]]
    assert (peak["x"], peak["y"]) == ([memory["y"].index(max(memory["y"]))], [document["peak_activation_bytes"]])
    ridge = document["roofline"]["macs_per_second"]["float32"] / document["roofline"]["bytes_per_second"]
    assert shown["intensity"]["data"][-1]["x"] == [ridge, ridge]


def test_small_nodes_are_told_together() -> None:
    nodes = [{"operator": "Conv", "name": f"n{index}", "macs": 1 + index} for index in range(150)]
    (tiles,) = profile_charts.tiles(nodes).data  # type: ignore[union-attr]
    assert tiles.values[0] == tiles.values[1] == sum(range(1, 151))
    assert sum(tiles.values[2:]) == tiles.values[0]
    assert (tiles.labels[-1], tiles.values[-1]) == ("50 other nodes", sum(range(1, 51)))


def test_what_is_not_known_has_no_figure(document: dict[str, Any], tmp_path: Path) -> None:
    unknown = {"macs": 0, "live_bytes": None, "macs_per_byte": None, "bound": None}
    open_ = {
        "roofline": None,
        "peak_activation_bytes": None,
        "peak_held": (),
        "peak_node": None,
        "macs_bound": "at least",
    }
    rows = [{**node, **unknown} for node in document["nodes"]]
    write({**document, **open_, "nodes": rows, "latency": [], "macs": 0}, tmp_path / "page.html")
    assert set(figures(tmp_path / "page.html").values()) == {None}
    assert "at least 0" in (tmp_path / "page.html").read_text()


@WINDOWS
def test_the_page_fits_its_window_and_names_are_text(opened: Any, page: Path, width: int, scheme: str) -> None:
    browser = opened(page, width, scheme)
    charts = charts_that_fit(browser, width, scheme)
    assert len(charts) == 4
    assert all(charts.values()), charts
    assert HOSTILE in browser.execute_script("return document.body.textContent")
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script("return document.images.length") == 0
