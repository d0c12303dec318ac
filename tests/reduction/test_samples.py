"""Samples: each kind of data, as inputs of each kind of network."""

from pathlib import Path

import numpy as np
import pytest
from command_line import small_npz
from PIL import Image
from pruned import model, network

from onnxprune.common.errors import InputError
from onnxprune.graph.metadata import Normalisation, parse
from onnxprune.graph.network import Network
from onnxprune.reduction.samples import Samples, as_input, read_samples
from onnxprune.runtime.random_inputs import Inputs

PLAIN = {"mean": (0.0,), "std": (1.0,)}


def taking(*inputs: str, kind: str = "float") -> Network:
    """A network that takes these inputs, "name[sizes]", and gives them back."""
    names = [text.split("[")[0] for text in inputs]
    given = ", ".join(f"{kind}[{text.split('[')[1]} {text.split('[')[0]}" for text in inputs)
    made = " ".join(f"{name}_out = Identity({name})" for name in names)
    return network(model(f"({given}) => ({', '.join(f'{kind} {name}_out' for name in names)}) {{ {made} }}", {}))


def read(data: object, source: Network, count: int = 64, properties: dict | None = None, **how: object) -> Samples:
    return read_samples(data, source, parse(properties or {}), count=count, **how)  # type: ignore[arg-type]


def batches(samples: Samples) -> list[Inputs]:
    return [*samples.fitting, *samples.held_out]


def rows(parts: list[Inputs], name: str) -> np.ndarray:
    return np.concatenate([batch[name] for batch in parts])


def test_arrays_by_name_keep_their_rows_together(tmp_path: Path) -> None:
    arrays = {"a": np.arange(200, dtype=np.float32).reshape(100, 2), "b": np.arange(100.0).reshape(100, 1)}
    np.savez(tmp_path / "data.npz", **arrays, other=np.ones(3))
    for data in (str(tmp_path / "data.npz"), tmp_path / "data.npz", arrays):
        found = read(data, taking("a[n,2]", "b[n,1]"), count=48)
        a, b = rows(batches(found), "a"), rows(batches(found), "b")
        assert a.shape == (48, 2)
        assert b.dtype == np.float32
        assert (a[:, 0] == 2 * b[:, 0]).all()
        assert len(set(b[:, 0])) == 48
        assert found.held_out
        assert found.test is None


def test_an_input_that_is_one_number_is_the_same_for_all_samples() -> None:
    source = network(model("(float[n,1] x, float t) => (float[n,1] y) { y = Mul(x, t) }", {}))
    found = read({"x": np.arange(40.0).reshape(40, 1), "t": np.float64(2)}, source, count=32)
    assert len(rows(batches(found), "x")) == 32
    assert [batch["t"].tolist() for batch in batches(found)] == [2.0] * len(batches(found))
    with pytest.raises(InputError, match=r"array 't' is \[40\], the model takes one number, without samples"):
        read({"x": np.ones((40, 1)), "t": np.ones(40)}, source)


def test_samples_are_drawn_by_the_seed() -> None:
    arrays = {"x": np.arange(100, dtype=np.float32).reshape(100, 1)}
    drawn = [rows(batches(read(arrays, taking("x[n,1]"), 32, seed=seed)), "x")[:, 0].tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(("count", "parts", "held"), [(512, 16, 2), (100, 9, 1), (20, 10, 1), (2, 2, 1)])
def test_about_an_eighth_is_held_out(count: int, parts: int, held: int) -> None:
    found = read({"x": np.zeros((512, 1), np.float32)}, taking("x[n,1]"), count)
    assert len(batches(found)) == parts
    assert len(found.held_out) == held
    assert sum(len(batch["x"]) for batch in batches(found)) == count


def test_a_fixed_batch_is_kept() -> None:
    found = read({"x": np.zeros((23, 1), np.float32)}, taking("x[5,1]"), 64)
    assert [len(batch["x"]) for batch in batches(found)] == [5, 5, 5, 5]


def test_integers_are_taken_as_they_are() -> None:
    ids = np.arange(80).reshape(40, 2)
    found = read({"x": ids}, taking("x[n,2]", kind="int64"))
    assert set(rows(batches(found), "x").ravel()) == set(range(80))
    assert batches(found)[0]["x"].dtype == np.int64


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((40, 3), np.float32), r"is \[40, 3\], the model takes \['any', 2\]"),
        (np.zeros(40, np.float32), "the model takes"),
        (np.zeros((), np.float32), "the model takes"),
        (np.zeros((40, 2), "U3"), "the model takes float32"),
        (np.zeros((40, 2), complex), "the model takes float32"),
        (np.full((40, 2), np.nan, np.float32), "not finite"),
        (np.zeros((1, 2), np.float32), "too few samples"),
        (np.zeros((0, 2), np.float32), "too few samples"),
    ],
)
def test_arrays_that_do_not_fit_are_told(array: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read({"x": array}, taking("x[n,2]"))


def test_arrays_that_are_missing_or_of_other_lengths_are_told(tmp_path: Path) -> None:
    two = taking("a[n,2]", "b[n,1]")
    np.savez(tmp_path / "one.npz", a=np.zeros((40, 2), np.float32))
    with pytest.raises(InputError, match=r"one\.npz: there is no array 'b'.*\(a, b\).*there are a"):
        read(str(tmp_path / "one.npz"), two)
    with pytest.raises(InputError, match=r"different numbers of samples: \[39, 40\]"):
        read({"a": np.zeros((40, 2), np.float32), "b": np.zeros((39, 1), np.float32)}, two)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text.npz", b"text", "not an .npz file"),
        ("none.npz", None, "no such file"),
        ("folder/none", None, "no such file or folder"),
        ("svhn", None, "unknown dataset 'svhn'"),
    ],
)
def test_data_that_cannot_be_read_is_told(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    data = name if name == "svhn" else str(tmp_path / name)
    with pytest.raises(InputError, match=words):
        read(data, taking("x[n,1,12,12]"), **PLAIN)


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.array([{}] * 40))
    with pytest.raises(InputError, match=r"not an \.npz file of plain arrays"):
        read(str(tmp_path / "data.npz"), taking("x[n,2]"))


def test_a_dataset_gives_training_images_and_labelled_ones_apart(tmp_path: Path) -> None:
    data = str(small_npz(tmp_path / "squares.npz"))
    found = read(data, taking("x[n,1,12,12]"), mean=(0.5,), std=(0.25,))
    assert rows(batches(found), "x").shape == (64, 1, 12, 12)
    assert rows(batches(found), "x").min() >= -2
    assert found.test is not None
    assert found.validation is not None
    assert sum(len(labels) for _, labels in found.test) == 60
    assert sum(len(labels) for _, labels in found.validation) == 24
    feed, labels = next(iter(found.test))
    image = np.load(data)["x_test"][0]
    assert np.allclose(feed["x"][0, 0], (image / 255 - 0.5) / 0.25, atol=1e-6)
    assert labels[0] == np.load(data)["y_test"][0]


def test_images_without_labels_are_a_dataset_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", x_train=np.load(small_npz(tmp_path / "whole.npz"))["x_train"])
    found = read(str(tmp_path / "images.npz"), taking("x[n,1,12,12]"), **PLAIN)
    assert found.test is None
    assert rows(batches(found), "x").max() <= 1
    np.savez(tmp_path / "floats.npz", x_train=np.full((40, 12, 12), 1.5))
    with pytest.raises(InputError, match="not whole, expected uint8"):
        read(str(tmp_path / "floats.npz"), taking("x[n,1,12,12]"), **PLAIN)


@pytest.mark.parametrize("width", [12, 16])
def test_smaller_images_get_a_border(width: int, tmp_path: Path) -> None:
    found = read(str(small_npz(tmp_path / "squares.npz")), taking(f"x[n,1,16,{width}]"), **PLAIN)
    first = rows(batches(found), "x")
    assert first.shape == (64, 1, 16, width)
    assert (first[:, :, :2] == 0).all()


def test_normalisation_is_that_of_the_metadata_or_the_options(tmp_path: Path) -> None:
    data, source = str(small_npz(tmp_path / "squares.npz")), taking("x[n,1,12,12]")
    with pytest.raises(InputError, match=r"give the --mean and --std .* squares's training images"):
        read(data, source)
    with pytest.raises(InputError, match="give the --mean and --std"):
        read(data, source, mean=(0.5,))
    recorded = {"mean": "[0.5]", "std": "[0.5]"}
    found = rows(batches(read(data, source, properties=recorded)), "x")
    assert found.min() >= -1
    assert np.allclose(rows(batches(read(data, source, properties=recorded, mean=(0.0,))), "x"), found + 1, atol=1e-6)
    with pytest.raises(InputError, match="2 means for images of 1"):
        read(data, source, mean=(0.5, 0.5), std=(1.0, 1.0))


def test_an_input_of_bytes_gets_the_pixels(tmp_path: Path) -> None:
    found = read(str(small_npz(tmp_path / "squares.npz")), taking("x[n,12,12]", kind="uint8"))
    assert batches(found)[0]["x"].dtype == np.uint8
    assert rows(batches(found), "x").max() == 250


def test_pictures_of_a_folder_become_what_the_model_takes(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for number in range(20):
        Image.fromarray(np.full((9, 7, 3), number, np.uint8)).save(tmp_path / "deep" / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    found = read(str(tmp_path), taking("x[n,8,8,3]"), **PLAIN)
    assert rows(batches(found), "x").shape == (20, 8, 8, 3)
    assert sorted(set((255 * rows(batches(found), "x")).round().ravel().astype(int))) == list(range(20))
    (tmp_path / "deep" / "broken.png").write_bytes(b"text")
    with pytest.raises(InputError, match="not a picture that Pillow can read"):
        read(str(tmp_path), taking("x[n,8,8,3]"), **PLAIN)


def test_a_folder_with_the_name_of_a_dataset_is_given_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    for number in range(20):
        Image.fromarray(np.full((28, 28), number, np.uint8)).save(tmp_path / "digits" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    for data in ("./digits", Path("digits")):
        assert rows(batches(read(data, taking("x[n,1,28,28]"), **PLAIN)), "x").max() < 0.1
    assert rows(batches(read("digits", taking("x[n,1,28,28]"), **PLAIN)), "x").max() > 0.9


def test_folders_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no picture in it"):
        read(str(tmp_path), taking("x[n,3,8,8]"), **PLAIN)
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(InputError, match="too few samples"):
        read(str(tmp_path), taking("x[n,3,8,8]"), **PLAIN)
    with pytest.raises(InputError, match="the size of images is not known"):
        read(str(tmp_path), taking("x[n,3,h,w]"), **PLAIN)
    with pytest.raises(InputError, match=r"the model has 2 inputs \(a, b\)"):
        read(str(tmp_path), taking("a[n,3,8,8]", "b[n,2]"), **PLAIN)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [("3,4,5", (2, 3, 4, 5)), ("4,5,3", (2, 4, 5, 3)), ("60", (2, 60)), ("3,h,w", (2, 3, 4, 5))],
)
def test_images_are_laid_out_as_the_input_declares(sizes: str, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    value = taking(f"x[n,{sizes}]").model.graph.input[0]
    found = as_input(images, value, Normalisation((0.0,), (1.0,)))
    assert found.shape == shape
    assert found.dtype == np.float32
    assert np.isclose(found.ravel()[0], images[0, 0, 0, 0] / 255)


def test_images_that_do_not_fit_are_told() -> None:
    value = taking("x[n,3,9,9]").model.graph.input[0]
    with pytest.raises(InputError, match=r"takes \[3, 9, 9\] a sample: images of 3x4x5 do not fit"):
        as_input(np.zeros((2, 3, 4, 5), np.uint8), value, None)
