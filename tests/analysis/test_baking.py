"""Preprocessing and softmax in the graph: whatever the file takes, it answers as before."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from PIL import Image

from onnxprune.analysis.baking import bake
from onnxprune.analysis.classifier import open_classifier, softmax
from onnxprune.analysis.prediction import predict
from onnxprune.common.errors import RunError
from onnxprune.graph import baking

MEAN, STD = "[0.5, 0.4, 0.3]", "[0.2, 0.25, 0.3]"
LAYOUTS = {
    "first": ("N, 3, 8, 10", "flat = Flatten (x)"),
    "last": ("N, 8, 10, 3", "t = Transpose <perm = [0, 3, 1, 2]> (x) flat = Flatten (t)"),
    "flat": ("N, 240", "flat = Identity (x)"),
}


def classifier(
    folder: Path, layout: str = "first", opset: int = 18, batch: str = "N", tail: str = "", **metadata: str
) -> Path:
    shape, body = LAYOUTS[layout]
    end = "y" if not tail else "z"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> net (float[{shape}] x) => (float[N, 4] y)'.replace("N", batch)
        + f" <float[240, 4] w> {{ {body} {end} = MatMul (flat, w) {tail} }}"
    )
    weights = np.random.default_rng(1).normal(0, 0.1, (240, 4)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    known = {"classes": '["a", "b", "c", "d"]', "input_shape": "[3, 8, 10]", "mean": MEAN, "std": STD}
    helper.set_model_props(model, {**known, **metadata})
    onnx.save(model, folder / "plain.onnx")
    return folder / "plain.onnx"


def answers(path: Path, pictures: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run([baking.PROBABILITIES], {baking.PICTURE: pictures})[0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tail", ["", "y = Softmax (z)"])
def test_it_answers_as_the_plain_file(layout: str, tail: str, tmp_path: Path) -> None:
    plain = open_classifier(classifier(tmp_path, layout, tail=tail))
    assert plain.metadata.normalisation is not None
    found = bake(plain, plain.metadata.normalisation, tmp_path / "baked.onnx")
    assert found.difference < 1e-6
    pictures = np.random.default_rng(2).integers(0, 256, (5, 8, 10, 3), np.uint8)
    expected = softmax(plain.logits(pictures.transpose(0, 3, 1, 2), plain.metadata.normalisation))
    np.testing.assert_allclose(answers(found.path, pictures), expected, atol=1e-5)


def test_names_that_the_file_has_already_do_not_clash(tmp_path: Path) -> None:
    path = classifier(tmp_path, tail="y = Softmax (z)")
    model = onnx.load(path)
    named = {"x": baking.PICTURE, "z": baking.PROBABILITIES}
    for names in [*(node.input for node in model.graph.node), *(node.output for node in model.graph.node)]:
        names[:] = [named.get(name, name) for name in names]
    model.graph.input[0].name = baking.PICTURE
    onnx.save(model, path)
    plain = open_classifier(path)
    assert plain.metadata.normalisation is not None
    found = bake(plain, plain.metadata.normalisation, tmp_path / "baked.onnx")
    pictures = np.random.default_rng(2).integers(0, 256, (5, 8, 10, 3), np.uint8)
    expected = softmax(plain.logits(pictures.transpose(0, 3, 1, 2), plain.metadata.normalisation))
    np.testing.assert_allclose(answers(found.path, pictures), expected, atol=1e-5)


def test_pictures_are_resized_as_predict_does(tmp_path: Path) -> None:
    plain = open_classifier(classifier(tmp_path))
    assert plain.metadata.normalisation is not None
    found = bake(plain, plain.metadata.normalisation, tmp_path / "baked.onnx")
    picture = np.random.default_rng(3).integers(0, 256, (50, 23, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    (expected,) = predict(plain, [tmp_path / "picture.png"])
    given = answers(found.path, picture[None])[0]
    assert plain.metadata.classes is not None
    for name, probability in expected.top:
        assert given[plain.metadata.classes.index(name)] == pytest.approx(probability, abs=0.01)


def test_a_border_is_put_around_small_pictures(tmp_path: Path) -> None:
    plain = open_classifier(classifier(tmp_path, picture_shape="[3, 5, 7]"))
    assert plain.metadata.normalisation is not None
    found = bake(plain, plain.metadata.normalisation, tmp_path / "baked.onnx")
    assert found.picture == (3, 5, 7)
    picture = np.full((1, 5, 7, 3), 200, np.uint8)
    images = np.zeros((1, 3, 8, 10), np.uint8)
    images[:, :, 1:6, 1:8] = 200
    expected = softmax(plain.logits(images, plain.metadata.normalisation))
    np.testing.assert_allclose(answers(found.path, picture), expected, atol=1e-5)


def test_older_files_take_pictures_of_their_size_and_fixed_batches_stay(tmp_path: Path) -> None:
    plain = open_classifier(classifier(tmp_path, opset=13, batch="2"))
    assert plain.metadata.normalisation is not None
    found = bake(plain, plain.metadata.normalisation, tmp_path / "baked.onnx")
    assert not found.resizes
    assert answers(found.path, np.zeros((2, 8, 10, 3), np.uint8)).shape == (2, 4)
    (taken,) = onnx.load(found.path).graph.input
    assert [dim.dim_value for dim in taken.type.tensor_type.shape.dim] == [2, 8, 10, 3]


def test_another_answer_than_the_plain_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = open_classifier(classifier(tmp_path))
    assert plain.metadata.normalisation is not None
    real = baking.bake

    def wrong(*arguments: object, **how: object) -> onnx.ModelProto:
        return real(*arguments, **{**how, "add_softmax": False})  # type: ignore[arg-type]

    monkeypatch.setattr(baking, "bake", wrong)
    with pytest.raises(RunError, match="differ from those of"):
        bake(plain, plain.metadata.normalisation, tmp_path / "baked.onnx")
    assert not (tmp_path / "baked.onnx").exists()
