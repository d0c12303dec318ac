"""The dense network that points start from: trained once, shared, and assessed (IPA)."""

import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from onnxprune import environment, store
from onnxprune.chatter import logged
from onnxprune.data import Dataset
from onnxprune.measure import export_and_measure, validation_accuracy
from onnxprune.models import MODELS
from onnxprune.opcount import count_training_ops
from onnxprune.progress import Reporter
from onnxprune.spec import AUGMENTATIONS, BASES, Point
from onnxprune.training import (
    Batches,
    Recipe,
    TrainingCost,
    fitting_micro_batch,
    scaled_learning_rate,
    select_device,
    train,
)


@dataclass(frozen=True)
class Base:
    """A trained base.

    Attributes:
        folder: where its files are.
        network: the trained network, in evaluation mode; copy before changing it.
        metrics: its Initial Performance Assessment, column -> value.
    """

    folder: Path
    network: nn.Module
    metrics: dict[str, Any]

    @property
    def onnx_path(self) -> Path:
        """The exported base."""
        return self.folder / store.MODEL


def build_network(point: Point, dataset: Dataset) -> nn.Module:
    """The untrained network of a point, on the point's device; equal seeds give equal weights."""
    model = MODELS[point.model]
    network = model.build(dataset.input_shape, len(dataset.classes), point.seed, **point.model_options)
    return network.eval().to(select_device(point.device))


def training_batches(point: Point, dataset: Dataset) -> Batches:
    """The training images of a point on the point's device."""
    return Batches(dataset.train, dataset.mean, dataset.std, select_device(point.device))


def recipe(point: Point, network: nn.Module, dataset: Dataset, epochs: int, rate_at_256: float) -> Recipe:
    """How a point's settings say to train `network`."""
    return Recipe(
        epochs=epochs,
        batch_size=point.batch_size,
        learning_rate=scaled_learning_rate(rate_at_256, point.batch_size, len(dataset.train)),
        augmentation=AUGMENTATIONS[point.augment],
        micro_batch=fitting_micro_batch(network, dataset.input_shape, MODELS[point.model].micro_batch),
        seed=point.seed,
    )


def cost_columns(cost: TrainingCost, flops_per_image: int, prefix: str = "") -> dict[str, Any]:
    """What a training run took; FLOPs are counted, forward and backward."""
    return {
        f"{prefix}training_seconds": cost.seconds,
        f"{prefix}training_images": cost.images,
        f"{prefix}training_images_per_second": cost.images / cost.seconds if cost.images else None,
        f"{prefix}training_flops": flops_per_image * cost.images,
        f"{prefix}training_peak_memory_bytes": cost.peak_memory_bytes if cost.images else None,
    }


def ensure_base(point: Point, dataset: Dataset, runs: Path, reporter: Reporter) -> Base:
    """The base of a point, trained now unless `runs` already has it whole.

    Raises:
        RunError: training diverged, or the export differs from the network.
    """
    folder = runs / BASES / point.base_id(dataset.checksum)
    reporter.begin(f"base {folder.name}")
    record = store.read_json(folder / store.METRICS)
    network = build_network(point, dataset)
    if record is not None:
        if _digest(folder / store.CHECKPOINT) == record["checkpoint_sha256"] and (folder / store.MODEL).is_file():
            network.load_state_dict(safetensors.torch.load_file(folder / store.CHECKPOINT))
            reporter.end(f"reused, accuracy {record['metrics']['base_accuracy']:.2f} %")
            return Base(folder, network, record["metrics"])
        reporter.say(f"the base in {folder} is damaged: training it again")
        shutil.rmtree(folder)
    store.make_folder(folder)
    store.write_json(folder / store.CONFIG, point.base_settings() | {"data_checksum": dataset.checksum})
    with logged(folder / store.LOG):
        record = _train_and_assess(network, point, dataset, folder, reporter)
    store.write_json(folder / store.METRICS, record)
    metrics = record["metrics"]
    reporter.end(f"accuracy {metrics['base_accuracy']:.2f} %, trained in {metrics['base_training_seconds']:.0f} s")
    return Base(folder, network, metrics)


def _train_and_assess(
    network: nn.Module, point: Point, dataset: Dataset, folder: Path, reporter: Reporter
) -> dict[str, Any]:
    training_recipe = recipe(point, network, dataset, point.epochs, point.learning_rate)
    operators = count_training_ops(network, dataset.input_shape)
    cost = train(network, training_batches(point, dataset), training_recipe, on_update=reporter.training)
    reporter.stage("measuring")
    with store.replacing(folder / store.CHECKPOINT) as partial:
        state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        safetensors.torch.save_file(state, partial)
    measured = export_and_measure(
        network,
        folder / store.MODEL,
        dataset,
        torch.device(point.device),
        {"model": point.model, "seed": point.seed, "base_id": folder.name},
    )
    metrics = {
        **measured.accuracy_columns("base_"),
        "base_validation_accuracy": validation_accuracy(
            folder / store.MODEL, dataset, torch.device(point.device), measured.batch
        ),
        **measured.cost_columns("base_"),
        **cost_columns(cost, operators.flops_per_image, "base_"),
        "base_parity_max_abs_diff": measured.parity,
        "train_images": len(dataset.train),
        "available_train_images": dataset.available_train,
        "test_images": len(dataset.test),
        "scaled_learning_rate": training_recipe.learning_rate,
    }
    return {
        "metrics": metrics,
        "checkpoint_sha256": _digest(folder / store.CHECKPOINT),
        "epoch_losses": cost.epoch_losses,
        "training_operators": asdict(operators),
        "operators": {name: asdict(entry) for name, entry in measured.counts.operators.items()},
        "environment": environment.describe(point.device),
    }


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
