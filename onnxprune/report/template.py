"""Templates of pages, filled: each is one file of HTML that asks nothing of a network."""

import json
import re
from functools import cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from onnxprune.common.output import plural
from onnxprune.report.charts import compact


def filled(template: str, *, data: Any, **values: Any) -> str:
    """A page.

    Args:
        template: a file of this folder.
        data: what the scripts of the page read: anything that JSON has, and plotly's figures.
        values: what the template names.
    """
    return (
        _environment()
        .get_template(template)
        .render(**values, plotly=Markup(get_plotlyjs()), data=Markup(_embedded(data)))
    )


@cache
def _environment() -> Environment:
    """It keeps the templates that it has compiled."""
    environment = Environment(
        loader=PackageLoader("onnxprune.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["compact"] = compact
    environment.filters["marked"] = _marked
    environment.filters["plural"] = plural
    environment.filters["decimals"] = lambda value, form: "-" if value is None else form % value
    return environment


def _embedded(value: Any) -> str:
    """JSON that nothing in it can make end the script element around it."""
    return json.dumps(value, cls=PlotlyJSONEncoder).replace("<", "\\u003c")


def _marked(text: str) -> Markup:
    """A sentence with what stands between backquotes as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _number(value: Any) -> str:
    """A cell for people: words as they are, large counts with three digits, others with two after the point at most."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "-"
    if value >= 1e4:
        return compact(value)
    return f"{value:,.2f}".rstrip("0").rstrip(".")
