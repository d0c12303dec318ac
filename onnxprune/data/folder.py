"""A folder of pictures as a dataset: a subfolder for each class, the same ones in train/ and test/, or without those.

What a picture is known by is the SHA-256 of its file: it decides the order and, where there are no train/ and test/,
the split. Names of files, dates and the order in which a system lists them have no say.
"""

import hashlib
import json
import os
import stat
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL

from onnxprune.common.environment import available_memory
from onnxprune.common.errors import InputError, StorageError
from onnxprune.common.progress import Stages, Verbosity
from onnxprune.data import cache
from onnxprune.data.names import check_class_names, shown_name
from onnxprune.data.pictures import (
    SUFFIXES,
    as_pixels,
    bombs_refused,
    entries,
    files_in,
    is_folder,
    upright,
    upright_size,
)
from onnxprune.data.source import OwnData

TEST_SHARE = 0.2  # of the pictures, about, where there are no train/ and test/

Size = tuple[int, int]  # height, width

_SPLITS = ("train", "test")
_VERSION = 1  # of what is made of pictures: part of what the cache knows them by
_MOST_BYTES = 2**29  # of a picture's file
_MOST_NAMED = 3  # pictures, in a message
_COPIES = 3  # of the pixels, while they are split
_THREADS = min(8, os.cpu_count() or 1)

_said: set[tuple[Path, str]] = set()  # to people, who need not hear it again when another network needs the same data

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Picture:
    path: Path
    label: int
    split: str | None  # None: what is in it decides


@dataclass(frozen=True)
class _Known:
    """A picture whose file was read; `digest` is its SHA-256."""

    picture: _Picture
    digest: str

    @property
    def split(self) -> str:
        """As its folder says, else by its content: whatever is added or taken away later, it stays where it is."""
        return self.picture.split or _SPLITS[int(self.digest[:16], 16) < TEST_SHARE * 2**64]


@dataclass
class _Listing:
    """What lies in a folder; `ignored`: what is no part of the data -> how many."""

    folder: Path
    classes: list[str] = field(default_factory=list)
    pictures: list[_Picture] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def error(self, text: str) -> InputError:
        return InputError(f"{self.folder}: {text}")

    def named(self, path: Path) -> str:
        return shown_name(str(path.relative_to(self.folder)))


def read_folder(
    folder: Path, size: Size | None = None, channels: int | None = None, verbosity: Verbosity = Verbosity.QUIET
) -> OwnData:
    """The pictures of a folder and the names of their classes; decoded once, then kept in the user's cache.

    Args:
        size: what all are resized to, whatever their proportions; None: their own, which must be one.
        channels: 1 (grey) or 3; None: 1 where all pictures are grey, else 3.
        verbosity: whether people are told, on stderr, what is read, what is ignored, and how long it takes.

    Raises:
        InputError: in one line, what keeps the folder from being a dataset.
    """
    listing = _listed(folder)
    with Stages(verbosity) as told:
        known, sizes = _looked_at(listing, size is None, told)
        _check_splits(listing, known)
        if size is None:
            size = _common_size(listing, sizes)
        key = _key(known, size, channels)
        arrays = cache.kept(key)
        problem = None
        if arrays is None:
            arrays = _decoded(listing, known, size, channels, told)
            try:
                cache.keep(key, arrays)
            except StorageError as error:
                problem = str(error)
    if verbosity > Verbosity.QUIET:
        for line in _notes(listing, known, arrays, problem):
            if (folder, line) not in _said:
                _said.add((folder, line))
                sys.stderr.write(f"{line}\n")
    return OwnData((arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"]), tuple(listing.classes))


def _listed(folder: Path) -> _Listing:
    """
    Raises:
        InputError: there are no classes, or one without pictures.
    """
    listing = _Listing(folder)
    splits = _splits(listing)
    found: dict[str, dict[str | None, Path]] = {}
    for split, parent in splits.items():
        for entry in entries(parent, listing.ignored):
            if not is_folder(entry):
                listing.ignored["beside the folders of classes"] += 1
            else:
                found.setdefault(entry.name, {})[split] = entry
    if not found:
        raise listing.error(f"has no folders: expected one for each class, with its pictures ({_suffixes()})")
    folders = sorted(
        (name, places) for name, places in zip(check_class_names(str(folder), found), found.values(), strict=True)
    )
    for label, (name, places) in enumerate(folders):
        for split, place in places.items():
            files = files_in(place, listing.ignored)
            if not files:
                raise listing.error(f"{_place(split, name)} has no pictures ({_suffixes()}): add some, or take it away")
            listing.pictures += [_Picture(file, label, split) for file in files]
        listing.classes.append(name)
    for split in splits:
        missing = [name for name, places in folders if split not in places]
        if missing:
            there = next(other for other in splits if other != split)
            raise listing.error(
                f"class {missing[0]!r} is in {there}/ but not in {split}/: expected every class in both"
            )
    if len(folders) < 2:
        raise listing.error(f"has one class only, {folders[0][0]!r}: expected at least 2 folders of pictures")
    return listing


def _splits(listing: _Listing) -> dict[str | None, Path]:
    """Where the folders of classes are: in train/ and test/ where these hold folders, else in the folder itself."""
    folder = listing.folder
    places: dict[str | None, Path] = {split: folder / split for split in _SPLITS if is_folder(folder / split)}
    holding = [split for split, place in places.items() if any(is_folder(entry) for entry in entries(place))]
    if not holding:
        return {None: folder}
    if len(places) < len(_SPLITS):
        lacking = next(split for split in _SPLITS if split not in places)
        raise listing.error(
            f"has {holding[0]}/ but no {lacking}/: expected both, each with a folder for each class, or the folders of "
            f"classes without them, of which {100 * TEST_SHARE:g} % become the test set"
        )
    for entry in entries(folder, listing.ignored):
        if entry.name not in _SPLITS:
            listing.ignored["beside train/ and test/"] += 1
    return places


def _place(split: str | None, name: str) -> str:
    return f"class {name!r}" if split is None else f"class {name!r} of {split}/"


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))


def _content(path: Path) -> bytes:
    """
    Raises:
        InputError: it cannot be read, or is no file; the message does not name it.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # reading a pipe or a device may never end
            raise InputError("no file")
        if about.st_size > _MOST_BYTES:
            raise InputError(f"more than {_MOST_BYTES >> 20} MB")
        return path.read_bytes()
    except OSError as error:
        raise InputError(error.strerror or str(error)) from None


def _looked_at(
    listing: _Listing, with_sizes: bool, told: Callable[[str, int, int], None]
) -> tuple[list[_Known], Counter[Size]]:
    """The pictures in the order of their digests and, where they are asked for, their sizes."""

    def look(picture: _Picture) -> tuple[_Known, Size | None]:
        content = _content(picture.path)
        known = _Known(picture, hashlib.sha256(content).hexdigest())
        return known, upright_size(content) if with_sizes else None

    with bombs_refused():
        found = list(_sound(listing, look, listing.pictures, lambda picture: picture.path, "checking", told))
    found.sort(key=lambda entry: (entry[0].digest, entry[0].picture.label, str(entry[0].picture.path)))
    return [known for known, _ in found], Counter(size for _, size in found if size is not None)


def _check_splits(listing: _Listing, known: Sequence[_Known]) -> None:
    there = {(each.split, each.picture.label) for each in known}
    for split in _SPLITS:
        missing = [label for label in range(len(listing.classes)) if (split, label) not in there]
        if missing:
            count = sum(each.picture.label == missing[0] for each in known)
            others = f" and {len(missing) - 1:,} other(s) have" if len(missing) > 1 else " has"
            share = TEST_SHARE if split == "test" else 1 - TEST_SHARE
            raise listing.error(
                f"class {listing.classes[missing[0]]!r}{others} too few pictures: none of its {count:,} is in the "
                f"{split} set, which about {100 * share:g} % of all get into by their content; add some, or make "
                "train/ and test/ with all classes yourself"
            )


def _common_size(listing: _Listing, sizes: Counter[Size]) -> Size:
    if len(sizes) > 1:
        most = ", ".join(f"{count:,} of {height}x{width}" for (height, width), count in sizes.most_common(3))
        raise listing.error(
            f"pictures differ in size ({most}{', ...' if len(sizes) > 3 else ''}; height x width): give --image-size "
            "HEIGHTxWIDTH, which all are resized to"
        )
    return next(iter(sizes))


def _key(known: Sequence[_Known], size: Size, channels: int | None) -> str:
    """What decides the arrays."""
    pictures = [(each.digest, each.picture.label, each.split) for each in known]
    content = json.dumps([_VERSION, PIL.__version__, size, channels, pictures], separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def _decoded(
    listing: _Listing,
    known: Sequence[_Known],
    size: Size,
    channels: int | None,
    told: Callable[[str, int, int], None],
) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, pictures in the order of `known`."""
    needed = _COPIES * len(known) * size[0] * size[1] * (channels or 3)
    if needed > available_memory():
        raise listing.error(
            f"{len(known):,} pictures of {size[0]}x{size[1]} (height x width) take about {needed / 1e9:,.1f} GB of "
            f"memory, {available_memory() / 1e9:,.1f} GB are available: give a smaller --image-size"
        )

    def decode(each: _Known) -> np.ndarray:
        content = _content(each.picture.path)
        if hashlib.sha256(content).hexdigest() != each.digest:
            raise InputError("changed while it was read")
        picture = upright(content)
        return as_pixels(picture, (channels or len(picture.getbands()), *size))

    rows = {split: [each for each in known if each.split == split] for split in _SPLITS}
    images = {split: np.empty((len(part), channels or 1, *size), np.uint8) for split, part in rows.items()}
    done = Counter[str]()
    with bombs_refused():
        decoded = _sound(listing, decode, known, lambda each: each.picture.path, "reading", told)
        for each, pixels in zip(known, decoded, strict=True):
            split = each.split
            if len(pixels) > images[split].shape[1]:  # the first with a colour
                images = {name: _in_colour(part, done[name]) for name, part in images.items()}
            images[split][done[split]] = pixels
            done[split] += 1
    labels = {split: np.array([each.picture.label for each in part], np.int64) for split, part in rows.items()}
    return {f"{kind}_{split}": part[split] for split in _SPLITS for kind, part in (("x", images), ("y", labels))}


def _in_colour(images: np.ndarray, done: int) -> np.ndarray:
    """Room for the same images in three channels, with the first ones in it."""
    coloured = np.empty((len(images), 3, *images.shape[2:]), np.uint8)
    coloured[:done] = images[:done]
    return coloured


def _sound(
    listing: _Listing,
    work: Callable[[Item], Result],
    items: Sequence[Item],
    path_of: Callable[[Item], Path],
    what: str,
    told: Callable[[str, int, int], None],
) -> Iterator[Result]:
    """What becomes of each item, in order.

    Raises:
        InputError: at the end, naming the first ones that something is wrong with.
    """
    title = f"{what} {shown_name(listing.folder.name)}"
    wrong: list[tuple[Path, InputError]] = []
    for done, (item, result) in enumerate(_in_parallel(work, items), 1):
        told(title, done, len(items))
        if isinstance(result, InputError):
            wrong.append((path_of(item), result))
        elif not wrong:
            yield result
    if wrong:
        named = "; ".join(f"{listing.named(path)}: {error}" for path, error in wrong[:_MOST_NAMED])
        more = f"; and {len(wrong) - _MOST_NAMED:,} more" if len(wrong) > _MOST_NAMED else ""
        raise listing.error(
            f"{len(wrong):,} of {len(items):,} pictures cannot be used ({named}{more}): replace them or take them away"
        )


def _in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result | InputError]]:
    """Items and what becomes of them, or why nothing does, in order; few are held at a time."""

    def attempt(item: Item) -> tuple[Item, Result | InputError]:
        try:
            return item, work(item)
        except InputError as error:
            return item, error

    pool = ThreadPoolExecutor(_THREADS)
    waiting: deque[Future[tuple[Item, Result | InputError]]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(attempt, item))
            if len(waiting) > 4 * _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _notes(
    listing: _Listing, known: Sequence[_Known], arrays: dict[str, np.ndarray], problem: str | None
) -> Iterator[str]:
    """What people want to know of what was read."""
    name = shown_name(listing.folder.name)
    channels, height, width = arrays["x_train"].shape[1:]
    form = f"{height}x{width}, {'RGB' if channels == 3 else 'grey'}"
    how = "in train/ and test/" if known[0].picture.split else f"by their content, about {100 * TEST_SHARE:g} % to test"
    yield (
        f"{name}: {len(known):,} pictures of {len(listing.classes)} classes, {len(arrays['y_train']):,} to train and "
        f"validate on and {len(arrays['y_test']):,} to test ({how}), {form}"
    )
    if listing.ignored:
        yield f"{name}: ignored: " + ", ".join(f"{count:,} {what}" for what, count in listing.ignored.most_common())
    splits: dict[str, set[str]] = {}
    labels: dict[str, set[int]] = {}
    for each in known:
        splits.setdefault(each.digest, set()).add(each.split)
        labels.setdefault(each.digest, set()).add(each.picture.label)
    both = sum(len(found) > 1 for found in splits.values())
    if both:
        yield f"Note: {name}: {both:,} pictures of test/ are in train/ too, byte for byte: accuracy will be too high"
    several = sum(len(found) > 1 for found in labels.values())
    if several:
        yield f"Note: {name}: {several:,} pictures are in several classes, byte for byte: no answer is right on all"
    if problem is not None:
        yield f"Note: {name}: its pixels are not kept for the next time: {problem}"
