"""Names that users gave: of classes, and of files in messages."""

import unicodedata
from collections.abc import Iterable

from onnxprune.common.errors import InputError

_LONGEST = 100  # characters of the name of a class


def check_class_names(source: str, names: Iterable[str]) -> list[str]:
    """Names of classes in Unicode's composed form, so that systems that decompose them give the same.

    Raises:
        InputError: naming `source`: one that is empty, too long, not printable, or there twice.
    """
    found: list[str] = []
    for name in names:
        composed = unicodedata.normalize("NFC", name)
        if not composed.strip() or not composed.isprintable() or len(composed) > _LONGEST:
            raise InputError(
                f"{source}: class {name[: 2 * _LONGEST]!r} has a name that cannot be used: expected up to "
                f"{_LONGEST} printable characters"
            )
        if composed in found:
            raise InputError(f"{source}: two classes have the name {composed!r}")
        found.append(composed)
    return found


def shown_name(name: str) -> str:
    """A name of a file or folder on one line: as it is where it is printable, else with escapes."""
    return name if name.isprintable() else ascii(name)
