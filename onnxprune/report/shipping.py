"""The figures of what can be shipped: pruned, in 8 bits, and both, against what they cost."""

import pandas as pd
import plotly.graph_objects as go

from onnxprune.delivery.variants import FLOAT32, INT8, INT8_ALONE, base_latency, with_variants
from onnxprune.report.charts import empty_figure, logarithmic
from onnxprune.results.quality import quality_of_study

# variant -> what it is called, its colour, and its marker; Okabe and Ito's colours
_KINDS = {
    FLOAT32: ("pruned", "#0072B2", "circle"),
    INT8: ("pruned + int8", "#D55E00", "diamond"),
    INT8_ALONE: ("int8", "#009E73", "square"),
}
_PAIRED = "latency_ms_paired"
_BASE = ("base", "#CC79A7", "triangle-up")


def accuracy_of_variants(rows: pd.DataFrame, column: str, title: str) -> go.Figure | None:
    """Accuracy against a cost of every file of a study; None where it has none in 8 bits, or nothing was measured.

    Args:
        rows: the points of one study.
        column: of the cost: "latency_ms_paired" or "file_bytes".
    """
    quality = quality_of_study(rows).name
    if f"int8_{quality}" not in rows or not rows[column].notna().any():
        return None
    found = with_variants(rows)
    known = found[(found[column] > 0).fillna(False) & ~found["collapsed"].astype(bool)]
    of_base = base_latency(rows) if column == _PAIRED else rows[f"base_{column}"]
    bases = rows.assign(_cost=of_base).dropna(subset="_cost").groupby("base_id", sort=False)
    base = bases[[f"base_{quality}", "_cost"]].median()
    figure = empty_figure(title, f"test {quality} (%)")
    figure.update_xaxes(logarithmic(pd.concat([known[column], base["_cost"]])))
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.12})
    figure.add_trace(_trace(base["_cost"], base[f"base_{quality}"], [""] * len(base), *_BASE))
    for variant, kind in _KINDS.items():
        own = known[known["variant"] == variant]
        told = [
            "" if variant == INT8_ALONE else f", {technique} {sparsity:g} %"
            for technique, sparsity in zip(own["technique"], own["sparsity"], strict=True)
        ]
        figure.add_trace(_trace(own[column], own[quality], told, *kind))
    return figure


def _trace(x: pd.Series, y: pd.Series, told: list[str], name: str, colour: str, symbol: str) -> go.Scatter:
    return go.Scatter(
        x=x.astype(float),
        y=y.astype(float),
        customdata=told,
        name=name,
        mode="markers",
        marker={"color": colour, "symbol": symbol, "size": 9, "opacity": 0.85},
        meta={"series": None},
        hovertemplate="<b>%{fullData.name}</b>%{customdata}<br>%{x:,}: %{y:.2f} %<extra></extra>",
    )
