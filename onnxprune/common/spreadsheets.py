"""Cells of CSV files, which people open in spreadsheets."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

# what begins so, a spreadsheet computes; the last four are the same in full width
_FORMULAS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def defused(value: Any) -> Any:
    """A cell as it is, but a text that a spreadsheet would take for a formula behind an apostrophe.

    Args:
        value: of any type; numbers that are negative are no texts.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def csv_of(table: "pd.DataFrame") -> str:
    """A table as CSV, with its texts and headings defused."""
    from pandas.api.types import is_numeric_dtype

    texts = {
        name: column.map(defused, na_action="ignore")
        for name, column in table.items()
        if not is_numeric_dtype(column)
        and any(defused(value) is not value for value in column.unique() if isinstance(value, str))
    }
    text: str = (
        table.assign(**{str(name): column for name, column in texts.items()})
        .rename(columns=defused)
        .to_csv(index=False)
    )
    return text
