"""Rows as plain columns of text and as CSV: for commands that must start faster than a table library is imported."""

import csv
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from onnxprune.commands.console import terminal_width
from onnxprune.common.output import printable
from onnxprune.common.spreadsheets import defused

_GAP = "  "
_LEAST = 24  # characters that names have at least, before columns go to a table of their own


def columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The rows under their headings, which may have several lines; columns whose heading begins with ">" are aligned
    right.

    One column names the rows: the last one or, where that is aligned right, the first. Where the terminal is too
    narrow, long names are folded, and columns that still do not fit come in further tables with the same names.
    """
    right = [heading.startswith(">") for heading in headings]
    above = list(zip_longest(*(text.removeprefix(">").split("\n") for text in headings), fillvalue=""))
    lines = [[printable(cell) for cell in line] for line in (*above, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(len(above), ["-" * width if heading else "" for width, heading in zip(widths, headings, strict=True)])
    names = 0 if right[-1] else len(widths) - 1
    room = terminal_width() or sum(widths) + len(_GAP) * len(widths)
    parts = _parts(widths, names, room)
    narrower = room
    while len(even := _parts(widths, names, narrower)) == len(parts) and narrower:
        parts, narrower = even, narrower - 1
    tables = []
    for part in parts:
        beside = sum(widths[place] + len(_GAP) for place in part if place != names)
        fitting = {**dict(enumerate(widths)), names: min(widths[names], max(_LEAST, room - beside))}
        tables.append(_table(lines, {place: fitting[place] for place in part}, names, right))
    return "\n\n".join(tables)


def _parts(widths: Sequence[int], names: int, room: int) -> list[list[int]]:
    """The columns of each table that fits, in their order, the one of the names in each."""
    others = [place for place in range(len(widths)) if place != names]
    parts: list[list[int]] = []
    left = 0
    for place in others:
        if not parts or widths[place] + len(_GAP) > left:
            parts.append([])
            left = room - min(widths[names], _LEAST)
        parts[-1].append(place)
        left -= widths[place] + len(_GAP)
    return [sorted([*part, names]) for part in parts]


def _table(lines: Sequence[Sequence[str]], widths: Mapping[int, int], names: int, right: Sequence[bool]) -> str:
    """The columns at the places in `widths`, of those widths; names are folded to theirs."""
    found = []
    for line in lines:
        name, *more = textwrap.wrap(line[names], widths[names]) or [""]
        cells = {place: name if place == names else line[place] for place in widths}
        folded = [{**dict.fromkeys(widths, ""), names: rest} for rest in more]
        for part in (cells, *folded):
            aligned = (
                part[place].rjust(width) if right[place] else part[place].ljust(width)
                for place, width in widths.items()
            )
            found.append(_GAP.join(aligned).rstrip())
    return "\n".join(found)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows under the keys of the first one, as CSV; lists, tuples and mappings are JSON, no text is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(defused, rows[0]))
    for row in rows:
        cells = (row.get(key) for key in rows[0])
        writer.writerow(json.dumps(cell) if isinstance(cell, list | tuple | dict) else defused(cell) for cell in cells)
    return text.getvalue()
