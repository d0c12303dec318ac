"""Who runs bases and points: a file and an entry here each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from onnxprune.common.errors import InputError
from onnxprune.common.registry import Registry

if TYPE_CHECKING:
    from onnxprune.common.errors import RunError
    from onnxprune.common.progress import Listener
    from onnxprune.results.task import RetryPolicy
    from onnxprune.study.jobs import Job

Groups = Mapping[str, Sequence["Job"]]  # name of a base -> the jobs that need it


class Executor(Protocol):
    """A context manager, made of its own settings, the points of the plan, the materials, and the workers asked for."""

    def __enter__(self) -> "Executor":
        """What runs them is there from here on."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It ends; what it is in the middle of is dropped."""

    def run(
        self, groups: Groups, retry: "RetryPolicy", listener: "Listener"
    ) -> "Iterator[tuple[str | Job, RunError | None]]":
        """Runs bases and their points; yields a base that failed, or a point that is over, with its error."""


@dataclass(frozen=True)
class ExecutorKind:
    """What is known of an executor before it is made.

    Attributes:
        summary: where it runs bases and points, in one line.
        make: "module:class" of the `Executor`, imported when it is used: called with settings, points, materials
            (`onnxprune.study.jobs`) and workers.
        settings: "module:class" of its own settings, a dataclass whose fields all have defaults; "": it has none.
        here: whether points run on this machine: then their devices are looked at beforehand, and `workers` is a
            number that suits its processors and memory. Elsewhere it is what the user asked for, or None.
    """

    summary: str
    make: str
    settings: str = ""
    here: bool = True


EXECUTORS: Registry[ExecutorKind] = Registry(
    "executor",
    {
        "local": ExecutorKind("on this machine", "onnxprune.study.local:Local"),
        "ray": ExecutorKind(
            "on a Ray cluster (pip install 'onnxprune[ray]')",
            "onnxprune.study.cluster:Cluster",
            settings="onnxprune.study.cluster:ClusterSettings",
            here=False,
        ),
    },
    group="onnxprune.executors",
)


def make_settings(name: str, given: Mapping[str, Any]) -> Any:
    """Settings of an executor: its defaults, but for what is given; None where it has none.

    Raises:
        InputError: no executor has that name, or it has no such setting.
    """
    kind = EXECUTORS[name]
    made = resolve_name(kind.settings) if kind.settings else None
    for setting in given:
        if made is None or setting not in made.__dataclass_fields__:
            raise InputError(f"executor '{name}' has no setting '{setting}'")
    return made and made(**given)
