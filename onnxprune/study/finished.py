"""What is done already of a plan, as far as that can be told without loading data."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from onnxprune.common.files import read_json
from onnxprune.data.registry import DATASETS
from onnxprune.results import store
from onnxprune.settings.point import BASES, Point
from onnxprune.study.jobs import Materials


class Finished:
    """The bases and points in folders of results, found by their names, which stand for data, code and weights too.

    Args:
        runs: where bases are.
        sweeps: folders that points are looked for in.
        materials: whose data the user's own are. Datasets with names are taken to be those of former runs.
    """

    def __init__(self, runs: Path, sweeps: Sequence[Path], materials: Materials) -> None:
        self._bases, self._sweeps, self._materials = runs / BASES, sweeps, materials
        self._known: dict[str, set[str]] = {}  # dataset -> checksums
        for path in [path for folder in (self._bases, *sweeps) for path in folder.glob(f"*/{store.CONFIG}")]:
            config, record = read_json(path), store.finished_record(path.parent)
            if isinstance(config, dict):  # that of a base has it, of a point its record
                checksum = config.get("data_checksum") or (record and record["metrics"].get("data_checksum"))
                self._known.setdefault(str(config.get("dataset")), set()).add(str(checksum))

    def has_base(self, point: Point) -> bool:
        """Whether the base of a point is there."""
        names = [point.base_id(checksum) for checksum in self._checksums(point)]
        return any((self._bases / name / store.METRICS).exists() for name in names)

    def record(self, point: Point) -> dict[str, Any] | None:
        """That of a point; None where it is not done."""
        names = [point.point_id(checksum) for checksum in self._checksums(point)]
        found = (store.finished_record(sweep / name) for sweep in self._sweeps for name in names)
        return next((record for record in found if record is not None), None)

    def names(self, points: Iterable[Point]) -> set[str]:
        """Those that the folders of points may have."""
        return {point.point_id(checksum) for point in points for checksum in self._checksums(point)}

    def _checksums(self, point: Point) -> set[str]:
        if point.dataset in DATASETS:
            return self._known.get(point.dataset, set())
        return {self._materials.dataset(point).checksum}
