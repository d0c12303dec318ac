"""The page on one ONNX file: its heaviest nodes, memory from node to node, and what bounds each node."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxprune.common.files import make_folder, write_text
from onnxprune.report import profile_charts
from onnxprune.report.template import filled

_MOST = 200  # nodes in the table


def write(document: Mapping[str, Any], out: Path) -> None:
    """Writes the page, whole or not at all.

    Args:
        document: a profile as `onnxprune profile --json` prints it.

    Raises:
        RunError: its folder cannot be made.
    """
    make_folder(out.parent)
    nodes = document["nodes"]
    ridges = (document["roofline"] or {}).get("ridges", {})
    figures = {
        "tiles": profile_charts.tiles(nodes),
        "bars": profile_charts.bars(nodes),
        "memory": profile_charts.memory(nodes),
        "intensity": profile_charts.intensity(nodes, ridges),
    }
    heaviest = sorted(nodes, key=lambda node: (-node["macs"], -node["params"]))[:_MOST]
    at_peak = next((node for node in nodes if node["name"] == document["peak_node"]), None)
    page = filled(
        "profile.html",
        data=figures,
        name=Path(document["model"]).name,
        at_peak=at_peak,
        ridges=ridges,
        heaviest=heaviest,
        said=[*document["notes"], *document["remarks"], *document["not_measured"]],
        **document,
    )
    write_text(out, page)
