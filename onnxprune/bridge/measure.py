"""Exports a network and measures the file: parity, accuracy, counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnxprune.analysis.evaluation import Scores, as_logits, right_images, score
from onnxprune.bridge.coupling import cut
from onnxprune.bridge.export import export, network_logits, parity, write_metadata
from onnxprune.common.files import compressed_bytes
from onnxprune.data.dataset import Dataset, Split
from onnxprune.graph.counting import count
from onnxprune.graph.counts import Counts
from onnxprune.graph.elimination import eliminate_dead_units, nonzero_numbers
from onnxprune.graph.metadata import NORMALISATION
from onnxprune.runtime.session import open_session, run_batched
from onnxprune.training.batches import Batches, fitting_micro_batch
from onnxprune.version import __version__

PARITY_IMAGES = 256
_IMAGES_AT_ONCE = 500  # that are made floats
EVALUATION_BATCH = 100  # what is computed of a batch then stays in the cache: 500 took a quarter longer


# metadata that say how a file was made, "spec_hash" beside them
PROVENANCE = ("model", "technique", "criterion", "schedule", "granularity", "sparsity", "control", "seed", "spec_hash")


@dataclass(frozen=True)
class Measured:
    """What was found on an exported file.

    Attributes:
        test: scores of the file under onnxruntime on the full test set.
        right: whether it gives each test image (N,) its label.
        parity: largest absolute difference between the network's logits and the file's, on 256 test images.
        counts: MACs, parameters and bytes of the file.
        compressed: bytes of the file after gzip.
        dead_params: numbers that are not zero which left the file with units that say nothing.
        batch: images that were run through it at once, as many as memory is meant to hold.
    """

    test: Scores
    right: np.ndarray
    parity: float
    counts: Counts
    compressed: int
    dead_params: int
    batch: int

    def accuracy_columns(self, prefix: str = "") -> dict[str, Any]:
        """Accuracies in percent and cross-entropy in nats, on the test set."""
        return {
            f"{prefix}accuracy": self.test.accuracy,
            f"{prefix}top5_accuracy": self.test.top5_accuracy,
            f"{prefix}cross_entropy": self.test.cross_entropy,
        }

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
            **({} if self.counts.complete else {f"{prefix}macs_missing": "; ".join(self.counts.notes)}),
        }


def export_and_measure(
    network: nn.Module,
    path: Path,
    dataset: Dataset,
    *,
    metadata: Mapping[str, Any],
    dead_align: int | None = None,
    without: Mapping[str, Tensor] | None = None,
) -> Measured:
    """Writes `network` to `path` and measures that file, on the device that the network is on.

    Args:
        dead_align: leave units out of the file that do not change what it computes, so that the width of what is left
            is a multiple of this; None: leave none out.
        without: layer -> 0/1 mask (outputs,) of units to leave out, which are zero in `network`; None: it is written as
            it is.
        metadata: what the file's metadata say of how it was made, beside what a deployer needs to know of the data.

    Raises:
        RunError: the file does not compute what the network does.
    """
    device = next(network.parameters()).device
    if without is None:
        export(network, path, dataset.input_shape)
    else:
        cut(network, dataset.input_shape, without).shrunk.save(path)
    exported = nonzero_numbers(path)
    if dead_align is not None:
        eliminate_dead_units(path, dead_align)
    dead_params = exported - nonzero_numbers(path)
    session = open_session(path, device=device.type, threads=torch.get_num_threads())
    batch = fitting_micro_batch(network, dataset.input_shape, EVALUATION_BATCH)
    logits = as_logits(run_batched(session, dataset.test.images, dataset.mean, dataset.std, batch))
    probe = Batches(dataset.test, dataset.mean, dataset.std, device)
    images, _ = probe.take(torch.arange(min(PARITY_IMAGES, len(probe))))
    difference = parity(network, logits[: len(images)], images)
    test = score(logits, dataset.test.labels)
    write_metadata(
        path, {**_data_metadata(dataset), **metadata, "accuracy": test.accuracy, "onnxprune_version": __version__}
    )
    counts = count(path)  # last: of the file as it is deployed, its metadata included
    right = right_images(logits, dataset.test.labels)
    return Measured(test, right, difference, counts, compressed_bytes(path), dead_params, batch)


def validation_accuracy(path: Path, dataset: Dataset, device: torch.device, batch: int) -> float:
    """Top-1 of an exported file on the validation split, in percent: what decisions may look at."""
    session = open_session(path, device=device.type, threads=torch.get_num_threads())
    logits = as_logits(run_batched(session, dataset.validation.images, dataset.mean, dataset.std, batch))
    return score(logits, dataset.validation.labels).accuracy


def network_accuracy(network: nn.Module, dataset: Dataset, device: torch.device, images: int | None = None) -> float:
    """Top-1 of a network that is no file yet, on the validation split or its first images, in percent."""
    split = dataset.validation
    labels = split.labels[:images]
    batches = Batches(Split(split.images[:images], labels), dataset.mean, dataset.std, device)
    pieces = torch.arange(len(labels)).split(_IMAGES_AT_ONCE)
    return score(np.concatenate([network_logits(network, batches.take(piece)[0]) for piece in pieces]), labels).accuracy


def _data_metadata(dataset: Dataset) -> dict[str, Any]:
    """What whoever runs the file must know of its input and output."""
    return {
        "dataset": dataset.name,
        "classes": list(dataset.classes),
        "input_shape": list(dataset.input_shape),
        # of a dataset with a name it is known
        **({} if dataset.own_shape is None else {"picture_shape": list(dataset.own_shape)}),
        "normalisation": NORMALISATION,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
    }
