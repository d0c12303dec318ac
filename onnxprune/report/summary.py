"""What a page says first: the question, under what it was measured, each technique's best, and sweeps side by side."""

import datetime
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from onnxprune.common.errors import RunError
from onnxprune.common.progress import MOST_DROP, duration
from onnxprune.common.shares import Interval
from onnxprune.delivery import headline
from onnxprune.delivery.choice import Choice, choose, controls
from onnxprune.delivery.constraints import Constraint, constraints
from onnxprune.delivery.facts import titled
from onnxprune.delivery.variants import FLOAT32, INT8, INT8_ALONE
from onnxprune.report.series import told
from onnxprune.report.sources import Source
from onnxprune.results import store, timings
from onnxprune.results.quality import ACCURACY, FIDELITY, quality_of_study
from onnxprune.results.seeds import STUDY, accuracy_interval, change
from onnxprune.results.statistics import Difference
from onnxprune.settings.point import BASES

_BASE = "base"  # in the place of a technique


def question(table: pd.DataFrame) -> str:
    """What the page answers."""
    if not len(table):
        return "What does pruning cost, and what does it gain?"
    studies = table[["model", "dataset"]].drop_duplicates()
    named = [
        f"{titled('model', model)} on {titled('dataset', dataset)}"
        for model, dataset in studies.itertuples(index=False)
    ]
    return f"What does pruning cost, and gain, for {_listed(named)}?"


def facts(source: Source) -> list[str]:
    """On what data, when, for how long and where a sweep was measured."""
    table = source.table
    if not len(table):
        return []
    found = []
    for dataset, rows in table.groupby("dataset", sort=False):
        if "train_images" in rows and "test_images" in rows:
            sizes = rows[["train_images", "test_images"]].max()
            if sizes.isna().any():
                continue
            name = titled("dataset", str(dataset))
            quality = quality_of_study(rows)
            unlabelled = "" if quality is ACCURACY else " without labels"
            found.append(
                f"{name}: {sizes['train_images']:,} training and {sizes['test_images']:,} test images{unlabelled}; "
                f"{quality.name} is of all test images"
            )
    begun = _times(source.folder / name / store.CONFIG for name in table["folder"])
    own = min(_times([source.folder / store.SPEC]), default=math.inf)  # bases from before are those of other studies
    bases = [source.folder.parent / BASES / str(base) / store.CONFIG for base in table["base_id"].unique()]
    begun += [time for time in _times(bases) if time >= own]
    ended = [when.timestamp() for record in source.records.values() if (when := _finished(record)) is not None]
    if begun and ended:
        day = datetime.datetime.fromtimestamp(max(ended)).date()
        found.append(f"finished {day:%d %B %Y}, {duration(max(0.0, max(ended) - min(begun)))} after its start")
    machines = list(dict.fromkeys(str(name) for name in table["gpu"].fillna(table["cpu"])))
    cores = list(table["cpu_cores"].dropna().unique()) if "cpu_cores" in table else []
    found.append(_listed(machines) + (f", {cores[0]} cores" if len(cores) == 1 else ""))
    if table["speedup"].notna().any():
        noises = (timings.noise(rows) for _, rows in table.groupby(STUDY, sort=False))
        found.append(f"timing noise {timings.told_noises(noises)}")
        if "timing_load_average" in table and table["timing_load_average"].notna().any():
            found[-1] += f", load average up to {float(table['timing_load_average'].max()):.1f} while timing"
    return found


def _finished(record: dict[str, Any]) -> datetime.datetime | None:
    """When a point was, whatever has changed its record since."""
    try:
        return datetime.datetime.fromisoformat(str(record.get("finished")))
    except ValueError:
        return None


def _times(paths: Iterable[Any]) -> list[float]:
    """When files were written; those that are not there are left out."""
    return [path.stat().st_mtime for path in paths if path.is_file()]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


@dataclass(frozen=True)
class TechniqueBest:
    """What `deploy` would choose of one technique, or of the base in 8 bits.

    Attributes:
        study: sweep, model, dataset, and the batch size where there are several.
        choice: None where no model loses so little.
        floor: timing noise of the study: a speedup within 1 ± this is none.
    """

    study: str
    technique: str
    choice: Choice | None
    floor: float

    @property
    def removed(self) -> str:
        """What was done, in words."""
        if self.choice is None:
            return ""
        by = f" by {headline.way(self.choice.row)}, a control" if controls(self.choice.seeds).any() else ""
        return f"{headline.removed(self.choice.row)}{by}"

    @property
    def quality(self) -> float | None:
        """Its accuracy, or without labels its fidelity, in percent."""
        return self.mean(self.choice.quality.name) if self.choice else None

    def mean(self, column: str) -> float | None:
        """Over the seeds; None for what was not measured."""
        return self.choice.over_seeds(column)[0] if self.choice and column in self.choice.seeds else None

    @property
    def tied(self) -> bool:
        """Whether the speedup is within timing noise, as in the table of results."""
        if self.choice is None or self.mean("speedup") is None:
            return False
        return timings.is_tie(self.choice.seeds, self.floor)

    @property
    def interval(self) -> Interval | None:
        """That of the accuracy; None where it is not known."""
        found = accuracy_interval(self.choice.seeds) if self.choice else None
        return None if found is None or math.isnan(found.low) else found

    @property
    def change(self) -> Difference | None:
        """Accuracy less that of the 0 % controls of the same training and seeds, as in the table of results."""
        return change(self.choice.seeds) if self.choice else None


def best_by_technique(sources: list[Source]) -> list[TechniqueBest]:
    """Of each technique the best within `MOST_DROP` points of validation accuracy, or of fidelity without labels, and
    before them the base in 8 bits, where there is such a file."""
    wanted = constraints(max_drop=MOST_DROP)
    found = []
    for source in sources:
        if not len(source.table):
            continue
        real = source.table[~controls(source.table)]
        real = real if len(real) else source.table
        batches = real.groupby(["model", "dataset"])["batch_size"].nunique().to_dict()
        floors = {study: timings.noise(rows) for study, rows in source.table.groupby(STUDY)}
        for (model, dataset, batch), rows in real.groupby(STUDY, sort=False):
            floor = floors[model, dataset, batch]
            study = f"{titled('model', str(model))} on {titled('dataset', str(dataset))}"
            study += f", batch {batch:,}" if batches[model, dataset] > 1 else ""
            study = f"{source.name}: {study}" if len(sources) > 1 else study
            int8 = f"base_int8_{quality_of_study(rows).name}"
            if int8 in rows and rows[int8].notna().any():
                found.append(TechniqueBest(study, _BASE, _best(rows, wanted, (INT8_ALONE,), floor), floor))
            for technique, part in rows.groupby("technique", sort=False):
                found.append(TechniqueBest(study, str(technique), _best(part, wanted, (FLOAT32, INT8), floor), floor))
    return found


def _best(rows: pd.DataFrame, wanted: list[Constraint], variants: tuple[str, ...], floor: float) -> Choice | None:
    try:
        return choose(rows, wanted, variants, floor)
    except RunError:
        return None


@dataclass(frozen=True)
class Comparison:
    """Accuracy and speedup of the same points in several studies.

    Attributes:
        studies: what is compared.
        quality: "accuracy", or "fidelity" where no study has labels.
        rows: what was done, then the accuracy of each study, and the speedup of each; None where there is none.
    """

    studies: list[str]
    quality: str
    rows: list[tuple[str, list[float | None], list[float | None]]]


def comparison(table: pd.DataFrame) -> Comparison | None:
    """Sweeps, models and datasets side by side; None where there is one of all, or nothing in common."""
    if not len(table):
        return None
    varying = [name for name in ("sweep", "model", "dataset") if table[name].nunique() > 1]
    if not varying:
        return None
    names = table.apply(lambda row: ", ".join(titled(name, str(row[name])) for name in varying), axis=1)
    studies = list(dict.fromkeys(names))
    # what differs within a study tells its points apart; what differs between studies alone is what is compared
    keys = ["technique", "sparsity"]
    keys += [
        name
        for name in ("criterion", "schedule", "granularity", "control", "batch_size")
        if name in table and table.groupby([names, table["technique"]])[name].nunique().max() > 1
    ]
    order = {technique: index for index, technique in enumerate(table["technique"].unique())}
    ordered = table.assign(_study=names).sort_values(
        keys, key=lambda column: column.map(order) if column.name == "technique" else column, kind="stable"
    )
    quality = ACCURACY.name if table["accuracy"].notna().any() else FIDELITY.name
    means = _of_common_seeds(ordered, keys).groupby([*keys, "_study"], sort=False)[[quality, "speedup"]].mean()
    rows = []
    for key, of_key in means.groupby(level=list(range(len(keys))), sort=False):
        by_study = of_key.droplevel(list(range(len(keys))))
        if len(by_study) > 1:
            technique, sparsity, *others = key
            named = [told(name, value) for name, value in zip(keys[2:], others, strict=True)]
            rows.append(
                (
                    f"{technique} {sparsity:g} %{''.join(named)}",
                    _values(by_study[quality], studies),
                    _values(by_study["speedup"], studies),
                )
            )
    return Comparison(studies, quality, rows) if rows else None


def _of_common_seeds(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The rows of those seeds that all studies have of a point, so that no mean is of other seeds; all, where they have
    none in common."""
    found = []
    for _, rows in table.groupby(keys, sort=False, dropna=False):
        seeds = [set(of_study["seed"]) for _, of_study in rows.groupby("_study")]
        common = set.intersection(*seeds)
        found.append(rows[rows["seed"].isin(common)] if common else rows)
    return pd.concat(found)


def _values(means: pd.Series, studies: list[str]) -> list[float | None]:
    return [None if name not in means or pd.isna(means[name]) else float(means[name]) for name in studies]
