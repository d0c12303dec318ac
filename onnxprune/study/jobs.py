"""Points as jobs that any process can do, given nothing but their settings and the folder of the runs."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.common.errors import InputError, RunError
from onnxprune.common.output import silenced
from onnxprune.common.progress import Listener, Verbosity
from onnxprune.data.dataset import Dataset, load, stand_in
from onnxprune.data.registry import DATASETS
from onnxprune.models import MODELS, own_files
from onnxprune.results.task import RetryPolicy
from onnxprune.settings.point import Point
from onnxprune.settings.vocabulary import TECHNIQUES

if TYPE_CHECKING:
    from onnxprune.study.base import Base
    from onnxprune.study.point import Exclusive


@dataclass(frozen=True)
class Job:
    """A point whose base is there.

    Attributes:
        folder: of the point.
        runs: what the bases are under.
    """

    folder: Path
    point: Point
    runs: Path
    data_dir: Path | None
    retry: RetryPolicy

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        paths = {"folder": str(self.folder), "runs": str(self.runs), "data_dir": self.data_dir and str(self.data_dir)}
        return paths | {"point": dataclasses.asdict(self.point), "retry": dataclasses.asdict(self.retry)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Job":
        """The job that `to_json` was called on."""
        return cls(
            folder=Path(values["folder"]),
            point=Point(**values["point"]),
            runs=Path(values["runs"]),
            data_dir=None if values["data_dir"] is None else Path(values["data_dir"]),
            retry=RetryPolicy(**values["retry"]),
        )


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """The jobs of one base by how much there is to train, those that are alike as they were: short ones fill what is
    left when workers end (longest processing time first, Graham 1969).

    Networks of 0 % are mostly one network, which takes no time once it is there.
    """
    first = next((job for job in jobs if not job.point.sparsity), None)

    def size(job: Job) -> float:
        kept = 1 - job.point.sparsity / 100
        if kept == 1:
            return float(job is first)
        # most of the work is between two layers, of which both are narrower; without units there is nothing to multiply
        return kept**2 if TECHNIQUES[job.point.technique].unit == "channel" else float(kept > 0)

    return sorted(jobs, key=size, reverse=True)


class Materials:
    """The data and the base of the latest job, kept because the next one mostly needs the same.

    Args:
        stand_ins: whether made-up images are given for a dataset with a name, which need no download.
    """

    def __init__(
        self, data_dir: Path | None, verbosity: Verbosity = Verbosity.QUIET, *, stand_ins: bool = False
    ) -> None:
        self.data_dir = data_dir
        self._stand_ins = stand_ins
        self.notes: dict[str, None] = {}  # what people should know of the data, each once
        self._verbosity = verbosity  # of the reading of pictures
        self._whole: tuple[Any, Dataset] | None = None  # all training images, of which points may take a sample
        self._data: tuple[Any, Dataset] | None = None
        self._base: tuple[str, Base] | None = None

    def dataset(self, point: Point) -> Dataset:
        """The data of a point, padded to what its model needs; and for a trained file, normalised as that wants it.

        Raises:
            InputError: they cannot be had.
        """
        model = MODELS[point.model]
        settings = data_settings(point)
        if self._data is None or self._data[0] != settings:
            made_up = self._stand_ins and point.dataset in DATASETS
            if made_up:
                dataset = stand_in(point.dataset)
            else:
                if self._whole is None or self._whole[0] != _source(point):
                    whole = load(point.dataset, self.data_dir, size=point.picture_size, verbosity=self._verbosity)
                    self._whole = (_source(point), whole)
                dataset = self._whole[1].sampled(*point.sample)
            dataset = dataset.padded(model.minimum_size, model.minimum_size)
            if model.trained:
                with silenced():
                    from onnxprune.bridge.convention import as_the_file_takes
                mean, std = ("0.5", "0.25") if made_up else (point.mean, point.std)  # nothing to find out from those
                convention = as_the_file_takes(Path(model.module), dataset, mean, std)
                dataset = convention.dataset
                self.notes |= {convention.note: None} if convention.note else {}
            self._data = (settings, dataset)
        return self._data[1]

    def base(self, point: Point, runs: Path) -> "Base":
        """The finished base of a point."""
        from onnxprune.study.base import load_base

        identity = point.base_id(self.dataset(point).checksum)
        if self._base is None or self._base[0] != identity:
            with silenced():
                self._base = (identity, load_base(point, self.dataset(point), runs))
        return self._base[1]


def check_unchanged(point: Point, materials: Materials, *, point_id: str = "", base_id: str = "") -> None:
    """Sees that data, weights and the model's file are still those that the name of a point or base was made of.

    Raises:
        RunError: they are not, or not there any more.
    """
    try:
        checksum = materials.dataset(point).checksum
        same = point_id in ("", point.point_id(checksum)) and base_id in ("", point.base_id(checksum))
    except InputError as error:
        raise RunError(f"what was there when the study began is not any more: {error}") from None
    if not same:
        files = [f"the data of {point.dataset}"]
        files += [f"the weights {point.weights}"] if point.weights is not None else []
        files += [f"the file of model '{point.model}'"] if own_files(point.model) else []
        more = "," if len(files) > 1 else ""
        raise RunError(f"{', or '.join(files)}{more} changed while the study ran: start it again")


def data_settings(point: Point) -> tuple[Any, ...]:
    """What decides the data that a point is given, its normalisation with them."""
    model = MODELS[point.model]
    file = (point.model, point.mean, point.std) if model.trained else None
    return (*_source(point), *point.sample, model.minimum_size, file)


def _source(point: Point) -> tuple[Any, ...]:
    """What decides the data that a point's training images are of."""
    return (point.dataset, point.picture_size)


def perform(job: Job, materials: Materials, listener: Listener, exclusive: "Exclusive" = nullcontext) -> None:
    """Runs the point of a job, unless it is there already.

    Args:
        exclusive: gives a context in which nothing else of the same run works, for timing.

    Raises:
        BusyError: another process is running the point, and the policy says not to wait.
        RunError: the point failed; its folder says why.
        StorageError: its files cannot be written.
    """
    with silenced():
        from onnxprune.study.point import PointRun, run_point

    point = job.point
    check_unchanged(point, materials, point_id=job.folder.name)
    base = materials.base(point, job.runs)
    run_point(PointRun(point, base, materials.dataset(point), job.folder, listener, exclusive), job.retry)


def in_turn(jobs: Iterable[Job], materials: Materials, listener: Listener) -> Iterator[tuple[Job, RunError | None]]:
    """Does jobs one after the other in this process; yields each with its error, None where it is done."""
    for job in jobs:
        try:
            perform(job, materials, listener)
        except RunError as error:
            yield job, error
        else:
            yield job, None
