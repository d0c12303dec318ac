"""Progress on stderr: a live line with the time left on a terminal, plain lines elsewhere."""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)


class Reporter:
    """Tells what is going on; a context manager.

    Args:
        total: steps (bases and points) of the whole run.
    """

    def __init__(self, total: int) -> None:
        # the stream of now: while libraries work, sys.stderr is redirected to a log
        self._console = Console(file=sys.stderr, soft_wrap=True, highlight=False, markup=False)
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=total)
        self._name = ""

    def __enter__(self) -> "Reporter":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, name: str) -> None:
        """A step begins."""
        self._name = name
        self.stage("")

    def stage(self, what: str) -> None:
        """What the current step is doing."""
        self._progress.update(self._task, description=f"{self._name} {what}")

    def training(self, done: int, updates: int) -> None:
        """An update of the current step's training is done."""
        self.stage(f"update {done}/{updates}")

    def end(self, outcome: str) -> None:
        """The current step is over."""
        self._console.print(f"{self._name}: {outcome}")
        self._progress.advance(self._task)

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line)
