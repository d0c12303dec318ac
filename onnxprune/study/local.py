"""The executor of this machine."""

import dataclasses
from collections.abc import Iterator, Sequence
from types import TracebackType

from onnxprune.common.errors import RunError
from onnxprune.common.output import silenced
from onnxprune.common.progress import Listener
from onnxprune.results.task import RetryPolicy
from onnxprune.settings.point import Point
from onnxprune.study.executors import Groups
from onnxprune.study.jobs import Job, Materials, check_unchanged, in_turn, longest_first
from onnxprune.study.pool import Pool


class Local:
    """Each base in this process, then its points: here, or by workers.

    Args:
        workers: processes that run points side by side; up to 1: this one alone.
    """

    def __init__(self, _settings: None, _points: Sequence[Point], materials: Materials, workers: int) -> None:
        self._materials = materials
        self._workers = workers
        self._pool: Pool | None = None

    def __enter__(self) -> "Local":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.__exit__(kind, error, trace)

    def run(
        self, groups: Groups, retry: RetryPolicy, listener: Listener
    ) -> Iterator[tuple[str | Job, RunError | None]]:
        """Runs bases and their points; yields a base that failed, or a point that is over, with its error."""
        if self._workers > 1 and self._pool is None:
            self._pool = Pool(self._workers, listener)  # its workers start while the first base trains
        with silenced():
            from onnxprune.study.base import ensure_base

        for base_id, jobs in groups.items():
            first = jobs[0]
            try:
                # all points need it
                check_unchanged(first.point, self._materials, base_id=base_id)
                dataset = self._materials.dataset(first.point)
                ensure_base(first.point, dataset, first.runs, listener, dataclasses.replace(retry, wait=True))
            except RunError as error:
                yield base_id, error
            else:
                if self._pool is None:
                    yield from in_turn(jobs, self._materials, listener)
                else:
                    yield from self._pool.run(longest_first(jobs))
