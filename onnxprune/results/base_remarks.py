"""What is to be said of bases: where fine-tuning alone changes them much, what pruning costs is hard to tell."""

from typing import TYPE_CHECKING

from onnxprune.settings.vocabulary import SCHEDULES

if TYPE_CHECKING:
    import pandas as pd

MOST_APART = 1.0  # points of accuracy that the 0 % control may be better or worse than its base

_STANDARD_ERRORS = 1.96  # of a 95 % interval


def gain_of_control(rows: "pd.DataFrame") -> float | None:
    """How much better than the bases the 0 % controls of these rows are, less than 0 where worse; None where it is
    little.

    The mean over bases, in points of test accuracy. Better is said beyond a point or beyond the 95 % interval, as of
    two independent shares; worse beyond both. A control is the base with the fine-tuning that every point has, and
    nothing removed.
    """
    finetunes = rows["schedule"].map(lambda name: "finetune_epochs" in SCHEDULES[name].settings).astype(bool)
    controls = rows[(rows["sparsity"] == 0) & (rows["control"] == "none") & finetunes & rows["accuracy"].notna()]
    if not len(controls):
        return None
    mean = controls[["accuracy", "base_accuracy"]].mean() / 100
    images = controls.drop_duplicates("base_id")["test_images"].sum()
    error = ((mean * (1 - mean)).sum() / images) ** 0.5
    gain = float(100 * (mean["accuracy"] - mean["base_accuracy"]))
    interval = 100 * _STANDARD_ERRORS * error
    return gain if gain > min(MOST_APART, interval) or gain < -max(MOST_APART, interval) else None


def remark_on_control(rows: "pd.DataFrame") -> str | None:
    """What is to be said of the bases of these rows; None where nothing is."""
    gain = gain_of_control(rows)
    if gain is None:
        return None
    if gain < 0:
        return (
            f"fine-tuning harms: with nothing removed it makes the base {-gain:.2f} points worse, so a comparison with "
            "that control flatters pruning; lower --finetune-learning-rate, or fine-tune longer (--finetune-epochs)"
        )
    return (
        f"the base is not fully trained: fine-tuning alone, with nothing removed, makes it {gain:.2f} points "
        "better, so a comparison with the base hides part of what pruning costs; train it longer (--updates)"
    )


def dead_units(rows: "pd.DataFrame") -> int:
    """The most dead units that a base of these rows has; 0 where that is not known."""
    known = rows["base_dead_units"].dropna() if "base_dead_units" in rows else ()
    return int(max(known, default=0))
