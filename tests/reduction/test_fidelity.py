"""How close answers are to those of the original."""

import numpy as np
import pytest

from onnxprune.reduction.fidelity import Comparison, compare_answers

TWO = [{"x": np.zeros((2, 1))}]  # a batch of two samples
ORIGINAL = {"scores": np.array([[3.0, 4.0], [0.0, 5.0]]), "boxes": np.array([[300.0], [400.0]])}


def test_each_output_counts_the_same() -> None:
    given = {"scores": ORIGINAL["scores"] * [[0.0], [1.0]], "boxes": ORIGINAL["boxes"]}
    found = compare_answers([ORIGINAL], [given], TWO)
    assert found.relative_error == pytest.approx(np.sqrt(25 / 50 / 2))
    assert found.percent == pytest.approx(50)
    assert found.agreement == 50, "the first sample has no highest score any more"
    assert found.samples == 2
    assert compare_answers([ORIGINAL], [ORIGINAL], TWO).percent == 100


def test_batches_are_one_set() -> None:
    rng = np.random.default_rng(0)
    before, after = ({"y": rng.normal(size=(10, 3, 2))} for _ in range(2))
    inputs = np.zeros((10, 1))
    whole = compare_answers([before], [after], [{"x": inputs}])
    parts = [[{"y": answers["y"][place : place + 4]} for place in (0, 4, 8)] for answers in (before, after)]
    split = compare_answers(*parts, [{"x": inputs[place : place + 4]} for place in (0, 4, 8)])
    assert split.relative_error == pytest.approx(whole.relative_error)
    assert split.cosine == pytest.approx(whole.cosine)
    assert split.samples == whole.samples == 10


def test_samples_are_those_of_the_inputs_where_outputs_have_places_first() -> None:
    rng = np.random.default_rng(0)
    batches = [{"x": np.zeros((count, 1))} for count in (4, 3)]
    before, after = ([{"y": rng.normal(size=(5, count, 2))} for count in (4, 3)] for _ in range(2))
    found = compare_answers(before, after, batches)
    assert (found.samples, found.agreement) == (7, None)
    cosines = [
        float((one["y"] * other["y"]).sum() / np.linalg.norm(one["y"]) / np.linalg.norm(other["y"]))
        for one, other in zip(before, after, strict=True)
    ]
    assert found.cosine == pytest.approx((4 * cosines[0] + 3 * cosines[1]) / 7)


@pytest.mark.parametrize(("given", "percent"), [(np.nan, 0), (-10.0, 0), (np.inf, 0)])
def test_what_is_far_off_or_no_number_has_no_fidelity(given: float, percent: float) -> None:
    answers = [{"y": np.ones((2, 2))}], [{"y": np.full((2, 2), given)}]
    assert compare_answers(*answers, TWO).percent == percent


def test_an_output_of_zeros_is_met_or_missed() -> None:
    zeros = {"y": np.zeros((2, 2))}
    assert compare_answers([zeros], [zeros], TWO).percent == 100
    assert compare_answers([zeros], [{"y": np.full((2, 2), 1e-9)}], TWO).percent == 0


@pytest.mark.parametrize(
    ("original", "given", "collapsed"),
    [
        ([1.0, 2.0, 3.0], [5.0, 5.0, 5.0], True),
        ([1.0, 2.0, 3.0], [5.0, 5.0, 5.1], False),
        ([1.0, 1.0, 1.0], [0.0] * 3, False),
    ],
)
def test_collapsed_is_the_same_answer_to_everything(original: list[float], given: list[float], collapsed: bool) -> None:
    comparison = Comparison()
    for before, after in zip(original, given, strict=True):  # one at a time: batches are compared with each other
        comparison.add({"y": np.array([[before]])}, {"y": np.array([[after]])}, 1)
    assert comparison.collapsed == collapsed
