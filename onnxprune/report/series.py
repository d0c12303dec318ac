"""The curves of a figure: which rows make one, what it is called, how it looks, what it is on average over seeds."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from onnxprune.results.schema import SHARES
from onnxprune.results.statistics import interval_over_seeds
from onnxprune.settings.point import AXES
from onnxprune.settings.vocabulary import TECHNIQUES

# Okabe and Ito's colours that people of every colour vision tell apart on white and on black
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_KINDS = len(_COLOURS)
_VARIANTS = ("sweep", *(axis for axis in AXES if axis not in ("technique", "sparsity", "seed")))
# how a variant is called, where its value alone does not say it
_SHOWN: dict[str, Callable[[Any], str]] = {
    "batch_size": lambda size: f", batch {size}",
    "control": lambda control: "" if control == "none" else f", control {control}",
}


@dataclass(frozen=True)
class Look:
    """How a curve is told from the others; `marker` and `dash` are 0 to 5, and each library has its own names."""

    colour: str
    marker: int
    dash: int


def named_series(table: pd.DataFrame) -> pd.Series:
    """The name of the curve that each row belongs to: its technique and what varies within a technique."""
    names = table["technique"].astype(str)
    for column in _VARIANTS:
        if column in table and table.groupby("technique")[column].nunique(dropna=False).max() > 1:
            names = names + table[column].map(functools.partial(told, column))
    return names


def told(column: str, value: Any) -> str:
    """How a variant is called behind the name of its technique; nothing where it is no control."""
    return _SHOWN.get(column, lambda value: f", {value}")(value)


def looks(table: pd.DataFrame, names: pd.Series) -> dict[str, Look]:
    """Name of each curve -> its look, in the order of the rows.

    Colour and marker are the technique's and always the same; the dashes tell its variants apart. Where there is one
    technique only, colour and marker are the variant's. Behind every sixth variant the marker, or of one technique the
    dashes, are others, so that 36 differ.
    """
    techniques = dict(zip(names, table["technique"], strict=True))
    one = len(set(techniques.values())) == 1
    variants = list(dict.fromkeys(name.partition(", ")[2] for name in techniques))
    found = {}
    for name, technique in techniques.items():
        sixth, variant = divmod(variants.index(name.partition(", ")[2]), _KINDS)
        if one:
            found[name] = Look(_COLOURS[variant], variant, (variant + sixth) % _KINDS)
        else:
            kind = list(TECHNIQUES).index(technique)
            found[name] = Look(_COLOURS[kind % _KINDS], (kind + sixth) % _KINDS, variant)
    return found


def over_seeds(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The points of one curve in order of what was asked: mean `x`, mean `y`, sample standard deviation, number of
    seeds, and the 95 % interval of the mean.

    The columns are sparsity, x, y, std, seeds, low, high and collapsed, whether any network has; std is 0 for one seed,
    whose interval is that in the columns `<y>_low` and `<y>_high`; NaN where there is none. Rows without a value are
    left out.
    """
    columns = {"sparsity": "sparsity", "x": x, "y": y, "low": f"{y}_low", "high": f"{y}_high"}
    columns["collapsed"] = "collapsed"
    known = pd.DataFrame(
        {name: rows[column].astype(float) if column in rows else math.nan for name, column in columns.items()}
    ).dropna(subset=["x", "y"])
    found = []
    for sparsity, same in known.groupby("sparsity"):
        values, several = same["y"].to_numpy(), len(same) > 1
        ends = same[["low", "high"]].to_numpy()
        low, high = interval_over_seeds(values, ends) if several else ends[0]
        std = values.std(ddof=1) if several else 0.0
        found.append(
            (sparsity, same["x"].mean(), values.mean(), std, len(same), low, high, bool(same["collapsed"].any()))
        )
    names = ["sparsity", "x", "y", "std", "seeds", "low", "high", "collapsed"]
    points = pd.DataFrame(found, columns=names).astype({"collapsed": bool})  # of no rows too
    if y in SHARES:  # two seeds may differ so much that Student's interval goes beyond
        points[["low", "high"]] = points[["low", "high"]].clip(0, 100)
    return points


def error_bars(points: pd.DataFrame, y: str = "y", low: str = "low", high: str = "high") -> tuple[pd.Series, pd.Series]:
    """How far the intervals reach below and above the values; 0 where there is none."""
    columns = points.reindex(columns=[y, low, high]).astype(float)
    return tuple((columns[end] - columns[y]).abs().fillna(0.0) for end in (low, high))  # type: ignore[return-value]


def sound_span(rows: pd.DataFrame, *columns: str, ends: Sequence[float] = ()) -> tuple[float, float]:
    """From where to where an axis of these columns goes, so that networks which have collapsed, far from all others,
    do not squeeze the differences between those into a line; of all rows where all have collapsed.

    Args:
        ends: of intervals that are to be seen whole; NaN where there is none.
    """
    sound = rows[~rows["collapsed"].astype(bool)]
    values = (sound if len(sound) else rows)[list(columns)].to_numpy(float, na_value=math.nan)
    seen = np.append(values, ends)
    low, high = float(np.nanmin(seen)), float(np.nanmax(seen))
    margin = 0.08 * (high - low) or 0.01 * abs(high) or 1.0
    return low - margin, high + margin
