"""A classifier's ONNX file on the full test set of a dataset."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.analysis.classifier import Classifier, shape_text
from onnxprune.analysis.evaluation import Scores, score
from onnxprune.common.errors import InputError
from onnxprune.common.output import plural
from onnxprune.common.shares import Interval, accuracy_interval
from onnxprune.data.dataset import Dataset
from onnxprune.graph.metadata import Normalisation


@dataclass(frozen=True)
class Assessment:
    """
    Attributes:
        images: of the test set.
        class_images: of each class.
        class_accuracy: top-1 of each class, percent; None for one without images.
        confusion: images by true class (row) and predicted class (column); those with a logit that is not finite
            have no prediction and are left out.
        not_finite: how many those are.
    """

    images: int
    scores: Scores
    classes: tuple[str, ...]
    class_images: tuple[int, ...]
    class_accuracy: tuple[float | None, ...]
    confusion: np.ndarray
    not_finite: int

    @property
    def interval(self) -> Interval:
        """That of the accuracy at 95 %, in percent (Wilson)."""
        return accuracy_interval(self.scores.accuracy, self.images)

    def as_json(self) -> dict[str, Any]:
        """Accuracies in percent, cross-entropy in nats (null where a logit is not finite), rows true classes."""
        scores = dataclasses.asdict(self.scores)
        del scores["constant"]
        if not math.isfinite(scores["cross_entropy"]):
            scores["cross_entropy"] = None
        return {
            "images": self.images,
            **scores,
            "accuracy_low": self.interval.low,
            "accuracy_high": self.interval.high,
            "not_finite": self.not_finite,
            "classes": [
                {"name": name, "images": count, "accuracy": accuracy}
                for name, count, accuracy in zip(self.classes, self.class_images, self.class_accuracy, strict=True)
            ],
            "confusion": self.confusion.tolist(),
        }


def fitted(dataset: Dataset, classifier: Classifier) -> Dataset:
    """The dataset with black borders where the file takes larger images.

    Raises:
        InputError: the file takes images of another shape.
    """
    recorded = classifier.metadata.input_shape or (1, 1, 1)  # for what the file leaves open
    _, height, width = (size or other for size, other in zip(classifier.shape, recorded, strict=True))
    padded = dataset.padded(height, width)
    if not classifier.image.takes(padded.input_shape):
        if classifier.shape == (None, None, None):
            taken = list(classifier.image.sizes or ())
            raise InputError(
                f"{classifier.path}: its input {classifier.image.name!r} takes {taken} numbers a sample, "
                f"{dataset.name} has images of {shape_text(dataset.input_shape)}"
            )
        raise InputError(
            f"{classifier.path}: takes images of {shape_text(classifier.shape)} (channels x height x width), "
            f"{dataset.name} has {shape_text(dataset.input_shape)}"
        )
    return padded


def assess(classifier: Classifier, dataset: Dataset, normalisation: Normalisation) -> Assessment:
    """Runs the file on the full test set.

    Raises:
        InputError: there are no labels, or the file does not take the dataset's images, or has another number of
            classes.
    """
    if not dataset.labelled:
        raise InputError(f"{dataset.name} has no labels, by which there would be an accuracy")
    test = fitted(dataset, classifier).test
    outputs = classifier.logits(test.images[:1], normalisation).shape[1]  # cheap, before the whole test set
    if outputs != len(dataset.classes):
        raise InputError(
            f"{classifier.path}: answers with {plural(outputs, 'class', 'es')}, {dataset.name} has "
            f"{len(dataset.classes)}"
        )
    logits = classifier.logits(test.images, normalisation)
    finite = np.isfinite(logits).all(axis=1)
    confusion = np.zeros((outputs, outputs), np.int64)
    np.add.at(confusion, (test.labels[finite], logits[finite].argmax(axis=1)), 1)
    counts = np.bincount(test.labels, minlength=outputs)
    return Assessment(
        images=len(test),
        scores=score(logits, test.labels),
        classes=dataset.classes,
        class_images=tuple(counts.tolist()),
        class_accuracy=tuple(
            100 * right / count if count else None
            for right, count in zip(confusion.diagonal().tolist(), counts.tolist(), strict=True)
        ),
        confusion=confusion,
        not_finite=int((~finite).sum()),
    )
