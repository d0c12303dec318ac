"""Progress on stderr: a live line with the time left on a terminal; of a run of many steps, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator
from enum import IntEnum
from types import TracebackType
from typing import Protocol, SupportsFloat

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from onnxprune.common import interruption
from onnxprune.common.output import printable

MOST_DROP = 1.0  # points of validation accuracy below the base's that what is called the best may have, by default
SECONDS_BETWEEN = 0.2  # updates of the live line: reading the loss waits for the device


class Verbosity(IntEnum):
    """How much is told: nothing, each finished step, or what each step is doing too."""

    QUIET = -1
    NORMAL = 0
    VERBOSE = 1


_told: set[tuple[str, str]] = set()


def tell_once(place: str, line: str) -> None:
    """A line to people about the data at a place; they need not hear it again when another network needs the same."""
    if (place, line) not in _told:
        _told.add((place, line))
        sys.stderr.write(f"{line}\n")


class Listener(Protocol):
    """Whoever is told what steps do."""

    def begin(self, name: str) -> None:
        """A step begins; what follows is about it."""

    def stage(self, what: str) -> None:
        """What the current step is doing."""

    def training(self, done: int, updates: int, loss: SupportsFloat) -> None:
        """An update of the current step's training is done."""

    def candidate(self, name: str, drop: float, gain: float) -> None:
        """A point is done; the best so far gains the most of those that lose little.

        Args:
            drop: points of validation accuracy below the base's.
            gain: speedup.
        """

    def end(self, outcome: str) -> None:
        """The current step is over."""

    def say(self, line: str) -> None:
        """A line that stays."""


class Reporter:
    """Tells a person what is going on: a listener, and a context manager.

    Args:
        total: steps (bases and points) of the whole run.
    """

    def __init__(self, total: int, verbosity: Verbosity = Verbosity.NORMAL) -> None:
        self._console, self._progress = _live_line("{task.fields[best]}{task.description}", verbosity)
        self.live = not self._progress.disable  # whether somebody is looking
        self._verbose = verbosity == Verbosity.VERBOSE
        self._task = self._progress.add_task("", total=total, best="")
        self._name = ""
        self._best = 0.0
        self._shown = 0.0
        self._training: tuple[float, int] | None = (
            None  # when the step's training was first told of, and how far it was
        )

    def __enter__(self) -> "Reporter":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, name: str) -> None:
        interruption.check()
        if name != self._name:
            self._training = None
        self._name = name
        self._describe("")

    def stage(self, what: str) -> None:
        interruption.check()
        if self._verbose:
            self.say(f"{self._name}: {what}")
        self._describe(what)

    def training(self, done: int, updates: int, loss: SupportsFloat) -> None:
        now = time.monotonic()
        if self.live and (now - self._shown > SECONDS_BETWEEN or done == updates):
            self._shown = now
            self._describe(f"update {done}/{updates}, loss {float(loss):.4f}{self._left(now, done, updates)}")

    def _left(self, now: float, done: int, updates: int) -> str:
        """How long the step's training still takes, as far as its pace so far tells."""
        if self._training is None or done < self._training[1]:
            self._training = (now, done)
        begun, first = self._training
        if done == first:
            return ""
        seconds = (now - begun) * (updates - done) / (done - first)
        return f", {duration(seconds)} of training left"

    def candidate(self, name: str, drop: float, gain: float) -> None:
        if drop <= MOST_DROP and gain > self._best:
            self._best = gain
            self._progress.update(self._task, best=f"best {gain:.2f}x ({name}) | ")

    def end(self, outcome: str) -> None:
        self.say(f"{self._name}: {outcome}")
        self._progress.advance(self._task)

    def say(self, line: str) -> None:
        self._console.print(printable(line), soft_wrap=not self._console.is_terminal)

    def _describe(self, what: str) -> None:
        self._progress.update(self._task, description=printable(f"{self._name} {what}"))


def duration(seconds: float) -> str:
    """As people say it: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


class Stages:
    """Tells a person at a terminal what is being done, one thing after the other, each with its own time left.

    A context manager whose value is called with what is being done, how much of it is done, and how much there is.
    """

    def __init__(self, verbosity: Verbosity = Verbosity.NORMAL) -> None:
        _, self._progress = _live_line("{task.description}", verbosity)
        self._task = self._progress.add_task("", total=None)
        self._what = ""

    def __enter__(self) -> "Stages":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.update(self._task, visible=False)  # what is done needs no line
        self._progress.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        interruption.check()
        if what != self._what:
            self._what = what
            self._progress.reset(self._task, total=total, description=printable(what))
        self._progress.update(self._task, completed=done, total=total)


@contextlib.contextmanager
def waiting(what: str, verbosity: Verbosity) -> Iterator[None]:
    """Shows a person at a terminal what is going on during the block, where nobody can tell how much of it is left."""
    console = _console(verbosity)
    shown = console.is_terminal and verbosity != Verbosity.QUIET
    with console.status(what) if shown else contextlib.nullcontext():
        yield


def _console(verbosity: Verbosity) -> Console:
    # the stream of now: while libraries work, sys.stderr is redirected to a log
    return Console(file=sys.stderr, soft_wrap=True, highlight=False, markup=False, quiet=verbosity == Verbosity.QUIET)


def _live_line(text: str, verbosity: Verbosity) -> tuple[Console, Progress]:
    """A console on stderr, and a line on it with a bar, the time left and `text`, live on a terminal only."""
    quiet = verbosity == Verbosity.QUIET
    console = _console(verbosity)
    progress = Progress(
        SpinnerColumn(),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn(text),
        console=console,
        disable=quiet or not console.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    return console, progress
