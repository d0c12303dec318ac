"""Exports a network and measures the file: parity, accuracy or fidelity, counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnxprune.analysis.evaluation import as_logits, right_images, score
from onnxprune.bridge.coupling import cut
from onnxprune.bridge.export import export, network_answers, parity, write_metadata
from onnxprune.bridge.graph_network import GraphNetwork
from onnxprune.common.files import compressed_bytes
from onnxprune.data.dataset import Dataset, Split
from onnxprune.graph.counting import count
from onnxprune.graph.counts import Counts
from onnxprune.graph.elimination import eliminate_dead_units, nonzero_numbers
from onnxprune.graph.metadata import MEASURED, NORMALISATION, PRUNING
from onnxprune.reduction.fidelity import Comparison
from onnxprune.runtime.session import answers_batched, float_outputs, open_session, run_batched
from onnxprune.training.batches import Batches, fitting_micro_batch, memory_format
from onnxprune.training.device import device_of
from onnxprune.version import __version__

PARITY_IMAGES = 256
_PARITY_NUMBERS = 2**24  # of answers that are held for it at most
_IMAGES_AT_ONCE = 500  # that are made floats
EVALUATION_BATCH = 100  # what is computed of a batch then stays in the cache: 500 took a quarter longer


# metadata that say how a file was made
PROVENANCE = ("model", *PRUNING)


@dataclass(frozen=True)
class Judged:
    """How good a file's answers are on a split: by its labels or, where there are none, by the original's answers.

    Attributes:
        columns: column -> value: accuracies in percent and the cross-entropy in nats; or the fidelity in percent, the
            relative error, the cosine, and in percent how often the highest score is at the same place.
        collapsed: see `onnxprune.analysis.evaluation.Scores`; without labels, that all answers are the same, and those
            of the original are not.
        most_predicted: percent of the images that get the most frequent prediction; None without labels.
        right: whether each image (N,) gets its label; None without labels.
    """

    columns: dict[str, float | None]
    collapsed: bool
    most_predicted: float | None
    right: np.ndarray | None

    @property
    def percent(self) -> float:
        """The accuracy, or else the fidelity."""
        found = self.columns["accuracy" if self.right is not None else "fidelity"]
        assert found is not None
        return found


def judged(
    path: Path, split: Split, dataset: Dataset, device: torch.device, batch: int, original: Path | None = None
) -> Judged:
    """Runs a file on a split by onnxruntime.

    Args:
        batch: images that are run at once.
        original: the file whose answers are right, for data without labels.
    """
    session = open_session(path, device=device.type, threads=torch.get_num_threads())
    if dataset.labelled:
        logits = as_logits(run_batched(session, split.images, dataset.mean, dataset.std, batch))
        return _by_labels(logits, split.labels)
    assert original is not None
    first = open_session(original, device=device.type, threads=torch.get_num_threads())
    names, taken = float_outputs(first), (split.images, dataset.mean, dataset.std, batch)
    comparison = Comparison()
    for expected, given in zip(
        answers_batched(first, names, *taken), answers_batched(session, names, *taken), strict=True
    ):
        comparison.add(expected, given, len(next(iter(expected.values()))))
    return _by_original(comparison)


def _by_labels(logits: np.ndarray, labels: np.ndarray) -> Judged:
    found = score(logits, labels)
    columns: dict[str, float | None] = {
        "accuracy": found.accuracy,
        "top5_accuracy": found.top5_accuracy,
        "cross_entropy": found.cross_entropy,
    }
    return Judged(columns, found.collapsed, found.most_predicted, right_images(logits, labels))


def _by_original(comparison: Comparison) -> Judged:
    found = comparison.result()
    columns = {
        "fidelity": found.percent,
        "relative_error": found.relative_error,
        "cosine": found.cosine,
        "agreement": found.agreement,
    }
    return Judged(columns, comparison.collapsed, None, None)


@dataclass(frozen=True)
class Measured:
    """What was found on an exported file.

    Attributes:
        test: how good the file is under onnxruntime on the full test set.
        parity: largest absolute difference between the network's answers and the file's, on up to 256 test images.
        counts: MACs, parameters and bytes of the file.
        compressed: bytes of the file after gzip.
        dead_params: numbers that are not zero which left the file with units that say nothing.
        batch: images that were run through it at once, as many as memory is meant to hold.
    """

    test: Judged
    parity: float
    counts: Counts
    compressed: int
    dead_params: int
    batch: int

    def quality_columns(self, prefix: str = "") -> dict[str, Any]:
        """How good it is on the test set, see `Judged`."""
        return {f"{prefix}{name}": value for name, value in self.test.columns.items()}

    def cost_columns(self, prefix: str = "") -> dict[str, Any]:
        """Counts per image, and the file's size."""
        return {
            f"{prefix}macs": self.counts.macs,
            f"{prefix}effective_macs": self.counts.effective_macs,
            f"{prefix}flops": self.counts.flops,
            f"{prefix}onnx_tool_ops": self.counts.onnx_tool_ops,
            f"{prefix}params": self.counts.params,
            f"{prefix}nonzero_params": self.counts.nonzero_params,
            f"{prefix}file_bytes": self.counts.file_bytes,
            f"{prefix}bytes_compressed": self.compressed,
            # a column of its own only where there is something to say: most rows have none
            **({} if self.counts.comparable else {f"{prefix}macs_missing": "; ".join(self.counts.notes)}),
        }


def export_and_measure(
    network: nn.Module,
    path: Path,
    dataset: Dataset,
    *,
    metadata: Mapping[str, Any],
    dead_align: int | None = None,
    without: Mapping[str, Tensor] | None = None,
    original: Path | None = None,
) -> Measured:
    """Writes `network` to `path` and measures that file, on the device that the network is on.

    Args:
        dead_align: leave units out of the file that do not change what it computes, so that the width of what is left
            is a multiple of this; None: leave none out.
        without: layer -> 0/1 mask (outputs,) of units to leave out, which are zero in `network`; None: it is written as
            it is.
        original: the file that it is judged by where there are no labels; None: itself.
        metadata: what the file's metadata say of how it was made, beside what a deployer needs to know of the data.

    Raises:
        RunError: the file does not compute what the network does.
    """
    device = device_of(network)
    if without is None:
        export(network, path, dataset.input_shape)
    else:
        cut(network, dataset.input_shape, without).shrunk.save(path)
    exported = nonzero_numbers(path)
    if dead_align is not None:
        eliminate_dead_units(path, dead_align)
    dead_params = exported - nonzero_numbers(path)
    batch = fitting_micro_batch(network, dataset.input_shape, EVALUATION_BATCH)
    session = open_session(path, device=device.type, threads=torch.get_num_threads())
    if dataset.labelled:
        logits = as_logits(run_batched(session, dataset.test.images, dataset.mean, dataset.std, batch))
        test, answers = _by_labels(logits, dataset.test.labels), logits[:PARITY_IMAGES]
    else:
        test = judged(path, dataset.test, dataset, device, batch, original or path)
        answers = _first_answers(session, network, dataset, batch)
    probe = _laid_out(dataset.test, dataset, network, device)
    difference = parity(network, answers, probe.take(torch.arange(len(answers)))[0])
    told = {name: test.columns.get(name) for name in MEASURED}  # a file may say what is no longer true
    write_metadata(path, {**_data_metadata(dataset), **metadata, **told, "onnxprune_version": __version__})
    counts = count(path)  # last: of the file as it is deployed, its metadata included
    return Measured(test, difference, counts, compressed_bytes(path), dead_params, batch)


def _first_answers(session: Any, network: nn.Module, dataset: Dataset, batch: int) -> np.ndarray:
    """The answers (N, numbers) of a file that is no classifier to the first test images."""
    assert isinstance(network, GraphNetwork)
    most = max(1, _PARITY_NUMBERS // sum(network.plan.answers.values()))
    images = dataset.test.images[: min(PARITY_IMAGES, most)]
    names = list(network.plan.answers)
    pieces = answers_batched(session, names, images, dataset.mean, dataset.std, batch)
    return np.concatenate(
        [np.concatenate([rows[name].reshape(len(rows[name]), -1) for name in names], 1) for rows in pieces]
    )


def judged_network(
    network: nn.Module, dataset: Dataset, device: torch.device, original: nn.Module, images: int | None = None
) -> Judged:
    """How good a network that is no file yet is on the validation split, or on so many of its images."""
    split = dataset.validation.some(images)
    labels = split.labels
    batches = _laid_out(split, dataset, original, device)
    pieces = torch.arange(len(labels)).split(_IMAGES_AT_ONCE if dataset.labelled else EVALUATION_BATCH)
    if dataset.labelled:
        logits = [network_answers(network, batches.take(piece)[0]) for piece in pieces]
        return _by_labels(np.concatenate(logits), labels)
    comparison = Comparison()
    for piece in pieces:
        taken, _ = batches.take(piece)
        expected, given = (_by_output(one, network_answers(one, taken)) for one in (original, network))
        comparison.add(expected, given, len(piece))
    return _by_original(comparison)


def _laid_out(split: Split, dataset: Dataset, network: nn.Module, device: torch.device) -> Batches:
    return Batches(split, dataset.mean, dataset.std, device, memory_format(network, dataset.input_shape))


def _by_output(network: nn.Module, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Answers (N, numbers) of a file as its outputs."""
    assert isinstance(network, GraphNetwork)
    widths = network.plan.answers
    return dict(zip(widths, np.split(rows, np.cumsum([*widths.values()])[:-1], axis=1), strict=True))


def _data_metadata(dataset: Dataset) -> dict[str, Any]:
    """What whoever runs the file must know of its input and output."""
    return {
        "dataset": dataset.name,
        **({"classes": list(dataset.classes)} if dataset.labelled else {}),
        "input_shape": list(dataset.input_shape),
        # of a dataset with a name it is known
        **({} if dataset.own_shape is None else {"picture_shape": list(dataset.own_shape)}),
        "normalisation": NORMALISATION,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
    }
