"""The highest sparsity that loses no more than allowed, by bisection over points."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from onnxprune.common.errors import InputError, RunError
from onnxprune.common.files import read_json
from onnxprune.common.progress import Verbosity
from onnxprune.common.shares import within
from onnxprune.results import store
from onnxprune.results.quality import ACCURACY, quality_of
from onnxprune.results.validation import blunt_limit
from onnxprune.settings.point import Point
from onnxprune.settings.sweep import Sweep
from onnxprune.settings.vocabulary import SCHEDULES
from onnxprune.study import former
from onnxprune.study.alignment import with_measured_step
from onnxprune.study.controller import check_possible, run_sweep
from onnxprune.study.finished import Finished
from onnxprune.study.jobs import Materials
from onnxprune.study.reuse import Reused

_HIGHEST = 100


@dataclass(frozen=True)
class Trial:
    """A sparsity that was looked at.

    Attributes:
        sparsity: in percent.
        drop: points of validation accuracy lost, or of fidelity without labels, on average over seeds.
        accepted: whether that is within what may be lost, and none of its networks has collapsed.
        reused: whether all of its points had been run before.
    """

    sparsity: float
    drop: float
    accepted: bool
    reused: bool


@dataclass
class Search:
    """The highest sparsity of one way to prune.

    Attributes:
        settings: of its points, but for sparsity and seed.
        trials: what was looked at, in that order.
        remark: what is to be said of the limit; None where nothing is.
        trainings: points that were run for it.
        reused: points that had been run before.
        sparsity: the answer, in percent; 0 where every trial lost too much: then the base is the answer.
        folders: of its points, one a seed; none for the base.
        metrics: means over them of the columns that have numbers.
    """

    settings: dict[str, Any]
    trials: list[Trial] = field(default_factory=list)
    trainings: int = 0
    reused: int = 0
    sparsity: float = 0.0
    folders: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    remark: str | None = None


def search(
    plan: Sweep,
    max_drop: float,
    runs: Path,
    data_dir: Path | None = None,
    *,
    step: int = 1,
    verbosity: Verbosity = Verbosity.NORMAL,
    workers: int | None = None,
    replace: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Search]:
    """Bisects sparsity, for every combination of the plan's other settings; seeds are averaged.

    It takes for granted that loss rises with sparsity. Points that any sweep in `runs` has finished are looked at first
    and not run again. The validation split decides, never the test set; a network that has collapsed is no answer,
    however little it loses where one class has nearly all images.

    Args:
        plan: points of one sparsity, which does not matter.
        max_drop: points of validation accuracy, or of fidelity without labels, that may be lost against the base.
        step: sparsities that are multiples of it are looked at, in percent.
        replace: points of another study in the plan's folder are removed, instead of refused.
        say: gets a line for each finished point that is left out because its files are not those that were measured.

    Raises:
        InputError: a schedule that finds its own sparsity, settings or data that cannot be used, or the plan's folder
            has points of another study.
        RunError: a point failed, or was removed meanwhile.
    """
    _check(plan)
    folder = runs / plan.name
    plan = with_measured_step(plan, None if replace else folder, verbosity)
    materials = Materials(data_dir, verbosity)
    tried = _sparsities_in(folder)
    planned = points_in(plan, folder)
    named = {point.point_id(materials.dataset(point).checksum) for point in planned}
    if not replace:
        former.refuse(folder, named, planned)
    elif superseded := former.others(folder, named):
        check_possible(plan.points, materials, runs, 1, verbosity)  # nothing is lost for a plan that cannot be run
        with store.claimed(folder / store.SPEC):
            former.remove(superseded)
        tried = _sparsities_in(folder)

    said: set[str] = set()  # by one step, so that none of the next says it again

    def run(points: list[Point]) -> None:
        tried.append(points[0].sparsity)
        values = {**plan.values, "sparsity": sorted(set(tried))}
        outcome = run_sweep(
            dataclasses.replace(plan, values=values, points=points),
            runs,
            data_dir,
            verbosity=verbosity,
            workers=workers,
            others="keep",
            said=said,
        )
        if outcome.failures:
            raise RunError("; ".join(f"{name}: {reason}" for name, reason in outcome.failures.items()))

    grid = _grid(step)
    reused = Reused()
    found = [_Bisection(points, max_drop, runs, materials, run, say, reused).search(grid) for points in _ways(plan)]
    for line in reused.lines():
        say(line)
    return found


def points_in(plan: Sweep, sweep: Path) -> list[Point]:
    """The plan's points at the sparsities of those that a sweep's folder has, finished or failed."""
    sparsities = _sparsities_in(sweep)
    return [dataclasses.replace(point, sparsity=sparsity) for point in plan.points for sparsity in sparsities]


def most_points(plan: Sweep, step: int, max_drop: float, finished: Finished) -> list[Point]:
    """As many points as a search looks at at most, those that are finished and some of others.

    Raises:
        InputError: a schedule that finds its own sparsity.
    """
    _check(plan)
    grid, found = _grid(step), []
    for points in _ways(plan):
        looked_at, low, high = [], 0.0, math.inf
        for sparsity in grid:
            records = [finished.record(point) for point in _at(points, sparsity)]
            rows = [record["metrics"] for record in records if record is not None]
            if len(rows) == len(points) and sparsity < high:
                looked_at.append(sparsity)
                low, high = (sparsity, high) if _judged(rows, max_drop)[1] else (low, sparsity)
        between = [sparsity for sparsity in grid if low < sparsity < high]
        looked_at += between[: len(between).bit_length()]
        found += [point for sparsity in looked_at for point in _at(points, sparsity)]
    return found


def _ways(plan: Sweep) -> list[list[Point]]:
    """The points of a plan, those that differ in their seed alone together."""
    ways: dict[Point, list[Point]] = {}
    for point in plan.points:
        ways.setdefault(dataclasses.replace(point, sparsity=0.0, seed=0), []).append(point)
    return list(ways.values())


def _at(points: Sequence[Point], sparsity: float) -> list[Point]:
    return [dataclasses.replace(point, sparsity=sparsity) for point in points]


def _judged(rows: Sequence[Mapping[str, Any]], max_drop: float) -> tuple[float, bool]:
    """Points that the networks of one sparsity lose, on average, and whether that is an answer."""
    name = f"validation_{quality_of(rows[0]).name}"
    drop = fmean(row[f"base_{name}"] - row[name] for row in rows)
    return drop, within(drop, max_drop) and not any(row["collapsed"] for row in rows)


def _check(plan: Sweep) -> None:
    for point in plan.points:
        if SCHEDULES[point.schedule].finds_sparsity:
            raise InputError(f"schedule '{point.schedule}' finds its own sparsity: search is for the others")


def _removed(name: str) -> RunError:
    return RunError(f"{name} was changed or removed while the search ran; the same command goes on from what is there")


def _grid(step: int) -> list[float]:
    return [float(percent) for percent in (*range(step, _HIGHEST, step), _HIGHEST)]


def _sparsities_in(sweep: Path) -> list[float]:
    """Of the points that a sweep's folder has, finished or failed."""
    configs = (read_json(folder / store.CONFIG) for folder in former.others(sweep, ()))
    return sorted({config["sparsity"] for config in configs if isinstance(config, dict) and "sparsity" in config})


@dataclass(frozen=True)
class _Bisection:
    points: Sequence[Point]  # one a seed
    max_drop: float
    runs: Path
    materials: Materials
    run: Callable[[list[Point]], None]
    say: Callable[[str], None]
    reused: Reused
    damaged: set[Path] = field(default_factory=set)  # folders that were said to be

    def search(self, grid: list[float]) -> Search:
        settings = self.points[0].settings()
        found = Search({name: value for name, value in settings.items() if name not in ("sparsity", "seed")})
        low, high = 0.0, math.inf
        for sparsity in grid:
            if all(self._folder(point) is not None for point in _at(self.points, sparsity)):
                found.reused += len(self.points)
                if not self._passes(found, sparsity, reused=True):
                    high = sparsity
                    break
                low = sparsity
        while between := [sparsity for sparsity in grid if low < sparsity < high]:
            sparsity = between[len(between) // 2]
            missing = [point for point in _at(self.points, sparsity) if self._folder(point) is None]
            self.run(missing)
            found.trainings += len(missing)
            found.reused += len(self.points) - len(missing)
            if self._passes(found, sparsity, reused=False):
                low = sparsity
            else:
                high = sparsity
        found.sparsity = low
        bases = [row for trial in found.trials for row in self._rows(trial.sparsity)]
        if bases and quality_of(bases[0]) is ACCURACY:
            accuracy = fmean(row["base_validation_accuracy"] for row in bases)
            found.remark = blunt_limit(self.max_drop, accuracy, bases[0]["validation_images"])
        if low:
            found.folders = [str(folder) for folder in self._folders(low)]
            rows = self._rows(low)
            found.metrics = {
                name: fmean(row[name] for row in rows)
                for name, value in rows[0].items()
                if isinstance(value, int | float) and not isinstance(value, bool)
            }
        return found

    def _passes(self, found: Search, sparsity: float, reused: bool) -> bool:
        drop, accepted = _judged(self._rows(sparsity), self.max_drop)
        found.trials.append(Trial(sparsity, drop, accepted, reused))
        return accepted

    def _rows(self, sparsity: float) -> list[dict[str, Any]]:
        rows = []
        for folder in self._folders(sparsity):
            record = store.finished_record(folder)
            if record is None:
                raise _removed(folder.name)
            rows.append(record["metrics"])
        return rows

    def _folders(self, sparsity: float) -> list[Path]:
        """Of the points at a sparsity, which are finished."""
        folders = []
        for point in _at(self.points, sparsity):
            folder = self._folder(point)
            if folder is None:
                raise _removed(point.point_id(self.materials.dataset(point).checksum))
            folders.append(folder)
        return folders

    def _folder(self, point: Point) -> Path | None:
        """Of a finished point whose files are those that were measured, in whatever sweep has run it."""
        name = point.point_id(self.materials.dataset(point).checksum)
        for path in sorted(self.runs.glob(f"*/{name}")):
            record = store.finished_record(path)
            if record is None:
                continue
            damaged = store.damaged_files(path, record)
            if not damaged:
                self.reused.look(path.name, record, point.device)
                return path
            if path not in self.damaged:
                self.damaged.add(path)
                self.say(f"{path} is left out: {', '.join(damaged)} is not what was measured")
        return None
