"""What the report reads: of each sweep its table, its plan, its failures and what the records hold beyond the table."""

import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from onnxprune.common.errors import InputError, OnnxpruneError
from onnxprune.common.files import read_json
from onnxprune.delivery.deployment import choose, constraints, source_of, studies, title
from onnxprune.delivery.modelcard import command
from onnxprune.results import store
from onnxprune.settings.point import BASES
from onnxprune.settings.sweep import Sweep

MAX_DROP = 1.0  # percentage points, as `deploy` has it by default

_NEEDED = {
    "base_id", "base_accuracy", "before_finetuning_accuracy", "accuracy", "macs", "effective_macs",
    "base_effective_macs", "latency_ms_median", "speedup", "speedup_noise", "collapsed",
}  # fmt: skip


@dataclass(frozen=True)
class Best:
    """The model of one study that `deploy` would choose.

    Attributes:
        row: its settings, metrics and environment, None where something was not measured.
        title: what it is, in words.
        place: of its file, as seen from the sweep's folder.
        command: what makes it again.
    """

    row: dict[str, Any]
    title: str
    place: str
    command: str


@dataclass(frozen=True)
class Source:
    """A sweep's folder.

    Attributes:
        name: that no other sweep of the report has.
        table: the finished points, with a column `sweep`.
        planned: how many points the spec asks for; None where it cannot be read, for the reason in `unreadable`.
        failures: folder of a failed point -> reason.
        spec: the text of its sweep.toml.
        records: folder of a point -> its metrics.json.
        base_losses: folder of a base -> training loss of each epoch; bases that are not there are left out.
        best: for each model and dataset the chosen model, or why there is none.
    """

    folder: Path
    name: str
    table: pd.DataFrame
    planned: int | None
    unreadable: str
    failures: dict[str, str]
    spec: str
    records: dict[str, dict[str, Any]]
    base_losses: dict[str, list[float]]
    best: list[Best | str]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to run, as far as the spec tells."""
        return self.planned is None or len(self.table) + len(self.failures) >= self.planned

    @property
    def rerun_command(self) -> str:
        """What makes every point again, base included, and compares."""
        return shlex.join(["onnxprune", "rerun", str(self.folder)])

    @property
    def environment(self) -> dict[str, list[str]]:
        """Name of each fact of the environment -> the values it had among the points."""
        found: dict[str, dict[str, None]] = {}
        for record in self.records.values():
            for name, value in record.get("environment", {}).items():
                if value is not None:
                    found.setdefault(name, {})[str(value)] = None
        return {name: list(values) for name, values in found.items()}


def read(folders: list[Path]) -> list[Source]:
    """The sweeps, each once, in the order given.

    Raises:
        InputError: a folder is not a sweep's, or its points lack what the figures show.
    """
    folders = list(dict.fromkeys(folder.absolute() for folder in folders))
    depth = 1  # of the folders' names, until they differ
    while len({folder.parts[-depth:] for folder in folders}) < len(folders):
        depth += 1
    return [_read(folder, "/".join(folder.parts[-depth:])) for folder in folders]


def _read(folder: Path, name: str) -> Source:
    table = store.result_table(folder).assign(sweep=name)
    if len(table) and (missing := sorted(_NEEDED - set(table.columns))):
        raise InputError(f"{folder} was measured without {', '.join(missing)}: run the sweep again")
    planned, unreadable = None, ""
    try:
        planned = len(Sweep.read(folder / store.SPEC).points)
    except InputError as error:
        unreadable = str(error)
    records = {point: _record(folder / point) for point in table.get("folder", [])}
    bases = {base: _record(folder.parent / BASES / base) for base in _bases(table)}
    return Source(
        folder=folder,
        name=name,
        table=table,
        planned=planned,
        unreadable=unreadable,
        failures=store.failures(folder),
        spec=(folder / store.SPEC).read_text(encoding="utf-8", errors="replace"),
        records=records,
        base_losses={base: record["epoch_losses"] for base, record in bases.items() if "epoch_losses" in record},
        best=_best(folder) if len(table) else [],
    )


def _record(folder: Path) -> dict[str, Any]:
    found = read_json(folder / store.METRICS)
    return found if isinstance(found, dict) else {}


def _bases(table: pd.DataFrame) -> list[str]:
    return list(table["base_id"].unique()) if len(table) else []


def _best(folder: Path) -> list[Best | str]:
    wanted = constraints(max_drop=MAX_DROP)
    found: list[Best | str] = []
    try:
        for table in studies(folder, wanted):
            try:
                row = choose(table, wanted).row
            except OnnxpruneError as error:
                found.append(str(error))
                continue
            row = {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
            place = Path(os.path.relpath(source_of(row, folder), folder)).as_posix()
            found.append(Best(row, title(row), place, command(row)))
    except InputError as error:
        found.append(str(error))
    return found
