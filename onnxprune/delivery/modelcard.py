"""The text that goes with a deployed model: what it is, how it was made, its numbers, how to load it."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxprune.analysis.classifier import Classifier
from onnxprune.common.errors import RunError
from onnxprune.common.output import printable
from onnxprune.data.registry import DATASETS, title_of
from onnxprune.delivery import headline
from onnxprune.delivery.variants import INT8, INT8_ALONE
from onnxprune.graph.images import Layout
from onnxprune.graph.metadata import NORMALISATION, Normalisation
from onnxprune.models import MODELS
from onnxprune.settings.point import FIELDS, Point
from onnxprune.settings.vocabulary import SCHEDULES, TECHNIQUES

BEYOND = "The speedup is beyond theory: its MACs and the noise of timing explain less; look at it before you rely on it"


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


@dataclass(frozen=True)
class Seeds:
    """The other seeds of a shipped file, and what has to be said of their timing.

    Attributes:
        count: seeds, that of the file included.
        folded: column -> mean and sample standard deviation over them; None where there is none.
        remarks: sentences.
    """

    count: int
    folded: Mapping[str, tuple[float | None, float | None]]
    remarks: Sequence[str]

    def spread(self, column: str, form: str) -> str:
        """Mean and standard deviation, as text."""
        mean, deviation = self.folded[column]
        if mean is None:
            return "-"
        return form.format(mean) + ("" if deviation is None else f" ± {form.format(deviation).lstrip('+')}")


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


def write_card(name: str, file: str, row: Mapping[str, Any], facts: Facts, digest: str, seeds: Seeds) -> str:
    """The model card, as Markdown.

    Args:
        file: the model's file, relative to the card.
        row: the point's settings, metrics and environment; None where something was not measured.
        digest: SHA-256 of the file.
        seeds: what the point gave with all seeds, on which it was decided.
    """
    return "\n".join(
        [
            f"# {name}",
            "",
            _summary(row),
            "",
            decided_on(row, seeds),
            "",
            f"`{file}`: {row['file_bytes']:,} bytes, SHA-256 `{digest}`",
            "",
            "## How to load it",
            "",
            "```python",
            *_loading(file, facts),
            "```",
            "",
            f"Input {_code(facts.input_name)}: float32 (batch, {_listed(facts.layout.sizes)}), "
            f"`{NORMALISATION}`. Output {_code(facts.output_name)}: scores (batch, {len(facts.classes)}); the largest "
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
            *(f"\n{line}" for line in seeds.remarks),
            "",
            "## How it was made",
            "",
            f"From {_code(row['base_id'])}, with data of SHA-256 {_code(str(row['data_checksum']))}, as point "
            f"{_code(row['folder'])}. "
            "To repeat it:",
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
    return re.sub(r"([\\`*_\[\]<>|&~$])", r"\\\1", printable(text))


def _code(text: str) -> str:
    """What a file names, as code in a line: between more backticks than it has in a row."""
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def _summary(row: Mapping[str, Any]) -> str:
    model, technique = MODELS[row["model"]], TECHNIQUES[row["technique"]]
    title = DATASETS[row["dataset"]].title if row["dataset"] in DATASETS else _literal(title_of(row["dataset"]))
    tuned = f"schedule {_literal(row['schedule'])}"
    if "finetune_epochs" in SCHEDULES[row["schedule"]].settings:
        tuned += f", fine-tuned for {row['training_images'] / row['train_images']:g} epoch(s)"
    how = (
        f"pruned, {headline.removed(row)}: {technique.summary} "
        f"(technique {_code(row['technique'])}, criterion {_code(row['criterion'])}), {tuned}"
    )
    if row.get("variant") == INT8:
        how += "; then brought into 8 bits"
    elif row.get("variant") == INT8_ALONE:
        how = "brought into 8 bits, not pruned"
    return (
        f"{model.title} that classifies {title}, {how}. "
        f"Right on the test set: {headline.accuracy(row)}; {headline.change(row)}."
    )


def decided_on(row: Mapping[str, Any], seeds: Seeds) -> str:
    """Which seed a file is of, and what all of them gave."""
    if seeds.count == 1:
        return f"One seed, {row['seed']}: how much another one would differ was not measured."
    said = f"Chosen by the means over {seeds.count} seeds; this file is that of seed {row['seed']}. Over the seeds: "
    said += f"accuracy {seeds.spread('accuracy', '{:.2f}')} %"
    if seeds.folded["accuracy_change"][0] is not None:
        said += f", {seeds.spread('accuracy_change', '{:+.2f}')} points against the 0 % controls"
    if seeds.folded["speedup"][0] is not None:
        said += f", speedup {seeds.spread('speedup', '{:.2f}')}"
    return f"{said}."


def _loading(file: str, facts: Facts) -> list[str]:
    """Five lines of Python that need NumPy and onnxruntime only."""
    mean, std = (
        f"np.float32({[[[number]] for number in numbers]})"  # of shape (C, 1, 1)
        for numbers in (facts.normalisation.mean, facts.normalisation.std)
    )
    return [
        "import numpy as np, onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession({_quoted(file)}, providers=["CPUExecutionProvider"])',
        f'images = np.load("images.npy").astype(np.float32)  # yours: pixels 0 to 255, (N, {_listed(facts.shape)})',
        f"mean, std = {mean}, {std}",
        f"print(session.run([{_quoted(facts.output_name)}], {{{_quoted(facts.input_name)}: {_inputs(facts)}}})[0]"
        ".argmax(axis=1))",
    ]


def _quoted(text: str) -> str:
    """A text as Python has it, between double quotes; on one line, so that it cannot end the block of code."""
    return json.dumps(text)


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
    if row.get("speedup_low") is not None:
        speedup += f" (95 % interval {row['speedup_low']:.2f} to {row['speedup_high']:.2f})"
    control = "-" if row.get("control_accuracy") is None else f"{row['control_accuracy']:.2f}"
    missing = _literal(str(row.get("macs_missing") or row.get("base_macs_missing") or ""))
    return [
        "| | this model | its base, not pruned |",
        "| --- | ---: | ---: |",
        line(f"accuracy, {row['test_images']:,} test images, %", "accuracy", "{:.2f}"),
        f"| accuracy of the 0 % control, trained like it and not pruned, % | {control} | |",
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
        *(["", f"{BEYOND}."] if row.get("speedup_beyond_theory") else []),
        *(["", f"MACs are not all counted, so the two cannot be compared: {missing}."] if missing else []),
    ]


def _where(row: Mapping[str, Any]) -> str:
    machine = _literal(str(row["gpu"] or row["cpu"]))
    if row["speedup"] is None:
        return f"Measured by onnxruntime {_onnxruntime(row)} on {machine}; latency was not timed."
    return (
        f"Measured by onnxruntime {_onnxruntime(row)} on {machine}, {row['latency_threads']} thread(s), both models "
        f"timed in turn; the base differed from itself by {100 * row['speedup_noise']:.1f} %, a speedup within that is "
        "none."
    )


def _onnxruntime(row: Mapping[str, Any]) -> str:
    return str(row["onnxruntime_gpu_version"] or row["onnxruntime_version"])
