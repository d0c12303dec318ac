"""The files that a study gives beside its points' own: in 8 bits, of points and of bases."""

import math
from typing import Any

import pandas as pd

from onnxprune.common.shares import accuracy_interval
from onnxprune.results import store
from onnxprune.results.quality import quality_of_study

VARIANTS = FLOAT32, INT8, INT8_ALONE = "float32", "int8", "int8 alone"

# of the network, which is the base's where nothing is pruned
_OF_THE_NETWORK = ("macs", "effective_macs", "flops", "onnx_tool_ops", "params", "nonzero_params")
# of the base in 8 bits, beside every point
_TIMED = ("base_int8_speedup", "base_int8_speedup_noise", "base_int8_latency_ms_median")
# what is known of the file in float32 only, if at all
_UNKNOWN = (
    "accuracy_low", "accuracy_high", "accuracy_change", "accuracy_change_low", "accuracy_change_high",
    "accuracy_change_p_value", "control_accuracy", "images_lost",
    "images_gained", "speedup_low", "speedup_high", "speedup_beyond_theory",
)  # fmt: skip


def with_variants(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of one study, and after them a row for each file in 8 bits, its numbers in the columns of the others.

    Two columns say what a row is of: `variant`, which is "float32", "int8" (pruned, in 8 bits) or "int8 alone" (the
    base in 8 bits), and `file`, its name. What was not found out of these files is missing. The base in 8 bits was
    timed beside every point: its row has the medians. The control of a pruned one in 8 bits is its control in 8 bits.
    """
    found = [table.assign(variant=FLOAT32, file=store.MODEL)]
    quality = quality_of_study(table).name
    if f"int8_{quality}" in table:
        pruned = table[table[f"int8_{quality}"].notna()]
        found.append(_replaced(pruned, "int8_", variant=INT8, **_against_control(table, pruned)))
    if f"base_int8_{quality}" in table:
        beside = table[table[f"base_int8_{quality}"].notna()]
        bases = beside.drop_duplicates("base_id")
        timed = [name for name in _TIMED if name in beside]
        medians = beside.groupby("base_id")[timed].median().loc[bases["base_id"]].set_index(bases.index)
        bases = bases.assign(**{name: medians[name] for name in timed})
        dense: dict[str, Any] = {name: bases[f"base_{name}"] for name in _OF_THE_NETWORK}
        dense |= {"sparsity": 0.0, "achieved_sparsity": 0.0, "theoretical_speedup": 1.0}
        found.append(_replaced(bases, "base_int8_", variant=INT8_ALONE, **dense))
    return pd.concat(found, ignore_index=True) if len(found) > 1 else found[0].reset_index(drop=True)


def base_latency(rows: pd.DataFrame) -> pd.Series:
    """Milliseconds of the base by which `onnxprune.results.derived.paired_latency` makes latencies comparable."""
    return rows["latency_ms_paired"] * rows["speedup"]


def _against_control(table: pd.DataFrame, pruned: pd.DataFrame) -> dict[str, Any]:
    """What pruning changed, among files in 8 bits; empty where there is no accuracy."""
    if not {"int8_accuracy", "control_point"} <= {*table}:
        return {}
    accuracies = table.set_index("folder")["int8_accuracy"].to_dict()
    control = pruned["control_point"].map(accuracies).astype("Float64")
    return {"control_accuracy": control, "accuracy_change": pruned["int8_accuracy"] - control}


def _intervals(accuracy: pd.Series, images: pd.Series) -> dict[str, Any]:
    columns = (column.to_numpy(float, na_value=math.nan) for column in (accuracy, images))
    found = [accuracy_interval(*numbers) for numbers in zip(*columns, strict=True)]
    return {f"accuracy_{end}": [getattr(interval, end) for interval in found] for end in ("low", "high")}


def _replaced(rows: pd.DataFrame, prefix: str, **others: Any) -> pd.DataFrame:
    """With the columns of this prefix in place of those without it, and others; how many MACs are in 8 bits is no such
    column."""
    names = [str(name).removeprefix(prefix) for name in rows if str(name).startswith(prefix)]
    known = {name: rows[f"{prefix}{name}"] for name in names if name in rows and name != "macs"}
    found: dict[str, Any] = {**dict.fromkeys(name for name in _UNKNOWN if name in rows), **others, **known}
    if "accuracy" in known and "test_images" in rows:
        found |= _intervals(known["accuracy"], rows["test_images"])
    if "speedup" in known and "latency_ms_paired" in rows:  # at the moment that the others are told of too
        found["latency_ms_paired"] = base_latency(rows) / known["speedup"]
    return rows.assign(**found, file=store.INT8_MODEL)
