"""What test images tell of a network and of what was made from it."""

from pathlib import Path

import numpy as np
import pytest
import trained

from onnxprune.common.shares import mcnemar, paired_shares, wilson
from onnxprune.graph.network import read
from onnxprune.reduction.accuracy import Evidence, accuracy, right_answers


def test_the_first_and_the_last_network_are_compared_image_by_image() -> None:
    first = np.array([True] * 6 + [False] * 4)
    between = np.array([True] + [False] * 9)
    last = np.array([True] * 5 + [False] + [True] * 3 + [False])
    found = Evidence.of([first, between, last])
    assert (found.images, found.lost, found.gained) == (10, 1, 3)
    assert found.intervals == (wilson(6, 10), wilson(1, 10), wilson(8, 10))
    assert found.change == paired_shares(1, 3, 10)
    assert found.p_value == mcnemar(1, 3) and not found.real


@pytest.mark.parametrize(("lost", "real"), [(5, False), (6, True)])
def test_a_change_is_real_by_mcnemars_test(lost: int, real: bool) -> None:
    first = np.ones(100, bool)
    last = np.arange(100) >= lost
    assert Evidence.of([first, last]).real is real


def test_samples_are_right_by_their_own_label(tmp_path: Path) -> None:
    network = read(trained.mlp(tmp_path / "mlp.onnx"))
    pixels = trained.unlabelled(10)["pixels"]
    labels = np.load(trained.dataset(tmp_path / "digits.npz"))["y_train"][:10]
    right = right_answers(network, [({"pixels": pixels[:6]}, labels[:6]), ({"pixels": pixels[6:]}, labels[6:9])])
    assert right is not None and right.tolist() == [True] * 9, "the last one has no label"
    assert accuracy(network, [({"pixels": pixels}, np.append(labels[:9], (labels[9] + 1) % 10))]) == 90
    assert accuracy(network, [({"pixels": pixels}, np.append(labels[:9], 10))]) is None, "no score for class 10"
    assert accuracy(network, []) is None
