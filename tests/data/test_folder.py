"""Folders of pictures: what is read and how it is split, what is kept, and what is said of what cannot be used."""

import hashlib
import os
import re
import shutil
import struct
import threading
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from photos import photos, picture
from PIL import Image

from onnxprune.common.errors import InputError, StorageError
from onnxprune.common.progress import Verbosity
from onnxprune.data import cache, collection, dataset, pictures
from onnxprune.data.registry import DATASETS, canonical_name


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept" / "pictures"


def loaded(path: Path, **how: Any) -> dataset.Dataset:
    return dataset.load(str(path), **how)


def problem(path: Path, **how: Any) -> str:
    with pytest.raises(InputError) as error:
        loaded(path, **how)
    text = str(error.value)
    assert text.startswith(str(path))
    assert text.isprintable(), "one line"
    return text


def told(path: Path, capsys: pytest.CaptureFixture[str], **how: Any) -> str:
    capsys.readouterr()
    loaded(path, verbosity=Verbosity.NORMAL, **how)
    return capsys.readouterr().err


def rows(split: dataset.Split) -> set[bytes]:
    return {image.tobytes() for image in split.images}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# what is read, and how it is split


def test_classes_are_the_folders_in_order_and_every_picture_is_in_one_split(tmp_path: Path) -> None:
    path = photos(tmp_path / "pets", ("dog", "cat", "élan"))
    found = loaded(path)
    assert (found.name, found.classes, found.input_shape) == ("pets", ("cat", "dog", "élan"), (3, 8, 8))
    splits = (found.train, found.validation, found.test)
    assert sum(map(len, splits)) == len(set().union(*map(rows, splits))) == 60
    for split in splits:
        for image, label in zip(split.images, split.labels, strict=True):
            there = [name for name in found.classes for file in (path / name).iterdir() if same(file, image)]
            assert there == [found.classes[label]]


def same(file: Path, image: np.ndarray) -> bool:
    return np.array_equal(np.asarray(Image.open(file)).transpose(2, 0, 1), image)


def test_a_fifth_is_the_test_set_by_the_content_of_the_files(tmp_path: Path) -> None:
    path = photos(tmp_path / "pets", count=150)
    found = loaded(path)
    chosen = [file for file in path.rglob("*.png") if int(digest(file)[:16], 16) < 0.2 * 2**64]
    assert rows(found.test) == {np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes() for file in chosen}
    assert 40 < len(found.test) < 80


def test_names_dates_and_places_of_the_files_have_no_say(tmp_path: Path) -> None:
    first = photos(tmp_path / "pets")
    other = tmp_path / "other"
    for number, file in enumerate(sorted(first.rglob("*.png"), reverse=True)):
        place = other / file.parent.name / ("deeper" if number % 2 else ".")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place / f"{number}.jpeg")  # what is in it decides, not its name
        os.utime(place / f"{number}.jpeg", (number, number))
    assert loaded(other).checksum == loaded(first).checksum


def test_a_picture_stays_in_its_split_when_others_come(tmp_path: Path) -> None:
    path = photos(tmp_path / "pets")
    before = rows(loaded(path).test)
    photos(tmp_path / "more", first=100)
    for file in (tmp_path / "more").rglob("*.png"):
        shutil.copy(file, path / file.parent.name / f"more{file.name}")
    after = loaded(path)
    assert before < rows(after.test)
    assert not before & (rows(after.train) | rows(after.validation))


def test_classes_are_mixed_for_a_limit_of_training_images(tmp_path: Path) -> None:
    found = loaded(photos(tmp_path / "pets", count=60)).sampled(20, seed=0)
    assert (len(found.train), set(found.train.labels)) == (20, {0, 1})
    assert found.available_train > 20


def test_train_and_test_may_be_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(tmp_path / "pets/train", count=10)
    photos(tmp_path / "pets/test", count=4, first=500)
    photos(tmp_path / "pets/val", count=1, first=700)
    found = loaded(tmp_path / "pets")
    assert (len(found.train) + len(found.validation), len(found.test)) == (20, 8)
    expected = {
        np.asarray(picture(seed)).transpose(2, 0, 1).tobytes() for seed in (*range(500, 504), *range(1500, 1504))
    }
    assert rows(found.test) == expected
    text = told(tmp_path / "pets", capsys)
    assert "20 for training and validation, 8 for testing (as given), 8x8, RGB" in text
    assert "pets: ignored: 1 beside train/ and test/" in text


def test_pictures_in_no_folder_of_a_class_have_no_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(tmp_path / "pets/train", ("here",), count=10)
    photos(tmp_path / "pets/test", ("here",), count=4, first=500)
    for split in ("train", "test"):
        for file in (tmp_path / "pets" / split / "here").iterdir():
            file.rename(tmp_path / "pets" / split / file.name)
        (tmp_path / "pets" / split / "here").rmdir()
    found = loaded(tmp_path / "pets")
    assert not found.labelled and not found.train.labels.any()
    assert (len(found.train) + len(found.validation), len(found.test)) == (10, 4)
    assert "pets: 14 pictures without labels, 10 for training and validation, 4 for testing" in told(
        tmp_path / "pets", capsys
    )
    alone = loaded((tmp_path / "pets/train").rename(tmp_path / "alone"))
    assert not alone.labelled
    assert len(alone.train) + len(alone.validation) + len(alone.test) == 10


@pytest.mark.parametrize(
    ("change", "words"),
    {
        "no test pictures": (lambda path: (path / "test/one.png").unlink(), "test/ has no pictures"),
        "a few": (lambda path: shutil.rmtree(path / "test"), "set, which gets about"),
    }.values(),
)
def test_pictures_without_labels_must_be_in_both_sets(
    tmp_path: Path, change: Callable[[Path], Any], words: str
) -> None:
    for split in ("train", "test"):
        (tmp_path / "few" / split).mkdir(parents=True)
        picture(1).save(tmp_path / "few" / split / "one.png")
    change(tmp_path / "few")
    if not (tmp_path / "few/test").exists():
        (tmp_path / "few/train/one.png").rename(tmp_path / "few/one.png")
        (tmp_path / "few/train").rmdir()
    assert words in problem(tmp_path / "few")


def test_links_to_files_are_pictures_and_to_folders_classes_at_most(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = photos(tmp_path / "pets")
    before = loaded(path).checksum
    (path / "cat").rename(tmp_path / "elsewhere")
    (path / "cat").symlink_to(tmp_path / "elsewhere")
    (path / "dog/000.png").rename(tmp_path / "dog.png")
    (path / "dog/000.png").symlink_to(tmp_path / "dog.png")
    (path / "dog/round").symlink_to(path)
    (path / "dog/itself").symlink_to(path / "dog")
    assert loaded(path).checksum == before
    assert "ignored: 2 reached by a link to a folder" in told(path, capsys)


def test_what_is_ignored_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = photos(tmp_path / "pets")
    for name in (
        "cat/notes.txt",
        "cat/more.TXT",
        "dog/.hidden.png",
        "dog/README",
        "labels.csv",
        ".git/x.png",
        "__MACOSX/a.png",
    ):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("nothing")
    text = told(path, capsys)
    assert "pets: 40 pictures of 2 classes" in text
    for words in (
        "3 hidden",
        "2 not pictures (.txt)",
        "1 not pictures (without a suffix)",
        "1 beside the folders of classes",
    ):
        assert words in text
    assert told(path, capsys) == ""  # once is enough
    assert "reading" not in text


def test_nothing_is_said_to_those_who_want_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded(photos(tmp_path / "pets"))
    assert capsys.readouterr() == ("", "")


def test_pictures_that_are_there_twice_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(tmp_path / "twice/train", count=10)
    photos(tmp_path / "twice/test", count=4, first=8)  # 8 and 9 of each class are in train too
    assert "Note: twice: 4 test pictures are also training pictures" in told(tmp_path / "twice", capsys)
    path = photos(tmp_path / "mixed")
    for number in range(3):
        shutil.copy(path / f"cat/00{number}.png", path / f"dog/cat{number}.png")
    assert "Note: mixed: 3 pictures are in several classes" in told(path, capsys)


def test_progress_goes_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    class Stages:
        def __init__(self, verbosity: Verbosity) -> None:
            assert verbosity == Verbosity.VERBOSE

        def __enter__(self) -> Any:
            return lambda *step: steps.append(step)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(collection, "Stages", Stages)
    loaded(photos(tmp_path / "pets"), verbosity=Verbosity.VERBOSE)
    assert steps == [(f"{what} pets", done, 40) for what in ("checking", "reading") for done in range(1, 41)]


# pixels


def test_pixels_are_those_that_predict_reads(tmp_path: Path) -> None:
    path = photos(tmp_path / "pets", size=(10, 14))
    found = loaded(path, size=(6, 5))
    assert found.input_shape == found.own_shape == (3, 6, 5)
    expected = {pictures.read_picture(file, (3, 6, 5))[0].tobytes() for file in path.rglob("*.png")}
    assert rows(found.train) | rows(found.validation) | rows(found.test) == expected


def test_all_grey_is_one_channel_and_one_colour_makes_three(tmp_path: Path) -> None:
    path = photos(tmp_path / "pets", mode="L")
    for file in sorted((path / "dog").iterdir())[:10]:
        Image.open(file).convert("RGB").save(file)  # grey, whatever it is stored as
    grey = loaded(path)
    assert grey.input_shape == (1, 8, 8)
    picture(7).save(path / "dog/colour.png")
    coloured = loaded(path)
    assert coloured.input_shape == (3, 8, 8)
    everything = [image for split in (coloured.train, coloured.validation, coloured.test) for image in split.images]
    assert sum((image == image[:1]).all() for image in everything) == 40
    every_grey = rows(grey.train) | rows(grey.validation) | rows(grey.test)
    assert every_grey <= {image[:1].tobytes() for image in everything}
    assert loaded(path, channels=1).input_shape == (1, 8, 8)
    (path / "dog/colour.png").unlink()
    assert loaded(path, channels=3).input_shape == (3, 8, 8)


def red(**where: int) -> Image.Image:
    return Image.new("RGB", (8, 8), "red")


TRANSPARENT = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
HALF = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
PALETTE = Image.new("RGB", (8, 8), "red").convert("P", palette=Image.Palette.ADAPTIVE)
KINDS: dict[str, tuple[Image.Image, str, dict[str, Any], tuple[int, ...]]] = {
    "palette": (PALETTE, "png", {}, (255, 0, 0)),
    "palette with a transparent colour": (PALETTE, "png", {"transparency": 0}, (255,)),
    "transparent": (TRANSPARENT, "png", {}, (255,)),
    "half": (HALF, "png", {}, (255, 127, 127)),
    "grey with alpha": (Image.new("LA", (8, 8), (0, 0)), "png", {}, (255,)),
    "opaque": (Image.new("RGBA", (8, 8), (1, 2, 3, 255)), "png", {}, (1, 2, 3)),
    "bits": (Image.new("1", (8, 8), 1), "png", {}, (255,)),
    "four colours of ink": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "jpeg", {"quality": 100}, (255, 0, 0)),
    "another format than its name": (Image.new("RGB", (8, 8), "red"), "gif", {}, (255, 0, 0)),
}


def test_a_folder_in_place_of_a_picture_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a file, but a folder or a device"):
        pictures.read_picture(tmp_path, (3, 4, 4))


@pytest.mark.parametrize(("image", "kind", "options", "colour"), KINDS.values(), ids=KINDS)
def test_pictures_look_as_people_see_them_on_white(
    tmp_path: Path, image: Image.Image, kind: str, options: dict[str, Any], colour: tuple[int, ...]
) -> None:
    path = tmp_path / "picture.png"
    image.save(path, kind, **options)
    with pictures.bombs_refused():
        seen = np.asarray(pictures.upright(path.read_bytes())).reshape(64, -1)
    np.testing.assert_allclose(seen, np.tile(colour, (64, 1)), atol=2)
    shaped, size = pictures.read_picture(path, (3, 4, 4))
    np.testing.assert_allclose(shaped[:, 0, 0], np.resize(colour, 3), atol=2)
    assert size == (8, 8)


def test_photos_are_turned_as_their_camera_says(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    path = tmp_path / "pets"
    for label, name in enumerate(("cat", "dog")):
        (path / name).mkdir(parents=True)
        for index in range(20):
            lying = picture(1000 * label + index, (8, 10))
            lying.save(path / name / f"{index}.jpg", exif=turned, quality=95)
    assert loaded(path).input_shape == (3, 10, 8)
    picture(3, (10, 8)).save(path / "cat/standing.png")
    assert loaded(path).input_shape == (3, 10, 8)


def test_sizes_that_differ_are_counted(tmp_path: Path) -> None:
    path = photos(tmp_path / "pets")
    for index, size in enumerate([(8, 9), (8, 9), (9, 8), (5, 5)]):
        picture(5000 + index, size).save(path / f"cat/other{index}.png")
    text = problem(path)
    assert "differ in size (40 of 8x8, 2 of 8x9, 1 of " in text
    assert ", ...; height x width): give --image-size" in text
    assert loaded(path, size=(8, 8)).input_shape == (3, 8, 8)


# what is kept


def nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "upright", lambda _: pytest.fail("it was decoded"))


def test_pixels_are_decoded_once(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photos(tmp_path / "pets")
    before = sorted(path.rglob("*"))
    first = loaded(path)
    assert len(list(kept.iterdir())) == 1
    assert sorted(path.rglob("*")) == before  # nothing is written there
    nothing_is_decoded(monkeypatch)
    again = loaded(path)
    assert again.checksum == first.checksum
    path.rename(tmp_path / "moved")
    (tmp_path / "moved/cat").rename(tmp_path / "moved/a cat")
    renamed = loaded(tmp_path / "moved")
    assert renamed.classes == ("a cat", "dog")
    assert renamed.checksum != first.checksum  # results name the classes
    np.testing.assert_array_equal(renamed.test.images, first.test.images)


@pytest.mark.parametrize("how", [{"size": (4, 4)}, {"channels": 1}])
def test_other_pixels_of_the_same_pictures_are_kept_apart(tmp_path: Path, kept: Path, how: dict[str, Any]) -> None:
    path = photos(tmp_path / "pets")
    first, other = loaded(path), loaded(path, **how)
    assert other.input_shape != first.input_shape
    assert len(list(kept.iterdir())) == 2
    assert loaded(path).checksum == first.checksum


def test_a_changed_folder_is_read_anew(tmp_path: Path) -> None:
    path = photos(tmp_path / "pets")
    checksums = [loaded(path).checksum]
    file = path / "cat/000.png"
    about = file.stat()
    for seed in range(9_000, 9_015):
        picture(seed).save(file)
        assert file.stat().st_size == about.st_size
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))  # nothing but the content tells
        checksums.append(loaded(path).checksum)
    file.rename(path / "dog/moved.png")
    checksums.append(loaded(path).checksum)
    (path / "dog/moved.png").unlink()
    checksums.append(loaded(path).checksum)
    assert len(set(checksums)) == len(checksums) == 18


@pytest.mark.parametrize("damage", [b"", b"PK\x05\x06", None], ids=["empty", "no archive", "a pixel"])
def test_what_was_kept_and_is_damaged_is_made_again(tmp_path: Path, kept: Path, damage: bytes | None) -> None:
    path = photos(tmp_path / "pets")
    first = loaded(path).checksum
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:600] + bytes([whole[600] ^ 1]) + whole[601:] if damage is None else damage)
    assert loaded(path).checksum == first
    assert file.read_bytes() == whole


def test_where_nothing_can_be_kept_work_goes_on(
    tmp_path: Path, kept: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = photos(tmp_path / "pets")
    kept.parent.write_text("no folder")
    assert "Note: pets: its pixels could not be cached: cannot write to" in told(path, capsys)
    kept.parent.unlink()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    loaded(path)
    assert list(kept.iterdir()) == []
    with pytest.raises(StorageError):
        cache.keep("key", {})


def test_what_was_used_last_is_kept(kept: Path) -> None:
    for number in range(12):
        cache.keep(str(number), {"x": np.array([number])})
        os.utime(kept / f"{number}.npz", (number, number))
        if number == 9:
            assert cache.kept("0") is not None  # used now
    assert sorted(int(file.stem) for file in kept.iterdir()) == [0, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def test_what_was_hashed_is_what_is_trained_on(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photos(tmp_path / "pets")
    decoded = collection._decoded

    def changing(*arguments: Any) -> Any:
        picture(4_242).save(path / "dog/003.png")
        return decoded(*arguments)

    monkeypatch.setattr(collection, "_decoded", changing)
    assert "1 of 40 pictures cannot be used (dog/003.png: changed while it was read)" in problem(path)
    assert not kept.exists()


# what cannot be used


def test_damaged_pictures_are_counted_and_the_first_are_named(tmp_path: Path, kept: Path) -> None:
    path = photos(tmp_path / "pets")
    whole = (path / "cat/001.png").read_bytes()
    (path / "cat/001.png").write_bytes(whole[: len(whole) // 2])
    (path / "cat/002.png").write_bytes(whole[:-30] + b"\0" * 30)
    (path / "dog/a\nb.png").write_text("text")
    (path / "dog/broken.png").symlink_to(tmp_path / "nowhere")
    (path / "dog/round.png").symlink_to(path / "dog/round.png")
    text = problem(path, size=(8, 8))
    assert "2 of 43 pictures cannot be used (dog/broken.png: No such file or directory; dog/round.png: Too many" in text
    (path / "dog/broken.png").unlink()
    (path / "dog/round.png").unlink()
    text = problem(path, size=(8, 8))
    assert "3 of 41 pictures cannot be used" in text
    assert text.count("not a picture that Pillow can read, or a damaged one") == 3
    assert text.endswith("replace or remove them")
    for number in range(4, 8):
        (path / f"cat/00{number}.png").write_bytes(b"")
    assert "7 of 41 pictures cannot be used" in (text := problem(path, size=(8, 8)))
    assert "; and 4 more)" in text
    assert not kept.exists()


def test_pictures_of_very_many_pixels_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photos(tmp_path / "pets")
    picture(1, (30, 40)).save(path / "cat/large.png")
    for most in (1_000, 100):  # what Pillow warns of, and what it refuses: twice as many
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        for size in ((8, 8), None):
            assert (
                f"1 of 41 pictures cannot be used (cat/large.png: the picture has more than {most:,} pixels)"
                in problem(path, size=size)
            )
    with pytest.raises(InputError, match=r"large\.png: the picture has more than 100 pixels"):
        pictures.read_picture(path / "cat/large.png", (3, 8, 8))


def test_formats_that_no_picture_here_has_are_not_tried(tmp_path: Path) -> None:
    path = photos(tmp_path / "pets")
    picture(1).save(path / "cat/script.png", "EPS")  # Pillow would run Ghostscript
    assert "cat/script.png: not a picture that Pillow can read" in problem(path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    path = photos(tmp_path / "pets")
    os.mkfifo(path / "cat/pipe.png")
    assert "1 of 41 pictures cannot be used (cat/pipe.png: no file)" in problem(path)


def test_files_of_many_megabytes_are_not_read(tmp_path: Path) -> None:
    path = photos(tmp_path / "pets")
    with (path / "cat/huge.png").open("wb") as file:
        file.truncate(2**29 + 1)
    assert "1 of 41 pictures cannot be used (cat/huge.png: more than 512 MB)" in problem(path)


@pytest.mark.parametrize(("colours", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_pictures_of_more_than_8_bits_are_told(colours: int, channels: int, tmp_path: Path) -> None:
    path = photos(tmp_path / "pets")
    lines = (b"\0" + 8 * channels * b"\x0f\xff") * 8
    parts = {b"IHDR": struct.pack(">IIBB3x", 8, 8, 16, colours), b"IDAT": zlib.compress(lines), b"IEND": b""}
    content = b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in parts.items()
    )
    (path / "cat/deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert "cat/deep.png: has more than 8 bits a channel: convert it first" in problem(path)


def test_pictures_of_16_bits_a_pixel_are_read(tmp_path: Path) -> None:
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    head = struct.pack("<IiiHHI20x", 40, 2, 1, 1, 16, 3) + masks
    pixels = struct.pack("<HH", 0xF800, 0x07E0)
    (tmp_path / "red_green.bmp").write_bytes(b"BM" + struct.pack("<I4xI", 70, 66) + head + pixels)
    read, _ = pictures.read_picture(tmp_path / "red_green.bmp", (3, 1, 2))
    assert read[:, 0].T.tolist() == [[255, 0, 0], [0, 255, 0]]


def test_what_the_system_does_not_let_us_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photos(tmp_path / "pets")
    refused = path / "cat/004.png"
    read, listed = Path.read_bytes, Path.iterdir

    def read_bytes(file: Path) -> bytes:
        if file == refused:
            raise PermissionError(13, "Permission denied")
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert "1 of 40 pictures cannot be used (cat/004.png: Permission denied)" in problem(path)

    def iterdir(file: Path) -> Any:
        if file == path / "dog":
            raise PermissionError(13, "Permission denied")
        return listed(file)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert "dog: cannot be listed: Permission denied" in problem(path)


def test_pixels_that_do_not_fit_the_memory_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photos(tmp_path / "pets")
    monkeypatch.setattr(collection, "available_memory", lambda: 3 * 40 * 3 * 8 * 8 - 1)
    nothing_is_decoded(monkeypatch)
    assert "40 pictures of 8x8 (height x width) take about 0.0 GB of memory" in (text := problem(path))
    assert text.endswith("give a smaller --image-size")


def _emptied(path: Path) -> None:
    shutil.rmtree(path / "dog")
    (path / "dog").mkdir()
    (path / "dog/notes.txt").write_text("later")


def _split(path: Path, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    shutil.rmtree(path)
    photos(path / "train", train)
    photos(path / "test", test, first=500)


def _few(path: Path) -> None:
    for file in (path / "dog").iterdir():
        if int(digest(file)[:16], 16) < 0.2 * 2**64:
            file.unlink()


def _two_forms(path: Path) -> None:
    for form in ("NFC", "NFD"):
        photos(path / unicodedata.normalize(form, "é"), ["."])


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "one class": (lambda path: shutil.rmtree(path / "dog"), "has one class only, 'cat': expected at least 2"),
    "an empty class": (_emptied, "class 'dog' has no pictures (.bmp, .jpeg, .jpg, .png, .webp): add some, or remove"),
    "nothing": (lambda path: (shutil.rmtree(path), path.mkdir()), "has no folders: expected one for each class"),
    "not in test": (
        lambda path: _split(path, ("cat", "dog"), ("cat",)),
        "class 'dog' is in train/ but not in test/: expected every class in both",
    ),
    "not in train": (
        lambda path: _split(path, ("cat", "dog"), ("cat", "dog", "elk")),
        "class 'elk' is in test/ but not in train/: expected every class in both",
    ),
    "empty in test": (
        lambda path: (_split(path, ("cat", "dog"), ("cat", "dog")), _emptied(path / "test")),
        "class 'dog' of test/ has no pictures",
    ),
    "train alone": (
        lambda path: (_split(path, ("cat", "dog"), ("cat", "dog")), shutil.rmtree(path / "test")),
        "has train/ but no test/: expected both, each with a folder for each class; or only the folders of classes",
    ),
    "sets by other names": (
        lambda path: [(path / name).rename(path / new) for name, new in (("cat", "Training"), ("dog", "Testing"))],
        "its folders are called as sets are, not as classes (Testing, Training): expected sets called train and test",
    ),
    "sets with more in their names, beside another": (
        lambda path: [
            (path / part / "seals").mkdir(parents=True) for part in ("seg_train", "seg_pred", "seg_test", "notes")
        ],
        "its folders are called as sets are, not as classes (seg_test, seg_train): expected sets called train and test",
    ),
    "train and another set": (
        lambda path: [(path / name).rename(path / new) for name, new in (("cat", "train"), ("dog", "val"))],
        "its folders are called as sets are, not as classes (train, val)",
    ),
    "too few for a test set": (
        _few,
        "class 'dog' has too few pictures: none of its 17 is in the test set, which gets about 20 %",
    ),
    "a name of two lines": (lambda path: (path / "dog").rename(path / "a\nb"), r"class 'a\nb' has a name that cannot"),
    "a name that turns text": (lambda path: (path / "dog").rename(path / "a\u202eb"), r"class 'a\u202eb' has a name"),
    "a name that is no text": (
        lambda path: (path / "dog").rename(os.fsdecode(os.fsencode(path) + b"/\xff")),
        r"class '\udcff' has a name that cannot be used",
    ),
    "a long name": (lambda path: (path / "dog").rename(path / ("x" * 101)), "expected up to 100 printable characters"),
    "a name in two forms": (_two_forms, "two classes have the name 'é'"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_folders_that_are_no_dataset_are_refused_in_a_line(
    tmp_path: Path, change: Callable[[Path], Any], words: str
) -> None:
    path = photos(tmp_path / "pets")
    change(path)
    assert words in problem(path)


def test_of_classes_with_too_few_pictures_the_first_is_named(tmp_path: Path) -> None:
    text = problem(photos(tmp_path / "pets", tuple("abcdefgh"), count=1))
    assert re.search(r"class '[a-h]' and [1-7] others? have too few pictures: none of its 1 is in the t", text)


@pytest.mark.parametrize("name", ["=1+1", "-rf", "a b", "a,b", "[red]x[]", "<b>", "日本", "%s {0}"])
def test_names_of_classes_may_be_any_printable_text(tmp_path: Path, name: str) -> None:
    assert loaded(photos(tmp_path / "pets", ("zoo", name))).classes == tuple(sorted(("zoo", name)))


def test_classes_may_be_called_as_sets_where_they_hold_pictures(tmp_path: Path) -> None:
    assert loaded(photos(tmp_path / "things", ("bullet train", "test tube"))).classes == ("bullet train", "test tube")


def test_a_name_is_the_same_in_both_forms_of_unicode(tmp_path: Path) -> None:
    found = [loaded(photos(tmp_path / form, ("a", unicodedata.normalize(form, "é")))) for form in ("NFC", "NFD")]
    assert found[0].classes == found[1].classes
    assert found[0].checksum == found[1].checksum


def test_no_thread_outlives_a_reading_that_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = photos(tmp_path / "pets")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    monkeypatch.setattr("onnxprune.common.progress.Stages.__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        loaded(path)
    assert threading.active_count() == before


# names of folders


def test_a_folder_is_known_by_its_path_in_one_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pets/cat", "mnist/cat", "cifar-10"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert canonical_name("pets") == canonical_name("pets/") == canonical_name("./pets") == "pets"
    assert canonical_name(f"{tmp_path}/pets//") == str(tmp_path / "pets")
    assert canonical_name("mnist") == "mnist" in DATASETS
    assert canonical_name("./mnist") == canonical_name("./mnist/") == "./mnist" not in DATASETS
    assert canonical_name("CIFAR-10") == "cifar10"
    assert canonical_name("./cifar-10") == "./cifar-10"
    monkeypatch.chdir(tmp_path / "pets")
    assert canonical_name(".") == canonical_name("cat/..") == str(tmp_path / "pets")
    for name in ("./mnist", "no/where", "..//nowhere"):
        with pytest.raises(InputError, match=rf"dataset {name}: no such folder; expected FILE\.npz, or a FOLDER"):
            canonical_name(name)
    with pytest.raises(InputError, match="unknown dataset ''"):
        canonical_name("")
    assert loaded(photos(tmp_path / "mnist/mnist")).name == "mnist"


def test_only_pictures_of_a_folder_are_brought_to_a_size() -> None:
    with pytest.raises(InputError, match="digits: --image-size works with folders of pictures only"):
        dataset.load("digits", size=(8, 8))


@pytest.mark.parametrize(("size", "channels"), [((5, 3), 3), ((5, 1), 1), ((1, 1), 3), ((4, 3), 1), ((3, 5), 3)])
def test_pictures_as_wide_as_there_are_colours_stay_as_they_are(
    size: tuple[int, int], channels: int, tmp_path: Path
) -> None:
    rng, known = np.random.default_rng(0), set()
    for name in ("a", "b"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(60):
            pixels = rng.integers(0, 256, (*size, channels), np.uint8)
            known.add(pixels.transpose(2, 0, 1).tobytes())
            Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(folder / f"{number}.png")
    found = dataset.load(str(tmp_path / "photos"), None)
    assert found.input_shape == (channels, *size)
    assert {image.tobytes() for part in (found.train, found.validation, found.test) for image in part.images} == known
