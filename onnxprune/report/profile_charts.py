"""The figures of the page on one ONNX file, as plotly describes them; the page colours them.

The nodes are rows of a profile's document (`onnxprune profile --json`). Names from files are escaped: plotly
understands some HTML.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from onnxprune.report.charts import ON_SCALE, SCALE, compact, empty_figure, logarithmic

Node = Mapping[str, Any]

_BARS = 20
_TILES = 100  # more are too small to be seen
_LONGEST = 24  # letters of a name beside an axis
# Okabe and Ito's colours that people of every colour vision tell apart on white and on black
_BOUNDS = {"compute": "#0072B2", "memory": "#D55E00", None: "#999999"}
_SAID = {"compute": "bound by compute", "memory": "bound by memory", None: "MACs, bound not measured"}


def tiles(nodes: Sequence[Node]) -> go.Figure | None:
    """Areas of MACs: operators, and their nodes within them; None where there are no MACs."""
    heaviest = by_macs(nodes)
    total = sum(node["macs"] for node in heaviest)
    if not total:
        return None
    left = heaviest[_TILES:]
    entries = [(node["operator"], node["name"], node["macs"]) for node in heaviest[:_TILES]]
    for operator in dict.fromkeys(node["operator"] for node in left):
        same = [node["macs"] for node in left if node["operator"] == operator]
        entries.append((operator, f"{len(same)} other nodes", sum(same)))
    operators = list(dict.fromkeys(operator for operator, _, _ in entries))
    sums = [sum(macs for other, _, macs in entries if other == operator) for operator in operators]
    values = [total, *sums, *(macs for _, _, macs in entries)]
    names = ["all", *operators, *(name for _, name, _ in entries)]
    figure = empty_figure("", "")
    figure.add_trace(
        go.Treemap(
            ids=[*map(str, range(len(values)))],
            labels=[escape(_short(name)) for name in names],
            parents=["", *("0" for _ in operators), *(str(1 + operators.index(kind)) for kind, _, _ in entries)],
            values=values,
            branchvalues="total",
            text=[f"{100 * value / total:.1f} %" for value in values],
            customdata=[[escape(name), compact(value)] for name, value in zip(names, values, strict=True)],
            textinfo="label+text",
            textfont={"color": ON_SCALE},
            pathbar={"visible": False},
            tiling={"pad": 2},
            marker={
                "colors": [100 * value / total for value in values],
                "colorscale": SCALE,
                "cmin": 0,
                "line": {"width": 1, "color": "#ffffff"},
            },
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]} MACs, %{text}<extra></extra>",
        )
    )
    figure.update_layout(
        margin={"l": 0, "r": 0, "t": 28, "b": 0},
        xaxis={"visible": False},
        yaxis={"visible": False},
        uniformtext={"minsize": 9, "mode": "hide"},
        meta={"headings": ["within", "node or operator", "MACs"]},
    )
    return figure


def bars(nodes: Sequence[Node]) -> go.Figure | None:
    """The MACs of the heaviest nodes, by what bounds them; None where there are none."""
    heaviest = by_macs(nodes)[:_BARS]
    if not heaviest:
        return None
    figure = empty_figure("MACs", "")
    names = [f"{rank}. {_told(node)}" for rank, node in enumerate(heaviest, 1)]  # nodes of one name are told apart
    for bound in _BOUNDS:
        places = [place for place, node in enumerate(heaviest) if node["bound"] == bound]
        same = [heaviest[place] for place in places]
        if same:
            figure.add_trace(
                go.Bar(
                    x=[node["macs"] for node in same],
                    y=[names[place] for place in places],
                    orientation="h",
                    name=_SAID[bound],
                    marker={"color": _BOUNDS[bound]},
                    customdata=[[escape(node["name"]), compact(node["macs"])] for node in same],
                    hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]} MACs<extra>%{fullData.name}</extra>",
                )
            )
    figure.update_layout(
        height=max(180, 112 + 22 * len(heaviest)),
        bargap=0.25,
        xaxis={"tickformat": "~s", "nticks": 6},
        yaxis={
            "type": "category",
            "categoryorder": "array",
            "categoryarray": names,
            "autorange": "reversed",
            "tickvals": names,
            "ticktext": [escape(_short(node["name"])) for node in heaviest],
        },
        meta={"headings": ["bound", "MACs", "node"]},
        **_legend(),
    )
    return figure


def memory(nodes: Sequence[Node]) -> go.Figure | None:
    """Bytes of the activations that live while each node runs; None where a size is not known."""
    known = [(number, node) for number, node in enumerate(nodes) if node["live_bytes"] is not None]
    if not known:
        return None
    numbers, sizes = [number for number, _ in known], [node["live_bytes"] for _, node in known]
    figure = empty_figure("node, in the order of the file", "bytes of activations")
    figure.add_trace(
        go.Scatter(
            x=numbers,
            y=sizes,
            mode="lines" if len(known) > 1 else "markers",
            line={"shape": "hvh", "color": _BOUNDS["compute"], "width": 1.5},
            fill="tozeroy",
            fillcolor="rgba(0,114,178,0.2)",
            name="activations",
            customdata=[
                [f"{escape(node['operator'])} {escape(node['name'])}", compact(node["live_bytes"])] for _, node in known
            ],
            hovertemplate="%{customdata[0]}<br>%{customdata[1]} bytes live<extra></extra>",
            meta={"series": "activations"},
        )
    )
    place = sizes.index(max(sizes))
    figure.add_trace(
        go.Scatter(
            x=[numbers[place]],
            y=[sizes[place]],
            mode="markers",
            marker={"color": _BOUNDS["memory"], "size": 10, "symbol": "diamond"},
            name="peak",
            hovertemplate=f"peak: {compact(sizes[place])} bytes<extra></extra>",
            meta={"series": "peak"},
        )
    )
    figure.update_yaxes(rangemode="tozero", tickformat="~s")
    figure.update_xaxes(tickformat="~d", **({"dtick": 1} if len(nodes) <= 10 else {}))
    return figure


def intensity(nodes: Sequence[Node], ridges: Mapping[str, float]) -> go.Figure | None:
    """MACs of each node over its MACs for each byte, with the ridges of the roofline; None where there is no such node.

    Args:
        ridges: type of numbers -> MACs a byte from which on compute bounds a node.
    """
    known = [node for node in nodes if node["macs"] and node["macs_per_byte"]]
    if not known:
        return None
    figure = empty_figure("MACs for each byte moved", "MACs of the node")
    for bound, colour in _BOUNDS.items():
        same = [node for node in known if node["bound"] == bound]
        if same:
            figure.add_trace(
                go.Scatter(
                    x=[node["macs_per_byte"] for node in same],
                    y=[node["macs"] for node in same],
                    mode="markers",
                    marker={
                        "color": colour,
                        "size": 9,
                        "opacity": 0.8,
                        "symbol": "circle" if bound == "compute" else "square",
                    },
                    name=_SAID[bound],
                    customdata=[f"{escape(node['operator'])} {escape(node['name'])}" for node in same],
                    hovertemplate="%{customdata}<br>%{x:.3g} MACs a byte, %{y:.3s} MACs<extra>%{fullData.name}</extra>",
                    meta={"series": _SAID[bound]},
                )
            )
    span = [min(node["macs"] for node in known), max(node["macs"] for node in known)]
    for kind, ridge in ridges.items():
        figure.add_trace(
            go.Scatter(
                x=[ridge, ridge],
                y=[span[0] / 2, span[1] * 2],
                mode="lines",
                name=f"ridge, {escape(kind)}: {ridge:.3g}",
                line={"dash": "dash", "width": 1.5},
                hoverinfo="name",
                meta={"series": None, "neutral": True},
            )
        )
    figure.update_xaxes(logarithmic(pd.Series([*ridges.values(), *(node["macs_per_byte"] for node in known)])))
    figure.update_yaxes(type="log", tickformat="~s", dtick=1)
    figure.update_layout(**_legend())
    return figure


def by_macs(nodes: Sequence[Node]) -> list[Node]:
    """Those with MACs, the heaviest first."""
    return sorted((node for node in nodes if node["macs"]), key=lambda node: -node["macs"])


def _legend() -> dict[str, Any]:
    place = {"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0}
    return {"showlegend": True, "legend": place, "margin": {"l": 56, "r": 12, "t": 64, "b": 48}}


def _told(node: Node) -> str:
    return f"{escape(node['operator'])} {escape(node['name'])}"


def _short(name: str) -> str:
    """A name that fits beside an axis: of a long one its end, which tells more."""
    return name if len(name) <= _LONGEST else f"...{name[3 - _LONGEST :]}"
