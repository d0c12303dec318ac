"""What a page says first: the question, under what it was measured, each technique's best, and sweeps side by side."""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from onnxprune.common.errors import RunError
from onnxprune.common.progress import duration
from onnxprune.delivery.choice import choose, constraints
from onnxprune.delivery.facts import titled
from onnxprune.report.sources import MAX_DROP, Source
from onnxprune.results import store
from onnxprune.settings.point import BASES


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
            found.append(
                f"{name}: {sizes['train_images']:,} training and {sizes['test_images']:,} test images; accuracy is of "
                "all test images"
            )
    folders = [source.folder / name for name in table["folder"]]
    folders += [source.folder.parent / BASES / str(base) for base in table["base_id"].unique()]
    begun = _times(folder / store.CONFIG for folder in folders)
    ended = _times(folder / store.METRICS for folder in folders)
    if begun and ended:
        day = datetime.datetime.fromtimestamp(max(ended)).date()
        found.append(f"finished {day:%d %B %Y}, {duration(max(ended) - min(begun))} after its start")
    machines = list(dict.fromkeys(str(name) for name in table["gpu"].fillna(table["cpu"])))
    cores = list(table["cpu_cores"].dropna().unique()) if "cpu_cores" in table else []
    found.append(_listed(machines) + (f", {cores[0]} cores" if len(cores) == 1 else ""))
    if table["speedup"].notna().any():
        found.append(
            f"timing noise up to ±{100 * float(table['speedup_noise'].quantile(0.9)):.1f} % in nine rows of ten"
        )
    return found


def _times(paths: Iterable[Any]) -> list[float]:
    """When files were written; those that are not there are left out."""
    return [path.stat().st_mtime for path in paths if path.is_file()]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


@dataclass(frozen=True)
class TechniqueBest:
    """The model of one technique that `deploy` would choose.

    Attributes:
        study: sweep, model and dataset.
        row: its settings and metrics, None where something was not measured; None where no model loses so little.
        control: accuracy of the technique's 0 % point, mean over seeds; None where there is none.
    """

    study: str
    technique: str
    row: dict[str, Any] | None
    control: float | None


def best_by_technique(sources: list[Source]) -> list[TechniqueBest]:
    """Of each technique the best within `MAX_DROP` points of validation accuracy."""
    wanted = constraints(max_drop=MAX_DROP)
    found = []
    for source in sources:
        if not len(source.table) or "validation_accuracy" not in source.table:
            continue
        prefix = f"{source.name}: " if len(sources) > 1 else ""
        for (model, dataset, technique), rows in source.table.groupby(["model", "dataset", "technique"], sort=False):
            study = f"{prefix}{titled('model', str(model))} on {titled('dataset', str(dataset))}"
            real = rows[rows["control"] == "none"] if "control" in rows else rows
            controls = real[real["sparsity"] == 0]["accuracy"].dropna()
            control = float(controls.mean()) if len(controls) else None
            try:
                chosen = choose(real, wanted).row if len(real) else None
            except RunError:
                chosen = None
            row = chosen and {key: None if pd.isna(value) else value for key, value in chosen.items()}
            found.append(TechniqueBest(study, str(technique), row, control))
    return found


@dataclass(frozen=True)
class Comparison:
    """Accuracy and speedup of the same points in several studies, each with its difference from the first.

    Attributes:
        studies: what is compared.
        rows: what was done, then of each study the accuracy, and from the second on its difference, and likewise the
            speedup and its ratio; None where there is none.
    """

    studies: list[str]
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
        for name in ("criterion", "schedule", "control", "batch_size")
        if name in table and table.groupby([names, table["technique"]])[name].nunique().max() > 1
    ]
    means = table.assign(_study=names).groupby([*keys, "_study"], sort=False)[["accuracy", "speedup"]].mean()
    rows = []
    for key, of_key in means.groupby(level=list(range(len(keys))), sort=False):
        by_study = of_key.droplevel(list(range(len(keys))))
        if len(by_study) > 1:
            technique, sparsity, *others = key
            told = ", ".join([f"{technique} {sparsity:g} %", *map(str, others)])
            rows.append((told, _values(by_study["accuracy"], studies), _values(by_study["speedup"], studies)))
    return Comparison(studies, rows) if rows else None


def _values(means: pd.Series, studies: list[str]) -> list[float | None]:
    return [None if name not in means or pd.isna(means[name]) else float(means[name]) for name in studies]
