"""Named things of one kind (models, datasets, techniques, criteria, schedules), looked up as people write them.

Other packages add to a registry by entry points of its group (packaging.python.org, "Entry points"). Their names are
read from what is installed; a package is imported when its entry is looked at for the first time.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Generic, TypeVar

from onnxprune.common.errors import InputError, described

T = TypeVar("T")


def _key(name: str) -> str:
    """`DenseNet-121`, `densenet_121` and `densenet121` are the same name."""
    return "".join(character for character in name.lower() if character.isalnum())


@cache
def _installed() -> EntryPoints:
    """Of all packages, read once."""
    found: EntryPoints = entry_points()  # type: ignore[assignment]
    return found


class Registry(Generic[T]):
    """A read-only table of named entries whose lookup ignores case and punctuation.

    Args:
        kind: what an entry is, in one word, for messages: "model", "dataset".
        entries: canonical name -> entry, in the order they are listed to people.
        aliases: other name -> canonical name, beyond differences of case and punctuation.
        group: of the entry points by which other packages add entries, which come last; one that has the name of an
            entry here is not taken, and of two with one name only the first.
    """

    def __init__(
        self,
        kind: str,
        entries: Mapping[str, T],
        aliases: Mapping[str, str] | None = None,
        group: str | None = None,
    ) -> None:
        self.kind = kind
        self._entries = dict(entries)
        self._names = {_key(name): name for name in entries}
        self._names.update({_key(alias): name for alias, name in (aliases or {}).items()})
        self._added: dict[str, EntryPoint] = {}
        for point in _installed().select(group=group) if group is not None else ():
            if _key(point.name) not in self._names:
                self._names[_key(point.name)] = point.name
                self._added[point.name] = point

    def __iter__(self) -> Iterator[str]:
        return iter([*self._entries, *self._added])

    def __getitem__(self, name: str) -> T:
        name = self.canonical(name)
        return self._entries[name] if name in self._entries else self._load(self._added[name])

    def own(self) -> list[tuple[str, T]]:
        """Names and entries of onnxprune itself, in listing order; nothing is imported for it."""
        return list(self._entries.items())

    def items(self) -> list[tuple[str, T]]:
        """Canonical names with their entries, in listing order."""
        return [(name, self[name]) for name in self]

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
        raise InputError(f"unknown {self.kind} '{name}': known are {', '.join(self)}.{hint}")

    def _load(self, point: EntryPoint) -> T:
        """The entry of another package.

        Raises:
            InputError: it cannot be imported.
        """
        try:
            entry: T = point.load()
        except Exception as error:  # a package that is broken raises anything
            package = point.dist.name if point.dist is not None else "another package"
            raise InputError(f"{self.kind} '{point.name}' of {package} cannot be loaded: {described(error)}") from error
        return entry
