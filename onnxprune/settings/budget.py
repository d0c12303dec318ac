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
    default = MODELS[point.model].recipe.epochs
    return _epochs(point, point.epochs, default, default * EPOCH_UPDATES, images)


def base_updates(point: Point, images: int) -> int:
    """Updates that the base is trained by, of so many training images."""
    return updates_of(base_epochs(point, images), point.batch_size, images)


def updates_of(epochs: float, batch_size: int, images: int) -> int:
    """Updates of so many passes; at least one, unless there are none."""
    return math.ceil(epochs * updates_per_epoch(batch_size, images) - 1e-9)


def finetuning_epochs(point: Point, images: int) -> float:
    """Passes over so many training images that fine-tuning takes."""
    recipe = MODELS[point.model].recipe
    least = max(recipe.finetune_epochs * EPOCH_UPDATES, recipe.settling_updates)
    return _epochs(point, point.finetune_epochs, recipe.finetune_epochs, least, images)


def epochs_after_base(point: Point, images: int) -> float:
    """Passes over so many training images that the point takes beside those of its base."""
    base = base_epochs(point, images)
    if point.control == "scratch":
        return base + finetuning_epochs(point, images)
    if SCHEDULES[point.schedule].finetunes:
        return finetuning_epochs(point, images)
    return (base - point.rewind_epoch) * (point.rounds or 1) + point.rewind_epoch


def _epochs(point: Point, asked: float | None, default: int, least: int, images: int) -> float:
    """What is asked for, else the default, or more where that is not as many updates as `least`."""
    if asked is not None:
        return asked
    return max(default, min(least / updates_per_epoch(point.batch_size, images), default * EPOCH_IMAGES / images))
