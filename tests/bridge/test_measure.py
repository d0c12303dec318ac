"""What is measured on a file: of which images, by which definition, and that the file is the network."""

import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from onnxprune.bridge import measure
from onnxprune.bridge.export import export, network_answers, parity
from onnxprune.bridge.measure import Measured, export_and_measure, judged, judged_network
from onnxprune.common.errors import RunError
from onnxprune.data.dataset import Dataset, Split

CLASSES = 7
SHAPE = (1, 3, 4)
CPU = torch.device("cpu")


class Reader(nn.Module):
    """Images have one bright pixel, whose place is what the network answers."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(12, CLASSES)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.eye(CLASSES, 12))
            self.classifier.bias.copy_(torch.arange(CLASSES) * 1e-3)  # the places after the bright one rank by it

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(images.flatten(1))


def split(right: int, wrong: int, fifth: int = 0) -> Split:
    """As many images whose label the network tells, `fifth` whose label it ranks fifth, `wrong` where it is last.

    They come in this order.
    """
    shown = np.arange(right + fifth + wrong) % (CLASSES - 1) + 1  # place 0 has the lowest bias, and is never bright
    images = np.zeros((len(shown), 12), np.uint8)
    images[np.arange(len(shown)), shown] = 255
    labels = shown.copy()
    # after the bright one come 6, 5, 4, and so on, without it
    labels[right : right + fifth] = np.where(shown >= 3, 2, 3)[right : right + fifth]
    labels[right + fifth :] = 0
    return Split(images.reshape(-1, *SHAPE), labels.astype(np.int64))


@pytest.fixture
def dataset() -> Dataset:
    """Each split has a share of right answers that no other part of the data has."""
    return Dataset(
        name="places",
        train=split(10, 30),
        validation=split(50, 30),
        test=split(1_000, 100, fifth=500),
        classes=tuple("abcdefg"),
        mean=(0.5,),
        std=(0.25,),
        checksum="",
        available_train=40,
    )


def measured(network: nn.Module, dataset: Dataset, path: Path) -> Measured:
    return export_and_measure(network, path, dataset, metadata={})


def test_scores_are_of_all_test_images(dataset: Dataset, tmp_path: Path) -> None:
    found = measured(Reader(), dataset, tmp_path / "model.onnx").quality_columns()
    assert found["accuracy"] == pytest.approx(100 * 1_000 / 1_600)
    assert found["top5_accuracy"] == pytest.approx(100 * 1_500 / 1_600)
    # the bright pixel is 4 standard deviations above the others, which are 2 below the mean
    bias = np.arange(CLASSES) * 1e-3
    losses = []
    for image, label in zip(dataset.test.images.reshape(-1, 12), dataset.test.labels, strict=True):
        logits = (image[:CLASSES] / 255 - 0.5) / 0.25 + bias
        losses.append(math.log(np.exp(logits).sum()) - logits[label])
    assert found["cross_entropy"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["cross_entropy"] != pytest.approx(np.mean(losses[:1_000]), rel=1e-2)


def test_decisions_look_at_the_validation_split(dataset: Dataset, tmp_path: Path) -> None:
    network, path = Reader(), tmp_path / "model.onnx"
    found = measured(network, dataset, path)
    assert judged(path, dataset.validation, dataset, CPU, found.batch).percent == pytest.approx(100 * 50 / 80)
    assert judged_network(network, dataset, CPU, network).percent == pytest.approx(100 * 50 / 80)
    few = judged_network(network, dataset, CPU, network, 60).percent  # of the first 60 it would be 50 that are right
    assert few == pytest.approx(100 * 50 / 80, abs=10) and few != pytest.approx(100 * 50 / 60)
    many = dataclasses.replace(dataset, validation=split(700, 300))
    assert judged_network(network, many, CPU, network).percent == pytest.approx(70)
    assert judged(path, many.validation, many, CPU, found.batch).percent == pytest.approx(70)


def test_the_difference_between_network_and_file_is_the_largest_of_all() -> None:
    network, images = Reader(), torch.zeros(3, *SHAPE)
    answers = network_answers(network, images)
    assert parity(network, answers, images) == 0
    answers[1, 2] -= 5e-4
    answers[2, 0] += 2e-4
    assert parity(network, answers, images) == pytest.approx(5e-4, rel=1e-2)
    answers[1, 2] -= 1e-3
    with pytest.raises(RunError, match=r"does not compute what the network does: answers differ by 0\.0015"):
        parity(network, answers, images)
    answers[1, 2] = np.nan
    with pytest.raises(RunError, match="does not compute"):
        parity(network, answers, images)


@pytest.mark.parametrize(("error", "image"), [(1e-4, 0), (0.5, 0), (0.5, 255), (0.5, 256)])
def test_a_file_that_is_not_the_network_is_refused(
    error: float, image: int, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers the pixel that is bright in one image alone otherwise; 256 images are compared."""
    images = np.zeros_like(dataset.test.images)
    images[image].flat[11] = 255
    dataset = dataclasses.replace(dataset, test=Split(images, dataset.test.labels), mean=(0.0,), std=(1.0,))

    def wrongly(network: nn.Module, path: Path, shape: tuple[int, int, int]) -> None:
        network = copy.deepcopy(network)
        network.classifier.weight.data[3, 11] += error
        export(network, path, shape)

    monkeypatch.setattr(measure, "export", wrongly)
    if error > 1e-3 and image < 256:
        with pytest.raises(RunError, match="does not compute what the network does"):
            measured(Reader(), dataset, tmp_path / "model.onnx")
    else:
        found = measured(Reader(), dataset, tmp_path / "model.onnx")
        assert found.parity == pytest.approx(error if image < 256 else 0, rel=1e-2)


def test_costs_are_of_the_file(dataset: Dataset, tmp_path: Path) -> None:
    network, path = Reader(), tmp_path / "model.onnx"
    found = measured(network, dataset, path).cost_columns()
    graph = onnx.load(path).graph
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    assert found["macs"] == 12 * CLASSES
    assert found["effective_macs"] == CLASSES  # the weights are a diagonal of ones
    assert found["flops"] == 2 * 12 * CLASSES
    assert found["onnx_tool_ops"] == 12 * CLASSES + CLASSES
    assert found["params"] == sum(array.size for array in arrays) == 12 * CLASSES + CLASSES
    assert found["nonzero_params"] == sum(int(np.count_nonzero(array)) for array in arrays) == CLASSES + CLASSES - 1
    assert found["file_bytes"] == path.stat().st_size


def test_an_incomplete_count_says_what_is_missing(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exponential(Reader):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images).exp()

    whole = measured(Exponential(), dataset, tmp_path / "whole.onnx").cost_columns("base_")
    assert "base_macs_missing" not in whole
    monkeypatch.setattr("onnxprune.graph.macs._UNCOUNTED", {"Exp"})
    found = measured(Exponential(), dataset, tmp_path / "model.onnx")
    assert found.cost_columns()["macs"] == whole["base_macs"] == 12 * CLASSES
    missing = "Exp: not counted, as this operator is not known here (nodes: 1)"
    assert found.cost_columns()["macs_missing"] == found.cost_columns("base_")["base_macs_missing"] == missing
