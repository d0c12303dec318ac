"""A folder of pictures as a dataset: a folder in it for each class, the same in train/ and test/, or without those; or
pictures alone, which have no labels then.
"""

import re
import stat
from functools import partial
from pathlib import Path

from onnxprune.common.errors import InputError
from onnxprune.common.files import is_folder
from onnxprune.data.collection import MOST_BYTES, SPLITS, TEST_SHARE, Collection, Picture
from onnxprune.data.names import check_class_names, shown_name
from onnxprune.data.pictures import SUFFIXES, entries, files_in

_FOR_TRAINING = frozenset(("train", "training"))
_FOR_TESTING = frozenset(("test", "testing", "val", "valid", "validation"))


def listed(folder: Path) -> Collection:
    """The pictures in a folder, none of which is read yet.

    Raises:
        InputError: there are no pictures, or a class without any.
    """
    listing = Collection(folder)
    splits = _splits(listing)
    if not any(is_folder(entry) for parent in splits.values() for entry in entries(parent)):
        return _without_labels(listing, splits)
    found: dict[str, dict[str | None, Path]] = {}
    for split, parent in splits.items():
        for entry in entries(parent, listing.ignored):
            if not is_folder(entry):
                listing.ignored["beside the folders of classes"] += 1
            else:
                found.setdefault(entry.name, {})[split] = entry
    folders = sorted(
        (name, places) for name, places in zip(check_class_names(str(folder), found), found.values(), strict=True)
    )
    for label, (name, places) in enumerate(folders):
        for split, place in places.items():
            files = files_in(place, listing.ignored)
            if not files:
                raise listing.error(
                    f"{_place(split, name)} has no pictures ({_suffixes()}): add some, or remove the folder"
                )
            listing.pictures += _pictures(listing, files, label, split)
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


def _without_labels(listing: Collection, splits: dict[str | None, Path]) -> Collection:
    """Pictures that are in no folder of a class."""
    for split, parent in splits.items():
        files = files_in(parent, listing.ignored)
        if not files:
            if split is not None:
                raise listing.error(f"{split}/ has no pictures ({_suffixes()}): add some, or remove the folder")
            raise listing.error(
                f"has no folders: expected one for each class, with its pictures ({_suffixes()}), or pictures without "
                "labels"
            )
        listing.pictures += _pictures(listing, files, 0, split)
    return listing


def _pictures(listing: Collection, files: list[Path], label: int, split: str | None) -> list[Picture]:
    return [
        Picture(shown_name(str(file.relative_to(listing.place))), label, split, partial(_content, file))
        for file in files
    ]


def _splits(listing: Collection) -> dict[str | None, Path]:
    """Where the pictures or the folders of classes are: in train/ and test/ where both are there and hold either
    nothing but pictures or folders, else in the folder itself."""
    folder = listing.place
    places: dict[str | None, Path] = {split: folder / split for split in SPLITS if is_folder(folder / split)}
    holding = [split for split, place in places.items() if any(is_folder(entry) for entry in entries(place))]
    if not holding and len(places) < len(SPLITS):
        if sets := _called_as_sets([entry for entry in entries(folder) if is_folder(entry)]):
            raise listing.error(  # else the sets would be the classes
                f"its folders are called as sets are, not as classes ({', '.join(sets)}): expected sets called train "
                "and test, each with a folder for each class; or only the folders of classes"
            )
        return {None: folder}
    if len(places) < len(SPLITS):
        lacking = next(split for split in SPLITS if split not in places)
        raise listing.error(
            f"has {holding[0]}/ but no {lacking}/: expected both, each with a folder for each class; or only the "
            f"folders of classes, and {100 * TEST_SHARE:g} % of the pictures become the test set"
        )
    for entry in entries(folder, listing.ignored):
        if entry.name not in SPLITS:
            listing.ignored["beside train/ and test/"] += 1
    return places


def _called_as_sets(folders: list[Path]) -> list[str]:
    """Names of those that are sets, not classes: of all where every one is called so; of those in whose names it is a
    word among others, as in seg_train and seg_test, where they hold folders, as classes do not."""
    if all(folder.name.casefold() in _FOR_TRAINING | _FOR_TESTING for folder in folders):
        return [folder.name for folder in folders]
    holding = [folder.name for folder in folders if any(is_folder(entry) for entry in entries(folder))]
    words = {name: set(re.split(r"[\W_]+", name.casefold())) for name in holding}
    kinds = [[name for name in holding if words[name] & kind] for kind in (_FOR_TRAINING, _FOR_TESTING)]
    return sorted(set(kinds[0] + kinds[1])) if all(kinds) else []


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
        if about.st_size > MOST_BYTES:
            raise InputError(f"more than {MOST_BYTES >> 20} MB")
        return path.read_bytes()
    except OSError as error:
        raise InputError(error.strerror or str(error)) from None
