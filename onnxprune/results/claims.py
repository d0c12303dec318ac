"""Is one way to prune better than another, or than chance? Paired by seed and image; no winner inside noise."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd

from onnxprune.common.output import plural
from onnxprune.results.seeds import STUDY
from onnxprune.results.statistics import Difference, corrected, paired_difference, repetition
from onnxprune.settings.vocabulary import SCHEDULES

RightImages = Callable[[str], np.ndarray | None]  # of a point's folder: whether each test image (N,) is right


@dataclass(frozen=True)
class Claim:
    """What two ways to prune tell of each other at one sparsity.

    Attributes:
        study: model, dataset and batch size.
        sparsity: that was asked of both, in percent.
        first, second: the ways, or a way and its control.
        difference: accuracy of the first less that of the second.
    """

    study: str
    sparsity: float
    first: str
    second: str
    difference: Difference


def between_ways(table: pd.DataFrame, right_images: RightImages) -> list[Claim]:
    """Each two techniques, criteria and schedules at each sparsity; those that are the same network left out, and
    schedules that find their own sparsity."""
    finding = table["schedule"].map(lambda name: SCHEDULES[name].finds_sparsity).astype(bool)
    pruned = table[(table["control"].fillna("none") == "none") & ~finding]
    return _claims(_with_names(pruned, []), lambda names: list(combinations(names, 2)), right_images)


def beyond_controls(table: pd.DataFrame, right_images: RightImages) -> list[Claim]:
    """Each way at each sparsity against its controls: chance and training from scratch."""

    def with_controls(names: list[str]) -> list[tuple[str, str]]:
        return [(way, name) for name in names for way in [name.partition(" | ")[0]] if way in names and way != name]

    return _claims(_with_names(table, ["control"]), with_controls, right_images)


def sentences(claims: list[Claim]) -> list[str]:
    """A line for each pair: where the first is better, where worse, and where noise hides which; with the number of
    seeds where others have more."""
    lines = []
    most = max((claim.difference.seeds for claim in claims), default=0)
    pairs = dict.fromkeys((claim.study, claim.first, claim.second) for claim in claims)
    for study, first, second in pairs:
        found = [claim for claim in claims if (claim.study, claim.first, claim.second) == (study, first, second)]
        better = [claim for claim in found if claim.difference.real and claim.difference.mean > 0]
        worse = [claim for claim in found if claim.difference.real and claim.difference.mean < 0]
        parts = [
            f"{word} at {', '.join(_told(claim, most) for claim in some)}"
            for word, some in (("better", better), ("worse", worse))
            if some
        ]
        if hidden := [f"{claim.sparsity:g} %{_few(claim, most)}" for claim in found if not claim.difference.real]:
            parts.append(f"within noise at {', '.join(hidden)}")
        lines.append(f"{study}: {first} against {second.replace(' | ', ' by ')}: {'; '.join(parts)}")
    return lines


def _told(claim: Claim, most: int) -> str:
    low, high = claim.difference.low, claim.difference.high
    return f"{claim.sparsity:g} %{_few(claim, most)} ({claim.difference.mean:+.2f}, {low:+.2f} to {high:+.2f})"


def _few(claim: Claim, most: int) -> str:
    seeds = claim.difference.seeds
    return "" if seeds == most else f" of {plural(seeds, 'seed')}"


def _with_names(table: pd.DataFrame, further: list[str]) -> pd.DataFrame:
    """The table with the name of each row's way, and of its control behind a bar."""
    names = table["technique"].astype(str) + " " + table["criterion"].astype(str)
    names += np.where(table["granularity"].fillna("unit") == "layer", " of layers", "")
    if table["schedule"].nunique() > 1:
        names += " " + table["schedule"].astype(str)
    for column in further:
        control = table[column].fillna("none")
        names = names.where(control == "none", names + " | " + control)
    return table.assign(_way=names)


def _claims(
    table: pd.DataFrame, pairs: Callable[[list[str]], list[tuple[str, str]]], right_images: RightImages
) -> list[Claim]:
    right, found = cache(right_images), []
    for study, rows in table.groupby(STUDY, sort=False):
        title = "{} on {}, batch {}".format(*study) if isinstance(study, tuple) else str(study)
        matched: list[tuple[float, str, str, pd.DataFrame]] = []
        for sparsity, same in rows[rows["sparsity"] > 0].groupby("sparsity"):  # at 0 % nothing was pruned
            matched += [(float(str(sparsity)), *pair) for pair in _pairs(same, pairs)]
        differences = corrected([_difference(pair, right) for *_, pair in matched])
        for (sparsity, first, second, _), difference in zip(matched, differences, strict=True):
            found.append(Claim(title, sparsity, first, second, difference))
    return found


def _pairs(
    rows: pd.DataFrame, pairs: Callable[[list[str]], list[tuple[str, str]]]
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Names, and the rows that two ways have of the same seeds, where they are not the same networks."""
    ways = dict(iter(rows.groupby("_way", sort=False)))
    for first, second in pairs([str(name) for name in ways]):
        pair = ways[first].merge(ways[second], on="seed", suffixes=("", "_2"))
        same = pair["network_id"] == pair["network_id_2"] if "network_id" in pair else pd.Series(False, pair.index)
        collapsed = pair["collapsed"].astype(bool) & pair["collapsed_2"].astype(bool)
        if len(pair) and not (same.fillna(False) | collapsed).all():
            yield first, second, pair


def _difference(pair: pd.DataFrame, right: RightImages) -> Difference:
    points = pair["accuracy"].to_numpy(float) - pair["accuracy_2"].to_numpy(float)
    found = [(right(first), right(second)) for first, second in zip(pair["folder"], pair["folder_2"], strict=True)]
    known = [(first, second) for first, second in found if first is not None and second is not None]
    if len(known) < len(found) or len({len(right) for each in known for right in each}) > 1:
        return paired_difference(points, None, None, 0, len(points))
    shifts = np.stack([first.astype(int) - second for first, second in known])
    lost, gained = int((shifts < 0).sum()), int((shifts > 0).sum())
    return paired_difference(points, lost, gained, shifts.shape[1], repetition(shifts))
