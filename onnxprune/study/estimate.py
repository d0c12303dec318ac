"""What points will take, estimated on untrained networks before anything is run, and whether there is room for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.common.environment import available_memory, free_disk
from onnxprune.common.errors import InputError, RunError
from onnxprune.common.output import muted, silenced
from onnxprune.common.progress import Verbosity
from onnxprune.data.dataset import load
from onnxprune.data.registry import DATASETS, title_of
from onnxprune.models import MODELS, reference
from onnxprune.settings.budget import base_epochs, epochs_after_base
from onnxprune.settings.contradictions import needs_labels
from onnxprune.settings.point import Point

if TYPE_CHECKING:
    from torch import Tensor, nn

_COPIES = 6  # of the weights at a point's peak: base, pruned, fine-tuned, gradients, momentum, exported file
_FILES = 64 * 1024  # bytes of a folder's small files

# a plan is estimated several times, and reading a folder of pictures takes a while
_known_sets: dict[tuple[str, tuple[int, int] | None], tuple[int, tuple[int, int, int], int]] = {}


@dataclass(frozen=True)
class Network:
    """A dense network on its dataset.

    Attributes:
        parameters: numbers in it.
        flops: of training on one image, forward and backward.
        answer_flops: of one image's answer, forward alone.
        activation_bytes: the largest input and output that one layer has at the same time, for one image.
    """

    parameters: int
    flops: int
    answer_flops: int
    activation_bytes: int


@dataclass(frozen=True)
class Estimate:
    """
    Attributes:
        bases, points: networks to train, and to prune.
        training_images: images passed forward and backward.
        training_flops: counted; an upper bound, as networks that shrink are fine-tuned at less.
        disk_bytes: size of the results, about.
        memory_bytes: what the largest network takes, about; data and libraries not counted.
    """

    bases: int
    points: int
    training_images: int
    training_flops: int
    disk_bytes: int
    memory_bytes: int


def estimate(points: Sequence[Point], verbosity: Verbosity = Verbosity.QUIET) -> Estimate:
    """What points and their bases will take; no named dataset is loaded and no weight is allocated for it.

    Args:
        verbosity: whether people are told how the reading of a folder of pictures gets on.

    Raises:
        InputError: a network fails on the shape of its images, or a user's own data cannot be used.
    """
    bases: set[tuple[Any, ...]] = set()
    images = flops = disk = memory = 0
    for point in points:
        count = images_of(point, verbosity)
        shape, classes = shape_of(point)
        network = _network(point.model, shape, classes, tuple(point.model_options.items()))
        epochs = after = epochs_after_base(point, count)
        # the file, and of each weight a byte that says whether it was kept
        second = 1 if point.also == "int8" else 0  # bytes of a weight in the file beside it
        disk += (5 + second) * network.parameters + _FILES
        base = tuple(point.base_settings().items())
        if base not in bases:
            bases.add(base)
            epochs += base_epochs(point, count)
            disk += (8 + second) * network.parameters + _FILES  # the file and the checkpoint
        images += round(epochs * count)
        flops += round(epochs * count) * network.flops
        if point.distill or not classes:
            flops += round(after * count) * network.answer_flops
        timed = network.activation_bytes * point.latency_batch if point.latency_seconds else 0
        memory = max(memory, 4 * network.parameters * _COPIES + (timed if point.device == "cpu" else 0))
    return Estimate(len(bases), len(points), images, flops, disk, memory)


def images_of(point: Point, verbosity: Verbosity = Verbosity.QUIET) -> int:
    """How many training images a point has.

    Raises:
        InputError: a user's own data cannot be used.
    """
    count = _training_set(point.dataset, point.picture_size, verbosity)[0]
    return min(count, point.train_limit or count)


def shape_of(point: Point) -> tuple[tuple[int, int, int], int]:
    """The shape (C, H, W) of a point's images as its network takes them, and how many classes there are; 0 without
    labels.

    Raises:
        InputError: a user's own data cannot be used, or lacks labels that the point needs.
    """
    _, (channels, height, width), classes = _training_set(point.dataset, point.picture_size, Verbosity.QUIET)
    if not classes and (problems := needs_labels(point)):
        raise InputError(f"{title_of(point.dataset)} has no labels: {problems[0]}")
    least_height, least_width = _smallest_size(point.model)
    return (channels, max(height, least_height), max(width, least_width)), classes


def check_room(points: Sequence[Point], runs: Path, workers: int) -> None:
    """Compares what points take with the disk and the memory that there are.

    Args:
        workers: points at a time.

    Raises:
        InputError: a network fails on the shape of its images.
        RunError: there is not enough of one.
    """
    needed = estimate(points)
    memory, disk = available_memory(), free_disk(runs)
    if needed.memory_bytes * workers > memory:
        times = f", {workers} times" if workers > 1 else ""
        raise RunError(
            f"the largest network takes about {_megabytes(needed.memory_bytes)} of memory to train and time{times}, "
            f"{_megabytes(memory)} are available: lower --hidden, --latency-batch or --workers, or free memory"
        )
    if needed.disk_bytes > disk:
        raise RunError(
            f"the results take up to {_megabytes(needed.disk_bytes)}, {_megabytes(disk)} are free at {runs}: free "
            "some, or choose another place with --out"
        )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


@cache
def _smallest_size(model: str) -> tuple[int, int]:
    """Height and width below which images get a border."""
    known = MODELS[model]
    if not known.trained:
        return known.minimum_size, known.minimum_size
    with silenced():
        from onnxprune.bridge.convention import smallest_size

    return smallest_size(Path(known.module))


@cache
def _network(model: str, shape: tuple[int, int, int], classes: int, options: tuple[tuple[str, Any], ...]) -> Network:
    with silenced():
        import torch

        from onnxprune.bridge.start import make_network
        from onnxprune.training import opcount  # noqa: F401

    # "meta": shapes without memory, and without the numbers that code of the user's own may look at
    device = "cpu" if reference.is_reference(model) else "meta"
    with torch.device(device):
        network = make_network(model, shape, classes, 0, dict(options)).to(device)
    try:
        with muted():
            return _cost(network, shape, device)
    except InputError as error:
        raise InputError(f"model '{model}': {error}") from error
    except (Exception, SystemExit) as error:  # networks of other packages raise anything
        raise InputError(
            f"model '{model}': cannot be trained on images of shape {shape} alone: {reference.said(model, error)}"
        ) from error


def _cost(network: "nn.Module", shape: tuple[int, int, int], device: str) -> Network:
    import torch

    from onnxprune.training.opcount import count_training_ops

    operators = count_training_ops(network, shape)
    return Network(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        flops=operators.flops_per_image,
        answer_flops=operators.forward_flops_per_image,
        activation_bytes=max(_layer_bytes(network, torch.zeros(2, *shape, device=device))) // 2,
    )


def _layer_bytes(network: "nn.Module", images: "Tensor") -> list[int]:
    """Bytes of input and output together of each layer of a network in evaluation mode."""
    found: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output: found.append(_bytes(inputs) + _bytes(output)))
        for layer in network.modules()
        if not list(layer.children())
    ]
    network.eval()(images)
    for hook in hooks:
        hook.remove()
    return found


def _bytes(value: Any) -> int:
    """Of a tensor, or of those that a layer takes or gives together."""
    if isinstance(value, tuple | list):
        return sum(_bytes(entry) for entry in value)
    return getattr(value, "nbytes", 0)


def _training_set(
    dataset: str, size: tuple[int, int] | None, verbosity: Verbosity
) -> tuple[int, tuple[int, int, int], int]:
    """Training images, the shape (C, H, W) of one, and the number of classes."""
    key = (dataset, size)
    if key not in _known_sets:
        if dataset in DATASETS:
            info = DATASETS[dataset]
            _known_sets[key] = info.train_images, info.shape, len(info.classes)
        else:
            own = load(dataset, None, size=size, verbosity=verbosity)
            _known_sets[key] = len(own.train), own.input_shape, len(own.classes)
    return _known_sets[key]
