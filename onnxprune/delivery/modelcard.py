"""The text that goes with a deployed model: what it is, how it was made, its numbers, how to load it."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxprune.analysis.classifier import Classifier
from onnxprune.common.errors import RunError
from onnxprune.data.registry import DATASETS, title_of
from onnxprune.delivery.variants import FLOAT32, INT8, INT8_ALONE
from onnxprune.graph.images import Layout
from onnxprune.graph.metadata import NORMALISATION, Normalisation
from onnxprune.models import MODELS
from onnxprune.settings.point import FIELDS, Point
from onnxprune.settings.vocabulary import TECHNIQUES


@dataclass(frozen=True)
class Facts:
    """What whoever runs a deployed file must know."""

    input_name: str
    output_name: str
    normalisation: Normalisation
    shape: tuple[int, int, int]
    layout: Layout
    classes: tuple[str, ...]

    @classmethod
    def of(cls, classifier: Classifier) -> "Facts":
        """Read off the file's metadata.

        Raises:
            RunError: they are missing: the file is not of a sweep.
        """
        metadata = classifier.metadata
        if metadata.normalisation is None or metadata.input_shape is None or metadata.classes is None:
            raise RunError(f"{classifier.path}: its metadata lack the normalisation, the input shape or the classes")
        return cls(
            input_name=classifier.image.name,
            output_name=classifier.output_name,
            normalisation=metadata.normalisation,
            shape=metadata.input_shape,
            layout=classifier.image.layout(metadata.input_shape),
            classes=metadata.classes,
        )


def command(row: Mapping[str, Any]) -> str:
    """The command that makes the point of this row again, every setting written out."""
    words = ["onnxprune", "run"]
    for name in point_settings(row):
        value, flag = row[name], f"--{name.replace('_', '-')}"
        if FIELDS[name].default is False:
            words += [flag] if value else []
        else:
            words += [flag, f"{value:.12g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def point_settings(row: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decided the row's result."""
    given = {name: row[name] for name in FIELDS if row.get(name) is not None}
    return {name: value for name, value in Point(**given).settings().items() if name in given}


def write_card(name: str, file: str, row: Mapping[str, Any], facts: Facts, digest: str) -> str:
    """The model card, as Markdown.

    Args:
        file: the model's file, relative to the card.
        row: the point's settings, metrics and environment; None where something was not measured.
        digest: SHA-256 of the file.
    """
    return "\n".join(
        [
            f"# {name}",
            "",
            _summary(row),
            "",
            f"`{file}`: {row['file_bytes']:,} bytes, SHA-256 `{digest}`",
            "",
            "## How to load it",
            "",
            "```python",
            *_loading(file, facts),
            "```",
            "",
            f"Input `{facts.input_name}`: float32 (batch, {_listed(facts.layout.sizes)}), "
            f"`{NORMALISATION}`. Output `{facts.output_name}`: scores (batch, {len(facts.classes)}); the largest "
            "is the class. All of this is in the file's metadata too.",
            "",
            "Classes, in order: "
            + ", ".join(f"{index} {_literal(label)}" for index, label in enumerate(facts.classes)),
            "",
            "## Numbers",
            "",
            *_numbers(row),
            "",
            _where(row),
            "",
            "## How it was made",
            "",
            f"From `{row['base_id']}`, with data of SHA-256 `{row['data_checksum']}`, "
            + ("in 8 bits" if row["variant"] == INT8_ALONE else f"as point `{row['folder']}`")
            + ". To repeat it:",
            "",
            "```sh",
            command(row),
            "```",
            "",
            "| setting | value |",
            "| --- | --- |",
            *(f"| {setting} | {_literal(str(value))} |" for setting, value in point_settings(row).items()),
            "",
            f"onnxprune {row['onnxprune_version']}"
            + (f", commit {row['git_commit']}" if row["git_commit"] else "")
            + f"; Python {row['python_version']}, torch {row['torch_version']}, nni {row['nni_version']}, onnx "
            f"{row['onnx_version']}, onnxruntime {_onnxruntime(row)}",
            "",
        ]
    )


def _literal(text: str) -> str:
    """What a user named, as it is and not as Markdown."""
    return re.sub(r"([\\`*\[\]<>|&~])", r"\\\1", text)


def _summary(row: Mapping[str, Any]) -> str:
    model, technique = MODELS[row["model"]], TECHNIQUES[row["technique"]]
    title = DATASETS[row["dataset"]].title if row["dataset"] in DATASETS else _literal(title_of(row["dataset"]))
    tuned = f"schedule {row['schedule']}"
    if row["finetune_epochs"] is not None:
        tuned += f", fine-tuned for {row['finetune_epochs']} epoch(s)"
    pruned = (
        f"pruned by {row['sparsity']:g} %: {technique.summary} "
        f"(technique `{row['technique']}`, criterion `{row['criterion']}`), {tuned}"
    )
    made = {FLOAT32: pruned, INT8: f"{pruned}; then brought into 8 bits", INT8_ALONE: "brought into 8 bits, not pruned"}
    return (
        f"{model.title} that classifies {title}, {made[row['variant']]}. "
        f"{row['accuracy']:.2f} % of the test set right; the network it was made from: {row['base_accuracy']:.2f} %."
    )


def _loading(file: str, facts: Facts) -> list[str]:
    """Five lines of Python that need NumPy and onnxruntime only."""
    mean, std = (
        f"np.float32({[[[number]] for number in numbers]})"  # of shape (C, 1, 1)
        for numbers in (facts.normalisation.mean, facts.normalisation.std)
    )
    return [
        "import numpy as np, onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])',
        f'images = np.load("images.npy").astype(np.float32)  # yours: pixels 0 to 255, (N, {_listed(facts.shape)})',
        f"mean, std = {mean}, {std}",
        f'print(session.run(["{facts.output_name}"], {{"{facts.input_name}": {_inputs(facts)}}})[0].argmax(axis=1))',
    ]


def _inputs(facts: Facts) -> str:
    """Pixels as the file takes them."""
    normalised = "(images / 255 - mean) / std"
    if facts.layout.axes != (0, 1, 2, 3):
        return f"({normalised}).transpose{facts.layout.axes}"
    if facts.layout.sizes != facts.shape:
        return f"({normalised}).reshape(-1, {_listed(facts.layout.sizes)})"
    return normalised


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _numbers(row: Mapping[str, Any]) -> list[str]:
    """A table: this model beside its base."""

    def line(title: str, column: str, form: str) -> str:
        cells = [row[column], row[f"base_{column}"]]
        return f"| {title} | " + " | ".join("-" if cell is None else form.format(cell) for cell in cells) + " |"

    speedup = "-" if row["speedup"] is None else f"{row['speedup']:.2f}"
    missing = row.get("macs_missing") or row.get("base_macs_missing")
    return [
        "| | this model | its base, not pruned |",
        "| --- | ---: | ---: |",
        line(f"accuracy, {row['test_images']:,} test images, %", "accuracy", "{:.2f}"),
        line("top-5 accuracy, %", "top5_accuracy", "{:.2f}"),
        line("cross-entropy, nats", "cross_entropy", "{:.4f}"),
        line("validation accuracy, which it was chosen by, %", "validation_accuracy", "{:.2f}"),
        line("MACs an image (1 MAC = 2 FLOPs)", "macs", "{:,}"),
        line("MACs without those by stored zeros", "effective_macs", "{:,}"),
        line("parameters", "params", "{:,}"),
        line("parameters that are not zero", "nonzero_params", "{:,}"),
        line("bytes of the file", "file_bytes", "{:,}"),
        line(f"median latency of a batch of {row['latency_batch']}, ms", "latency_ms_median", "{:.3f}"),
        f"| measured speedup | {speedup} | 1 |",
        *(["", f"MACs are not all counted, so the two cannot be compared: {missing}."] if missing else []),
    ]


def _where(row: Mapping[str, Any]) -> str:
    machine = row["gpu"] or row["cpu"]
    if row["speedup"] is None:
        return f"Measured by onnxruntime {_onnxruntime(row)} on {machine}; latency was not timed."
    return (
        f"Measured by onnxruntime {_onnxruntime(row)} on {machine}, {row['latency_threads']} thread(s), both models "
        f"timed in turn; the base differed from itself by {100 * row['speedup_noise']:.1f} %, a speedup within that is "
        "none."
    )


def _onnxruntime(row: Mapping[str, Any]) -> str:
    return str(row["onnxruntime_gpu_version"] or row["onnxruntime_version"])
