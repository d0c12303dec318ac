"""What is to be said of how networks were trained: bases that fine-tuning alone changes much, which hides what pruning
costs, and pruned networks that it made worse."""

from typing import TYPE_CHECKING

from onnxprune.results.quality import ACCURACY, quality_of_study
from onnxprune.results.seeds import configurations
from onnxprune.settings.vocabulary import is_finetuned

if TYPE_CHECKING:
    import pandas as pd

MOST_APART = 1.0  # points that fine-tuning may make a network better or worse unsaid

_STANDARD_ERRORS = 1.96  # of a 95 % interval
_ADVICE = "lower --finetune-learning-rate, or fine-tune longer (--finetune-epochs)"


def training_remarks(rows: "pd.DataFrame") -> list[str]:
    """What is to be said of rows that were trained alike, a sentence each."""
    return [remark for remark in (remark_on_control(rows), remark_on_finetuning(rows)) if remark is not None]


def gain_of_control(rows: "pd.DataFrame") -> float | None:
    """How much better than the bases the 0 % controls of these rows are, less than 0 where worse; None where it is
    little.

    The mean over bases, in points of test accuracy. Better is said beyond a point or beyond the 95 % interval, as of
    two independent shares; worse beyond both. A control is the base with the fine-tuning that every point has, and
    nothing removed.
    """
    tuned = _finetuned(rows)
    controls = tuned[(tuned["sparsity"] == 0) & (tuned["control"] == "none") & tuned["accuracy"].notna()]
    if not len(controls):
        return None
    gain, interval = _gained(controls, "base_accuracy", "accuracy")
    return gain if gain > min(MOST_APART, interval) or gain < -max(MOST_APART, interval) else None


def remark_on_control(rows: "pd.DataFrame") -> str | None:
    """What is to be said of the bases of these rows; None where nothing is."""
    gain = gain_of_control(rows)
    if gain is None:
        return None
    if gain < 0:
        return (
            f"fine-tuning harms: with nothing removed it makes the base {-gain:.2f} points worse, so a comparison with "
            f"that control flatters pruning; {_ADVICE}"
        )
    return (
        f"the base is not fully trained: fine-tuning alone, with nothing removed, makes it {gain:.2f} points "
        "better, so a comparison with the base hides part of what pruning costs; train it longer (--updates)"
    )


def remark_on_finetuning(rows: "pd.DataFrame") -> str | None:
    """What is to be said of pruned networks of these rows that fine-tuning made worse, by more than a point and than
    the 95 % interval, on the mean over seeds; None where there are none."""
    after = quality_of_study(rows).name
    before = f"before_finetuning_{after}"
    if before not in rows:
        return None
    tuned = _finetuned(rows)
    pruned = tuned[(tuned["sparsity"] > 0) & tuned[[before, after]].notna().all(axis=1)]
    studied = [pruned.iloc[positions] for positions in configurations(pruned)] if len(pruned) else []
    losses = []
    for seeds in studied:
        gain, interval = _gained(seeds, before, after)
        if gain < -max(MOST_APART, interval):
            losses.append((-gain, seeds.iloc[0]))
    if not losses:
        return None
    loss, worst = max(losses, key=lambda found: found[0])
    if len(studied) == 1:
        return f"fine-tuning made the pruned network {loss:.2f} points worse than it was before; {_ADVICE}"
    way = f"{worst['technique']} {worst['criterion']}" + (
        "" if worst["control"] == "none" else f", {worst['control']},"
    )
    return (
        f"fine-tuning made {len(losses)} of {len(studied)} pruned networks worse than they were before, {way} "
        f"{worst['sparsity']:g} % by {loss:.2f} points; {_ADVICE}"
    )


def _finetuned(rows: "pd.DataFrame") -> "pd.DataFrame":
    """The rows of networks that were trained further from their base."""
    return rows.loc[[is_finetuned(*way) for way in zip(rows["schedule"], rows["control"], strict=True)]]


def _gained(rows: "pd.DataFrame", before: str, after: str) -> tuple[float, float]:
    """By how much the mean of a column is above that of another, in points, and the 95 % interval around that, as of
    two independent shares of the test images, which are the same for all seeds; 0 where they are no shares."""
    mean = rows[[before, after]].mean() / 100
    error = 0.0
    if after == ACCURACY.name:
        error = ((mean * (1 - mean)).sum() / rows["test_images"].max()) ** 0.5
    return float(100 * (mean[after] - mean[before])), 100 * _STANDARD_ERRORS * error


def dead_units(rows: "pd.DataFrame") -> int:
    """The most dead units that a base of these rows has; 0 where that is not known."""
    known = rows["base_dead_units"].dropna() if "base_dead_units" in rows else ()
    return int(max(known, default=0))
