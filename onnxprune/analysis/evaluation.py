"""How good a network's answers are: accuracy and cross-entropy from logits."""

from dataclasses import dataclass

import numpy as np

from onnxprune.common.errors import InputError
from onnxprune.common.output import plural

_TOP = 5
_SAME = 1e-6  # logits that differ by no more than this between images are the same
_ROUNDING = 1e-3  # that sums of probabilities may be off by
_LARGEST_STEP = 1 / 127  # of probabilities in 8 bits
_FEW = 0.05  # of the images of other classes than the one that is predicted most


@dataclass(frozen=True)
class Scores:
    """
    Attributes:
        accuracy: top-1, percent.
        top5_accuracy: percent; with up to 5 classes it is 100 by definition, whatever the network answers.
        cross_entropy: mean over the images, in nats; NaN where any logit is not finite.
        constant: every image gets the same prediction, and no logit varies by more than 1e-6 between images.
        most_predicted: percent of the images that get the prediction which is the most frequent.
        collapsed: the network does little more than name one class: it is constant, or gives another answer to less
            than a twentieth as many images as there are of the other classes.
    """

    accuracy: float
    top5_accuracy: float
    cross_entropy: float
    constant: bool
    most_predicted: float
    collapsed: bool


@np.errstate(all="ignore")  # numbers that are too large show in what comes out
def score(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Scores of logits (N, classes) against integer labels (N,).

    Classes with equal logits rank by their index, as argmax does: equal logits for all classes are right where
    class 0 is (top-1) or classes 0 to 4 are (top-5). An image with a logit that is not finite counts as wrong.

    Raises:
        InputError: there are no images, or logits and labels do not fit together.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not labels.size:
        raise InputError(f"logits of shape {logits.shape} do not fit labels of shape {labels.shape}")
    classes = logits.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(
            f"labels {labels.min()} to {labels.max()} do not fit a model of {plural(classes, 'class', 'es')}"
        )
    logits = logits.astype(np.float64)
    finite = np.isfinite(logits).all(axis=1)
    rank = _rank_of_label(logits, labels)
    constant = bool(finite.all() and _is_constant(logits))
    predicted = np.bincount(logits[finite].argmax(axis=1), minlength=classes)
    favourite = int(predicted.argmax())
    others = np.count_nonzero(labels != favourite)
    return Scores(
        accuracy=_percent(finite & (rank < 1)),
        top5_accuracy=_percent(finite & (rank < _TOP)),
        cross_entropy=_cross_entropy(logits, labels) if finite.all() else float("nan"),
        constant=constant,
        most_predicted=100 * float(predicted[favourite] / len(labels)),
        collapsed=constant or bool(finite.any() and len(labels) - predicted[favourite] < _FEW * others),
    )


def right_images(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each image (N,) is right, as `score` counts it."""
    return np.asarray(np.isfinite(logits).all(axis=1) & (_rank_of_label(logits, labels) < 1))


def as_logits(found: np.ndarray) -> np.ndarray:
    """Scores (N, classes) as logits: of probabilities, which a file that ends in a softmax gives, the logarithms."""
    if are_probabilities(found):
        return np.asarray(np.log(np.maximum(found, np.finfo(np.float32).tiny)))
    return found


@np.errstate(all="ignore")  # sums of huge logits overflow, and are not 1
def are_probabilities(found: np.ndarray) -> bool:
    """Whether scores (N, classes) are those of a softmax: logits that are all positive and add up to 1 in every row do
    not happen by chance.

    What a file in 8 bits gives are multiples of the smallest of them, to which each has been rounded.
    """
    if not ((found >= 0) & (found <= 1 + _ROUNDING)).all() or not found.any():
        return False
    step = min(found[found > 0].min(), _LARGEST_STEP)
    return bool(np.allclose(found.sum(axis=1), 1, rtol=0, atol=max(_ROUNDING, found.shape[1] * step / 2)))


def _rank_of_label(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes rank before the true one, for each image (N,); equal logits rank by class index."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    lower_index = np.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | ((logits == own) & lower_index)).sum(axis=1)


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)  # the largest exponential is 1: no overflow
    own = np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]
    return float((np.log(np.exp(shifted).sum(axis=1)) - own).mean())


def _is_constant(logits: np.ndarray) -> bool:
    predictions = logits.argmax(axis=1)
    return bool((predictions == predictions[0]).all() and np.ptp(logits, axis=0).max() <= _SAME)


def _percent(correct: np.ndarray) -> float:
    return 100 * float(correct.mean())
