"""What has to be said of the latencies of a sweep before they are relied on."""

import math
from collections.abc import Iterable

import pandas as pd

from onnxprune.results.derived import timed_together

_CONDITIONS = ("model", "dataset", "latency_batch", "latency_threads", "device")  # that tell bases apart
_MUCH = 0.1  # that the base's latency may change over a sweep, relative, where the noise of single timings is less


def noise(table: pd.DataFrame) -> float:
    """How far sessions of the same file differed in nine rows of ten, relative; NaN where nothing was timed."""
    return float(table["speedup_noise"].astype(float).quantile(0.9))


def told_noises(floors: Iterable[float]) -> str:
    """The noise of studies, of which one at least was timed; NaN of others."""
    known = [floor for floor in floors if not math.isnan(floor)]
    least, most = (f"{100 * floor:.1f}" for floor in (min(known), max(known)))
    return f"±{least} %" if least == most else f"±{least} to ±{most} %, by study"


def is_tie(seeds: pd.DataFrame, floor: float, prefix: str = "") -> bool:
    """Whether a configuration is neither faster nor slower than its base: the speedup of a seed is within the noise, or
    its seeds do not agree.

    Args:
        seeds: its rows, all of them timed.
        floor: the noise of the study.
        prefix: of the columns, "int8_" for those of the second file.
    """
    speedups, noises = (seeds[f"{prefix}{name}"].astype(float) for name in ("speedup", "speedup_noise"))
    beyond = (speedups - 1).abs() > noises.clip(lower=floor)
    return not (beyond.all() and ((speedups > 1).all() or (speedups < 1).all()))


def remarks(table: pd.DataFrame) -> list[str]:
    """A sentence each: a busy machine, a base whose latency changed, networks that are smaller and slower, and speedups
    that theory does not explain."""
    timed = table[table["speedup"].notna()]
    said = []
    if "timing_disturbed" in timed and (disturbed := timed[timed["timing_disturbed"].notna()])["speedup"].size:
        reasons, load = disturbed["timing_disturbed"], disturbed["timing_load_average"].max()
        others = disturbed.get("timing_other_cores", reasons.isna()).to_numpy(float, na_value=0.0)
        worst = f"{', at worst' if reasons.nunique() > 1 else ''}: {reasons.iloc[int(others.argmax())]}"
        known = "" if pd.isna(load) else f" (load average up to {load:.1f})"  # not by every system
        said.append(
            f"Timed on a busy machine: {len(disturbed)} of {len(timed)} points{worst}{known}. `onnxprune retime` "
            "measures again."
        )
    named = [name for name in _CONDITIONS if name in timed and timed[name].nunique() > 1]
    for _, together in timed.groupby(timed_together(timed)):
        of = ", ".join(f"{name.replace('_', ' ')} {together[name].iloc[0]}" for name in named)
        base = together["base_latency_ms_median"].astype(float)
        spread = (base.max() - base.min()) / base.median()
        if spread > max(_MUCH, noise(together)):
            said.append(
                f"The base's latency{of and f' ({of})'} was {base.min():.3f} to {base.max():.3f} ms over the sweep, "
                f"a range of {100 * spread:.0f} % of its median: compare the speedups of points, not their latencies."
            )
    smaller = timed[timed["macs"] < timed["base_macs"]] if "base_macs" in timed else timed[:0]
    least = smaller["speedup_noise"].clip(lower=noise(timed))
    slower = smaller[smaller["speedup"] < 1 - least]
    if "speedup_high" in slower:  # not of records of before
        slower = slower[~(slower["speedup_high"] >= 1).fillna(False)]
    if len(slower):
        said.append(
            f"Smaller and slower: {len(slower)} of {len(timed)} points have fewer MACs than the base and take longer "
            f"({slower['speedup'].min():.2f}x at worst): this runtime has no fast kernel for their widths. "
            "`--channel-align auto` measures in which steps it has, and removes channels in those."
        )
    if "speedup_beyond_theory" in timed:
        beyond = timed[timed["speedup_beyond_theory"].fillna(False).astype(bool)]
        if len(beyond):
            said.append(
                f"Beyond theory: {len(beyond)} of {len(timed)} speedups are higher than MACs and timing noise explain. "
                "Possible reasons: other work was removed, another kernel ran, or the measurement was disturbed."
            )
    return said
