"""From the points of a sweep to a model that is deployed: the choice, the checked copy, the card and the index."""

import hashlib
import math
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from onnxprune.analysis.classifier import Classifier, open_classifier
from onnxprune.common.errors import InputError, RunError, StorageError
from onnxprune.common.files import make_folder, read_json, replacing, write_json, write_text
from onnxprune.data.registry import title_of
from onnxprune.delivery.modelcard import Facts, write_card
from onnxprune.delivery.variants import FLOAT32, INT8, INT8_ALONE, with_variants
from onnxprune.graph.metadata import NORMALISATION
from onnxprune.models import model_title
from onnxprune.results import store
from onnxprune.settings.point import BASES

INDEX = "index.json"
Layout = Literal["plain", "triton"]

_NAME_LETTERS = frozenset(string.ascii_letters + string.digits + "-_.")

_ROUNDING = 1e-9  # 92.5 - 91.3 is a little more than 1.2
_POINTS = 10  # of accuracy missing are as bad as a speedup of 0, or twice the bytes or milliseconds
_INDEX_COLUMNS = (
    "model", "dataset", "technique", "criterion", "schedule", "granularity", "sparsity", "achieved_sparsity", "seed",
    "accuracy", "base_accuracy", "validation_accuracy", "base_validation_accuracy", "macs", "base_macs", "params",
    "latency_ms_median", "base_latency_ms_median", "speedup", "latency_batch", "latency_threads", "device", "cpu",
    "onnxprune_version", "git_commit",
)  # fmt: skip


@dataclass(frozen=True)
class Constraint:
    """One condition on a row of the results.

    Attributes:
        text: the condition in words.
        value: the row's value; NaN where it was not measured.
        shown: the format of that value.
        limit: what it may be at most, or at least where `sign` is -1.
        scale: a value beyond the limit by this much counts as missed by one.
    """

    text: str
    value: Callable[[Mapping[str, Any]], float]
    shown: str
    limit: float
    sign: int
    scale: float

    def excess(self, row: Mapping[str, Any]) -> float:
        """How far the row is beyond the limit; NaN where the value was not measured."""
        return self.sign * (float(self.value(row)) - self.limit) / self.scale

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether the row satisfies it; a value that was not measured does not."""
        return self.excess(row) <= _ROUNDING


def constraints(
    *,
    max_drop: float | None = None,
    min_accuracy: float | None = None,
    min_speedup: float | None = None,
    max_latency_ms: float | None = None,
    max_bytes: int | None = None,
) -> list[Constraint]:
    """The conditions that are asked for.

    Args:
        max_drop: percentage points of validation accuracy below the base's.
        min_accuracy: validation accuracy, percent.
        min_speedup: measured: the base's median latency over the model's.
        max_latency_ms: median latency of a batch, milliseconds.
        max_bytes: of the ONNX file.
    """
    found = []

    def add(limit: float | None, text: str, value: str | Callable[..., float], shown: str, sign: int = 1) -> None:
        if limit is not None:
            read = value if callable(value) else itemgetter(value)
            scale = _POINTS if "accuracy" in text else max(limit, _ROUNDING)
            found.append(Constraint(text.format(limit), read, shown, limit, sign, scale))

    add(
        max_drop,
        "validation accuracy at most {:g} point(s) below the base's",
        _drop,
        "{:.2f} point(s) below the base's",
    )
    add(min_accuracy, "validation accuracy at least {:g} %", "validation_accuracy", "validation accuracy {:.2f} %", -1)
    add(min_speedup, "speedup at least {:g}", "speedup", "speedup {:.2f}", -1)
    add(max_latency_ms, "latency at most {:g} ms", "latency_ms_median", "latency {:.3f} ms")
    add(max_bytes, "at most {:,} bytes", "file_bytes", "{:,.0f} bytes")
    return found


@dataclass(frozen=True)
class Choice:
    """
    Attributes:
        row: of the chosen file: its point's settings, metrics and environment.
        candidates: how many points satisfy the constraints, of how many.
        by: what made it the best: "speedup" or, where nothing was timed, "macs".
        tied: candidates that are as fast within the timing's noise, this one included.
        alone: the same of the base in 8 bits; None where the sweep has no such file.
        alone_lacks: the constraints that it misses.
    """

    row: dict[str, Any]
    candidates: int
    points: int
    by: Literal["speedup", "macs"]
    tied: int
    alone: dict[str, Any] | None
    alone_lacks: tuple[str, ...]


def choose(table: pd.DataFrame, wanted: list[Constraint]) -> Choice:
    """The fastest of the files of one study, those in 8 bits among them, that satisfy the constraints.

    Among equally fast ones, within the timing's noise, it is the one of the highest validation accuracy. The test
    accuracy has no say.

    Raises:
        RunError: no row does; the message names the nearest.
    """
    table = with_variants(table)
    rows = _records(table)
    study = f"{rows[0]['model']} on {rows[0]['dataset']}"
    sound = [row for row in rows if not row["collapsed"]]
    if not sound:
        raise RunError(f"{study}: every network of the sweep has collapsed: it predicts the same for every image")
    candidates = [row for row in sound if all(constraint.holds(row) for constraint in wanted)]
    if not candidates:
        raise RunError(_nearest_miss(study, sound, wanted))
    if any(pd.isna(row["speedup"]) for row in candidates):
        by: Literal["speedup", "macs"] = "macs"
        fewest = min(row["macs"] for row in candidates)
        tied = [row for row in candidates if row["macs"] == fewest]
    else:
        by = "speedup"
        noise = float(table["speedup_noise"].quantile(0.9))  # as the printed table of the sweep has it
        fastest = max(row["speedup"] for row in candidates)
        tied = [row for row in candidates if row["speedup"] * (1 + noise) >= fastest]
    best = max(tied, key=lambda row: (_validation(row), row["speedup"], -row["file_bytes"]))
    alone = next((row for row in rows if row["variant"] == INT8_ALONE), None)
    lacks = [constraint for constraint in wanted if alone is not None and not constraint.holds(alone)]
    return Choice(best, len(candidates), len(rows), by, len(tied), alone, tuple(each.text for each in lacks))


def studies(sweep: Path, wanted: list[Constraint]) -> list[pd.DataFrame]:
    """The finished rows of a sweep, a table for each model and dataset.

    Raises:
        InputError: the folder is no sweep's or has no finished point, or its rows lack what a constraint needs.
    """
    table = store.result_table(sweep)
    if not len(table):
        raise InputError(f"{sweep} has no finished point yet")
    for column in ("validation_accuracy", "base_validation_accuracy"):
        if column not in table:
            raise InputError(
                f"{sweep} was measured by a version of onnxprune that recorded no {column}: run the sweep again"
            )
    records = _records(table)
    for constraint in wanted:
        if all(pd.isna(constraint.value(row)) for row in records):
            raise InputError(f"{sweep} was not timed (its latency_seconds is 0): '{constraint.text}' cannot be told")
    return [rows for _, rows in table.groupby(["model", "dataset"], sort=False)]


def title(row: Mapping[str, Any]) -> str:
    """What a file is, in words: "structured l1 50 %, int8"."""
    if row["variant"] == INT8_ALONE:
        return "the base, int8"
    pruned = f"{row['technique']} {row['criterion']} {row['sparsity']:g} %"
    return f"{pruned}, int8" if row["variant"] == INT8 else pruned


def source_of(row: Mapping[str, Any], sweep: Path) -> Path:
    """Where the file lies."""
    folder = sweep.parent / BASES / row["base_id"] if row["variant"] == INT8_ALONE else sweep / row["folder"]
    return folder / row["file"]


@dataclass(frozen=True)
class Deployed:
    """
    Attributes:
        files: what was written, the model first.
    """

    name: str
    entry: dict[str, Any]
    files: tuple[Path, ...]


def deploy(choice: Choice, sweep: Path, out: Path, layout: Layout) -> Deployed:
    """Copies the chosen model to `out` under a readable name, with its card and a line in the index.

    Raises:
        InputError: the index that is there is damaged.
        RunError: the model's file is not the one that was measured, or cannot be written.
    """
    source = source_of(choice.row, sweep)
    make_folder(out)
    try:
        index = _read_index(out / INDEX)
        name = _name(choice.row, index)
        facts = Facts.of(_open_measured(source, choice.row))
        files, digest = _write_model(source, out, name, layout, facts=facts, batch=int(choice.row["latency_batch"]))
        row = {key: None if pd.isna(value) else value for key, value in choice.row.items()}
        card_path = out / f"{name}.md"
        model_file = files[0].relative_to(out).as_posix()
        write_text(card_path, write_card(name, model_file, row, facts, digest))
        entry = {
            "name": name,
            "file": model_file,
            "card": card_path.name,
            "layout": layout,
            "sha256": digest,
            "bytes": files[0].stat().st_size,
            "point": row["folder"],
            "variant": row["variant"],
            **{column: row[column] for column in _INDEX_COLUMNS},
        }
        index[name] = entry
        write_json(out / INDEX, [index[key] for key in sorted(index)])
    except (OSError, StorageError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RunError(f"cannot deploy {source} to {out}: {reason}") from error
    return Deployed(name, entry, (*files, card_path, out / INDEX))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A dictionary for each row, with NaN for what is missing: pandas' own NA has no truth value."""
    rows = table.astype(object).where(table.notna(), math.nan).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _drop(row: Mapping[str, Any]) -> float:
    return float(row["base_validation_accuracy"]) - _validation(row)


def _validation(row: Mapping[str, Any]) -> float:
    return float(row["validation_accuracy"])


def _nearest_miss(study: str, rows: list[dict[str, Any]], wanted: list[Constraint]) -> str:
    """What the point lacks that misses its constraints by the least in all."""

    def missed(row: dict[str, Any]) -> list[Constraint]:
        return [constraint for constraint in wanted if not constraint.holds(row)]

    def distance(row: dict[str, Any]) -> float:
        beyond = [constraint.excess(row) for constraint in missed(row)]
        return sum(math.inf if math.isnan(excess) else excess for excess in beyond)

    nearest = min(rows, key=distance)
    reasons = "; ".join(f"{one.shown.format(one.value(nearest))}, asked: {one.text}" for one in missed(nearest))
    return f"{study}: none of {len(rows)} models satisfies every constraint; the nearest is {title(nearest)}: {reasons}"


def _read_index(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> entry; empty where there is no index yet."""
    if not path.exists():
        return {}
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "name" in entry for entry in entries):
        raise InputError(f"{path} is not an index of models, or a damaged one: move it away, then deploy again")
    return {entry["name"]: entry for entry in entries}


def _name(row: Mapping[str, Any], index: Mapping[str, Mapping[str, Any]]) -> str:
    """Model, dataset, technique, criterion and sparsity; the point's hash too where another point has that name."""
    what = f"{model_title(row['model'])}-{title_of(row['dataset'])}"
    name = f"{what}-int8" if row["variant"] == INT8_ALONE else f"{what}-{row['technique']}-{row['criterion']}-"
    name += {FLOAT32: f"{row['sparsity']:g}", INT8: f"{row['sparsity']:g}-int8", INT8_ALONE: ""}[row["variant"]]
    # the file of a dataset may be called anything
    name = "".join(letter if letter in _NAME_LETTERS else "_" for letter in name)
    taken = name in index and index[name].get("point") != row["folder"]
    return f"{name}-{row['spec_hash']}" if taken else name


def _open_measured(source: Path, row: Mapping[str, Any]) -> Classifier:
    """The model that the row was measured on.

    Raises:
        RunError: its file is gone, or another one.
    """
    if not source.is_file():
        raise RunError(f"{source} is not there any more: delete its folder and run the sweep again")
    classifier = open_classifier(source)
    expected = None if row["variant"] == INT8_ALONE else row["spec_hash"]  # which bases have none of
    if classifier.metadata.spec_hash != expected or source.stat().st_size != row["file_bytes"]:
        raise RunError(
            f"{source} is not the file that was measured, or an older onnxprune's: delete its folder and run the sweep "
            "again"
        )
    return classifier


def _write_model(
    source: Path, out: Path, name: str, layout: Layout, *, facts: Facts, batch: int
) -> tuple[list[Path], str]:
    """Writes the files of the layout; gives them, the model first, and its SHA-256."""
    if layout == "plain":
        path = out / f"{name}.onnx"
        return [path], _copy(source, path)
    path = make_folder(out / name / "1") / store.MODEL
    digest = _copy(source, path)
    configuration, labels = out / name / "config.pbtxt", out / name / "labels.txt"
    write_text(labels, "".join(f"{label}\n" for label in facts.classes))
    write_text(configuration, _triton_configuration(name, facts, batch))
    return [path, configuration, labels], digest


def _copy(source: Path, target: Path) -> str:
    """Copies a file whole or not at all, checks the copy, and returns its SHA-256."""
    content = source.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    with replacing(target) as partial:
        partial.write_bytes(content)
        if hashlib.sha256(partial.read_bytes()).hexdigest() != digest:
            raise RunError(f"{target}: the copy differs from {source}: the disk may be full or damaged")
    return digest


_TRITON = """\
# {formula}, mean {mean}, std {std}: the client does this.
name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: {batch}
input [
  {{
    name: "{input}"
    data_type: TYPE_FP32
    dims: [ {dims} ]
  }}
]
output [
  {{
    name: "{output}"
    data_type: TYPE_FP32
    dims: [ {classes} ]
    label_filename: "labels.txt"
  }}
]
"""


def _triton_configuration(name: str, facts: Facts, batch: int) -> str:
    """Triton's model configuration; batches up to that at which the latency was measured."""
    return _TRITON.format(
        formula=NORMALISATION,
        mean=list(facts.normalisation.mean),
        std=list(facts.normalisation.std),
        name=name,
        batch=batch,
        input=facts.input_name,
        dims=", ".join(map(str, facts.layout.sizes)),
        output=facts.output_name,
        classes=len(facts.classes),
    )
