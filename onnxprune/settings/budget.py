"""How long networks are trained: passes over the training images, by what a point says or leaves open."""

import math

from onnxprune.models import MODELS
from onnxprune.settings.point import Point
from onnxprune.settings.vocabulary import SCHEDULES

# What an epoch of a default recipe is at least worth: a small training set, or a large batch, gives few updates an
# epoch, and it is updates that train. Where that many would take more images than those of an epoch of MNIST, they are
# not spent unasked.
EPOCH_UPDATES = 60
EPOCH_IMAGES = 60_000


def updates_per_epoch(batch_size: int, images: int) -> int:
    """Updates of one pass over so many training images."""
    return math.ceil(images / min(batch_size, images))


def base_epochs(point: Point, images: int) -> float:
    """Passes over so many training images that the base is trained for."""
    if point.updates is not None:
        return point.updates / updates_per_epoch(point.batch_size, images)
    return _epochs(point, point.epochs, MODELS[point.model].recipe.epochs, images)


def finetuning_epochs(point: Point, images: int) -> float:
    """Passes over so many training images that fine-tuning takes."""
    return _epochs(point, point.finetune_epochs, MODELS[point.model].recipe.finetune_epochs, images)


def epochs_after_base(point: Point, images: int) -> float:
    """Passes over so many training images that the point takes beside those of its base."""
    base = base_epochs(point, images)
    if point.control == "scratch":
        return base + finetuning_epochs(point, images)
    if "finetune_epochs" in SCHEDULES[point.schedule].settings:
        return finetuning_epochs(point, images)
    return (base - point.rewind_epoch) * (point.rounds or 1) + point.rewind_epoch


def _epochs(point: Point, asked: float | None, default: int, images: int) -> float:
    if asked is not None:
        return asked
    enough = EPOCH_UPDATES / updates_per_epoch(point.batch_size, images)
    return default * max(1.0, min(enough, EPOCH_IMAGES / images))
