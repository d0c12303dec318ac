"""Whether a study can say anything: what is refused before it begins, and what is said of it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from onnxprune.common.errors import InputError
from onnxprune.common.output import plural, silenced
from onnxprune.data.dataset import Dataset
from onnxprune.results.quality import ACCURACY, quality_of
from onnxprune.results.validation import blunt_limit
from onnxprune.settings.budget import base_epochs, base_updates, finetuning_epochs, updates_of, updates_per_epoch
from onnxprune.settings.contradictions import needs_labels
from onnxprune.settings.point import Point
from onnxprune.settings.vocabulary import SCHEDULES
from onnxprune.study.jobs import Materials

FEW_IMAGES = 10  # of a class to train on, below which that is said

ENOUGH_UPDATES = 300  # of a base's training: with fewer, no model is fully trained


def check(points: Iterable[Point], materials: Materials) -> None:
    """Looks whether points have training images of all classes, or do without labels, and epochs to rewind to.

    Raises:
        InputError: with a line for each that has not, or that has no time to prune.
    """
    problems: dict[str, None] = {}  # ordered, each once
    for point in points:
        dataset = materials.dataset(point)
        classes = _missing_classes(dataset) if dataset.labelled else _missing_labels(point, dataset)
        images = len(dataset.train)
        problems |= dict.fromkeys((*classes, *_no_such_epoch(point, images), *_no_time_to_move(point, images)))
    if problems:
        raise InputError("\n".join(problems))


def _missing_classes(dataset: Dataset) -> Iterator[str]:
    each = _images_by_class(dataset)
    missing = np.flatnonzero(each == 0)
    if not len(missing):
        return
    others = f" and {plural(len(missing) - 1, 'other')} have" if len(missing) > 1 else " has"
    what = (
        f"{dataset.name}: class {dataset.classes[missing[0]]!r}{others} no image among the {len(dataset.train):,} to "
        "train on"
    )
    if len(dataset.train) < min(len(each), dataset.available_train):
        yield f"{what}: expected --train-limit {len(each)} or more, one image a class"
    else:
        yield f"{what}, which are those that are not held out for validation: expected some of every class"


def _missing_labels(point: Point, dataset: Dataset) -> Iterator[str]:
    for problem in needs_labels(point):
        yield f"{dataset.name} has no labels: {problem}"


def _no_such_epoch(point: Point, images: int) -> Iterator[str]:
    epochs = base_epochs(point, images)
    if point.rewind_epoch > epochs:
        yield f"rewind_epoch: expected at most the {epochs:g} epochs of the base, got {point.rewind_epoch}"


def _no_time_to_move(point: Point, images: int) -> Iterator[str]:
    if point.schedule == "movement" and updates_of(finetuning_epochs(point, images), point.batch_size, images) < 2:
        yield "finetune_epochs: schedule 'movement' prunes while it trains: expected those of 2 updates or more, got 1"


def notes_of_base(point: Point, dataset: Dataset) -> Iterator[str]:
    """What is to be said of a base before it is trained."""
    count = len(dataset.train)
    if point.batch_size > count:
        yield f"batch size {point.batch_size:,} is more than the {count:,} training images: every update uses them all"
    each = _images_by_class(dataset) if dataset.labelled else np.full(1, FEW_IMAGES)
    if each.min() < FEW_IMAGES:
        yield (
            f"{dataset.name}: class {dataset.classes[each.argmin()]!r} has {plural(each.min(), 'training image')} of "
            f"the {count:,}: too few to learn it from"
        )
    updates = base_updates(point, count)
    if 0 < updates < ENOUGH_UPDATES:
        yield (
            f"the base is trained by {plural(updates, 'update')} of batch {point.batch_size:,}, too few to train it "
            f"fully: use --updates {ENOUGH_UPDATES} or more, or a smaller --batch-size"
        )


def notes_of_point(point: Point, dataset: Dataset) -> Iterator[str]:
    """What is to be said of a point before it is run."""
    if point.schedule not in ("set", "rigl"):
        return
    with silenced():
        from onnxprune.pruning.regrowth import updates_to_move

    images = len(dataset.train)
    updates, least = (
        base_updates(point, images),
        updates_to_move(point.schedule, updates_per_epoch(point.batch_size, images)),
    )
    if updates < least:
        yield (
            f"schedule '{point.schedule}' moves nothing in {plural(updates, 'update')}, so that its network is that of "
            f"a random mask: --updates {least:,} or more"
        )


def notes_of_result(point: Point, metrics: Mapping[str, Any]) -> Iterator[str]:
    """What is to be said of a point that is done."""
    if "max_drop" in SCHEDULES[point.schedule].settings and quality_of(metrics) is ACCURACY:
        note = blunt_limit(point.max_drop, metrics["base_validation_accuracy"], metrics["validation_images"])
        if note is not None:
            yield note


def _images_by_class(dataset: Dataset) -> np.ndarray:
    return np.bincount(dataset.train.labels, minlength=len(dataset.classes))
