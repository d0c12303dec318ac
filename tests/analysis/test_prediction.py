"""`predict`: picture files through an ONNX file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from classifiers import SQUARES, classifier, square_finder
from command_line import called, small_npz
from PIL import Image

from onnxprune.analysis.classifier import open_classifier
from onnxprune.analysis.prediction import Prediction, predict
from onnxprune.common.errors import InputError

NAMED = {**SQUARES, "classes": ["top", "middle", "bottom"]}


def square(label: int, channels: int = 1) -> Image.Image:
    pixels = np.zeros((12, 12), np.uint8)
    pixels[4 * label : 4 * label + 4, 4:8] = 250
    return Image.fromarray(pixels if channels == 1 else np.stack([pixels] * channels, axis=-1))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return classifier(tmp_path / "m.onnx", square_finder() * 0.2, metadata=NAMED)


def one(model: Path, picture: Image.Image, name: str = "picture.png", **options: Any) -> Prediction:
    path = model.with_name(name)
    picture.save(path, **options)
    (found,) = predict(open_classifier(model), [path])
    return found


@pytest.mark.parametrize("label", [0, 1, 2])
def test_class_and_probability_are_those_of_a_computation_by_hand(label: int, model: Path) -> None:
    found = one(model, square(label))
    image = (np.asarray(square(label)).reshape(1, -1) / 255 - 0.25) / 0.5
    (logits,) = image @ square_finder() * 0.2
    probabilities = np.exp(logits) / np.exp(logits).sum()
    assert found.top[0][0] == NAMED["classes"][label]
    assert found.top[0][1] == pytest.approx(probabilities[label], rel=1e-4)
    assert sum(probability for _, probability in found.top) == pytest.approx(1)
    assert found.size == (12, 12)


def test_pictures_of_any_kind_are_taken(model: Path) -> None:
    expected = one(model, square(1)).top
    assert one(model, square(1, 3)).top == expected
    assert one(model, square(1).convert("P")).top == expected
    assert one(model, square(1).convert("RGBA")).top == expected
    assert one(model, square(1), "p.gif").top == expected
    assert one(model, square(1), "p.jpg", quality=95).top[0][0] == "middle"
    large = one(model, square(1).resize((240, 120)))
    assert large.top[0][0] == "middle"
    assert large.size == (240, 120)


def test_the_camera_s_orientation_is_heeded(model: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    assert one(model, square(0), "p.jpg", exif=turned, quality=95).top[0][0] == "bottom"


def test_colours_come_in_the_order_red_green_blue(tmp_path: Path) -> None:
    weights = np.repeat(np.eye(3), 4, axis=0)  # the class is the brightest channel
    known = {"classes": ["red", "green", "blue"], "input_shape": [3, 2, 2], "mean": [0.5, 0.4, 0.3], "std": [1, 1, 1]}
    model = classifier(tmp_path / "m.onnx", weights, ("n", 3, 2, 2), metadata=known)
    for name in known["classes"]:
        assert one(model, Image.new("RGB", (2, 2), str(name))).top[0][0] == name


def test_pictures_of_a_known_dataset_get_the_border_that_training_gave(tmp_path: Path) -> None:
    corner = np.zeros((32, 32, 2), np.float32)
    corner[:2, :, 0] = corner[2:4, 2:30, 1] = 1  # class 1 where the picture begins two pixels from the edge
    known = {**NAMED, "dataset": "mnist", "classes": ["edge", "border"], "input_shape": [1, 32, 32], "mean": [0.0]}
    model = classifier(tmp_path / "m.onnx", corner.reshape(-1, 2), ("n", 1, 32, 32), metadata=known)
    assert one(model, Image.new("L", (28, 28), 255)).top[0][0] == "border"


@pytest.mark.parametrize(("own", "answer"), [([1, 28, 28], "border"), ([1, 32, 32], "edge"), ([1, 32, 28], "edge")])
def test_pictures_of_a_users_own_data_get_the_border_that_training_gave(
    own: list[int], answer: str, tmp_path: Path
) -> None:
    corner = np.zeros((32, 32, 2), np.float32)
    corner[:2, :, 0], corner[2:4, 2:30, 1] = 1, 0.9
    known = {**NAMED, "dataset": "mnist", "classes": ["edge", "border"], "input_shape": [1, 32, 32], "mean": [0.0]}
    model = classifier(
        tmp_path / "m.onnx", corner.reshape(-1, 2), ("n", 1, 32, 32), metadata={**known, "picture_shape": own}
    )
    assert one(model, Image.new("L", (40, 40), 255)).top[0][0] == answer


def test_a_fixed_batch_takes_any_number_of_pictures(tmp_path: Path) -> None:
    model = classifier(tmp_path / "m.onnx", square_finder(), (2, 1, 12, 12), metadata=NAMED)
    paths = [tmp_path / f"{label}.png" for label in range(3)]
    for label, path in enumerate(paths):
        square(label).save(path)
    found = predict(open_classifier(model), paths)
    assert [entry.top[0][0] for entry in found] == NAMED["classes"]


@pytest.mark.parametrize("batch", [2**24, 2**45])
def test_a_fixed_batch_that_fits_no_memory_is_one_line(batch: int, tmp_path: Path) -> None:
    model = classifier(tmp_path / "m.onnx", square_finder(), (batch, 1, 12, 12), metadata=NAMED)
    square(0).save(tmp_path / "a.png")
    with (
        mock.patch("onnxprune.analysis.classifier.available_memory", lambda: 2**33),
        pytest.raises(InputError, match=rf"takes batches of {batch:,} images only"),
    ):
        predict(open_classifier(model), [tmp_path / "a.png"])


def test_the_command_prints_a_line_a_picture(model: Path, tmp_path: Path) -> None:
    square(0).save(tmp_path / "a.png")
    square(2).resize((30, 30)).save(tmp_path / "b.png")
    done = called("predict", model, tmp_path / "a.png", tmp_path / "b.png")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "a.png  top " in first
    assert "b.png  bottom " in second
    assert "1 of 2 resized to 12x12" in done.stderr
    rows = json.loads(called("predict", model, tmp_path / "a.png", tmp_path / "b.png", "--json").stdout)
    assert [row["class"] for row in rows] == ["top", "bottom"]
    assert [row["resized_to"] for row in rows] == [None, [12, 12]]
    assert len(rows[0]["top"]) == 3


def test_files_that_are_no_pictures_are_a_line_each_and_exit_code_2(model: Path, tmp_path: Path) -> None:
    square(0).resize((300, 300)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    names = ["good.png", "cut.png", "text.png", "nowhere.png", "deep.png"]
    done = called("predict", model, *(tmp_path / name for name in names), tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 5
    for line, words in zip(
        lines,
        ["cut.png: not a picture", "text.png: not a", "nowhere.png: no such", "8 bits", "not a file"],
        strict=True,
    ):
        assert words in line


@pytest.mark.parametrize(
    ("metadata", "shape", "words"),
    [
        ({}, ("n", 1, 12, 12), "do not say the normalisation"),
        ({**NAMED, "mean": "0.5"}, ("n", 1, 12, 12), "'mean' cannot be used"),
        ({key: NAMED[key] for key in ("mean", "std")}, ("n", 1, 12, 12), "do not say the classes"),
        ({**NAMED, "input_shape": [1, 24, 6]}, ("n", 1, 12, 12), "its metadata say"),
        ({**NAMED, "classes": ["one", "two"]}, ("n", 1, 12, 12), "answers with 3 classes, its metadata name 2"),
        ({**NAMED, "input_shape": [4, 6, 6]}, ("n", 4, 6, 6), "4 channels"),
        ({key: NAMED[key] for key in ("mean", "std", "classes")}, ("n", 1, "h", "w"), "the size of its images"),
    ],
)
def test_metadata_that_do_not_do_are_said(
    metadata: dict[str, Any], shape: tuple[Any, ...], words: str, tmp_path: Path
) -> None:
    model = classifier(tmp_path / "m.onnx", square_finder(), shape, metadata=metadata)
    with pytest.raises(InputError, match=words):
        one(model, square(0))


def test_predictions_agree_with_evaluate(model: Path, tmp_path: Path) -> None:
    data = small_npz(tmp_path / "squares.npz")
    paths = []
    for index, pixels in enumerate(np.load(data)["x_test"]):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(pixels).save(paths[-1])
    found = [entry.top[0][0] for entry in predict(open_classifier(model), paths)]
    right = np.mean([NAMED["classes"].index(name) for name in found] == np.load(data)["y_test"])
    shown = called("evaluate", model, "--dataset", data, "--json")
    assert json.loads(shown.stdout)["accuracy"] == pytest.approx(100 * right)


def test_neither_pytorch_nor_nni_is_imported(model: Path, tmp_path: Path) -> None:
    square(1).save(tmp_path / "picture.png")
    arguments = ["predict", str(model), str(tmp_path / "picture.png")]
    code = (
        "import sys, onnxprune.cli\n"
        f"onnxprune.cli.cli.main({arguments!r}, standalone_mode=False)\n"
        "print(sorted({'torch', 'nni', 'torchvision'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert "middle" in done.stdout
