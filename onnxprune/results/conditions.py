"""Conditions on rows of the results, as people write them: `technique=structured`, `speedup > 3`."""

import operator
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from onnxprune.common.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_FORM = re.compile(r"\s*(\w+)\s*(<=|>=|!=|<|>|=)\s*(.*?)\s*")
_ORDERS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def select(table: "pd.DataFrame", conditions: Sequence[str]) -> "pd.DataFrame":
    """The rows for which every condition holds; a value that is missing fulfils none.

    After = and != several values may stand, with commas: one of them, none of them.

    Raises:
        InputError: a condition that cannot be read, a column or, after =, a word that is not there, an order of words,
            or no row is left.
    """
    kept = table
    for condition in conditions:
        kept = kept[_holds(table, condition)[kept.index]]
    if conditions and not len(kept):
        raise InputError(f"no row of {len(table)} fulfils {' and '.join(map(repr, conditions))}")
    return kept.reset_index(drop=True)


def _holds(table: "pd.DataFrame", condition: str) -> "pd.Series":
    import pandas as pd

    found = _FORM.fullmatch(condition)
    if found is None:
        raise InputError(
            f"condition {condition!r}: expected COLUMN, one of = != < <= > >=, and a value, as technique=structured"
        )
    name, sign, text = found.groups()
    if name not in table:
        close = get_close_matches(name, map(str, table.columns), n=1)
        raise InputError(
            f"no column {name!r}" + (f": did you mean {close[0]!r}?" if close else "; docs/columns.md has all")
        )
    column = table[name]
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if sign in _ORDERS:
        if column.isna().all():
            raise InputError(f"condition {condition!r}: no row has {name}, which is empty in all of {len(table)}")
        if not numeric:
            raise InputError(f"condition {condition!r}: {name} holds words, which have no order: expected = or !=")
        return _ORDERS[sign](column, _number(condition, text)).fillna(False).astype(bool)
    values: list[Any] = [value.strip() for value in text.split(",")]
    if numeric:
        equal = column.isin([_number(condition, value) for value in values])
    else:
        words = column.astype(str).str.lower()
        equal = words.isin([value.lower() for value in values])
        known = set(words[column.notna()])
        if sign == "=" and (strange := [value for value in values if value.lower() not in known]):
            close = get_close_matches(strange[0].lower(), known, n=1)
            raise InputError(
                f"condition {condition!r}: no row has {name} {strange[0]!r}"
                + (f": did you mean {close[0]!r}?" if close else "; conditions on several columns are several --where")
            )
    return equal.fillna(False).astype(bool) if sign == "=" else ~equal.fillna(False).astype(bool) & column.notna()


def _number(condition: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"condition {condition!r}: expected a number, got {text!r}") from None
