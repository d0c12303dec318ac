"""Who runs bases and points: a file and a line here each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from onnxprune.common.errors import RunError
from onnxprune.common.progress import Listener
from onnxprune.common.registry import Registry
from onnxprune.results.task import RetryPolicy
from onnxprune.study.jobs import Job

Groups = Mapping[str, Sequence[Job]]  # name of a base -> the jobs that need it


class Executor(Protocol):
    """A context manager, made of its own settings, the points of the plan, the materials, and the workers asked for."""

    def run(
        self, groups: Groups, retry: RetryPolicy, listener: Listener
    ) -> Iterator[tuple[str | Job, RunError | None]]:
        """Runs bases and their points; yields a base that failed, or a point that is over, with its error."""


# name -> "module:class", imported when it is used
EXECUTORS: Registry[str] = Registry(
    "executor", {"local": "onnxprune.study.local:Local", "ray": "onnxprune.study.cluster:Cluster"}
)
