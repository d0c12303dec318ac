"""From the model that was chosen of a sweep to one that is deployed: the checked copy, the card and the index."""

import datetime
import hashlib
import os
import shlex
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from onnxprune.analysis import baking
from onnxprune.analysis.classifier import open_classifier
from onnxprune.analysis.comparison import compare as compare_files
from onnxprune.common.errors import InputError, RunError, StorageError
from onnxprune.common.files import locked, make_folder, read_json, replacing, user_lock, write_json, write_text
from onnxprune.data.registry import title_of
from onnxprune.delivery.choice import Choice
from onnxprune.delivery.facts import Facts
from onnxprune.delivery.headline import percent
from onnxprune.delivery.modelcard import Shipped, write_card
from onnxprune.delivery.variants import FLOAT32, INT8_ALONE
from onnxprune.graph.metadata import NORMALISATION
from onnxprune.models import model_title
from onnxprune.results import schema, store
from onnxprune.results.quality import ACCURACY
from onnxprune.results.seeds import training_columns
from onnxprune.results.tables import result_table
from onnxprune.results.training_remarks import remark_on_control, remark_on_finetuning
from onnxprune.settings.point import BASES

INDEX = "index.json"
Layout = Literal["plain", "triton"]

_NAME_LETTERS = frozenset(string.ascii_letters + string.digits + "-_.")

_TIMING_SECONDS = 0.5  # of one image, when a model is deployed
_INDEX_COLUMNS = (
    "model", "dataset", "batch_size", "technique", "criterion", "schedule", "granularity", "sparsity",
    "achieved_sparsity", "seed", "accuracy", "accuracy_low", "accuracy_high", "control_accuracy", "accuracy_change",
    "accuracy_change_p_value", "base_accuracy", "validation_accuracy", "base_validation_accuracy", "fidelity",
    "validation_fidelity", "relative_error", "cosine", "agreement", "macs", "base_macs",
    "params", "latency_ms_median", "base_latency_ms_median", "speedup", "speedup_beyond_theory", "latency_batch",
    "latency_threads", "device", "cpu", "onnxprune_version", "git_commit",
)  # fmt: skip


def source_of(row: Mapping[str, Any], sweep: Path) -> Path:
    """Where the file of a choice lies."""
    folder = sweep.parent / BASES / row["base_id"] if row["variant"] == INT8_ALONE else sweep / row["folder"]
    return folder / row["file"]


@dataclass(frozen=True)
class Deployed:
    """
    Attributes:
        files: what was written, the model first.
        compare: the command that compares the model with its base.
    """

    name: str
    entry: dict[str, Any]
    files: tuple[Path, ...]
    compare: str
    remarks: tuple[str, ...]


def deploy(
    choice: Choice, sweep: Path, out: Path, layout: Layout, *, bake: bool = False, license: str | None = None
) -> Deployed:
    """Copies the chosen model to `out` under a readable name, with its card and a line in the index.

    Args:
        bake: whether a file with preprocessing and softmax in its graph is written too.
        license: identifier of the licence that the card states.

    Raises:
        InputError: the index that is there is damaged, or a file is to be baked that is no classifier of pictures.
        RunError: the model's file is not the one that was measured, or cannot be written.
    """
    source = source_of(choice.row, sweep)
    expected = _measured_digest(source)
    if bake and choice.quality is not ACCURACY:
        raise InputError(
            "--bake puts the preprocessing and a softmax into the graph of a classifier, which this is not"
        )
    make_folder(out)
    try:
        with locked(_lock_of(out)):  # one at a time reads the index and writes it again
            return _deploy(choice, sweep, source, expected, out, layout, bake=bake, license=license)
    except (OSError, StorageError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RunError(f"cannot deploy {source} to {out}: {reason}") from error


def _deploy(
    choice: Choice,
    sweep: Path,
    source: Path,
    expected: str,
    out: Path,
    layout: Layout,
    *,
    bake: bool,
    license: str | None,
) -> Deployed:
    """Writes the files, the card and the index; `expected` is the SHA-256 of `source`."""
    index = _read_index(out / INDEX)
    name = _name(choice.row, index)
    classifier = open_classifier(source) if choice.quality is ACCURACY else None
    facts = Facts.of_file(source) if classifier is None else Facts.of(classifier)
    batch = int(choice.row["latency_batch"])
    files, digest = _write_model(source, expected, out, name, layout, facts=facts, batch=batch)
    row = {key: None if pd.isna(value) else value for key, value in choice.row.items()}
    row["remarks"] = remarks = _remarks(result_table(sweep), row)
    card_path = out / f"{name}.md"
    model_file = files[0].relative_to(out).as_posix()
    baked = baking.bake(classifier, facts.normalisation, out / f"{name}-baked.onnx") if classifier and bake else None
    base = sweep.parent / BASES / str(row["base_id"]) / store.MODEL
    compare = ["onnxprune", "compare", str(base), str(files[0]), "--threads", "1"]
    shipped = Shipped(
        file=model_file,
        digest=digest,
        baked=baked,
        latency=_one_image(base, files[0]) if base.is_file() else None,
        compare=shlex.join(compare),
        license=license,
        date=datetime.date.today().isoformat(),
    )
    seeds = choice.folded
    write_text(card_path, write_card(name, row, facts, shipped, seeds))
    entry = {
        "name": name,
        "file": model_file,
        "card": card_path.name,
        "layout": layout,
        "sha256": digest,
        "bytes": files[0].stat().st_size,
        "baked": None if baked is None else baked.path.name,
        "license": license,
        "deployed": shipped.date,
        "point": row["folder"],
        **{column: row.get(column) for column in _INDEX_COLUMNS},
        "seeds": seeds.count,
        **{f"{column}_mean": mean for column, (mean, _) in seeds.folded.items()},
        **{f"{column}_std": deviation for column, (_, deviation) in seeds.folded.items()},
    }
    index[name] = entry
    write_json(out / INDEX, [index[key] for key in sorted(index)])
    more = () if baked is None else (baked.path,)
    files_made = (*files, *more, card_path, out / INDEX)
    return Deployed(name, entry, files_made, shipped.compare, remarks)


def _lock_of(folder: Path) -> Path:
    """The file to lock for a folder of models: one of 16. They stay, since another process may be about to take one."""
    return user_lock(f"deploy-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[0]}")


def _remarks(table: pd.DataFrame, row: Mapping[str, Any]) -> tuple[str, ...]:
    """What is to be said of how a row was trained: of its base, by the rows of it that are trained alike, and of the
    row itself."""
    found = []
    for _, rows in table.groupby(training_columns(table), sort=False, dropna=False):
        own = rows[rows["folder"] == row["folder"]]
        if len(own):
            found += [remark_on_control(rows[rows["base_id"] == row["base_id"]]), remark_on_finetuning(own)]
    return tuple(remark for remark in found if remark is not None)


def _one_image(base: Path, model: Path) -> tuple[float, float] | None:
    """Median milliseconds of one image on one thread, of a model and its base, timed in turn; None where the file takes
    no single image."""
    first, second = compare_files(base, [model], threads=1, seconds=_TIMING_SECONDS)
    return (second.latency.median_ms, first.latency.median_ms) if first.batch == 1 else None


def _read_index(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> entry; empty where there is no index yet."""
    if not path.exists():
        return {}
    entries: list[dict[str, Any]] = read_json(path)
    problem = schema.problem(entries, list[schema.Deployed])
    if problem is not None:
        raise InputError(
            f"{path} is not an index of models, or a damaged one ({problem}): move it away, then deploy again"
        )
    return {entry["name"]: entry for entry in entries}


def _name(row: Mapping[str, Any], index: Mapping[str, Mapping[str, Any]]) -> str:
    """Model, dataset, technique, criterion and percent removed; the point's hash too where another has that name."""
    what = f"{model_title(row['model'])}-{title_of(row['dataset'])}"
    name = f"{what}-{row['technique']}-{row['criterion']}-{percent(row['achieved_sparsity'])}"
    if row.get("control", "none") != "none":
        name += f"-{row['control']}"
    if row["variant"] != FLOAT32:
        name = f"{what if row['variant'] == INT8_ALONE else name}-int8"
    # the file of a dataset may be called anything
    name = "".join(letter if letter in _NAME_LETTERS else "_" for letter in name)
    taken = name in index and index[name].get("point") != row["folder"]
    return f"{name}-{row['spec_hash']}" if taken else name


def _measured_digest(source: Path) -> str:
    """The SHA-256 of the model that was measured.

    Raises:
        RunError: its file is gone, or another one.
    """
    if not source.is_file():
        raise RunError(f"{source} is not there any more: delete its folder and run the sweep again")
    record = store.finished_record(source.parent)
    if record is None or store.damaged_files(source.parent, record, store.CONFIG, source.name):
        raise RunError(_not_measured(source))
    digest: str = record["files"][source.name]
    return digest


def _not_measured(source: Path) -> str:
    return f"{source} is not the file that was measured: delete its folder and run the sweep again"


def _write_model(
    source: Path, expected: str, out: Path, name: str, layout: Layout, *, facts: Facts, batch: int
) -> tuple[list[Path], str]:
    """Writes the files of the layout; gives them, the model first, and its SHA-256."""
    if layout == "plain":
        path = out / f"{name}.onnx"
        return [path], _copy(source, expected, path)
    path = make_folder(out / name / "1") / store.MODEL
    digest = _copy(source, expected, path)
    configuration, labels = out / name / "config.pbtxt", out / name / "labels.txt"
    write_text(configuration, _triton_configuration(name, facts, batch))
    if not facts.classes:
        return [path, configuration], digest
    write_text(labels, "".join(f"{label}\n" for label in facts.classes))
    return [path, configuration, labels], digest


def _copy(source: Path, digest: str, target: Path) -> str:
    """Copies a file of a known SHA-256 whole or not at all, checks the copy, and returns the SHA-256."""
    content = source.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise RunError(_not_measured(source))
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
{outputs}
]
"""

_TRITON_OUTPUT = """\
  {{
    name: "{name}"
    data_type: TYPE_{kind}
    dims: [ {dims} ]{labels}
  }}"""
_TRITON_KINDS = {"FLOAT": "FP32", "DOUBLE": "FP64", "FLOAT16": "FP16"}  # others are called the same


def _triton_configuration(name: str, facts: Facts, batch: int) -> str:
    """Triton's model configuration; batches up to that at which the latency was measured."""
    return _TRITON.format(
        formula=NORMALISATION,
        mean=list(facts.normalisation.mean),
        std=list(facts.normalisation.std),
        name=_escaped(name),
        batch=batch,
        input=_escaped(facts.input_name),
        dims=", ".join(map(str, facts.layout.sizes)),
        outputs=",\n".join(
            _TRITON_OUTPUT.format(
                name=_escaped(output.name),
                kind=_TRITON_KINDS.get(output.kind, output.kind),
                dims=", ".join(str(size or -1) for size in output.sizes),
                labels='\n    label_filename: "labels.txt"' if facts.classes else "",
            )
            for output in facts.outputs
        ),
    )


def _escaped(text: str) -> str:
    """A text between the quotes of protobuf's text format."""
    return "".join(
        letter if letter.isprintable() and letter not in '"\\' else "".join(f"\\{byte:03o}" for byte in letter.encode())
        for letter in text
    )
