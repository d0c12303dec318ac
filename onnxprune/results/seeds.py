"""Rows that differ in their seed alone, seen as one: decisions are on means."""

import math

import numpy as np
import pandas as pd

from onnxprune.common.shares import Interval
from onnxprune.results.statistics import Difference, interval_over_seeds, paired_difference
from onnxprune.settings.point import FIELDS

STUDY = ["model", "dataset", "batch_size"]  # rows of one of these compare
OF_POINT = ["technique", "criterion", "granularity", "control", "channel_align", "sparsity"]


def training_columns(table: pd.DataFrame) -> list[str]:
    """Those that rows have in common which differ in what was removed and in their seed alone."""
    return [name for name in ("sweep", *FIELDS) if name in table and name not in (*OF_POINT, "seed")]


def configurations(table: pd.DataFrame) -> list[list[int]]:
    """The positions of the rows of each combination of settings but the seed, in the table's order; of a table without
    seeds each row is one."""
    if "seed" not in table:
        return [[position] for position in range(len(table))]
    names = [name for name in ("sweep", "variant", *FIELDS) if name in table and name != "seed"]
    varying = [name for name in names if table[name].nunique(dropna=False) > 1]
    if not varying:
        return [list(range(len(table)))]
    found: dict[int, list[int]] = {}
    for position, number in enumerate(table.groupby(varying, sort=False, dropna=False).ngroup()):
        found.setdefault(number, []).append(position)
    return list(found.values())


def accuracy_interval(rows: pd.DataFrame) -> Interval:
    """The 95 % interval of a configuration's accuracy, in percent: Wilson's of one seed, over images; of the mean of
    several seeds that of `onnxprune.results.statistics.interval_over_seeds`; NaN where that is not known."""
    columns = rows.reindex(columns=["accuracy", "accuracy_low", "accuracy_high"])
    numbers = np.stack([columns[name].to_numpy(float, na_value=math.nan) for name in columns], axis=1)
    accuracies, ends = numbers[:, 0], numbers[:, 1:]
    if len(rows) == 1:
        return Interval(*ends[0].tolist())
    if np.isnan(accuracies).any():
        return Interval(math.nan, math.nan)
    low, high = interval_over_seeds(accuracies, ends)
    return Interval(max(0.0, low), min(100.0, high))


def change(rows: pd.DataFrame) -> Difference | None:
    """What a configuration's accuracy differs from that of its 0 % controls, seed by seed; None where there is none.

    A table has no images: its seeds count as if they differed on the same ones.
    """
    if "accuracy_change" not in rows or rows["accuracy_change"].isna().any():
        return None
    if "control_point" in rows and rows["control_point"].eq(rows["folder"]).all():  # nothing is to be found out
        return Difference(0.0, 0.0, 0.0, len(rows), 1.0, False)
    counts = rows.reindex(columns=["images_lost", "images_gained"])
    known = not counts.isna().any(axis=None)
    lost, gained = (int(counts[name].sum()) if known else None for name in counts)
    images = int(rows["test_images"].iloc[0]) if known else 0
    return paired_difference(rows["accuracy_change"].to_numpy(float), lost, gained, images, len(rows))
