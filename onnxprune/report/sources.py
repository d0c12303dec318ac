"""What the report reads: of each sweep its table, its plan, its failures and what the records hold beyond the table."""

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from onnxprune.common.errors import InputError, OnnxpruneError
from onnxprune.common.files import read_json
from onnxprune.common.progress import MOST_DROP
from onnxprune.delivery.choice import by_study, choose
from onnxprune.delivery.constraints import constraints
from onnxprune.delivery.deployment import source_of
from onnxprune.delivery.headline import told_claims
from onnxprune.delivery.modelcard import command
from onnxprune.results import schema, store, timings
from onnxprune.results.tables import intact, result_table
from onnxprune.settings.point import BASES
from onnxprune.settings.sweep import MAX_SPEC_BYTES, Sweep


@dataclass(frozen=True)
class Best:
    """The model of one study that `deploy` would choose.

    Attributes:
        row: its settings, metrics and environment, None where something was not measured.
        place: of its file, as seen from the sweep's folder.
        command: what makes it again.
        seeds: what it was decided on, in words.
        count: of the seeds.
        tie: whether its speedup is within timing noise.
    """

    row: dict[str, Any]
    place: str
    command: str
    seeds: str
    count: int
    tie: bool


@dataclass(frozen=True)
class Source:
    """A sweep's folder.

    Attributes:
        name: that no other sweep of the report has.
        table: the finished points, with a column `sweep`.
        planned: how many points the spec asks for; None where it cannot be read, for the reason in `unreadable`.
        failures: folder of a failed point -> reason.
        spec: the text of its sweep.toml.
        left_out: a line for each point or base whose files cannot be believed.
        records: folder of a point -> its metrics.json.
        remarks: what has to be said of its latencies.
        claims: title -> lines: which ways to prune are better than others and than their controls.
        base_losses: folder of a base -> training loss of each epoch; bases that are not there are left out.
        best: for each model and dataset the chosen model, or why there is none.
    """

    folder: Path
    name: str
    table: pd.DataFrame
    planned: int | None
    unreadable: str
    failures: dict[str, str]
    left_out: list[str]
    spec: str
    records: dict[str, dict[str, Any]]
    remarks: list[str]
    claims: dict[str, list[str]]
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
        InputError: a folder is not a sweep's.
    """
    folders = list(dict.fromkeys(folder.absolute() for folder in folders))
    return [_read(folder, name) for folder, name in zip(folders, unlike_names(folders), strict=True)]


def unlike_names(folders: Sequence[Path]) -> list[str]:
    """What to call folders, as short as they differ."""
    paths = [folder.absolute() for folder in folders]
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def _read(folder: Path, name: str) -> Source:
    left_out: list[str] = []
    table = intact(result_table(folder, left_out.append), folder, left_out.append).assign(sweep=name)
    planned, unreadable = None, ""
    try:
        planned = len(Sweep.read(folder / store.SPEC).points)
    except InputError as error:
        unreadable = str(error)
    records = {point: _record(folder / point) for point in table.get("folder", [])}
    bases = {base: _losses(folder.parent / BASES, base, left_out.append) for base in _bases(table)}
    return Source(
        folder=folder,
        name=name,
        table=table,
        planned=planned,
        unreadable=unreadable,
        failures=store.failures(folder),
        left_out=left_out,
        spec=_spec(folder / store.SPEC),
        records=records,
        remarks=timings.remarks(table) if len(table) else [],
        claims=told_claims(table, folder) if len(table) else {},
        base_losses={base: losses for base, losses in bases.items() if losses is not None},
        best=_best(table, folder) if len(table) else [],
    )


def _spec(path: Path) -> str:
    """What is in it, as far as a spec goes."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(MAX_SPEC_BYTES)


def _record(folder: Path) -> dict[str, Any]:
    return store.finished_record(folder) or {}


def _losses(bases: Path, name: str, say: Callable[[str], None]) -> list[float] | None:
    """Training loss of each epoch of a base; None where it is not there, or cannot be believed, which `say` is told."""
    if Path(name).name != name or not (bases / name / store.METRICS).exists():
        return None
    found = read_json(bases / name / store.METRICS)
    problem = schema.problem(found, schema.Losses)
    if problem is not None:
        say(f"base {name} is left out: {store.METRICS}: {problem}")
        return None
    losses: list[float] | None = found.get("epoch_losses")
    return losses


def _bases(table: pd.DataFrame) -> list[str]:
    return list(table["base_id"].unique()) if len(table) else []


def _best(table: pd.DataFrame, folder: Path) -> list[Best | str]:
    wanted = constraints(max_drop=MOST_DROP)
    found: list[Best | str] = []
    for rows in by_study(table, folder, wanted):
        try:
            choice = choose(rows, wanted)
            row = {key: None if pd.isna(value) else value for key, value in choice.row.items()}
            place = Path(os.path.relpath(source_of(row, folder), folder)).as_posix()
            found.append(Best(row, place, command(row), choice.decided_on(), len(choice.seeds), choice.tie))
        except OnnxpruneError as error:  # none is good enough, or its settings are of a package that is gone
            found.append(str(error))
    return found
