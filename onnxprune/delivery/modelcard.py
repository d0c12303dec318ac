"""The text that goes with a deployed model: what it is, how it was made, its numbers, how to load it."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from onnxprune.analysis.baking import Baked
from onnxprune.common.output import plural, printable
from onnxprune.data.registry import DATASETS, title_of
from onnxprune.delivery import headline, snippets
from onnxprune.delivery.facts import Facts, listed
from onnxprune.delivery.variants import INT8, INT8_ALONE
from onnxprune.graph.baking import PICTURE, PROBABILITIES
from onnxprune.graph.metadata import NORMALISATION
from onnxprune.models import model_title, onnx_file
from onnxprune.results.quality import ACCURACY, quality_of
from onnxprune.results.statistics import Difference
from onnxprune.settings.point import FIELDS, Point
from onnxprune.settings.vocabulary import CONTROLS, TECHNIQUES


@dataclass(frozen=True)
class Seeds:
    """The other seeds of a shipped file, and what has to be said of their timing.

    Attributes:
        count: seeds, that of the file included.
        folded: column -> mean and sample standard deviation over them; None where there is none.
        remarks: sentences.
        blunt: what is to be said of the limit that decided; None where nothing is.
        clock: sentences on how far the measured speedups can decide, and did.
        change: of the accuracy against the 0 % controls, over all of them; None where there are none.
    """

    count: int
    folded: Mapping[str, tuple[float | None, float | None]]
    remarks: Sequence[str]
    blunt: str | None
    clock: Sequence[str]
    change: Difference | None = None

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


@dataclass(frozen=True)
class Shipped:
    """What is known of a model when it is shipped, beside its row.

    Attributes:
        file: of the model, relative to the card.
        digest: SHA-256 of it.
        baked: the same with preprocessing and softmax in it; None where that was not asked for.
        latency: milliseconds of one image, of the model and its base, timed in turn now; None where the base is gone.
        compare: the command that compares it with its base.
        license: identifier of the licence it is given under; None: not stated.
        date: of today, as 2026-01-31.
    """

    file: str
    digest: str
    baked: Baked | None
    latency: tuple[float, float] | None
    compare: str
    license: str | None
    date: str


def write_card(name: str, row: Mapping[str, Any], facts: Facts, shipped: Shipped, seeds: Seeds) -> str:
    """The model card, as Markdown with the head that Hugging Face reads.

    Args:
        row: the point's settings, metrics and environment; None where something was not measured.
        seeds: what the point gave with all seeds, on which it was decided.
    """
    loading = snippets.of_plain(shipped.file, facts)
    if shipped.baked is not None:
        loading = [
            *_about_baked(shipped.baked),
            "",
            *snippets.of_baked(shipped.baked),
            "",
            f"Without it, using `{shipped.file}`:",
            "",
            *loading,
        ]
    return "\n".join(
        [
            *_head(name, row, shipped),
            "",
            f"# {name}",
            "",
            _summary(row, seeds.count),
            "",
            decided_on(row, seeds),
            "",
            f"{_code(shipped.file)}: {row['file_bytes']:,} bytes, SHA-256 `{shipped.digest}`. "
            f"Deployed on {shipped.date}. Licence: {_literal(shipped.license or 'not stated')}.",
            "",
            "## How to load it",
            "",
            *loading,
            "",
            _about_input(facts),
            "",
            *([f"Classes, in order: {_classes(facts.classes)}", ""] if facts.classes else []),
            "## Intended use and limits",
            "",
            *_limits(row),
            "",
            "## Numbers",
            "",
            *_numbers(row, shipped),
            "",
            _where(row),
            *(f"\n{line}" for line in seeds.remarks),
            "",
            "To compare it with its base again:",
            "",
            "```sh",
            shipped.compare,
            "```",
            "",
            "## How it was made",
            "",
            f"From {_code(row['base_id'])}, with data of SHA-256 {_code(_known(row, 'data_checksum'))}{_point(row)}. "
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
            f"onnxprune {_known(row, 'onnxprune_version')}"
            + (f", commit {row['git_commit']}" if row.get("git_commit") else "")
            + f"; Python {_known(row, 'python_version')}, torch {_known(row, 'torch_version')}, "
            f"nni {_known(row, 'nni_version')}, onnx {_known(row, 'onnx_version')}, onnxruntime {_onnxruntime(row)}",
            "",
        ]
    )


def _point(row: Mapping[str, Any]) -> str:
    """The point that a file is of; nothing for that of a base."""
    return "" if row.get("variant") == INT8_ALONE else f", as point {_code(row['folder'])}"


def _head(name: str, row: Mapping[str, Any], shipped: Shipped) -> list[str]:
    """YAML, of which JSON's texts are part."""
    title = json.dumps(_data_title(row))
    begin = ["---", f"license: {json.dumps(shipped.license or 'unknown')}", "library_name: onnx"]
    tags = "tags: [onnx, onnxruntime, pruning, onnxprune]"
    if quality_of(row) is not ACCURACY:
        return [*begin, tags, "---"]
    return [
        *begin,
        "pipeline_tag: image-classification",
        tags,
        "metrics: [accuracy]",
        "model-index:",
        f"- name: {json.dumps(name)}",
        "  results:",
        "  - task: {type: image-classification}",
        f"    dataset: {{name: {title}, type: {title}, split: test}}",
        f"    metrics: [{{type: accuracy, value: {row['accuracy'] / 100:.4f}}}]",
        "---",
    ]


def _literal(text: str) -> str:
    """What a user named, as it is and not as Markdown."""
    return re.sub(r"([\\`*_\[\]<>|&~$])", r"\\\1", printable(text))


def _code(text: str) -> str:
    """What a file names, as code in a line: between more backticks than it has in a row."""
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def _known(row: Mapping[str, Any], name: str) -> str:
    """What the record of another version may not have."""
    value = row.get(name)
    return "(not recorded)" if value is None else f"{value:,}" if isinstance(value, Integral) else str(value)


def _data_title(row: Mapping[str, Any]) -> str:
    """The data's name, without what a list of datasets says beside it."""
    dataset = row["dataset"]
    return DATASETS[dataset].title.partition(",")[0] if dataset in DATASETS else title_of(dataset)


def _summary(row: Mapping[str, Any], seeds: int) -> str:
    technique = TECHNIQUES[row["technique"]]
    if technique.unit != "channel":
        goes = "single weights, which are stored as zeros"
        goes += "" if row.get("keep_dead") else "; units that had none left are gone"
    elif row.get("granularity") == "layer":
        goes = "whole layers, so the network is smaller"
    else:
        goes = "output channels and units, so the network is smaller"
    tuned = f"schedule {_code(row['schedule'])}"
    control = row.get("control") or "none"
    if control != "none":
        tuned += f", control {_code(control)}: {CONTROLS[control]}"
    if headline.is_finetuned(row):
        tuned += ", then fine-tuned"
        if row.get("training_images") is not None and row.get("train_images"):
            tuned += f" for {plural(row['training_images'] / row['train_images'], 'epoch')}"
    how = (
        f"pruned, {headline.removed(row)} (technique {_code(row['technique'])}, criterion {_code(row['criterion'])}, "
        f"{tuned}). Pruning removed {goes}"
    )
    if row.get("variant") == INT8:
        how += "; then it was converted to 8 bits"
    elif row.get("variant") == INT8_ALONE:
        how = "converted to 8 bits, not pruned"
    network = f"the network {_code(model_title(row['model']))} on {_literal(_data_title(row))}, {how}"
    quality = headline.quality(row, seeds)
    if quality_of(row) is ACCURACY:
        return f"An image classifier: {network}. On the test images: {quality}."
    return f"{network[0].upper()}{network[1:]}. On the test images, which have no labels: {quality}."


def decided_on(row: Mapping[str, Any], seeds: Seeds) -> str:
    """Which seed a file is of, what all of them gave, and how far the limit can be relied on."""
    more = "".join(f" {line}" for line in seeds.clock)
    more += "" if seeds.blunt is None else f" {seeds.blunt[0].upper()}{seeds.blunt[1:]}."
    if seeds.count == 1:
        return f"One seed ({row['seed']}): how much results differ between seeds was not measured.{more}"
    said = f"Chosen by the means over {seeds.count} seeds; this file is of seed {row['seed']}. Means over the seeds: "
    quality = quality_of(row).name
    said += f"{quality} {seeds.spread(quality, '{:.2f}')} %"
    if seeds.folded["accuracy_change"][0] is not None:
        said += f", {seeds.spread('accuracy_change', '{:+.2f}')} points against the 0 % controls"
        if seeds.change is not None:
            low, high, found = seeds.change.low, seeds.change.high, headline.verdict(seeds.change.real)
            said += f" (95 % interval {low:+.2f} to {high:+.2f}: {found})"
    if seeds.folded["speedup"][0] is not None:
        said += f", speedup {seeds.spread('speedup', '{:.2f}')}"
    return f"{said}.{more}"


def _about_baked(baked: Baked) -> list[str]:
    channels, height, width = baked.picture
    size = (
        f"Pictures of any size: the graph resizes them to {width} by {height} with an antialiased bilinear filter; "
        "proportions are not kept."
        if baked.resizes
        else f"Pictures must be {width} wide and {height} high."
    )
    return [
        f"`{baked.path.name}` has the preprocessing and the softmax in its graph. Input `{PICTURE}`: "
        f"{_pixels(channels)}, bytes from 0 to 255, as (batch, height, width, {channels}), which is channels last. "
        f"{size} Output `{PROBABILITIES}`: (batch, classes), each row adds up to 1. Checked: on the same pictures "
        f"the probabilities of the two files differ by at most {baked.difference:.1g}.",
    ]


def _pixels(channels: int) -> str:
    return {1: "grey pixels", 3: "red, green, blue in this order"}.get(channels, f"{channels} channels")


def _about_input(facts: Facts) -> str:
    channels, height, width = facts.shape
    axes = {
        (0, 1, 2, 3): "channels first" if len(facts.layout.sizes) == 3 else "flattened",
        (0, 2, 3, 1): "channels last",
    }[facts.layout.axes]
    return (
        f"Input `{facts.input_name}` of the plain file: float32 (batch, {listed(facts.layout.sizes)}), {axes}; "
        f"{_pixels(channels)}, {width} wide and {height} high; `{NORMALISATION}`. Resize pictures of another size "
        "first, with an antialiased bilinear filter and without keeping proportions, as `onnxprune predict` does. "
        f"{_about_outputs(facts)} The file's metadata say how pixels are normalised too."
    )


def _about_outputs(facts: Facts) -> str:
    if facts.classes:
        scores = f"scores (batch, {len(facts.classes)}); the largest one is the class"
        return f"Output {_code(facts.outputs[0].name)}: {scores}."
    sizes = (", ".join(["batch", *(str(size or "any") for size in output.sizes)]) for output in facts.outputs)
    told = (
        f"{_code(output.name)}, {output.kind.lower()} ({size})"
        for output, size in zip(facts.outputs, sizes, strict=True)
    )
    return f"Outputs, as those of the unpruned file: {'; '.join(told)}."


def _classes(names: tuple[str, ...]) -> str:
    """With their numbers, where they are called otherwise."""
    if list(names) == [str(index) for index in range(len(names))]:
        return f"the numbers 0 to {len(names) - 1}."
    return ", ".join(f"{index} {_literal(label)}" for index, label in enumerate(names))


def _limits(row: Mapping[str, Any]) -> list[str]:
    data = _literal(_data_title(row))
    trained, tested = _known(row, "train_images"), _known(row, "test_images")
    if quality_of(row) is not ACCURACY:
        return [
            f"Use: what the unpruned file is used for, on images like those of {data}. It was made with {trained} "
            f"images and compared with the unpruned file on {tested}, all without labels.\n\nLimits: the figures here "
            "say how close its answers are to the unpruned file's, and not how good either is at its task. Measure "
            "that on data with labels before you rely on it.",
        ]
    made = "made of a trained file with" if onnx_file.is_file(row["model"]) else "trained on"
    return [
        f"Use: classifying pictures like those of {data} into the classes above. It was {made} {trained} images and "
        f"tested on {tested}.\n\nLimits: it assigns one of its "
        "classes to every picture, even to a picture of something else. Its probabilities are not calibrated. The "
        "figures here do not say how it does on other pictures, or whether pruning costs some classes more than "
        "others: `onnxprune evaluate` shows each class. Test it on your own pictures before you rely on it.",
    ]


def _numbers(row: Mapping[str, Any], shipped: Shipped) -> list[str]:
    """A table: this model beside its base."""

    def line(title: str, column: str, form: str) -> str:
        cells = [row.get(column), row.get(f"base_{column}")]
        return f"| {title} | " + " | ".join("-" if cell is None else form.format(cell) for cell in cells) + " |"

    speedup = "-" if row["speedup"] is None else f"{row['speedup']:.2f}"
    if row.get("speedup_low") is not None:
        speedup += f" (95 % interval {row['speedup_low']:.2f} to {row['speedup_high']:.2f})"
    control = "-" if row.get("control_accuracy") is None else f"{row['control_accuracy']:.2f}"
    missing = _literal(str(row.get("macs_missing") or row.get("base_macs_missing") or ""))
    if quality_of(row) is ACCURACY:
        quality = [
            line(f"accuracy, {_known(row, 'test_images')} test images, %", "accuracy", "{:.2f}"),
            f"| accuracy of the 0 % control (the same training, not pruned), % | {control} | |",
            line("top-5 accuracy, %", "top5_accuracy", "{:.2f}"),
            line("cross-entropy, nats", "cross_entropy", "{:.4f}"),
            line("validation accuracy, used to choose it, %", "validation_accuracy", "{:.2f}"),
        ]
    else:
        quality = [
            line(f"fidelity to the unpruned file, {_known(row, 'test_images')} test images, %", "fidelity", "{:.2f}"),
            line("relative error of the answers", "relative_error", "{:.4f}"),
            line("cosine similarity of the answers to an image, mean", "cosine", "{:.4f}"),
            line("images whose highest score is at the same place, %", "agreement", "{:.2f}"),
            line("validation fidelity, used to choose it, %", "validation_fidelity", "{:.2f}"),
        ]
    return [
        "| | this model | unpruned |",
        "| --- | ---: | ---: |",
        *quality,
        line("MACs per image (1 MAC = 2 FLOPs)", "macs", "{:,}"),
        line("MACs without multiplications by stored zeros", "effective_macs", "{:,}"),
        line("parameters", "params", "{:,}"),
        line("parameters that are not zero", "nonzero_params", "{:,}"),
        line("size of the file, bytes", "file_bytes", "{:,}"),
        line(f"median latency of a batch of {row['latency_batch']}, ms", "latency_ms_median", "{:.3f}"),
        f"| measured speedup | {speedup} | 1 |",
        *_one_image(shipped),
        *([f"| dead units of the base | | {row['base_dead_units']} |"] if row.get("base_dead_units") else []),
        *(line for remark in row.get("remarks", ()) for line in ("", f"Note: {remark}.")),
        *(["", f"Not all MACs are counted, so they cannot be compared: {missing}."] if missing else []),
    ]


def _one_image(shipped: Shipped) -> list[str]:
    if shipped.latency is None:
        return []
    ours, base = shipped.latency
    return [f"| latency of one image, 1 thread, timed at deployment, ms | {ours:.3f} | {base:.3f} |"]


def _where(row: Mapping[str, Any]) -> str:
    machine = _literal(_known(row, "gpu" if row.get("gpu") else "cpu"))
    if row["speedup"] is None:
        return f"Measured by onnxruntime {_onnxruntime(row)} on {machine}; latency was not timed."
    return (
        f"Measured by onnxruntime {_onnxruntime(row)} on {machine}, {plural(row['latency_threads'], 'thread')}, both "
        f"models timed in turn; timing noise ±{100 * row['speedup_noise']:.1f} %: a speedup within it is no difference."
    )


def _onnxruntime(row: Mapping[str, Any]) -> str:
    return _known(row, "onnxruntime_gpu_version" if row.get("onnxruntime_gpu_version") else "onnxruntime_version")
