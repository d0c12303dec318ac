"""The columns of a sweep's table that follow from its other rows and columns, or from files beside the records."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from onnxprune.common import shares
from onnxprune.settings.point import FIELDS

# what decides on what goes, and how it is timed; the rest of the settings decide on the training
_OF_PRUNING = {
    "technique", "criterion", "granularity", "sparsity", "control", "keep", "keep_dead", "channel_align",
    "latency_batch", "latency_threads", "latency_seconds",
}  # fmt: skip
_TIMED_TOGETHER = [
    "model", "dataset", "base_macs", "base_params", "latency_batch", "latency_threads", "device", "cpu", "gpu",
]  # fmt: skip
_PAIRED = ["images_lost", "images_gained"]
_FOLDERS = ("control_point", "same_as")

DERIVED = (
    "accuracy_low", "accuracy_high", "base_accuracy_low", "base_accuracy_high", "control_point", "control_accuracy",
    "accuracy_change", "accuracy_change_low", "accuracy_change_high", *_PAIRED, "accuracy_change_p_value",
    "latency_ms_paired", "same_as",
)  # fmt: skip


def derive(table: pd.DataFrame, known: pd.DataFrame, right_images: Callable[[str], np.ndarray | None]) -> pd.DataFrame:
    """The table of a sweep with its derived columns.

    Args:
        known: what was derived before, by folder, of the rows whose records have not changed since.
        right_images: of a folder, whether each test image (N,) is right; None where that is not known.
    """
    own = table.drop(columns=[name for name in DERIVED if name in table]).reset_index(drop=True)
    found = own[["folder"]].copy()
    images = _numbers(own, "test_images")
    for column in ("accuracy", "base_accuracy"):
        intervals = [
            shares.accuracy_interval(value, count) for value, count in zip(_numbers(own, column), images, strict=True)
        ]
        found[f"{column}_low"], found[f"{column}_high"] = np.reshape(intervals, (-1, 2)).T
    controls = control_rows(own)
    present = controls.dropna().astype(int)
    found["control_point"] = pd.Series(own["folder"].to_numpy()[present], present.index, dtype=object)
    found["control_accuracy"] = pd.Series(_numbers(own, "accuracy")[present], present.index, dtype=float)
    found["accuracy_change"] = own["accuracy"] - found["control_accuracy"]
    found["latency_ms_paired"] = paired_latency(own)
    found["same_as"] = same_as(own)
    pairs = _pairs(found, images, known, cache(right_images))
    found = found.drop(columns="folder")
    return own.join([found.astype({name: "string" if name in _FOLDERS else "Float64" for name in found}), pairs])


def control_rows(table: pd.DataFrame) -> pd.Series:
    """For each row the position of its 0 % control: the row of the same training and seed where nothing was removed,
    by the same technique and criterion where there is one; missing where there is none. What is trained from scratch is
    compared with what is too."""
    varying = [
        name for name in FIELDS if name not in _OF_PRUNING and name in table and table[name].nunique(dropna=False) > 1
    ]
    control = table["control"].fillna("none")
    trainings = list(zip(_together(table, varying), control == "scratch", strict=True))
    ways = list(zip(trainings, table["technique"], table["criterion"], table["granularity"].fillna(""), strict=True))
    dense = (table["sparsity"] == 0) & control.isin(["none", "scratch"])
    same_way: dict[Any, int] = {}
    any_way: dict[Any, int] = {}
    for position in np.flatnonzero(dense.to_numpy(bool)):
        same_way.setdefault(ways[position], int(position))
        any_way.setdefault(trainings[position], int(position))
    found = [same_way.get(way, any_way.get(training)) for way, training in zip(ways, trainings, strict=True)]
    return pd.Series(found, table.index, dtype="Int64")


def paired_latency(table: pd.DataFrame) -> pd.Series:
    """Milliseconds that compare with each other: the median latency of the base over the rows, divided by a row's
    speedup, which alone was measured with the base beside it."""
    if "speedup" not in table or not len(table):
        return pd.Series(np.nan, table.index)
    base = pd.Series(_numbers(table, "base_latency_ms_median"), table.index)
    return base.groupby(timed_together(table)).transform("median") / _numbers(table, "speedup")


def same_as(table: pd.DataFrame) -> pd.Series:
    """For each row the folder of the first one that is the same network; missing for the first."""
    if "network_id" not in table:
        return pd.Series(None, table.index, dtype=object)
    firsts = table.groupby("network_id", sort=False)["folder"].transform("first").astype(object)
    return firsts.where((firsts != table["folder"]) & table["network_id"].notna(), None)


def timed_together(table: pd.DataFrame) -> np.ndarray:
    """The number (rows,) of the base and the conditions that each row was timed with."""
    return _together(table, _TIMED_TOGETHER)


def _together(table: pd.DataFrame, columns: list[str]) -> np.ndarray:
    """The number (rows,) of the group that each row belongs to, whose rows have the same values."""
    there = [name for name in columns if name in table]
    if not there:
        return np.zeros(len(table), int)
    return table.groupby(there, dropna=False, sort=False).ngroup().to_numpy()


def _numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    if column not in table:
        return np.full(len(table), np.nan)
    return table[column].to_numpy(float, na_value=np.nan)


def _pairs(
    table: pd.DataFrame, images: np.ndarray, known: pd.DataFrame, right: Callable[[str], np.ndarray | None]
) -> pd.DataFrame:
    """How each row and its control differ, image by image.

    Args:
        images: (rows,), how many the row is about.
    """
    before: dict[Any, Any] = {}
    if {*_PAIRED, "control_point"} <= {*known.columns}:
        before = known[[*_PAIRED, "control_point"]].to_dict("index")
    rows = []
    for folder, control, count in zip(table["folder"], table["control_point"], images, strict=True):
        pair: Any = None
        if isinstance(control, str) and control in before and before.get(folder, {}).get("control_point") == control:
            pair = tuple(before[folder][name] for name in _PAIRED)
        elif isinstance(control, str):
            pair = _discordant(right(control), right(folder))
        rows.append(_compared(pair, folder == control, count))
    names = [*_PAIRED, "accuracy_change_low", "accuracy_change_high", "accuracy_change_p_value"]
    found = pd.DataFrame(rows, table.index, names, dtype="Float64")
    return found.astype(dict.fromkeys(_PAIRED, "Int64"))


def _compared(pair: Any, itself: bool, images: float) -> tuple[Any, ...]:
    """Images lost and gained, the interval of the change, and its p-value."""
    if pair is None or pd.isna(pair[0]):
        return (None,) * 5
    if itself:
        return (0, 0, 0.0, 0.0, 1.0)
    lost, gained = pair
    return (lost, gained, *shares.paired_shares(lost, gained, int(images)), shares.mcnemar(lost, gained))


def _discordant(first: np.ndarray | None, second: np.ndarray | None) -> tuple[int, int] | None:
    """Of images (N,) that are right: how many are by the first network alone, and by the second alone; None where that
    is not known."""
    if first is None or second is None or len(first) != len(second):
        return None
    return shares.discordant(first, second)
