"""The files that a study gives beside its points' own: in 8 bits, of points and of bases."""

from typing import Any

import pandas as pd

from onnxprune.results import store
from onnxprune.results.quality import quality_of_study

VARIANTS = FLOAT32, INT8, INT8_ALONE = "float32", "int8", "int8 alone"

# of the network, which is the base's where nothing is pruned
_OF_THE_NETWORK = ("macs", "effective_macs", "flops", "onnx_tool_ops", "params", "nonzero_params")
# what is known of the file in float32 only
_UNKNOWN = (
    "accuracy_low", "accuracy_high", "accuracy_change", "accuracy_change_p_value", "control_accuracy", "images_lost",
    "images_gained", "speedup_low", "speedup_high", "speedup_beyond_theory",
)  # fmt: skip


def with_variants(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of one study, and after them a row for each file in 8 bits, its numbers in the columns of the others.

    Two columns say what a row is of: `variant`, which is "float32", "int8" (pruned, in 8 bits) or "int8 alone" (the
    base in 8 bits), and `file`, its name. What was not found out of these files is missing. The base in 8 bits was
    timed beside every point: its row has the timing beside the first.
    """
    found = [table.assign(variant=FLOAT32, file=store.MODEL)]
    quality = quality_of_study(table).name
    if f"int8_{quality}" in table:
        pruned = table[table[f"int8_{quality}"].notna()]
        found.append(_replaced(pruned, "int8_", variant=INT8))
    if f"base_int8_{quality}" in table:
        bases = table[table[f"base_int8_{quality}"].notna()].drop_duplicates("base_id")
        dense: dict[str, Any] = {name: bases[f"base_{name}"] for name in _OF_THE_NETWORK}
        dense |= {"achieved_sparsity": 0.0, "theoretical_speedup": 1.0}
        found.append(_replaced(bases, "base_int8_", variant=INT8_ALONE, **dense))
    return pd.concat(found, ignore_index=True) if len(found) > 1 else found[0].reset_index(drop=True)


def _replaced(rows: pd.DataFrame, prefix: str, **others: Any) -> pd.DataFrame:
    """With the columns of this prefix in place of those without it, and others; how many MACs are in 8 bits is no such
    column."""
    names = [str(name).removeprefix(prefix) for name in rows if str(name).startswith(prefix)]
    known = {name: rows[f"{prefix}{name}"] for name in names if name in rows and name != "macs"}
    unknown = dict.fromkeys(name for name in _UNKNOWN if name in rows)
    return rows.assign(**{**others, **unknown, **known}, file=store.INT8_MODEL)
