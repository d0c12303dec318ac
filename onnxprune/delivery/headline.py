"""What is said first of a row of the results: how much went, how good the network still is, and against what."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from onnxprune.common.output import plural
from onnxprune.common.shares import SIGNIFICANT
from onnxprune.delivery.variants import INT8, INT8_ALONE
from onnxprune.results import store
from onnxprune.results.claims import between_ways, beyond_controls, sentences
from onnxprune.results.quality import ACCURACY, quality_of
from onnxprune.settings import vocabulary
from onnxprune.settings.point import FIELDS
from onnxprune.settings.vocabulary import SCHEDULES

if TYPE_CHECKING:
    import numpy as np


_HOW = (
    "Differences in points of accuracy, paired by seed, with 95 % intervals. A difference counts if Student's test "
    "over seeds and McNemar's over all images both give p < 0.05, corrected for the number of comparisons of a study "
    "that are shown (Holm); with one seed, only McNemar's counts."
)


def way(row: Mapping[str, Any]) -> str:
    """Technique and criterion, the schedule where it is not the usual one, and the control that took their place."""
    if row.get("variant") == INT8_ALONE:
        return "the base"
    control = row.get("control")
    name = f"{row['technique']} {row['criterion']}"
    if row.get("schedule", FIELDS["schedule"].default) != FIELDS["schedule"].default:
        name += f" {row['schedule']}"
    return name if _missing(control) or control == "none" else f"{name} ({control})"


def removed(row: Mapping[str, Any]) -> str:
    """How much was removed, with what was asked for where that is another number."""
    found, asked = row["achieved_sparsity"], row["sparsity"]
    if row.get("variant") == INT8_ALONE:
        return "nothing removed, int8"
    text = f"{percent(found)} % removed"
    if percent(found) != percent(asked):
        most = "at most " if is_bound(row.get("schedule", FIELDS["schedule"].default), asked) else ""
        text += f" ({most}{percent(asked)} % asked)"
    return f"{text}, int8" if row.get("variant") == INT8 else text


def is_bound(schedule: str, sparsity: float) -> bool:
    """Whether the sparsity that was asked for, in percent, is the most, of which the schedule took what it found."""
    return sparsity > 0 and SCHEDULES[schedule].finds_sparsity


def percent(number: float) -> str:
    """With one digit after the point, where it is needed."""
    return f"{round(float(number), 1):g}"


def quality(row: Mapping[str, Any], seeds: int = 1) -> str:
    """How good the network still is, and against what.

    Args:
        seeds: that it was chosen by: of several no single one tells what is beyond noise.
    """
    if quality_of(row) is ACCURACY:
        return f"accuracy {accuracy(row)}; {change(row, seeds)}"
    text = f"fidelity to the unpruned file's answers {row['fidelity']:.2f} %, cosine {row['cosine']:.4f}"
    if _missing(row.get("agreement")):
        return text
    return f"{text}, the highest score at the same place for {row['agreement']:.2f} % of the images"


def accuracy(row: Mapping[str, Any]) -> str:
    """On the test set, with its interval."""
    text = f"{row['accuracy']:.2f} %"
    low, high = row.get("accuracy_low"), row.get("accuracy_high")
    return text if _missing(low) else f"{text} (95 % interval {low:.2f} to {high:.2f})"


def change(row: Mapping[str, Any], seeds: int = 1) -> str:
    """What pruning cost, and the base beside it."""
    base = f"base {row['base_accuracy']:.2f} %, {row['accuracy'] - row['base_accuracy']:+.2f} "
    if row.get("variant") == INT8_ALONE:
        return f"{base}against it"
    base += f"including {_beside_pruning(row)}"
    if _missing(row.get("accuracy_change")):
        return f"{base}; what pruning alone cost is not known, as no 0 % point has the same training"
    bits = " in 8 bits" if row.get("variant") == INT8 else ""
    control = f"{row['accuracy_change']:+.2f} against the 0 % control's {row['control_accuracy']:.2f} %{bits}"
    if not _missing(row.get("images_lost")):
        found = f"{plural(row['images_lost'], 'image')} lost, {row['images_gained']:,} gained"
        control += f" ({found}{_significance(row) if seeds == 1 else ''})"
    return f"{control}; {base}"


def _beside_pruning(row: Mapping[str, Any]) -> str:
    """What a pruned network differs by from its base, beside what was removed."""
    training = "fine-tuning" if is_finetuned(row) else "another training"
    return f"{training} and 8 bits" if row.get("variant") == INT8 else training


def is_finetuned(row: Mapping[Any, Any]) -> bool:
    """Whether it has been trained further from its base, and not from new weights."""
    return vocabulary.is_finetuned(row.get("schedule", FIELDS["schedule"].default), row.get("control"))


def verdict(real: bool) -> str:
    """Whether a difference is told from chance."""
    return "beyond noise" if real else "within noise"


def told_claims(table: pd.DataFrame, sweep: Path) -> dict[str, list[str]]:
    """Title -> lines: which ways to prune are better than others, where there are several seeds, and than their
    controls, where there are any."""

    table = table[table["accuracy"].notna()]
    if not len(table):
        return {}

    def right(folder: str) -> "np.ndarray | None":
        return store.right_images(sweep / folder)

    found = {}
    if table["seed"].nunique() > 1 and (ways := sentences(between_ways(table, right))):
        found[f"Which is more accurate, at the same sparsity asked for? {_HOW}"] = ways
    if controls := sentences(beyond_controls(table, right)):
        found[f"Is it better than random pruning, or than training the small network from scratch? {_HOW}"] = controls
    return found


def _significance(row: Mapping[str, Any]) -> str:
    """Of what differs from the control, image by image."""
    p_value: Any = row.get("accuracy_change_p_value")
    low, high = row.get("accuracy_change_low"), row.get("accuracy_change_high")
    if _missing(p_value):
        return ""
    interval = "" if _missing(low) else f"; 95 % interval {low:+.2f} to {high:+.2f}"
    return f"{interval}; p {'< 0.001' if p_value < 0.001 else f'= {p_value:.2g}'}, {verdict(p_value < SIGNIFICANT)}"


def _missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value))
