"""Rows as plain columns of text and as CSV: for commands that must start faster than a table library is imported."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from onnxprune.common.cells import defused
from onnxprune.common.output import printable


def columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The rows under their headings; columns whose heading begins with ">" are aligned right."""
    right = [heading.startswith(">") for heading in headings]
    lines = [[printable(cell) for cell in line] for line in ([text.removeprefix(">") for text in headings], *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows under the keys of the first one, as CSV; lists, tuples and mappings are JSON, no text is a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(defused, rows[0]))
    for row in rows:
        cells = (row.get(key) for key in rows[0])
        writer.writerow(json.dumps(cell) if isinstance(cell, list | tuple | dict) else defused(cell) for cell in cells)
    return text.getvalue()
