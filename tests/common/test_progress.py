"""Progress on stderr: what is told, and how much of it."""

import functools
import io
import sys

import pytest
from command_line import called
from rich.console import Console

from onnxprune.common import progress
from onnxprune.common.progress import Reporter, Verbosity


def told(monkeypatch: pytest.MonkeyPatch, verbosity: Verbosity, terminal: bool = False) -> str:
    """What a run of two steps tells."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    settings = {"force_terminal": True, "width": 200} if terminal else {}
    monkeypatch.setattr(progress, "Console", functools.partial(Console, **settings))
    with Reporter(2, verbosity) as reporter:
        reporter.begin("base b")
        reporter.training(10, 10, 0.25)
        reporter.end("accuracy 90 %")
        reporter.begin("point p")
        reporter.stage("pruning")
        reporter.candidate("p", drop=0.5, gain=2.0)
        reporter.candidate("q", drop=1.5, gain=9.0)
        reporter.candidate("r", drop=0.1, gain=1.5)
        reporter.end("accuracy 89 %")
    return stream.getvalue()


def test_without_a_terminal_each_finished_step_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, Verbosity.NORMAL) == "base b: accuracy 90 %\npoint p: accuracy 89 %\n"


def test_quiet_tells_nothing_and_verbose_the_stages_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, Verbosity.QUIET) == ""
    assert told(monkeypatch, Verbosity.QUIET, terminal=True) == ""
    lines = told(monkeypatch, Verbosity.VERBOSE).splitlines()
    assert lines == ["base b: accuracy 90 %", "point p: pruning", "point p: accuracy 89 %"]


def test_a_terminal_shows_loss_and_the_best_that_loses_little(monkeypatch: pytest.MonkeyPatch) -> None:
    text = told(monkeypatch, Verbosity.NORMAL, terminal=True)
    assert "best 2.00x (p)" in text
    assert "9.00x" not in text
    assert "2/2" in text


@pytest.mark.parametrize("both", [("--quiet", "--verbose"), ("--json", "--csv")])
def test_options_that_exclude_each_other(both: tuple[str, str]) -> None:
    done = called("sweep", "--dataset", "digits", *both)
    assert done.returncode == 2
    assert f"{both[0]} and {both[1]} exclude each other" in done.stderr
