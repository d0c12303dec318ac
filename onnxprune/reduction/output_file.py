"""A file that is made of another: what is told of it, where it may go, and how the two compare."""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from onnxprune.analysis.comparison import Entry, compare
from onnxprune.common.errors import InputError, name_too_long
from onnxprune.common.files import PARTIAL
from onnxprune.common.plain import plain
from onnxprune.reduction.accuracy import Evidence
from onnxprune.reduction.fidelity import Fidelity
from onnxprune.runtime.long_work import Advance


@dataclass(frozen=True, kw_only=True)
class FileReport(ABC):
    """What was made of a file.

    Attributes:
        source: the file that it was made of.
        replaced: whether there was a file by the name of the one that was written.
        fidelity: to the original on held-out samples; None without samples.
        tested: what the accuracy is worth; None without labels.
        not_tested: why no accuracy was measured, where there are labels; None where it was.
        samples: what the samples were; None without.
        comparison: original and written file, timed; empty where that was not asked for, or not possible.
        not_compared: why they could not be compared, where that was asked for; None where they were.
    """

    source: Path
    replaced: bool
    fidelity: Fidelity | None
    tested: Evidence | None
    samples: str | None
    not_tested: str | None = None
    comparison: tuple[Entry, ...] = ()
    not_compared: str | None = None

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """A row a part of the file that was looked at."""

    def as_json(self) -> dict[str, Any]:
        """Everything but the comparison, in plain types; null for what is not finite."""
        found = plain(asdict(replace(self, comparison=())))
        del found["comparison"]
        return found


Report = TypeVar("Report", bound=FileReport)


def check_output(output: Path, files: Sequence[Path], purpose: str) -> None:
    """Raises an InputError where the output cannot be written, or would take the place of the input or its data.

    Args:
        files: the input, and those of its external data.
        purpose: what is done to the input: "prune".
    """
    try:
        if output.is_dir():
            raise InputError(f"{output}: is a folder: give the name of a file with -o")
        beside = output.with_name(f"{output.name}.data")  # where weights over 2 GiB would go
        if any(file.samefile(place) for place in (output, beside) if place.exists() for file in files):
            raise InputError(
                f"{output}: this is the file to {purpose}, or its external data: choose another name with -o"
            )
        if not output.parent.is_dir():
            raise InputError(f"{output.parent}: no such folder: create it, or choose another with -o")
        # the name that a file has while it is written is longer than its own
        tempfile.NamedTemporaryFile(prefix=f".{output.name}.", suffix=PARTIAL, dir=output.parent).close()
    except OSError as error:
        raise name_too_long(error, output) or InputError(
            f"{output.parent}: nothing can be written there ({error.strerror}): choose another folder with -o"
        ) from error


def compared(report: Report, path: Path, output: Path, advance: Advance, **how: Any) -> Report:
    """The report with both files timed, see `onnxprune.analysis.comparison.compare`; or with why they were not: the
    file is there and checked, and that the two cannot be timed does not undo it."""
    advance("comparing", 0, 1)
    try:
        return replace(report, comparison=tuple(compare(path, [output], **how)))
    except InputError as error:
        return replace(report, not_compared=str(error))
