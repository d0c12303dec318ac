"""The curves of a figure: which rows make one, what it is called, how it looks, what it is on average over seeds."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

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
            names = names + table[column].map(_SHOWN.get(column, lambda value: f", {value}"))
    return names


def looks(table: pd.DataFrame, names: pd.Series) -> dict[str, Look]:
    """Name of each curve -> its look, in the order of the rows.

    Colour and marker are the technique's and always the same; the dashes tell its variants apart. Where there is one
    technique only, colour and marker are the variant's.
    """
    techniques = dict(zip(names, table["technique"], strict=True))
    one = len(set(techniques.values())) == 1
    variants = list(dict.fromkeys(name.partition(", ")[2] for name in techniques))
    found = {}
    for name, technique in techniques.items():
        variant = variants.index(name.partition(", ")[2])
        kind = (variant if one else list(TECHNIQUES).index(technique)) % _KINDS
        found[name] = Look(_COLOURS[kind], kind, variant % _KINDS)
    return found


def over_seeds(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The points of one curve in order of sparsity: mean `x`, mean `y`, sample standard deviation and number of seeds.

    The columns are x, y, std, seeds and collapsed, whether any network of the point has; std is 0 for one seed. Rows
    without a value are left out.
    """
    known = rows.assign(_x=rows[x].astype(float), _y=rows[y].astype(float)).dropna(subset=["_x", "_y"])
    known = known.assign(_collapsed=known["collapsed"].astype(bool))
    points = known.groupby("sparsity").agg(
        x=("_x", "mean"),
        y=("_y", "mean"),
        std=("_y", "std"),
        seeds=("_y", "size"),
        collapsed=("_collapsed", "any"),
    )
    return points.fillna({"std": 0.0}).reset_index()


def sound_span(rows: pd.DataFrame, *columns: str) -> tuple[float, float]:
    """From where to where an axis of these columns goes, so that networks which have collapsed, far from all others,
    do not squeeze the differences between those into a line; of all rows where all have collapsed."""
    sound = rows[~rows["collapsed"].astype(bool)]
    values = (sound if len(sound) else rows)[list(columns)].to_numpy(float, na_value=math.nan)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.08 * (high - low) or 0.01 * abs(high) or 1.0
    return low - margin, high + margin
