"""Datasets: what is read, how it is split, and what is said of files that cannot be used."""

import dataclasses
import gzip
import hashlib
import http.client
import io
import os
import pickle
import struct
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxprune.common import torchvision as vision
from onnxprune.common.errors import InputError
from onnxprune.common.progress import Verbosity
from onnxprune.data import dataset as data
from onnxprune.data import download, idx, npz
from onnxprune.data.npz import ARRAY_NAMES
from onnxprune.data.registry import DATASETS, canonical_name

IDX_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def arrays(shape: tuple[int, ...] = (8, 8), train: int = 40, test: int = 12, classes: int = 4) -> dict[str, np.ndarray]:
    """Random images and labels under the names of an .npz file; every class is there."""
    rng = np.random.default_rng(7)
    return {
        "x_train": rng.integers(0, 256, (train, *shape), np.uint8),
        "y_train": np.arange(train) % classes,
        "x_test": rng.integers(0, 256, (test, *shape), np.uint8),
        "y_test": np.arange(test) % classes,
    }


def saved(folder: Path, name: str = "mine.npz", **changes: Any) -> str:
    """An .npz file of `arrays()` with some replaced, or left out where None."""
    content = {**arrays(), **changes}
    np.savez(folder / name, **{key: array for key, array in content.items() if array is not None})
    return str(folder / name)


def idx_file(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes: magic, big-endian lengths, then the bytes."""
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, content: dict[str, np.ndarray]) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(IDX_NAMES, content.values(), strict=True):
        (folder / name).write_bytes(idx_file(array))
    return {name: folder / name for name in IDX_NAMES}


def pixels(split: data.Split) -> set[bytes]:
    return {image.tobytes() for image in split.images}


# splits, statistics, checksum


def test_the_splits_share_no_image_and_lose_none(tmp_path: Path) -> None:
    content = arrays()
    loaded = data.load(saved(tmp_path))
    assert (loaded.name, loaded.input_shape, loaded.classes) == ("mine", (1, 8, 8), ("0", "1", "2", "3"))
    assert (len(loaded.train), len(loaded.validation), len(loaded.test), loaded.available_train) == (36, 4, 12, 36)
    assert not pixels(loaded.train) & pixels(loaded.validation)
    assert pixels(loaded.train) | pixels(loaded.validation) == {image.tobytes() for image in content["x_train"]}
    np.testing.assert_array_equal(loaded.test.images[:, 0], content["x_test"])
    np.testing.assert_array_equal(loaded.test.labels, content["y_test"])


def test_images_keep_the_files_order_and_their_labels(tmp_path: Path) -> None:
    content = arrays()
    position = {image.tobytes(): index for index, image in enumerate(content["x_train"])}
    loaded = data.load(saved(tmp_path))
    for split in (loaded.train, loaded.validation):
        order = [position[image.tobytes()] for image in split.images]
        assert order == sorted(order)
        np.testing.assert_array_equal(split.labels, content["y_train"][order])


def test_classes_that_no_test_image_is_of_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complete = saved(tmp_path, "complete.npz")
    lacking = saved(tmp_path, "lacking.npz", y_test=np.arange(12) % 2 * 3, classes=np.array(["a", "b", "c", "d"]))
    for _ in range(2):
        for name in (complete, lacking):
            data.load(name, verbosity=Verbosity.NORMAL)
            data.load(name)
    line = f"Note: {lacking}: no test image is of class 'b' and of 1 other: accuracy says nothing of that\n"
    assert capsys.readouterr() == ("", line)


def test_validation_is_the_same_every_time_and_not_the_files_end(tmp_path: Path) -> None:
    path = saved(tmp_path)
    np.random.seed(1)
    first = data.load(path)
    np.random.seed(2)
    again = data.load(path).sampled(4, seed=1)
    np.testing.assert_array_equal(first.validation.images, again.validation.images)
    assert pixels(first.validation) != {image.tobytes() for image in arrays()["x_train"][-4:]}


def test_validation_takes_at_most_5000(tmp_path: Path) -> None:
    many = arrays((2, 2), train=50_100)
    assert len(data.load(saved(tmp_path, **many)).validation) == 5_000
    fewer = arrays((2, 2), train=49_000)
    assert len(data.load(saved(tmp_path, **fewer)).validation) == 4_900


def test_a_sample_is_of_training_images_in_their_order(tmp_path: Path) -> None:
    whole = data.load(saved(tmp_path))
    limited = whole.sampled(10, seed=0)
    position = {image.tobytes(): index for index, image in enumerate(whole.train.images)}
    order = [position[image.tobytes()] for image in limited.train.images]
    assert order == sorted(set(order))
    np.testing.assert_array_equal(limited.train.labels, whole.train.labels[order])
    assert (len(limited.train), limited.available_train, len(limited.test)) == (10, 36, 12)
    np.testing.assert_array_equal(limited.validation.images, whole.validation.images)
    assert whole.sampled(1_000, seed=0) is whole


def test_a_sample_has_every_class_of_a_file_that_is_sorted_by_class(tmp_path: Path) -> None:
    """In the shares that they have in all training images, to one image, and at least one."""
    labels = np.repeat(np.arange(4), (400, 300, 290, 10))
    whole = data.load(saved(tmp_path, **{**arrays(train=1_000), "y_train": labels}))
    each = np.bincount(whole.train.labels)
    for count in (4, 7, 50, 333, 899):
        found = np.bincount(whole.sampled(count, seed=2).train.labels, minlength=4)
        assert found.sum() == count
        assert (np.abs(found - np.maximum(1, count * each / each.sum())) <= 1.001).all()
        assert found.min() >= 1


def test_the_seed_decides_the_sample_and_more_images_are_more_of_the_same(tmp_path: Path) -> None:
    whole = data.load(saved(tmp_path, **arrays(train=400)))
    small, again, large, other = (whole.sampled(count, seed) for count, seed in ((40, 5), (40, 5), (80, 5), (40, 6)))
    assert pixels(small.train) == pixels(again.train) < pixels(large.train)
    assert small.checksum == again.checksum
    assert len(pixels(small.train) & pixels(other.train)) < 20


@pytest.mark.parametrize("limit", [0, -1])
def test_a_train_limit_below_one_is_refused(tmp_path: Path, limit: int) -> None:
    with pytest.raises(InputError, match=f"train limit of {limit}"):
        data.load(saved(tmp_path)).sampled(limit, seed=0)


@pytest.mark.parametrize("limit", [None, 7])
def test_mean_and_std_are_of_the_training_images_used(tmp_path: Path, limit: int | None) -> None:
    # more than the thousand images that are counted at a time
    loaded = data.load(saved(tmp_path, **arrays((3, 8, 8), train=2_500))).sampled(limit, seed=0)
    scaled = loaded.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(loaded.mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(loaded.std, scaled.std(axis=(0, 2, 3)), rtol=1e-12)
    assert len(loaded.mean) == len(loaded.std) == 3


def test_the_checksum_tells_data_apart(tmp_path: Path) -> None:
    first = data.load(saved(tmp_path)).checksum
    assert len(first) == 64
    assert data.load(saved(tmp_path, "copy.npz")).checksum == first
    for key in ARRAY_NAMES:
        changed = arrays()[key].copy()
        changed.flat[:2] = changed.flat[:2][::-1] if key.startswith("y") else ~changed.flat[:2]
        assert data.load(saved(tmp_path, "changed.npz", **{key: changed})).checksum != first, key
    whole = data.load(saved(tmp_path))
    samples = [whole.sampled(10, seed).checksum for seed in range(3)]
    assert len({first, *samples}) == 4
    assert [whole.sampled(count, 1).checksum for count in (None, 36, 99)] == [first] * 3


def test_padding_puts_black_around_the_images(tmp_path: Path) -> None:
    loaded = data.load(saved(tmp_path, **arrays((8, 11))))
    padded = loaded.padded(11, 11)
    assert padded.input_shape == (1, 11, 11)
    np.testing.assert_array_equal(padded.test.images[:, :, 1:9], loaded.test.images)
    assert not padded.test.images[:, :, [0, 9, 10]].any()
    assert padded.train.images.shape[2:] == padded.validation.images.shape[2:] == (11, 11)
    assert (padded.mean, padded.std, padded.checksum) == (loaded.mean, loaded.std, loaded.checksum)
    assert padded.train.images.dtype == np.uint8
    assert padded.padded(11, 11) is padded
    assert loaded.padded(8, 8) is loaded
    assert loaded.padded(10, 11).input_shape == (1, 10, 11)
    assert loaded.padded(8, 13).input_shape == (1, 8, 13)


# .npz files


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_may_come_first_or_last(tmp_path: Path, channels: int) -> None:
    first = arrays((channels, 8, 9))
    last = {key: array.transpose(0, 2, 3, 1) if array.ndim == 4 else array for key, array in first.items()}
    for content in (first, last):
        loaded = data.load(saved(tmp_path, **content))
        assert loaded.input_shape == (channels, 8, 9)
        np.testing.assert_array_equal(loaded.test.images, first["x_test"])
        for split in (loaded.train, loaded.validation, loaded.test):
            assert split.images.flags.c_contiguous
            assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)


def test_where_both_ends_could_be_channels_the_last_is(tmp_path: Path) -> None:
    content = arrays((3, 8, 3))
    loaded = data.load(saved(tmp_path, **content))
    assert loaded.input_shape == (3, 3, 8)
    np.testing.assert_array_equal(loaded.test.images, content["x_test"].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.uint64])
def test_labels_may_be_any_integers_and_a_column(tmp_path: Path, kind: type) -> None:
    content = arrays()
    columns = {key: content[key].astype(kind)[:, None] for key in ("y_train", "y_test")}
    np.testing.assert_array_equal(data.load(saved(tmp_path, **columns)).test.labels, content["y_test"])


def test_labels_may_be_true_and_false(tmp_path: Path) -> None:
    flags = {"y_train": np.arange(40) % 2 == 1, "y_test": np.arange(12) % 2 == 1}
    found = data.load(saved(tmp_path, **flags))
    assert found.classes == ("0", "1")
    assert found.test.labels.tolist() == [0, 1] * 6


UNUSABLE = {
    "one key missing": ({"y_test": None}, "has no y_test"),
    "floats that are neither": ({"x_train": arrays()["x_train"] / 200}, "numbers from 0 to 1.275 that are not whole"),
    "floats below 0": ({"x_train": arrays()["x_train"] / 255 - 0.5}, "numbers from -0.5 to 0.5, expected uint8"),
    "whole numbers beyond 255": ({"x_test": np.full((12, 8, 8), 256)}, "x_test has numbers from 256 to 256"),
    "not a number": ({"x_train": np.full((40, 8, 8), np.nan)}, "x_train has numbers that are not finite"),
    "infinite": ({"x_test": np.full((12, 8, 8), -np.inf, np.float32)}, "x_test has numbers that are not finite"),
    "two scales": (
        {"x_train": arrays()["x_train"] / 255, "x_test": arrays()["x_test"] * 1.0},
        "x_train goes up to 1, x_test up to 255: expected one scale",
    ),
    "complex images": ({"x_train": np.zeros((40, 8, 8), complex)}, "x_train is complex128, expected uint8"),
    "flat images": ({"x_train": np.zeros((40, 64), np.uint8)}, "x_train has shape (40, 64)"),
    "two channels": ({"x_test": np.zeros((12, 2, 8, 8), np.uint8)}, "x_test has shape (12, 2, 8, 8)"),
    "no images": ({"x_test": np.zeros((0, 8, 8), np.uint8)}, "x_test is empty"),
    "no labels": ({"y_test": np.zeros(0, np.int64)}, "y_test is empty"),
    "float labels": ({"y_train": np.zeros(40)}, "y_train is float64"),
    "one-hot labels": ({"y_train": np.zeros((40, 4), np.int64)}, "y_train is int64 of shape (40, 4)"),
    "negative labels": ({"y_train": np.arange(40) - 1}, "y_train has labels from -1"),
    "labels beyond int64": ({"y_test": np.full(12, 2**63, np.uint64)}, "y_test has labels from 9223372036854775808"),
    "labels with gaps": ({"y_train": np.arange(40) * 1_000}, "expected every label from 0 to the number of classes"),
    "labels from 1": (
        {"y_train": np.arange(40) % 10 + 1, "y_test": np.arange(12) % 10 + 1},
        "y_train has labels from 1 to 10, expected labels that start at 0: subtract 1 from each",
    ),
    "a gap": ({"y_train": np.where(np.arange(40) % 4 == 2, 0, np.arange(40) % 4)}, "y_train has no label 2: expected"),
    "fewer names": ({"classes": np.array(["a", "b", "c"])}, "y_train has label 3, but classes names 3"),
    "more names": ({"classes": np.array(list("abcde"))}, "y_train has no label 4, which is 'e'"),
    "a name twice": ({"classes": np.array(list("abca"))}, "two classes have the name 'a'"),
    "an empty name": ({"classes": np.array(["a", " ", "c", "d"])}, "class ' ' has a name that cannot be used"),
    "a name of two lines": ({"classes": np.array(["a\nb", "b", "c", "d"])}, r"class 'a\nb' has a name that cannot"),
    "a table of names": ({"classes": np.array([["a", "b", "c", "d"]])}, "classes is <U1 of shape (1, 4)"),
    "names that are no text": ({"classes": np.zeros(4)}, "classes is float64 of shape (4,), expected names"),
    "names in another code": ({"classes": np.array([b"\xff", b"b", b"c", b"d"])}, "names that are not in UTF-8"),
    "one class": ({"y_train": np.zeros(40, np.int64)}, "at least 2 classes"),
    "unknown class in the test": ({"y_test": np.full(12, 9)}, "y_test has label 9"),
    "fewer labels": ({"y_train": np.arange(39) % 4}, "40 images in x_train but 39 labels"),
    "other test images": ({"x_test": np.zeros((12, 9, 9), np.uint8)}, "those of x_test (1, 9, 9)"),
    "one training image": ({"x_train": np.zeros((1, 8, 8), np.uint8), "y_train": np.ones(1, int)}, "at least 2 train"),
    "constant images": ({"x_train": np.full((40, 8, 8), 9, np.uint8)}, "all pixels of a channel"),
    "objects": ({"y_test": np.array([{}] * 12, object)}, "y_test holds Python objects, which are not unpickled"),
    "names that are objects": ({"classes": np.array(list("abcd"), object)}, "classes holds Python objects, which are"),
}


@pytest.mark.parametrize(("changes", "problem"), UNUSABLE.values(), ids=UNUSABLE)
def test_arrays_that_cannot_be_used_are_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = saved(tmp_path, **changes)
    with pytest.raises(InputError) as error:
        data.load(path)
    assert path in str(error.value)
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_arrays_that_do_not_fit_the_memory_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    monkeypatch.setattr(npz, "available_memory", lambda: 3_000)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(InputError, match=r"mine\.npz: its arrays take 0\.0 GB of memory, 0\.0 GB are available"):
        npz.read_arrays(Path(path), ARRAY_NAMES)


def test_what_unfolds_to_far_more_than_its_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    blank = {**arrays((100, 100), train=200), "x_train": np.zeros((200, 100, 100), np.uint8)}
    np.savez_compressed(path, **blank)
    read_arrays = npz.read_arrays(path, ["x_train"])  # two megabytes are no danger
    assert read_arrays["x_train"].shape == (200, 100, 100)
    monkeypatch.setattr(npz, "_LARGE", 10**6)
    with pytest.raises(InputError, match=r"bomb\.npz: x_train is .* MB that unpack to .* GB, far more than images do"):
        data.load(str(path))
    np.savez(path, **blank)
    assert npz.read_arrays(path, ["x_train"])["x_train"].shape == (200, 100, 100)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_are_shares_of_255(tmp_path: Path, kind: type) -> None:
    content = arrays()
    shares = {key: (content[key] / 255).astype(kind) for key in ("x_train", "x_test")}
    loaded, plain = data.load(saved(tmp_path, "shares.npz", **shares)), data.load(saved(tmp_path))
    assert loaded.checksum == plain.checksum
    np.testing.assert_array_equal(loaded.test.images, plain.test.images)


@pytest.mark.parametrize("kind", [np.float32, np.int64, np.uint16, np.int8])
def test_whole_numbers_of_any_kind_are_pixels(tmp_path: Path, kind: type) -> None:
    content = {key: array % 128 if key.startswith("x") else array for key, array in arrays().items()}
    others = {key: content[key].astype(kind) for key in ("x_train", "x_test")}
    plain = data.load(saved(tmp_path, **content))
    assert data.load(saved(tmp_path, "others.npz", **others)).checksum == plain.checksum


@pytest.mark.parametrize("names", [["cat", "dog", "élan", "=1+1"], [b"cat", b"dog", "élan".encode(), b"=1+1"]])
def test_names_of_classes_come_with_an_npz_and_are_part_of_its_checksum(tmp_path: Path, names: list) -> None:
    loaded = data.load(saved(tmp_path, classes=np.array(names)))
    assert loaded.classes == ("cat", "dog", "élan", "=1+1")
    assert loaded.own_shape == (1, 8, 8)
    checksums = {loaded.checksum, data.load(saved(tmp_path)).checksum}
    checksums.add(data.load(saved(tmp_path, classes=np.array(["cat", "dog", "elk", "=1+1"]))).checksum)
    assert len(checksums) == 3


def test_numbers_may_name_classes(tmp_path: Path) -> None:
    assert data.load(saved(tmp_path, classes=np.array([10, 20, 30, 40]))).classes == ("10", "20", "30", "40")


def _npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, arrays()["x_train"])


def _raw_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for key in ARRAY_NAMES:
            archive.writestr(key, "no array")


def _damaged(path: Path) -> None:
    content = bytearray(Path(saved(path.parent, "whole.npz")).read_bytes())
    content[500] ^= 0xFF  # a pixel of x_train: the archive's CRC no longer fits
    path.write_bytes(content)


def _head_that_lies(path: Path) -> None:
    arrays_in = arrays()
    with zipfile.ZipFile(path, "w") as archive:
        for name in ARRAY_NAMES:
            content = io.BytesIO()
            np.save(content, arrays_in[name])
            whole = content.getvalue()
            if name == "x_train":
                whole = whole.replace(b"(40, 8, 8)", b"(80, 8, 8)")
            archive.writestr(f"{name}.npy", whole)


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "text": (lambda path: path.write_text("hello"), "not a zip archive"),
    "empty": (lambda path: path.write_bytes(b""), "not a zip archive"),
    "half": (lambda path: path.write_bytes(Path(saved(path.parent)).read_bytes()[:2_000]), "not a zip archive"),
    "a single array": (_npy, "not a zip archive"),
    "members that are no arrays": (_raw_members, "x_train is not an array"),
    "damaged": (_damaged, "Bad CRC-32"),
    "a head that lies": (_head_that_lies, "x_train.npy is 2,688 bytes, its header says 5,248"),
    "a folder": (Path.mkdir, "not a file, but a folder"),
    "nothing": (lambda path: None, "no such file"),
}


@pytest.mark.parametrize(("make", "problem"), BROKEN.values(), ids=BROKEN)
def test_files_that_are_no_npz_are_named(tmp_path: Path, make: Callable[[Path], Any], problem: str) -> None:
    path = tmp_path / "broken.npz"
    make(path)
    with pytest.raises(InputError) as error:
        data.load(str(path))
    assert str(path) in str(error.value)
    assert problem in str(error.value)
    assert "pickle" not in str(error.value)  # NumPy's advice is to load it unsafely


# names


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("MNIST", "mnist"),
        ("FMNIST", "fmnist"),
        ("fashion-mnist", "fmnist"),
        ("FashionMNIST", "fmnist"),
        ("CIFAR-10", "cifar10"),
        ("Digits", "digits"),
        ("some/Where.npz", "some/Where.npz"),
    ],
)
def test_names_are_known_as_people_write_them(written: str, name: str) -> None:
    assert canonical_name(written) == name


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError) as error:
        canonical_name("imagenet")
    assert all(name in str(error.value) for name in (*DATASETS, "FILE.npz"))


def test_the_data_folder_is_the_variables_or_the_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ONNXPRUNE_DATA", str(tmp_path))
    assert download.default_data_dir() == tmp_path
    monkeypatch.delenv("ONNXPRUNE_DATA")
    assert download.default_data_dir().name == "data"
    assert "onnxprune" in download.default_data_dir().parts


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_dataset_says_what_it_is(name: str) -> None:
    info = DATASETS[name]
    assert info.title
    assert len(info.shape) == 3
    assert len(set(info.classes)) == len(info.classes) >= 2
    assert bool(info.folder) == bool(info.torchvision_name)  # needs files exactly if they can be downloaded


# digits


def test_digits_are_real_and_enlarged(tmp_path: Path) -> None:
    loaded = data.load("digits", tmp_path / "not there")
    assert loaded.input_shape == DATASETS["digits"].shape == (1, 28, 28)
    assert len(loaded.train) == DATASETS["digits"].train_images
    assert len(loaded.train) + len(loaded.validation) + len(loaded.test) == 1_797
    assert len(loaded.test) == 360
    assert set(np.bincount(loaded.test.labels)) <= {34, 35, 36, 37, 38}  # a fifth of every class
    assert loaded.train.images.max() == 255
    assert loaded.checksum == data.load("digits").checksum
    # shrunk again, they are still the digits of scikit-learn: the nearest mean image of a class finds most labels
    means = np.stack([loaded.train.images[loaded.train.labels == label].mean(0) for label in range(10)])
    distances = ((loaded.test.images[:, None] - means) ** 2).sum(axis=(2, 3, 4))
    assert (distances.argmin(1) == loaded.test.labels).mean() > 0.85
    assert not (tmp_path / "not there").exists()


def test_reading_files_imports_no_torch(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST/raw", arrays((28, 28)))
    names = ["digits", "mnist", saved(tmp_path)]
    code = (
        "import sys; from onnxprune.data import dataset as data\n"
        "assert not {'sklearn', 'PIL'} & set(sys.modules)\n"
        f"for name in {names!r}: data.load(name)\n"
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "ONNXPRUNE_DATA": str(tmp_path)})


# torchvision's files


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fmnist", "FashionMNIST")])
def test_unpacked_idx_files_are_read(tmp_path: Path, name: str, folder: str) -> None:
    content = arrays((28, 28))
    write_idx(tmp_path / folder / "raw", content)
    loaded = data.load(name, tmp_path)
    assert (loaded.name, loaded.classes) == (name, DATASETS[name].classes)
    np.testing.assert_array_equal(loaded.test.images[:, 0], content["x_test"])
    np.testing.assert_array_equal(loaded.test.labels, content["y_test"])
    assert pixels(loaded.train) < {image.tobytes() for image in content["x_train"]}


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "cut short": (IDX_NAMES[0], lambda content: content[:-1]),
    "too long": (IDX_NAMES[1], lambda content: content + b"\0"),
    "empty": (IDX_NAMES[2], lambda content: b""),
    "shorter than its header": (IDX_NAMES[2], lambda content: content[:7]),
    "other magic": (IDX_NAMES[3], lambda content: b"\0\0\x0d\x01" + content[4:]),
    "images as labels": (IDX_NAMES[3], lambda content: idx_file(arrays((28, 28))["x_test"])),
    "lengths beyond int64": (IDX_NAMES[2], lambda content: content[:4] + b"\x80\0\0\0" * 3),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_corrupt_idx_files_are_named(tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    path = write_idx(tmp_path / "MNIST/raw", arrays((28, 28)))[name]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"corrupt.*delete it") as error:
        data.load("mnist", tmp_path)
    assert str(path) in str(error.value)


def test_packed_idx_files_need_their_md5(tmp_path: Path) -> None:
    files = write_idx(tmp_path / "MNIST/raw", arrays((28, 28)))
    packed = files[IDX_NAMES[2]].with_suffix(".gz")
    packed.write_bytes(gzip.compress(files[IDX_NAMES[2]].read_bytes()))  # a sound IDX file, but not MNIST's
    with pytest.raises(InputError, match=r"MD5.*delete it") as error:
        data.load("mnist", tmp_path)
    assert str(packed) in str(error.value)


def test_packed_idx_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = arrays((28, 28))
    checksums = {}
    for name, path in write_idx(tmp_path / "MNIST/raw", content).items():
        packed = gzip.compress(path.read_bytes())
        path.with_name(name + ".gz").write_bytes(packed)
        path.unlink()
        checksums[name] = hashlib.md5(packed).hexdigest()
    info = dataclasses.replace(DATASETS["mnist"], read=idx._reader(checksums))
    monkeypatch.setitem(DATASETS._entries, "mnist", info)
    np.testing.assert_array_equal(data.load("mnist", tmp_path).test.images[:, 0], content["x_test"])


def test_the_md5s_are_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = vision.torchvision_module().datasets
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(idx, "_read_idx", lambda path, checksum: asked.append((path.name + ".gz", checksum)))
    for name in ("mnist", "fmnist"):
        asked.clear()
        DATASETS[name].read(tmp_path)
        assert asked == getattr(datasets, DATASETS[name].torchvision_name).resources
    assert DATASETS["cifar10"].folder == datasets.CIFAR10.base_folder


def test_an_npz_stands_in_for_torchvisions_files(tmp_path: Path) -> None:
    saved(tmp_path, "cifar10.npz", **arrays((32, 32, 3), classes=10))
    loaded = data.load("CIFAR-10", tmp_path)
    assert (loaded.name, loaded.input_shape, loaded.classes[0]) == ("cifar10", (3, 32, 32), "airplane")


def test_torchvisions_files_come_before_an_npz(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST/raw", arrays((28, 28), test=9))
    saved(tmp_path, "mnist.npz", **arrays((28, 28), test=5))
    assert len(data.load("mnist", tmp_path).test) == 9


@pytest.mark.parametrize(
    ("content", "problem"),
    [(arrays((8, 8)), r"images are \(1, 8, 8\).*MNIST"), (arrays((28, 28), classes=11), "go up to 10.*MNIST")],
)
def test_other_data_under_a_datasets_name_is_refused(tmp_path: Path, content: dict[str, Any], problem: str) -> None:
    path = saved(tmp_path, "mnist.npz", **content)
    with pytest.raises(InputError, match=problem) as error:
        data.load("mnist", tmp_path)
    assert path in str(error.value)


def write_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Small CIFAR-10 batches as torchvision reads them, and their MD5s told to torchvision."""
    cifar10 = vision.torchvision_module().datasets.CIFAR10
    content = arrays((3, 32, 32), train=50, test=10, classes=10)
    folder.mkdir()
    batches: dict[str, Any] = {"batches.meta": {"label_names": ["unused"]}}
    for index in range(5):
        part = slice(10 * index, 10 * index + 10)
        flat = content["x_train"][part].reshape(10, -1)
        batches[f"data_batch_{index + 1}"] = {"data": flat, "labels": content["y_train"][part].tolist()}
    batches["test_batch"] = {"data": content["x_test"].reshape(10, -1), "labels": content["y_test"].tolist()}
    md5 = {}
    for name, batch in batches.items():
        (folder / name).write_bytes(pickle.dumps(batch))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "train_list", [[f"data_batch_{i}", md5[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(cifar10, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(cifar10, "meta", {**cifar10.meta, "md5": md5["batches.meta"]})
    return content


def test_cifar10_batches_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write_cifar10(tmp_path / "cifar-10-batches-py", monkeypatch)
    loaded = data.load("cifar10", tmp_path)
    np.testing.assert_array_equal(loaded.test.images, content["x_test"])
    np.testing.assert_array_equal(loaded.test.labels, content["y_test"])
    assert (len(loaded.train), len(loaded.validation)) == (45, 5)
    assert loaded.classes == DATASETS["cifar10"].classes


def test_cifar100_is_read_with_its_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar100 = vision.torchvision_module().datasets.CIFAR100
    content = arrays((3, 32, 32), train=200, test=100, classes=100)
    folder = tmp_path / DATASETS["cifar100"].folder
    assert folder.name == cifar100.base_folder
    folder.mkdir()
    md5 = {}
    for name, part in (("train", "train"), ("test", "test"), ("meta", None)):
        batch: dict[str, Any] = {"fine_label_names": ["unused"]}
        if part:
            fine = content[f"y_{part}"].tolist()
            flat = content[f"x_{part}"].reshape(len(fine), -1)
            batch = {"data": flat, "fine_labels": fine, "coarse_labels": [label // 5 for label in fine]}
        (folder / name).write_bytes(pickle.dumps(batch))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(cifar100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(cifar100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(cifar100, "meta", {**cifar100.meta, "md5": md5["meta"]})
    loaded = data.load("CIFAR-100", tmp_path)
    np.testing.assert_array_equal(loaded.test.images, content["x_test"])
    np.testing.assert_array_equal(loaded.test.labels, content["y_test"])
    assert (loaded.classes[0], loaded.classes[-1], len(set(loaded.classes))) == ("apple", "worm", 100)


class _Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_corrupt_cifar10_batches_are_refused_before_they_are_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar10(folder, monkeypatch)
    (folder / "data_batch_3").write_bytes(pickle.dumps(_Bomb(tmp_path / "exploded")))
    with pytest.raises(InputError, match=r"corrupt.*delete it") as error:
        data.load("cifar10", tmp_path)
    assert str(folder) in str(error.value)
    assert not (tmp_path / "exploded").exists()


# downloads


@pytest.mark.parametrize(
    "failure",
    [urllib.error.URLError("no network"), TimeoutError("no network"), http.client.IncompleteRead(b"", 9)],
    ids=["no name", "timeout", "cut off"],
)
@pytest.mark.parametrize("name", ["mnist", "fmnist", "cifar10"])
def test_a_failed_download_says_what_to_do_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    failure: Exception,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    folder = tmp_path / "new" / "data"
    with pytest.raises(InputError) as error:
        data.load(name, folder)
    message = str(error.value)
    wanted = (str(folder / DATASETS[name].folder), f"{name}.npz", "--dataset digits", str(failure))
    assert all(part in message for part in wanted), message
    assert "\n" not in message
    assert not (tmp_path / "new").exists()
    assert capfd.readouterr().out == ""


def torchvision_that_downloads(content: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    class Mnist:
        mirrors = ("http://nowhere.example/",)

        def __init__(self, root: str, download: bool) -> None:
            assert download
            assert self.mirrors
            assert all(mirror.startswith("https://") for mirror in self.mirrors)
            print("chatter")  # noqa: T201
            write_idx(Path(root) / "MNIST/raw", content)

    fake = SimpleNamespace(datasets=SimpleNamespace(MNIST=Mnist))
    monkeypatch.setattr(vision, "torchvision_module", lambda: fake)


def test_what_torchvision_downloads_without_https_has_other_mirrors() -> None:
    for _, info in DATASETS.items():
        if info.torchvision_name:
            kind = getattr(vision.torchvision_module().datasets, info.torchvision_name)
            addresses = info.mirrors or getattr(kind, "mirrors", None) or [kind.url]
            assert all(address.startswith("https://") for address in addresses)


def test_a_damaged_dataset_in_the_cache_is_set_aside_and_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ONNXPRUNE_DATA", raising=False)
    monkeypatch.setattr(download.platformdirs, "user_cache_path", lambda _: tmp_path)
    folder = download.default_data_dir() / "MNIST/raw"
    write_idx(folder, arrays((28, 28)))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"damaged")
    torchvision_that_downloads(arrays((28, 28)), monkeypatch)
    assert len(data.load("mnist").test) == 12
    assert (folder.parent / "raw.damaged-1/t10k-labels-idx1-ubyte").read_bytes() == b"damaged"
    message = capsys.readouterr().err
    assert "t10k-labels-idx1-ubyte is corrupt" in message
    assert "raw.damaged-1, downloaded again" in message


def test_a_download_is_kept_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torchvision_that_downloads(arrays((28, 28)), monkeypatch)
    assert len(data.load("mnist", tmp_path / "new").test) == 12
    assert capsys.readouterr().out == ""
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["MNIST"]  # no temporary folder either
    monkeypatch.setattr(download, "_download", None)
    assert len(data.load("mnist", tmp_path / "new").test) == 12


def test_a_download_completes_a_folder_and_replaces_nothing_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_idx(tmp_path / "MNIST/raw", arrays((28, 28)))
    files[IDX_NAMES[0]].unlink()
    (tmp_path / "MNIST/notes.txt").write_text("mine")
    before = files[IDX_NAMES[2]].stat().st_ino
    torchvision_that_downloads(arrays((28, 28)), monkeypatch)
    assert len(data.load("mnist", tmp_path).train) == 36
    assert (tmp_path / "MNIST/notes.txt").read_text() == "mine"
    assert files[IDX_NAMES[2]].stat().st_ino == before


# the real data


@pytest.mark.data
@pytest.mark.skipif("ONNXPRUNE_DATA" not in os.environ, reason="ONNXPRUNE_DATA names no folder of datasets")
@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("mnist", (0.1307,), (0.3081,)),
        ("fmnist", (0.2860,), (0.3530,)),
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ],
)
def test_the_real_datasets(name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    loaded, info = data.load(name), DATASETS[name]
    assert loaded.input_shape == info.shape
    assert len(loaded.train) == loaded.available_train == info.train_images
    assert len(loaded.validation) == 5_000
    # a copy of CIFAR-10 in use lacks 23 test images: figures from it are of 9,977 of 10,000
    assert len(loaded.test) in ((10_000, 9_977) if name == "cifar10" else (10_000,))
    # the literature's numbers are over training and validation images together
    np.testing.assert_allclose(loaded.mean, mean, atol=2e-3)
    np.testing.assert_allclose(loaded.std, std, atol=2e-3)
    for split in (loaded.train, loaded.validation, loaded.test):
        assert len(split.images) == len(split.labels)
        assert set(split.labels) == set(range(10))


def test_images_without_labels_are_a_dataset_too(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (60, 6, 5), np.uint8)
    np.savez(tmp_path / "images.npz", x_train=pictures[:40], x_test=pictures[40:])
    found = data.load(str(tmp_path / "images.npz"))
    assert not found.labelled and found.classes == ()
    assert (len(found.train), len(found.validation), len(found.test)) == (36, 4, 20)
    np.testing.assert_array_equal(found.test.images[:, 0], pictures[40:])
    few = found.sampled(10, 3)
    assert len(few.train) == 10 and few.checksum != found.checksum
    np.savez(tmp_path / "labelled.npz", x_train=pictures[:40], x_test=pictures[40:], y_train=np.arange(40) % 2)
    with pytest.raises(InputError, match=r"has no y_test: expected the arrays .*, or the images alone"):
        data.load(str(tmp_path / "labelled.npz"))


def test_some_of_a_split_are_of_all_its_classes_in_their_order_and_always_the_same() -> None:
    labels = np.repeat(np.arange(10), 50)
    split = data.Split(np.arange(500, dtype=np.uint8).reshape(-1, 1, 1, 1), labels)
    few = split.some(100)
    assert len(few) == 100
    assert (np.diff(few.labels) >= 0).all()
    assert np.bincount(few.labels, minlength=10).min() >= 3
    assert (few.images == split.some(100).images).all()
    assert set(split.some(50).images.ravel()) <= set(few.images.ravel())
    assert split.some(None) is split and split.some(500) is split


def test_images_that_are_no_array_of_images_are_refused_without_labels_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x_train=np.uint8(3), x_test=np.uint8(3))
    with pytest.raises(InputError, match="x_train"):
        data.load(str(tmp_path / "mine.npz"))
