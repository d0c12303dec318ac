"""Pictures with their classes as a dataset: looked at, split, decoded and kept, wherever they are from.

What a picture is known by is the SHA-256 of its file: it decides the order and, where no splits are given, the split.
Names of files, dates and the order in which a system lists them have no say.
"""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL

from onnxprune.common.environment import available_memory, usable_cores
from onnxprune.common.errors import InputError, StorageError
from onnxprune.common.output import plural
from onnxprune.common.progress import Stages, Verbosity, tell_once
from onnxprune.data import cache
from onnxprune.data.names import shown_name
from onnxprune.data.pictures import as_pixels, bombs_refused, upright, upright_size
from onnxprune.data.source import OwnData

TEST_SHARE = 0.2  # of the pictures, about, where there are no train/ and test/

Size = tuple[int, int]  # height, width

SPLITS = ("train", "test")
_VERSION = 2  # of what is made of pictures: part of what the cache knows them by
MOST_BYTES = 2**29  # of a picture's file
_MOST_NAMED = 3  # pictures, in a message
_COPIES = 3  # of the pixels, while they are split
_THREADS = min(8, usable_cores())

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Picture:
    """
    Attributes:
        name: for people, printable.
        label: number of its class.
        split: "train" or "test"; None: what is in it decides.
        content: reads its file; an InputError, which does not name it, where that cannot be done.
    """

    name: str
    label: int
    split: str | None
    content: Callable[[], bytes]


@dataclass(frozen=True)
class _Known:
    """A picture whose file was read; `digest` is its SHA-256."""

    picture: Picture
    digest: str

    @property
    def split(self) -> str:
        """As its folder says, else by its content: whatever is added or taken away later, it stays where it is."""
        return self.picture.split or SPLITS[int(self.digest[:16], 16) < TEST_SHARE * 2**64]


@dataclass
class Collection:
    """What lies in a place; `ignored`: what is no part of the data -> how many; no classes: there are no labels."""

    place: Path
    classes: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def error(self, text: str) -> InputError:
        """An error that names the place."""
        return InputError(f"{self.place}: {text}")


def read(
    listing: Collection, size: Size | None = None, channels: int | None = None, verbosity: Verbosity = Verbosity.QUIET
) -> OwnData:
    """The pictures and the names of their classes; decoded once, then kept in the user's cache.

    Args:
        size: what all are resized to, whatever their proportions; None: their own, which must be one.
        channels: 1 (grey) or 3; None: 1 where all pictures are grey, else 3.
        verbosity: whether people are told, on stderr, what is read, what is ignored, and how long it takes.

    Raises:
        InputError: in one line, what keeps them from being a dataset.
    """
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
            tell_once(str(listing.place), line)
    # channels last, where of pictures of one or three pixels they cannot be taken for another axis
    x_train, x_test = (arrays[name].transpose(0, 2, 3, 1) for name in ("x_train", "x_test"))
    return OwnData((x_train, arrays["y_train"], x_test, arrays["y_test"]), tuple(listing.classes))


def _looked_at(
    listing: Collection, with_sizes: bool, told: Callable[[str, int, int], None]
) -> tuple[list[_Known], Counter[Size]]:
    """The pictures in the order of their digests and, where they are asked for, their sizes."""

    def look(picture: Picture) -> tuple[_Known, Size | None]:
        content = picture.content()
        known = _Known(picture, hashlib.sha256(content).hexdigest())
        return known, upright_size(content) if with_sizes else None

    with bombs_refused():
        found = list(_sound(listing, look, listing.pictures, lambda picture: picture.name, "checking", told))
    found.sort(key=lambda entry: (entry[0].digest, entry[0].picture.label, entry[0].picture.name))
    return [known for known, _ in found], Counter(size for _, size in found if size is not None)


def _check_splits(listing: Collection, known: Sequence[_Known]) -> None:
    there = {(each.split, each.picture.label) for each in known}
    for split in SPLITS:
        share = TEST_SHARE if split == "test" else 1 - TEST_SHARE
        if not listing.classes and (split, 0) not in there:
            raise listing.error(
                f"none of its {len(known):,} pictures is in the {split} set, which gets about {100 * share:g} % of "
                "all; add some, or make train/ and test/ folders yourself"
            )
        missing = [label for label in range(len(listing.classes)) if (split, label) not in there]
        if missing:
            name, others = listing.classes[missing[0]], len(missing) - 1
            more = f" and {plural(others, 'other')} have" if others else " has"
            whose = f"class {name!r}{more}"
            if known and known[0].picture.split is not None:
                raise listing.error(f"{whose} no pictures in the {split} set: expected every class in both sets")
            count = sum(each.picture.label == missing[0] for each in known)
            raise listing.error(
                f"{whose} too few pictures: none of its {count:,} is in the {split} set, which gets about "
                f"{100 * share:g} % of all; add some, or make train/ and test/ folders with all classes yourself"
            )


def _common_size(listing: Collection, sizes: Counter[Size]) -> Size:
    if len(sizes) > 1:
        most = ", ".join(f"{count:,} of {height}x{width}" for (height, width), count in sizes.most_common(3))
        raise listing.error(
            f"pictures differ in size ({most}{', ...' if len(sizes) > 3 else ''}; height x width): give --image-size "
            "HEIGHTxWIDTH to resize them all"
        )
    return next(iter(sizes))


def _key(known: Sequence[_Known], size: Size, channels: int | None) -> str:
    """What decides the arrays."""
    pictures = [(each.digest, each.picture.label, each.split) for each in known]
    content = json.dumps([_VERSION, PIL.__version__, size, channels, pictures], separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def _decoded(
    listing: Collection,
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
        content = each.picture.content()
        if hashlib.sha256(content).hexdigest() != each.digest:
            raise InputError("changed while it was read")
        picture = upright(content)
        return as_pixels(picture, (channels or len(picture.getbands()), *size))

    rows = {split: [each for each in known if each.split == split] for split in SPLITS}
    images = {split: np.empty((len(part), channels or 1, *size), np.uint8) for split, part in rows.items()}
    done = Counter[str]()
    with bombs_refused():
        decoded = _sound(listing, decode, known, lambda each: each.picture.name, "reading", told)
        for each, pixels in zip(known, decoded, strict=True):
            split = each.split
            if len(pixels) > images[split].shape[1]:  # the first with a colour
                images = {name: _in_colour(part, done[name]) for name, part in images.items()}
            images[split][done[split]] = pixels
            done[split] += 1
    labels = {split: np.array([each.picture.label for each in part], np.int64) for split, part in rows.items()}
    return {f"{kind}_{split}": part[split] for split in SPLITS for kind, part in (("x", images), ("y", labels))}


def _in_colour(images: np.ndarray, done: int) -> np.ndarray:
    """Room for the same images in three channels, with the first ones in it."""
    coloured = np.empty((len(images), 3, *images.shape[2:]), np.uint8)
    coloured[:done] = images[:done]
    return coloured


def _sound(
    listing: Collection,
    work: Callable[[Item], Result],
    items: Sequence[Item],
    name_of: Callable[[Item], str],
    what: str,
    told: Callable[[str, int, int], None],
) -> Iterator[Result]:
    """What becomes of each item, in order.

    Raises:
        InputError: at the end, naming the first ones that something is wrong with.
    """
    title = f"{what} {shown_name(listing.place.name)}"
    wrong: list[tuple[str, InputError]] = []
    for done, (item, result) in enumerate(_in_parallel(work, items), 1):
        told(title, done, len(items))
        if isinstance(result, InputError):
            wrong.append((name_of(item), result))
        elif not wrong:
            yield result
    if wrong:
        named = "; ".join(f"{name}: {error}" for name, error in wrong[:_MOST_NAMED])
        more = f"; and {len(wrong) - _MOST_NAMED:,} more" if len(wrong) > _MOST_NAMED else ""
        raise listing.error(
            f"{len(wrong):,} of {len(items):,} pictures cannot be used ({named}{more}): replace or remove them"
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
    listing: Collection, known: Sequence[_Known], arrays: dict[str, np.ndarray], problem: str | None
) -> Iterator[str]:
    """What people want to know of what was read."""
    name = shown_name(listing.place.name)
    channels, height, width = arrays["x_train"].shape[1:]
    form = f"{height}x{width}, {'RGB' if channels == 3 else 'grey'}"
    kinds = f"of {len(listing.classes)} classes" if listing.classes else "without labels"
    how = "as given" if known[0].picture.split else f"split by content, about {100 * TEST_SHARE:g} % for testing"
    yield (
        f"{name}: {len(known):,} pictures {kinds}, {len(arrays['y_train']):,} for "
        f"training and validation, {len(arrays['y_test']):,} for testing ({how}), {form}"
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
        yield f"Note: {name}: {both:,} test pictures are also training pictures: accuracy will be too high"
    several = sum(len(found) > 1 for found in labels.values())
    if several:
        yield f"Note: {name}: {several:,} pictures are in several classes, byte for byte: no answer is right for all"
    if problem is not None:
        yield f"Note: {name}: its pixels could not be cached: {problem}"
