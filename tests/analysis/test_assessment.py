"""`evaluate`: an ONNX file on a dataset's test set."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click.testing
import numpy as np
import onnx
import pytest
from classifiers import SQUARES, classifier, square_finder
from command_line import REPOSITORY, called, small_npz
from photos import squares
from PIL import Image
from scipy import stats

from onnxprune.commands.evaluate import evaluate
from onnxprune.common.errors import InputError
from onnxprune.graph import metadata


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_npz(tmp_path_factory.mktemp("data") / "squares.npz")


def run(*arguments: object) -> click.testing.Result:
    result = click.testing.CliRunner().invoke(evaluate, [*map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def as_json(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json").stdout)
    return found


def expected_logits(data: Path, weights: np.ndarray, mean: float, std: float) -> tuple[np.ndarray, np.ndarray]:
    arrays = np.load(data)
    images = (arrays["x_test"].reshape(60, -1).astype(np.float64) / 255 - mean) / std
    return images @ weights, arrays["y_test"]


def test_every_number_is_that_of_a_computation_by_hand(data: Path, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(0, 0.2, (144, 3)).astype(np.float32) + square_finder() * 0.05
    found = as_json(classifier(tmp_path / "m.onnx", weights, metadata=SQUARES), "--dataset", data)
    logits, labels = expected_logits(data, weights, 0.25, 0.5)
    predicted = logits.argmax(1)
    assert 0 < found["accuracy"] < 100
    assert found["accuracy"] == pytest.approx(100 * np.mean(predicted == labels))
    interval = stats.binomtest(round(0.6 * found["accuracy"]), 60).proportion_ci(0.95, "wilson")
    assert found["accuracy_low"] == pytest.approx(100 * interval.low, abs=1e-4)
    assert found["accuracy_high"] == pytest.approx(100 * interval.high, abs=1e-4)
    assert found["top5_accuracy"] == 100
    own = logits[np.arange(60), labels]
    assert found["cross_entropy"] == pytest.approx(np.mean(np.log(np.exp(logits).sum(1)) - own), rel=1e-5)
    for true in range(3):
        row = [int(((labels == true) & (predicted == guess)).sum()) for guess in range(3)]
        assert found["confusion"][true] == row
        assert found["classes"][true] == {
            "name": str(true),
            "images": sum(row),
            "accuracy": pytest.approx(100 * row[true] / sum(row)),
        }
    assert found["images"] == 60
    assert (found["mean"], found["std"]) == ([0.25], [0.5])


def test_it_prints_the_scores_and_the_matrix(data: Path, tmp_path: Path) -> None:
    pruned = {"accuracy": 100.0, "technique": "weight", "sparsity": 50.0}
    file = classifier(tmp_path / "m.onnx", square_finder(), metadata={**SQUARES, **pruned})
    shown = run(file, "--dataset", data)
    assert shown.stderr == ""
    assert "pruned: weight, 50 % asked for" in shown.stdout
    low = stats.binomtest(60, 60).proportion_ci(0.95, "wilson").low * 100
    assert (
        f"accuracy       100.00 %   (95 % interval: {low:.2f} to 100.00 %; recorded in the file: 100.00 %)"
        in shown.stdout
    )
    counts = np.bincount(np.load(data)["y_test"])
    assert shown.stdout.splitlines()[-3].split() == ["0", "100.00", str(counts[0]), ".", "."]


def test_many_classes_show_the_most_frequent_confusions(tmp_path: Path) -> None:
    labels = np.arange(60) % 30
    images = np.zeros((60, 6, 6), np.uint8)
    images.reshape(60, 36)[np.arange(60), labels] = 255
    data = tmp_path / "many.npz"
    np.savez(data, x_train=images, y_train=labels, x_test=images, y_test=labels)
    weights = np.eye(36, 30, dtype=np.float32)
    weights[7] = weights[3]  # 7 looks like 3
    shown = run(classifier(tmp_path / "m.onnx", weights, ("n", 1, 6, 6)), "--dataset", data, "--mean", 0, "--std", 1)
    assert shown.stdout.splitlines()[-1] == "     2  7 taken for 3"
    assert "accuracy        96.67 %" in shown.stdout


@pytest.mark.parametrize("batch", [1, 7, 60, 64])
def test_a_fixed_batch_gives_the_same(batch: int, data: Path, tmp_path: Path) -> None:
    fixed = classifier(tmp_path / "f.onnx", square_finder(), (batch, 1, 12, 12), metadata=SQUARES)
    free = classifier(tmp_path / "m.onnx", square_finder(), metadata=SQUARES)
    found, expected = as_json(fixed, "--dataset", data), as_json(free, "--dataset", data)
    assert found["cross_entropy"] == pytest.approx(expected["cross_entropy"], rel=1e-5)
    assert found["confusion"] == expected["confusion"]


@pytest.mark.parametrize("batch", [1, 8])
def test_a_file_that_takes_one_batch_whatever_it_declares_gives_the_same(
    batch: int, data: Path, tmp_path: Path
) -> None:
    free = classifier(tmp_path / "m.onnx", square_finder(), metadata=SQUARES)
    built = onnx.load(free)
    size = onnx.numpy_helper.from_array(
        np.array([batch, built.graph.output[0].type.tensor_type.shape.dim[1].dim_value])
    )
    size.name = "size"
    built.graph.initializer.append(size)
    built.graph.node.append(onnx.helper.make_node("Reshape", [built.graph.output[0].name, "size"], ["one"]))
    built.graph.output[0].name = "one"
    onnx.save(built, tmp_path / "one.onnx")
    found, expected = (as_json(file, "--dataset", data) for file in (tmp_path / "one.onnx", free))
    assert found["confusion"] == expected["confusion"]


def test_images_are_padded_to_what_the_file_takes(data: Path, tmp_path: Path) -> None:
    larger = classifier(tmp_path / "m.onnx", square_finder(16), ("n", 1, 16, 16), metadata=SQUARES)
    assert as_json(larger, "--dataset", data)["accuracy"] == 100


@pytest.mark.parametrize("height", [12, 16])
def test_images_need_not_be_square(height: int, data: Path, tmp_path: Path) -> None:
    narrow = {key: array[:, :, :9] if key.startswith("x") else array for key, array in np.load(data).items()}
    np.savez(tmp_path / "narrow.npz", **narrow)
    weights = square_finder(height).reshape(height, height, 3)
    border = (height - 12) // 2
    weights = weights[:, border : border + 9].reshape(-1, 3)
    file = classifier(tmp_path / "m.onnx", weights, ("n", 1, height, 9), metadata={**SQUARES, "dataset": "narrow"})
    assert as_json(file, "--dataset", tmp_path / "narrow.npz")["accuracy"] == 100


def test_probabilities_have_the_cross_entropy_of_their_logits(data: Path, tmp_path: Path) -> None:
    weights = square_finder() * 0.1
    plain = as_json(classifier(tmp_path / "m.onnx", weights, metadata=SQUARES), "--dataset", data)
    soft = as_json(classifier(tmp_path / "s.onnx", weights, softmax=True, metadata=SQUARES), "--dataset", data)
    assert soft["cross_entropy"] == pytest.approx(plain["cross_entropy"], rel=1e-4)


def test_answers_that_are_not_finite_count_as_wrong(data: Path, tmp_path: Path) -> None:
    weights = square_finder()
    weights[0, 0] = np.nan
    found = as_json(classifier(tmp_path / "m.onnx", weights, metadata=SQUARES), "--dataset", data)
    assert (found["accuracy"], found["cross_entropy"], found["not_finite"]) == (0, None, 60)
    assert np.sum(found["confusion"]) == 0


def test_options_win_over_the_metadata_and_it_says_so(data: Path, tmp_path: Path) -> None:
    weights = square_finder() * 0.1
    file = classifier(tmp_path / "m.onnx", weights, metadata=SQUARES)
    shown = run(file, "--dataset", data, "--mean", "0.5", "--std", "0.25", "--json")
    assert "mean 0.5 and std 0.25; the file's metadata say mean 0.25 and std 0.5" in shown.stderr
    logits, labels = expected_logits(data, weights, 0.5, 0.25)
    own = logits[np.arange(60), labels]
    wanted = np.mean(np.log(np.exp(logits).sum(1)) - own)
    assert json.loads(shown.stdout)["cross_entropy"] == pytest.approx(wanted, rel=1e-4)


def test_another_dataset_than_the_files_own_is_noted(data: Path, tmp_path: Path) -> None:
    file = classifier(tmp_path / "m.onnx", square_finder(), metadata={**SQUARES, "dataset": "circles", "accuracy": 50})
    shown = run(file, "--dataset", data)
    assert "trained on circles, not squares" in shown.stderr
    assert "recorded" not in shown.stdout


def test_the_pictures_of_a_folder_are_brought_to_what_the_file_takes(tmp_path: Path) -> None:
    known = {**SQUARES, "dataset": "squares", "classes": ["bottom", "middle", "top"]}
    file = classifier(tmp_path / "m.onnx", square_finder()[:, ::-1], metadata=known)
    folder = squares(tmp_path / "squares", count=30)
    for path in (folder / "top").iterdir():
        picture = Image.open(path)
        picture.convert("RGB").resize((48, 36), Image.Resampling.NEAREST).save(path)
    picture.convert("RGB").resize((12, 12)).save(folder / "top/red.png")
    found = as_json(file, "--dataset", folder)
    assert [entry["name"] for entry in found["classes"]] == known["classes"]
    assert found["accuracy"] > 90
    assert 5 < found["images"] < 40
    assert "output" not in run(file, "--dataset", folder).stderr
    with pytest.raises(InputError, match=r"takes images of 1x12x12 .*, squares has 1x24x12"):
        run(file, "--dataset", folder, "--image-size", "24x12")


def test_classes_of_other_names_are_noted(tmp_path: Path) -> None:
    known = {**SQUARES, "classes": ["bottom", "top", "middle"]}
    file = classifier(tmp_path / "m.onnx", square_finder(), metadata=known)
    shown = run(file, "--dataset", squares(tmp_path / "squares", count=30))
    assert "Note: output 1 of the file is 'top', label 1 of the data is 'middle'." in shown.stderr


def test_metadata_of_other_programs_count_as_none(data: Path, tmp_path: Path) -> None:
    file = classifier(tmp_path / "m.onnx", square_finder(), metadata={"mean": "0.5, 0.5", "std": "x", "classes": "12"})
    assert as_json(file, "--dataset", data, "--mean", 0, "--std", 1)["accuracy"] == 100


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        ({}, [], ["do not say how images are normalised", "--mean", "--std", "squares's"]),
        ({}, ["--mean", "0.5"], ["--mean", "--std"]),
        ({}, ["--mean", "half", "--std", "1"], ["--mean", "'half'"]),
        ({}, ["--mean", "nan", "--std", "1"], ["--mean", "'nan'"]),
        ({}, ["--mean", "0", "--std", "0"], ["above 0"]),
        ({}, ["--mean", "0,0", "--std", "1"], ["2 means but 1"]),
        ({}, ["--mean", "0,0", "--std", "1,1"], ["2 means for images of 1 channel"]),
        ({"shape": ("n", 3, 12, 12), "pixels": 432}, [], ["3x12x12", "squares has 1x12x12"]),
        ({"shape": ("n", 1, 8, 8), "pixels": 64}, [], ["1x8x8", "squares has 1x12x12"]),
        ({"shape": ("n", 100), "pixels": 100}, [], ["takes [100] numbers a sample", "squares has images of 1x12x12"]),
        ({"classes": 5}, [], ["answers with 5 classes", "squares has 3"]),
    ],
)
def test_what_does_not_fit_is_refused(
    file: dict[str, Any], options: list[str], words: list[str], data: Path, tmp_path: Path
) -> None:
    weights = np.zeros((file.get("pixels", 144), file.get("classes", 3)))
    known = SQUARES if file else None
    path = classifier(tmp_path / "m.onnx", weights, file.get("shape", ("n", 1, 12, 12)), metadata=known)
    with pytest.raises(InputError) as caught:
        run(path, "--dataset", data, *options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_bad_files_are_one_line_and_exit_code_2(data: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for name in ("bad.onnx", "nowhere.onnx", "."):
        done = called("evaluate", tmp_path / name, "--dataset", data)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr


def test_neither_pytorch_nor_nni_is_imported(data: Path, tmp_path: Path) -> None:
    file = classifier(tmp_path / "m.onnx", square_finder(), metadata=SQUARES)
    arguments = ["evaluate", str(file), "--dataset", str(data)]
    code = (
        "import sys, onnxprune.cli\n"
        f"onnxprune.cli.cli.main({arguments!r}, standalone_mode=False)\n"
        "print(sorted({'torch', 'nni', 'torchvision'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "100.00 %" in done.stdout


@pytest.mark.parametrize(
    ("properties", "problem"),
    [
        ({"mean": "[0.5]", "std": "[0]"}, "above 0"),
        ({"mean": "[0.5, 0.5]", "std": "[1]"}, "2 means but 1"),
        ({"mean": "[true]", "std": "[1]"}, "list of numbers"),
        ({"mean": "[NaN]", "std": "[1]"}, "list of numbers"),
        ({"mean": "[0]", "std": "[1]", "normalisation": "pixel - 128"}, "pixel - 128"),
        ({"classes": "[1, 2]"}, "list of names"),
        ({"input_shape": "[28, 28]"}, "[channels, height, width]"),
        ({"input_shape": "[1, -1, 28]"}, "[channels, height, width]"),
        ({"accuracy": "high"}, "'accuracy'"),
        ({"classes": "[" * 100_000}, "'classes'"),
    ],
)
def test_metadata_that_cannot_be_used_count_as_missing(properties: dict[str, str], problem: str) -> None:
    found = metadata.parse(properties)
    (text,) = found.problems
    assert problem in text
    assert found.normalisation is found.classes is found.input_shape is found.accuracy is None
