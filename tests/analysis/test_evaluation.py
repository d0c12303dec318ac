import math

import numpy as np
import pytest

from onnxprune.analysis.evaluation import are_probabilities, as_logits, right_images, score
from onnxprune.common.errors import InputError


def test_accuracies_by_hand():
    logits = np.array(
        [
            [9, 8, 7, 6, 5, 4, 3],  # class 0 first
            [9, 8, 7, 6, 5, 4, 3],  # class 4 fifth
            [9, 8, 7, 6, 5, 4, 3],  # class 5 sixth
            [3, 4, 5, 6, 7, 8, 9],  # class 6 first
        ],
        np.float32,
    )
    scores = score(logits, np.array([0, 4, 5, 6]))
    assert scores.accuracy == 50
    assert scores.top5_accuracy == 75
    assert not scores.constant


def test_cross_entropy_is_the_mean_of_minus_log_probability():
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    scores = score(np.log(probabilities), np.array([1, 2]))
    assert scores.cross_entropy == pytest.approx(-(math.log(0.25) + math.log(0.8)) / 2)


def test_cross_entropy_of_huge_float32_logits_is_finite_and_exact():
    logits = np.array([[3e38, 0], [1e4, 1e4 - 3]], np.float32)
    scores = score(logits[1:], np.array([1]))
    assert scores.cross_entropy == pytest.approx(3 + math.log1p(math.exp(-3)), rel=1e-12)
    assert score(logits, np.array([0, 0])).cross_entropy == pytest.approx(math.log1p(math.exp(-3)) / 2)


@pytest.mark.parametrize(("label", "top1", "top5"), [(0, 100, 100), (1, 0, 100), (4, 0, 100), (5, 0, 0), (9, 0, 0)])
def test_ties_rank_by_class_index(label, top1, top5):
    scores = score(np.zeros((3, 10), np.float32), np.full(3, label))
    assert (scores.accuracy, scores.top5_accuracy) == (top1, top5)


def test_a_constant_network_is_right_by_chance():
    scores = score(np.zeros((1000, 10), np.float32), np.arange(1000) % 10)
    assert scores.accuracy == 10
    assert scores.top5_accuracy == 50
    assert scores.cross_entropy == pytest.approx(math.log(10))
    assert scores.constant


def test_top5_of_up_to_five_classes_is_100():
    logits = np.random.default_rng(0).standard_normal((50, 5))
    assert score(logits, np.arange(50) % 5).top5_accuracy == 100
    assert score(logits[:, :2], np.arange(50) % 2).top5_accuracy == 100


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_never_correct(bad):
    logits = np.tile([5.0, 1.0, 0.0], (4, 1))
    logits[0, 0] = logits[1, 2] = bad  # the true class, and another one
    scores = score(logits, np.zeros(4, int))
    assert scores.accuracy == 50
    assert scores.top5_accuracy == 50
    assert math.isnan(scores.cross_entropy)
    assert not scores.constant
    assert not score(np.full((4, 3), bad), np.zeros(4, int)).constant


def test_constant_means_same_prediction_and_same_logits():
    labels = np.zeros(2, int)
    assert score(np.array([[1, 0.5], [1 + 5e-7, 0.5]]), labels).constant
    assert not score(np.array([[1, 0.5], [1 + 5e-6, 0.5]]), labels).constant  # varies
    assert not score(np.array([[1, 1 + 5e-7], [1 + 5e-7, 1]]), labels).constant  # predictions differ


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.zeros((0, 3)), np.zeros(0, int)),
        (np.zeros((2, 3)), np.zeros(3, int)),
        (np.zeros(3), np.zeros(3, int)),
        (np.zeros((2, 3)), np.array([0, 3])),
        (np.zeros((2, 3)), np.array([-1, 0])),
    ],
    ids=["no images", "other number", "no classes", "label too large", "label negative"],
)
def test_logits_and_labels_that_do_not_fit(logits, labels):
    with pytest.raises(InputError, match="fit"):
        score(logits, labels)


def test_labels_of_a_byte_and_logits_of_float32_are_left_alone():
    logits, labels = np.eye(3, dtype=np.float32), np.array([0, 1, 2], np.uint8)
    before = logits.copy()
    assert score(logits, labels).accuracy == 100
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize(
    ("predicted", "labels", "collapsed"),
    [
        ([0] * 96 + [1] * 4, [*range(10)] * 10, True),  # of ten classes, 96 % are called one
        ([0] * 90 + [1] * 10, [*range(10)] * 10, False),
        ([0] * 99 + [1], [0] * 99 + [1], False),  # so are the labels
        ([0] * 100, [0] * 90 + [1] * 10, True),
        ([0] * 100, [0] * 100, False),  # there are no others
        ([0] * 98 + [1] * 2, [0, 1] * 50, True),
    ],
)
def test_a_network_that_names_one_class_has_collapsed(predicted, labels, collapsed):
    random = np.random.default_rng(0)
    logits = random.random((100, 10)) + 10 * np.eye(10)[predicted]
    found = score(logits, np.array(labels))
    assert not found.constant
    assert found.collapsed is collapsed
    assert found.most_predicted == 100 * predicted.count(0) / 100


def test_right_images_are_those_that_accuracy_counts():
    logits = np.array([[1.0, 2.0], [2.0, 1.0], [math.nan, 1.0], [1.0, 1.0]])
    labels = np.array([1, 1, 1, 0])
    right = right_images(logits, labels)
    assert right.tolist() == [True, False, False, True]
    assert score(logits, labels).accuracy == 100 * right.mean()


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("steps", [None, 255, 256, 127])
def test_probabilities_are_told_from_logits_in_8_bits_too(classes, steps):
    logits = np.random.default_rng(0).normal(0, 5, (200, classes))
    exact = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = (exact if steps is None else np.minimum(np.round(exact * steps), 255) / steps).astype(np.float32)
    np.testing.assert_allclose(np.exp(as_logits(found)), found, atol=1e-5)
    for scores in (logits, np.abs(logits), np.maximum(np.round(logits), 0), 1 / (1 + np.exp(-logits))):
        assert not are_probabilities(scores)
