"""The dense network that points start from: trained once, shared, and assessed (IPA)."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import nn

from onnxprune.bridge.activity import dead_units
from onnxprune.bridge.coupling import heads
from onnxprune.bridge.eight_bits import measure_int8
from onnxprune.bridge.measure import export_and_measure, judged
from onnxprune.bridge.start import build_network
from onnxprune.common import environment
from onnxprune.common.errors import RunError
from onnxprune.common.files import identities, replacing
from onnxprune.common.progress import Listener
from onnxprune.data.dataset import Dataset
from onnxprune.results import store
from onnxprune.results.quality import ACCURACY, FIDELITY, quality_of
from onnxprune.results.task import RetryPolicy, ensure
from onnxprune.settings.point import BASES, Point
from onnxprune.training.batches import Batches
from onnxprune.training.cost import TrainingCost
from onnxprune.training.opcount import count_training_ops
from onnxprune.training.recipe import Recipe
from onnxprune.training.setup import base_recipe, train_checked, training_batches
from onnxprune.training.transfer import CLASSES, with_versions

if TYPE_CHECKING:
    from onnxprune.pruning.request import Memory


@dataclass(frozen=True)
class Base:
    """A trained base.

    Attributes:
        folder: where its files are.
        network: the trained network, in evaluation mode; copy before changing it.
        metrics: its Initial Performance Assessment, column -> value.
        memory: scores of its units, for the criteria that find the same ones at every sparsity.
    """

    folder: Path
    network: nn.Module
    metrics: dict[str, Any]
    memory: "Memory" = field(default_factory=dict)

    @property
    def onnx_path(self) -> Path:
        """The exported base."""
        return self.folder / store.MODEL


def _train_base(network: nn.Module, point: Point, batches: Batches, how: Recipe, listener: Listener) -> TrainingCost:
    """Trains a base, or its classifier alone."""
    frozen = []
    if point.freeze_features:
        trained = heads(network, batches.images.shape[1:])
        frozen = [
            each
            for name, each in network.named_parameters()
            if each.requires_grad and name.rpartition(".")[0] not in trained
        ]
    for parameter in frozen:
        parameter.requires_grad_(False)
    cost = train_checked(network, batches, how, on_update=listener.training)
    for parameter in frozen:
        parameter.requires_grad_(True)
    return cost


def cost_columns(cost: TrainingCost, flops: int, prefix: str = "") -> dict[str, Any]:
    """What training took.

    Args:
        flops: of all of it, counted, forward and backward.
    """
    return {
        f"{prefix}training_seconds": cost.seconds,
        f"{prefix}training_images": cost.images,
        f"{prefix}training_images_per_second": cost.images / cost.seconds if cost.images else None,
        f"{prefix}training_flops": flops,
        f"{prefix}training_peak_memory_bytes": cost.peak_memory_bytes if cost.images else None,
    }


def ensure_base(point: Point, dataset: Dataset, runs: Path, listener: Listener, retry: RetryPolicy) -> None:
    """Trains the base of a point unless `runs` already has it whole.

    Raises:
        RunError: it failed: training diverged, or the export differs from the network.
        StorageError: its files cannot be written.
    """
    folder = runs / BASES / point.base_id(dataset.checksum)
    listener.begin(f"base {folder.name}")
    record, reused = ensure(
        folder,
        point.base_settings() | {"data_checksum": dataset.checksum},
        lambda: _train_and_assess(point, dataset, folder, listener),
        retry,
        listener,
    )
    metrics = record["metrics"]
    took = "reused" if reused else f"trained in {metrics['base_training_seconds']:.0f} s"
    quality = quality_of(metrics).name
    listener.end(f"{quality} {metrics[f'base_{quality}']:.2f} %, {took}")


def load_base(point: Point, dataset: Dataset, runs: Path) -> Base:
    """The base of a point, which `ensure_base` has seen to.

    Raises:
        RunError: it is not there any more.
    """
    folder = runs / BASES / point.base_id(dataset.checksum)
    record = store.finished_record(folder)
    if record is None or store.damaged_files(folder, record):
        raise RunError(f"the base in {folder} was removed or damaged meanwhile; the same command again makes it")
    with _sources_unchanged(point, dataset, folder):
        network = build_network(dataclasses.replace(point, weights=None), dataset)
    network.load_state_dict(with_versions(safetensors.torch.load_file(folder / store.CHECKPOINT), network))
    return Base(folder, network, record["metrics"])


@contextlib.contextmanager
def _sources_unchanged(point: Point, dataset: Dataset, folder: Path) -> Iterator[None]:
    """Sees that what is read in the block, of weights and of the model, is what the name of the folder was made of.

    Raises:
        RunError: it is not: a file was replaced or written.
    """
    files = point.source_files()
    before = identities(files)
    yield
    if identities(files) != before or point.base_id(dataset.checksum) != folder.name:
        raise RunError(f"{' or '.join(map(str, files))} changed while the study ran: start it again")


def _train_and_assess(point: Point, dataset: Dataset, folder: Path, listener: Listener) -> dict[str, Any]:
    with _sources_unchanged(point, dataset, folder):
        network = build_network(point, dataset)
    training_recipe = base_recipe(point, network, dataset)
    operators = count_training_ops(network, dataset.input_shape)
    batches = training_batches(point, dataset, network)
    cost = _train_base(network, point, batches, training_recipe, listener)
    listener.stage("measuring")
    with replacing(folder / store.CHECKPOINT) as partial:
        # copies: layers may share weights, which safetensors refuses
        state = {
            name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in network.state_dict().items()
        }
        safetensors.torch.save_file(state, partial, {CLASSES: json.dumps(dataset.classes)})
    measured = export_and_measure(
        network,
        folder / store.MODEL,
        dataset,
        metadata={"model": point.model, "seed": point.seed, "base_id": folder.name},
    )
    if measured.test.right is not None:
        store.write_right(folder, measured.test.right)
    model, device = folder / store.MODEL, torch.device(point.device)
    validation = judged(model, dataset.validation, dataset, device, measured.batch, model)
    quality = ACCURACY if dataset.labelled else FIDELITY
    int8 = {}
    if point.also == "int8":
        found = measure_int8(model, folder / store.INT8_MODEL, dataset, device, measured.batch, model)
        int8 = {f"base_int8_{name}": value for name, value in found.items()}
    metrics = {
        **measured.quality_columns("base_"),
        f"base_validation_{quality.name}": validation.percent,
        **measured.cost_columns("base_"),
        **cost_columns(cost, operators.flops_per_image * cost.images, "base_"),
        "base_parity_max_abs_diff": measured.parity,
        "base_training_updates": cost.updates,
        "base_dead_units": dead_units(network, batches),
        **int8,
        "train_images": len(dataset.train),
        "available_train_images": dataset.available_train,
        "validation_images": len(dataset.validation),
        "test_images": len(dataset.test),
        "scaled_learning_rate": training_recipe.learning_rate,
    }
    return {
        "metrics": metrics,
        "epoch_losses": cost.epoch_losses,
        "training_operators": asdict(operators),
        "operators": {name: asdict(entry) for name, entry in measured.counts.operators.items()},
        "environment": environment.of_training(point.device),
    }
