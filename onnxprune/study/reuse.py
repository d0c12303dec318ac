"""Results that another environment made and that are reused: named, because they may not be what would be made now."""

from typing import Any

from onnxprune.common import environment


class Reused:
    """Notes what is reused, and tells what of its environment is not as it is here."""

    def __init__(self) -> None:
        self._changes: dict[tuple[str, ...], set[str]] = {}

    def look(self, name: str, record: dict[str, Any], device: str) -> None:
        """Notes a finished base or point by its name and its record; `device` is where it would be made now."""
        then, now = record["environment"], environment.describe(device)
        changes = tuple(
            f"{fact} {then[fact] or 'none'} (now {now.get(fact) or 'none'})"
            for fact in environment.DECIDING
            if fact in then and then[fact] != now.get(fact)
        )
        if changes:
            self._changes.setdefault(changes, set()).add(name)

    def lines(self) -> list[str]:
        """A line for each other environment."""
        return [f"{_told(len(names))}: {', '.join(changes)}" for changes, names in self._changes.items()]


def _told(count: int) -> str:
    if count == 1:
        return "1 finished base or point of another environment is reused as it is"
    return f"{count:,} finished bases and points of another environment are reused as they are"
