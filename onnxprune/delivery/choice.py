"""The best of a sweep's models under constraints: which configuration, and which of its seeds."""

import math
import statistics
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from onnxprune.common.errors import InputError, RunError
from onnxprune.common.output import plural
from onnxprune.delivery import headline
from onnxprune.delivery.constraints import Constraint, drop, validation
from onnxprune.delivery.modelcard import Seeds, decided_on
from onnxprune.delivery.variants import INT8, INT8_ALONE, VARIANTS, with_variants
from onnxprune.results import timings
from onnxprune.results.quality import ACCURACY, Quality, quality_of
from onnxprune.results.seeds import STUDY, change, configurations
from onnxprune.results.tables import intact, result_table
from onnxprune.results.validation import blunt_limit
from onnxprune.settings.vocabulary import CONTROLS

_ONLY_CONTROLS = "Only controls were run: this is one to compare with, and not to ship."
_TIE = "Its speedup is within timing noise: it is not told from the unpruned network's."
_USELESS = 0.3  # of timing noise, relative: what is faster by less is not told from what is slower
# what is told over seeds
_FOLDED = ("accuracy", "validation_accuracy", "accuracy_change", "fidelity", "validation_fidelity", "speedup")


@dataclass(frozen=True)
class Choice:
    """
    Attributes:
        row: settings, metrics and environment of the file to ship: of the seeds that were decided on together, the
            one of the highest validation accuracy.
        seeds: the rows of all seeds, this one included.
        candidates: how many configurations satisfy the constraints, of how many that are no controls; each network
            counts once.
        by: what made it the best: "speedup" or, where nothing was timed, "macs".
        tie: whether its own speedup is within the timing's noise.
        alone: the base in 8 bits, the mean over its seeds; None where the sweep has no such file.
        alone_lacks: the constraints that it misses.
        blunt: what is to be said of the largest drop that was allowed; None where nothing is.
        clock: sentences on what decided: that only controls were run, how far the measured speedups can, and did.
    """

    row: dict[str, Any]
    seeds: pd.DataFrame
    candidates: int
    points: int
    by: Literal["speedup", "macs"]
    tie: bool
    alone: dict[str, Any] | None
    alone_lacks: tuple[str, ...]
    blunt: str | None
    clock: tuple[str, ...]

    def over_seeds(self, column: str) -> tuple[float | None, float | None]:
        """Mean and sample standard deviation; None for what was not measured, or of one seed."""
        if column not in self.seeds:
            return None, None
        values = pd.to_numeric(self.seeds[column]).astype("Float64")
        mean = None if values.isna().any() else float(values.mean())
        return mean, None if mean is None or len(values) == 1 else float(values.std())

    @property
    def quality(self) -> Quality:
        """What it was chosen by."""
        return quality_of(self.row)

    @property
    def folded(self) -> Seeds:
        """The seeds, as cards and pages tell of them."""
        columns = {column: self.over_seeds(column) for column in _FOLDED}
        return Seeds(len(self.seeds), columns, timings.remarks(self.seeds), self.blunt, self.clock, change(self.seeds))

    def decided_on(self) -> str:
        """What the decision rests on, in words."""
        return decided_on(self.row, self.folded)


@dataclass(frozen=True)
class _Candidate:
    """A configuration: the rows of its seeds and where they are, those of them that satisfy the constraints, and the
    mean of the numbers of all."""

    positions: list[int]
    rows: list[dict[str, Any]]
    fitting: list[dict[str, Any]]
    mean: dict[str, Any]

    @classmethod
    def of(
        cls, positions: list[int], records: list[dict[str, Any]], numbers: list[str], wanted: list[Constraint]
    ) -> "_Candidate":
        rows = [records[position] for position in positions]
        mean = {**rows[0], **{name: _mean([row[name] for row in rows]) for name in numbers}}
        fitting = [row for row in rows if all(constraint.holds(row) for constraint in wanted)]
        return cls(positions, rows, fitting, mean)

    def error(self, column: str) -> float:
        """The standard error of the mean over seeds; 0 of one, of which it is not known."""
        values = [row[column] for row in self.rows if not math.isnan(row[column])]
        return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def choose(
    table: pd.DataFrame,
    wanted: list[Constraint],
    variants: Collection[str] = VARIANTS,
    floor: float | None = None,
) -> Choice:
    """The fastest of the configurations of one study, those in 8 bits among them, that satisfy the constraints.

    A control, as one that removes at random, is none of them where anything else was run.

    Among equally fast ones, within timing noise and the standard errors of means over seeds, it is the one with the
    highest validation accuracy, or without labels fidelity. Test images are not used to choose.

    A file whose speedup is beyond theory is the fastest only where all are. Where the timing noise says nothing of how
    fast any is, the fewest MACs decide, as where nothing was timed.

    A configuration is decided on by the means over its seeds, and is none if one of its networks has collapsed. What is
    shipped is a file that satisfies the constraints itself.

    Args:
        variants: of the files, those that are candidates; the study has some.
        floor: timing noise of the study, where the table has but a part of its rows; default: that of the table.

    Raises:
        RunError: no configuration does; the message names the nearest.
    """
    files = with_variants(table)
    records, numbers = _records(files), [str(name) for name in files.select_dtypes(["number", "bool"])]
    found = [
        _Candidate.of(positions, records, numbers, wanted)
        for positions in configurations(files)
        if records[positions[0]]["variant"] in variants
    ]
    compared = controls(files).to_numpy(bool)
    only_controls = all(compared[entry.positions[0]] for entry in found)
    found = [entry for entry in found if only_controls or not compared[entry.positions[0]]]
    study = f"{found[0].mean['model']} on {found[0].mean['dataset']}"
    sound = [entry for entry in found if not _is_so_of_any(entry.rows, "collapsed")]
    if not sound:
        raise RunError(f"{study}: every network of the sweep has collapsed: it answers the same to nearly every image")
    fitting = [entry for entry in sound if all(constraint.holds(entry.mean) for constraint in wanted)]
    candidates = [entry for entry in fitting if entry.fitting]
    if not candidates:
        raise RunError(_nearest_miss(study, sound, wanted, bool(fitting)))
    floor = timings.noise(table) if floor is None else floor
    fastest = _fastest(candidates, floor, study)
    best = max(fastest.tied, key=lambda entry: _merit(entry.mean))
    alone = next((entry.mean for entry in found if entry.mean["variant"] == INT8_ALONE), None)
    seeds = files.iloc[best.positions]
    tie = not seeds["speedup"].isna().any() and timings.is_tie(seeds, floor)
    return Choice(
        row=max(best.fitting, key=_merit),
        seeds=seeds,
        candidates=_networks(candidates),
        points=_networks(found),
        by=fastest.by,
        tie=tie,
        alone=alone,
        alone_lacks=tuple(one.text for one in wanted if alone is not None and not one.holds(alone)),
        blunt=_blunt(wanted, best.mean),
        clock=(*([_ONLY_CONTROLS] if only_controls else []), *fastest.said, *([_TIE] if tie else [])),
    )


@dataclass(frozen=True)
class _Fastest:
    """Candidates of which none is known to be faster than another, what decided so, and what is to be said of that."""

    tied: list[_Candidate]
    by: Literal["speedup", "macs"]
    said: list[str]


def _fastest(candidates: list[_Candidate], floor: float, study: str) -> _Fastest:
    """
    Raises:
        RunError: neither times nor MACs say which they are.
    """
    if any(pd.isna(entry.mean["speedup"]) for entry in candidates):
        reason, remedy = "nothing was timed", "run the study with --latency-seconds above 0"
        return _Fastest(_of_fewest_macs(candidates, study, reason, remedy), "macs", [])
    if floor > _USELESS:
        noise = f"±{100 * floor:.0f} %"
        reason, remedy = f"timing noise is {noise}", "measure again by `onnxprune retime`"
        said = (
            f"Timing noise of {noise} says nothing of which is the fastest: the fewest MACs decided. "
            "`onnxprune retime` measures again."
        )
        return _Fastest(_of_fewest_macs(candidates, study, reason, remedy), "macs", [said])
    return _by_speedup(candidates, floor)


def _of_fewest_macs(candidates: list[_Candidate], study: str, reason: str, remedy: str) -> list[_Candidate]:
    """
    Args:
        reason: why times do not decide.
        remedy: how they would.
    """
    counted = [entry for entry in candidates if not _counts_miss_something(entry.mean)]
    if not counted:
        raise RunError(
            f"{study}: {reason}, and not all MACs of its networks can be counted, so that none can be called the "
            f"fastest: {remedy}"
        )
    fewest = min(entry.mean["macs"] for entry in counted)
    return [entry for entry in counted if entry.mean["macs"] == fewest]


def _by_speedup(candidates: list[_Candidate], floor: float) -> _Fastest:
    # one beyond theory says more of the measurement than of the network
    beyond = [entry for entry in candidates if _is_so_of_any(entry.rows, "speedup_beyond_theory")]
    believed = [entry for entry in candidates if not _is_so_of_any(entry.rows, "speedup_beyond_theory")]
    said = []
    if believed and beyond:
        said.append(
            f"Left out: {_networks(beyond)} whose measured speedup is beyond what MACs and noise explain; "
            "`onnxprune retime` measures again."
        )
    believed = believed or candidates
    fastest = max(believed, key=lambda entry: entry.mean["speedup"])
    least = fastest.mean["speedup"] - fastest.error("speedup")
    tied = [
        entry
        for entry in believed
        if entry is fastest or (entry.mean["speedup"] + entry.error("speedup")) * (1 + floor) >= least
    ]
    if (others := _networks(tied) - 1) > 0:
        said.append(
            f"{plural(others, 'other')} {'are' if others > 1 else 'is'} as fast within timing noise: the highest "
            f"validation {quality_of(fastest.mean).name} decided."
        )
    return _Fastest(tied, "speedup", said)


def controls(table: pd.DataFrame) -> pd.Series:
    """Which rows were run for others to be compared with; the base in 8 bits was not, whichever row is its."""
    known = table.reindex(columns=["criterion", "control", "variant"])
    chance = known["criterion"].eq("random")
    return (chance | known["control"].isin(set(CONTROLS) - {"none"})) & known["variant"].ne(INT8_ALONE)


def _networks(candidates: list[_Candidate]) -> int:
    """How many there are, those that are the same network bit for bit counted once."""
    found: set[Any] = set()
    for entry in candidates:
        ids = tuple((row.get("network_id"), row["variant"]) for row in entry.rows)
        found.add(ids if all(isinstance(name, str) for name, _ in ids) else id(entry))
    return len(found)


def _blunt(wanted: list[Constraint], mean: Mapping[str, Any]) -> str | None:
    """What is to be said of the largest drop that is allowed, where there is one."""
    limit = next((constraint.limit for constraint in wanted if constraint.value is drop), None)
    images = mean.get("validation_images")
    if limit is None or images is None or pd.isna(images) or quality_of(mean) is not ACCURACY:
        return None
    return blunt_limit(limit, mean["base_validation_accuracy"], images)


def _is_so_of_any(rows: list[dict[str, Any]], column: str) -> bool:
    return any(row.get(column) in (True,) for row in rows)  # what is missing is NaN, whose truth value is true


def _counts_miss_something(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("macs_missing"), str) and bool(row["macs_missing"])


def _merit(row: Mapping[str, Any]) -> tuple[float, float, float]:
    return validation(row), row["speedup"], -row["file_bytes"]


def studies(
    sweep: Path, wanted: list[Constraint], say: Callable[[str], None] = lambda line: None
) -> list[pd.DataFrame]:
    """The finished rows of a sweep, a table for each model, dataset and batch size.

    Args:
        say: gets a line for each point that is left out, because its files are not those that were measured.

    Raises:
        InputError: the folder is no sweep's or has no finished point, or its rows lack what a constraint needs.
    """
    left_out: list[str] = []
    table = intact(result_table(sweep, left_out.append), sweep, left_out.append)
    if not len(table):
        reason = f": {left_out[0]}" if left_out else ""
        raise InputError(f"{sweep} has no finished point{' that can be used' if left_out else ' yet'}{reason}")
    for line in left_out:
        say(line)
    return by_study(table, sweep, wanted)


def by_study(table: pd.DataFrame, sweep: Path, wanted: list[Constraint]) -> list[pd.DataFrame]:
    """The rows of a sweep, of which there are some, as a table for each model, dataset and batch size.

    Raises:
        InputError: they lack what a constraint needs.
    """
    records = _records(table)
    for constraint in wanted:
        if all(pd.isna(constraint.value(row)) for row in records):
            raise InputError(f"{sweep} was not timed (its latency_seconds is 0): '{constraint.text}' cannot be checked")
    return [rows for _, rows in table.groupby(STUDY, sort=False)]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A dictionary for each row, with NaN for what is missing: pandas' own NA has no truth value."""
    names = [str(name) for name in table]
    columns = [table[name].to_numpy(object, na_value=math.nan) for name in table]  # of a block at once it takes longer
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _mean(values: list[float]) -> float:
    """Of those that are known; NaN where none is."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def _nearest_miss(study: str, sound: list[_Candidate], wanted: list[Constraint], on_average: bool) -> str:
    """What the configuration lacks that misses its constraints by the least in all.

    Args:
        on_average: whether one satisfies them on average over its seeds, though none of its files does.
    """
    if on_average:
        return f"{study}: on average over seeds a configuration satisfies every constraint, but none of its files does"

    def missed(row: dict[str, Any]) -> list[Constraint]:
        return [constraint for constraint in wanted if not constraint.holds(row)]

    def distance(row: dict[str, Any]) -> float:
        beyond = [constraint.excess(row) for constraint in missed(row)]
        return sum(math.inf if math.isnan(excess) else excess for excess in beyond)

    nearest = min((entry.mean for entry in sound), key=distance)
    reasons = "; ".join(f"{one.shown.format(one.value(nearest))}, asked: {one.text}" for one in missed(nearest))
    reasons = quality_of(nearest).said(reasons)
    models = plural(_networks(sound), "model")
    return f"{study}: none of {models} satisfies every constraint; the nearest is {_named(nearest)}: {reasons}"


def _named(row: Mapping[str, Any]) -> str:
    """What a file is of, by what was asked for."""
    if row["variant"] == INT8_ALONE:
        return f"{headline.way(row)} in int8"
    return f"{headline.way(row)} {row['sparsity']:g} %" + (" in int8" if row["variant"] == INT8 else "")
