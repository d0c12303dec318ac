"""Named things of one kind (models, datasets, techniques, criteria, schedules), looked up as people write them."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Generic, TypeVar

from onnxprune.common.errors import InputError

T = TypeVar("T")


def _key(name: str) -> str:
    """`DenseNet-121`, `densenet_121` and `densenet121` are the same name."""
    return "".join(character for character in name.lower() if character.isalnum())


class Registry(Generic[T]):
    """A read-only table of named entries whose lookup ignores case and punctuation.

    Args:
        kind: what an entry is, in one word, for messages: "model", "dataset".
        entries: canonical name -> entry, in the order they are listed to people.
        aliases: other name -> canonical name, beyond differences of case and punctuation.
    """

    def __init__(self, kind: str, entries: Mapping[str, T], aliases: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._entries = dict(entries)
        self._names = {_key(name): name for name in entries}
        self._names.update({_key(alias): name for alias, name in (aliases or {}).items()})

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __getitem__(self, name: str) -> T:
        return self._entries[self.canonical(name)]

    def items(self) -> list[tuple[str, T]]:
        """Canonical names with their entries, in listing order."""
        return list(self._entries.items())

    def canonical(self, name: str) -> str:
        """The canonical spelling of `name`.

        Raises:
            InputError: no entry has that name; the message lists the known ones.
        """
        key = _key(name)
        if key in self._names:
            return self._names[key]
        close = get_close_matches(key, self._names, n=1)
        hint = f" Did you mean '{self._names[close[0]]}'?" if close else ""
        raise InputError(f"unknown {self.kind} '{name}': known are {', '.join(self._entries)}.{hint}")
