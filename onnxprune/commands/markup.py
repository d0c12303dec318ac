"""Tables as LaTeX with booktabs, and as Markdown."""

import re

from onnxprune.commands.tables import PaperTable

_WORDS = ("technique", "criterion", "")  # headings of columns of words; the others hold numbers

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "~": r"$\sim$",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def latex(table: PaperTable) -> str:
    """A `table` environment; needs the package booktabs."""
    columns = "".join("l" if heading in _WORDS else "r" for heading in table.headings)
    lines = [
        r"\begin{table}",
        rf"\caption{{{_latex(table.caption)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _row(table.headings),
        r"\midrule",
    ]
    for cells, section in zip(table.lines, table.sections, strict=True):
        lines += [r"\midrule"] * section + [_row(cells)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def _row(cells: list[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


def _latex(text: str) -> str:
    """A text without what LaTeX would take for commands; the x of a ratio as a sign."""
    escaped = "".join(_SPECIAL.get(letter, letter) for letter in text)
    return re.sub(r"(?<=\d)x\b", r"$\\times$", escaped)


def markdown(table: PaperTable) -> str:
    """A table of GitHub's Markdown under its caption."""
    rule = ["---" if heading in _WORDS else "---:" for heading in table.headings]
    rows = [table.headings, rule, *table.lines]
    return "\n".join([table.caption, "", *("| " + " | ".join(map(_cell, row)) + " |" for row in rows)])


def _cell(text: str) -> str:
    return re.sub(r"([\\|*_<>`])", r"\\\1", text) if text.strip("-:") else text
