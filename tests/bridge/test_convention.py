"""How the images of a dataset become the inputs of a file that does not say it."""

from pathlib import Path

import numpy as np
import pytest
import trained

from onnxprune.bridge import convention
from onnxprune.data.dataset import Dataset, Split
from onnxprune.graph.metadata import Normalisation


def digits() -> Dataset:
    """As pixels, sorted by class, more than normalisations are tried on."""
    images, labels = (np.concatenate([part] * 2) for part in trained._digits())
    order = np.argsort(labels, kind="stable")
    pixels = np.round(255 * images[order]).astype(np.uint8).reshape(-1, 1, 8, 8)
    split = Split(pixels, labels[order])
    return Dataset("mine", split, split, split, tuple("0123456789"), (0.3,), (0.38,), "x", len(split))


def test_the_usual_ones_are_tried_on_images_of_all_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = convention._score

    def looked_at(path: Path, split: Split, normalisation: Normalisation) -> tuple[float, float]:
        seen.append(np.bincount(split.labels, minlength=10))
        return real(path, split, normalisation)

    monkeypatch.setattr(convention, "_score", looked_at)
    dataset = digits()
    assert len(dataset.train) > 3 * convention._IMAGES
    found = convention.as_the_file_takes(trained.mlp(tmp_path / "mlp.onnx"), dataset, None, None)
    assert (found.dataset.mean, found.dataset.std) == ((0.0,), (1.0,))
    assert "pixels / 255 (mean and std 0 and 1) works best" in found.note
    assert all(counts.sum() == convention._IMAGES and counts.min() > 50 for counts in seen)


def test_what_is_given_or_written_in_the_file_is_taken_untried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convention, "_score", None)
    given = convention.as_the_file_takes(trained.mlp(tmp_path / "mlp.onnx"), digits(), "0.5", "0.25")
    assert (given.dataset.mean, given.dataset.std, given.note) == ((0.5,), (0.25,), "")
    path = trained.mlp(tmp_path / "told.onnx", mean="[0.1]", std="[0.9]")
    written = convention.as_the_file_takes(path, digits(), None, None)
    assert (written.dataset.mean, written.dataset.std, written.note) == ((0.1,), (0.9,), "")
