"""The page: everything that the sources hold, in one file of HTML that asks nothing of a network."""

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from onnxprune.common.files import make_folder, write_text
from onnxprune.common.output import plural
from onnxprune.common.progress import MOST_DROP
from onnxprune.delivery import headline
from onnxprune.report import charts, summary
from onnxprune.report.series import Look, looks, named_series
from onnxprune.report.shipping import accuracy_of_variants
from onnxprune.report.sources import Source
from onnxprune.report.template import filled
from onnxprune.results import store
from onnxprune.results.derived import paired_latency
from onnxprune.results.quality import ACCURACY, FIDELITY
from onnxprune.results.seeds import STUDY, training_columns
from onnxprune.results.training_remarks import training_remarks

# column -> heading, and digits after the point: None for words, "count" for three digits and a unit; results come first
_COLUMNS: dict[str, tuple[str, int | str | None]] = {
    "technique": ("technique", None),
    "sparsity": ("asked %", 1),
    "accuracy": ("accuracy %", 2),
    "fidelity": ("fidelity %", 2),
    "speedup": ("speedup", 2),
    "accuracy_change": ("change", 2),
    "macs": ("MACs", "count"),
    "file_bytes": ("bytes", "count"),
    "latency_ms_paired": ("latency ms", 3),
    "achieved_sparsity": ("got %", 1),
    "before_finetuning_accuracy": ("before tuning %", 1),
    "before_finetuning_fidelity": ("before tuning %", 1),
    "cosine": ("cosine", 4),
    "agreement": ("same top-1 %", 2),
    "sweep": ("sweep", None),
    "model": ("model", None),
    "dataset": ("dataset", None),
    "batch_size": ("batch", 0),
    "criterion": ("criterion", None),
    "schedule": ("schedule", None),
    "control": ("control", None),
    "seed": ("seed", 0),
    "base_accuracy": ("unpruned %", 2),
    "control_accuracy": ("0 % control %", 2),
    "accuracy_low": ("95 % from", 2),
    "accuracy_high": ("to", 2),
    "accuracy_change_p_value": ("p", 3),
    "cross_entropy": ("loss", 3),
    "effective_macs": ("eff. MACs", "count"),
    "nonzero_params": ("non-zero params", "count"),
    "bytes_compressed": ("gzip", "count"),
    "int8_accuracy": ("int8 accuracy %", 2),
    "int8_fidelity": ("int8 fidelity %", 2),
    "int8_file_bytes": ("int8 bytes", "count"),
    "int8_latency_ms_median": ("int8 ms", 3),
    "int8_speedup": ("int8 speedup", 2),
    "int8_missing": ("why no int8", None),
    "tl_seconds": ("training s", 0),
    "tl_flops": ("training FLOPs", "count"),
    "speedup_beyond_theory": ("beyond theory", None),
    "most_predicted": ("one class %", 1),
    "macs_missing": ("MACs leave out", None),
    "collapsed": ("collapsed", None),
    "same_as": ("same network as", None),
}
# settings that are said once, above the table, where all points have the same
_SETTINGS = ("sweep", "model", "dataset", "batch_size", "criterion", "schedule", "control", "seed", "base_accuracy")
_OF_FIDELITY = ("fidelity", "before_finetuning_fidelity", "cosine", "agreement")
_OF_LABELS = {name for name in _COLUMNS if "accuracy" in name} | {
    "cross_entropy", "most_predicted", "base_accuracy", "base_top5_accuracy", "base_cross_entropy",
}  # fmt: skip
_ASSESSED = {
    "model": "model",
    "dataset": "dataset",
    "batch_size": "batch",
    "seed": "seed",
    "base_accuracy": "accuracy %",
    "base_top5_accuracy": "top-5 %",
    "base_cross_entropy": "cross-entropy",
    "base_training_seconds": "trained s",
    "base_training_flops": "training FLOPs",
    "base_macs": "MACs",
    "base_macs_missing": "MACs leave out",
    "base_params": "params",
    "base_dead_units": "dead units",
    "base_file_bytes": "bytes",
    "base_bytes_compressed": "gzip",
    "base_int8_accuracy": "int8 accuracy %",
    "base_int8_fidelity": "int8 fidelity %",
    "base_int8_file_bytes": "int8 bytes",
    "base_int8_missing": "why no int8",
}


def write(sources: list[Source], out: Path, refresh_seconds: int | None = None) -> None:
    """Writes the page, whole or not at all.

    Args:
        refresh_seconds: after which the browser is to read it again; None where it stays as it is.

    Raises:
        RunError: its folder cannot be made.
    """
    make_folder(out.parent)
    write_text(out, _render(sources, out, refresh_seconds))


def _render(sources: list[Source], out: Path, refresh_seconds: int | None) -> str:
    tables = [source.table for source in sources if len(source.table)]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    links = {source.name: _link(source.folder, out) for source in sources}
    return filled(
        "page.html",
        sources=sources,
        question=summary.question(table),
        facts={source.name: summary.facts(source) for source in sources},
        techniques=summary.best_by_technique(sources),
        comparison=summary.comparison(table),
        links=links,
        bases=_bases(table, len(sources)),
        remarks=_remarks(table),
        max_drop=MOST_DROP,
        headline=headline,
        refresh_seconds=refresh_seconds,
        eight_bits=bool({"int8_accuracy", "int8_fidelity"} & {*table.columns}),
        **_judged_by(table),
        store=store,
        data=_document(sources, table, links),
    )


def _judged_by(table: pd.DataFrame) -> dict[str, Any]:
    """Which of the two the networks are judged by, and the word for both."""
    there = {
        quality.name: quality.name in table and bool(table[quality.name].notna().any())
        for quality in (ACCURACY, FIDELITY)
    }
    words = [name for name, known in there.items() if known] or [ACCURACY.name]
    return {**there, "quality": " or ".join(words)}


def _link(path: Path, out: Path) -> str:
    """The address of a file or folder, as seen from the page."""
    return quote(Path(os.path.relpath(path, out.absolute().parent)).as_posix())


def _document(sources: list[Source], table: pd.DataFrame, links: dict[str, str]) -> dict[str, Any]:
    """What the page's script draws and lists."""
    if not len(table):
        return {"studies": [], "columns": [], "rows": []}
    hidden = _hidden(table, len(sources))
    shown = {key: entry for key, entry in _COLUMNS.items() if key not in hidden}
    cells = table.reindex(columns=list(shown)).to_json(orient="values", double_precision=12)
    folders = zip(table["sweep"], table["folder"], strict=True)
    cleaned = {
        source.name: {point for point, record in source.records.items() if store.MODEL in record.get("cleaned", ())}
        for source in sources
    }
    return {
        "studies": [
            {"title": f"{model} on {_title(str(dataset))}, batch {batch}", **_study(sources, rows)}
            for (model, dataset, batch), rows in table.groupby(STUDY, sort=False)
        ],
        "columns": [
            {
                "key": key,
                "title": title,
                "digits": 0 if key == "sparsity" and (table[key] % 1 == 0).all() else digits,
                "constant": key in _SETTINGS and _is_constant(table[key]),
            }
            for key, (title, digits) in shown.items()
        ],
        "rows": json.loads(cells),
        "links": [
            None if folder in cleaned[sweep] else f"{links[sweep]}/{quote(folder)}/{store.MODEL}"
            for sweep, folder in folders
        ],
    }


def _is_constant(column: pd.Series) -> bool:
    return column.nunique(dropna=False) == 1


def _title(dataset: str) -> str:
    return Path(dataset).stem if dataset.endswith(".npz") else Path(dataset).name


def _study(sources: list[Source], rows: pd.DataFrame) -> dict[str, Any]:
    """The curves and figures of one model, dataset and batch size; latencies only where something was timed."""
    names = named_series(rows)
    curves = looks(rows, names)
    rows = rows.assign(latency_ms_paired=paired_latency(rows))  # of one moment, whichever sweeps they are of
    rows = rows.assign(told=[charts.told(row) for row in rows.to_dict("records")])
    conditions = _conditions(rows)
    figures = {
        "sparsity": charts.accuracy_over_sparsity(rows, names, curves),
        "macs": charts.accuracy_over_cost(
            charts.counted_whole(rows),
            names,
            curves,
            "effective_macs",
            "MACs of an image, without stored zeros",
            front=True,
        ),
        "latency": charts.accuracy_over_cost(
            rows,
            names,
            curves,
            "latency_ms_paired",
            "latency of a batch (ms)",
            front=len(conditions) == 1,
        )
        if conditions
        else None,
        "speedup": charts.speedup_measured(rows, names, curves) if conditions else None,
        "variants-latency": accuracy_of_variants(rows, "latency_ms_paired", "latency of a batch (ms)"),
        "variants-bytes": accuracy_of_variants(rows, "file_bytes", "file (bytes)"),
    }
    records = {(source.name, point): record for source in sources for point, record in source.records.items()}
    losses = {base: loss for source in sources for base, loss in source.base_losses.items()}
    return {
        "series": [{"name": name, **_swatch(look)} for name, look in curves.items()],
        "figures": figures,
        "timing": conditions,
        "details": {name: _details(rows[names == name], records, losses) for name in curves},
    }


def _swatch(look: Look) -> dict[str, Any]:
    return {"colour": look.colour, "path": list(charts.MARKERS.values())[look.marker], "dash": look.dash}


def _details(
    rows: pd.DataFrame, records: dict[tuple[str, str], dict[str, Any]], base_losses: dict[str, list[float]]
) -> dict[str, Any]:
    keys = zip(rows["sweep"], rows["folder"], strict=True)
    found = {folder: records[sweep, folder] for sweep, folder in keys}
    return {
        "layers": charts.layer_map(rows, {folder: record.get("layers", {}) for folder, record in found.items()}),
        "training": charts.training_curves(
            rows, {folder: record.get("epoch_losses", []) for folder, record in found.items()}, base_losses
        ),
    }


def _conditions(rows: pd.DataFrame) -> list[str]:
    """Under what the points were timed: latencies compare only within one of these."""
    timed = rows[rows["speedup"].notna()]
    machine = timed["cpu"].where(timed["gpu"].isna(), timed["gpu"])
    told = [
        f"batch {batch}, {plural(threads, 'thread')}, on {device}: {name}"
        for batch, threads, device, name in zip(
            timed["latency_batch"], timed["latency_threads"], timed["device"], machine, strict=True
        )
    ]
    return list(dict.fromkeys(told))


def _hidden(table: pd.DataFrame, sweeps: int) -> set[str]:
    """Columns that would say nothing."""
    now_and_then = {name for name in (*_COLUMNS, *_ASSESSED) if "int8" in name or name.endswith("macs_missing")}
    unneeded = (now_and_then | {"base_dead_units"}) - set(table.columns)
    judged = _judged_by(table)
    unneeded |= set() if judged[ACCURACY.name] else _OF_LABELS
    unneeded |= set() if judged[FIDELITY.name] else {*_OF_FIDELITY}
    if table.reindex(columns=["same_as"]).isna().all(axis=None):
        unneeded |= {"same_as"}
    return unneeded | {"sweep"} if sweeps == 1 else unneeded


def _bases(table: pd.DataFrame, sweeps: int) -> list[dict[str, Any]]:
    """For each base, heading -> value."""
    if not len(table):
        return []
    hidden = _hidden(table, sweeps)
    shown = {column: title for column, title in {"sweep": "sweep", **_ASSESSED}.items() if column not in hidden}
    bases = table.drop_duplicates(["sweep", "base_id"]).reindex(columns=list(shown)).rename(columns=shown)
    return [{str(heading): value for heading, value in row.items()} for row in bases.to_dict("records")]


def _remarks(table: pd.DataFrame) -> list[str]:
    """What is to be said of training, of rows that are trained alike together."""
    if not len(table):
        return []
    several = [name for name in ("sweep", "schedule") if table[name].nunique() > 1]
    remarks = []
    for _, rows in table.groupby(training_columns(table), sort=False, dropna=False):
        row = rows.iloc[0]
        told = "".join(f", {name} {row[name]}" for name in several)
        begin = f"{row['model']} on {_title(row['dataset'])}, batch {row['batch_size']:,}{told}"
        remarks += [f"{begin}: {remark}." for remark in training_remarks(rows)]
    return list(dict.fromkeys(remarks))
