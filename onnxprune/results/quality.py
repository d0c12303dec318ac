"""What networks are judged by: accuracy where there are labels, else fidelity to the network before pruning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Quality:
    """
    Attributes:
        name: of the column, in percent; behind `base_`, `validation_` and the like too.
    """

    name: str

    def said(self, text: str) -> str:
        """A text on accuracy as one on this."""
        return text.replace("accuracy", self.name)


ACCURACY = Quality("accuracy")
FIDELITY = Quality("fidelity")


def quality_of(row: Mapping[str, Any]) -> Quality:
    """What a point or a base is judged by, from its metrics or its row."""
    for name in (FIDELITY.name, f"base_{FIDELITY.name}"):
        value = row.get(name)
        if value is not None and value == value:  # NaN is no value; pandas' NA is neither equal to itself nor not
            return FIDELITY
    return ACCURACY


def quality_of_study(rows: "pd.DataFrame") -> Quality:
    """What the rows of one study are judged by."""
    known = FIDELITY.name in rows and rows[FIDELITY.name].notna().any()
    return FIDELITY if known else ACCURACY
