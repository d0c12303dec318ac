"""A signal ends the process though its exception was lost."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from onnxprune.common import interruption
from onnxprune.common.progress import Reporter, Stages, Verbosity


class Swallowing:
    """Python prints what a destructor raises, and goes on."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self._number)
        for _ in range(1000):  # the handler runs in here
            pass


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("sys.unraisablehook", sys.__unraisablehook__)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    interruption.listen()
    yield
    interruption.listen()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, interruption.Terminated)]
)
def test_what_a_destructor_swallowed_is_raised_at_the_next_step(
    number: int, error: type[BaseException], listening: None, capfd: pytest.CaptureFixture[str]
) -> None:
    with Reporter(2, Verbosity.QUIET) as reporter, Stages(Verbosity.QUIET) as stages:
        reporter.begin("first")
        stages("pruning", 0, 2)
        Swallowing(number)  # nobody holds it
        for step in (lambda: reporter.begin("second"), lambda: reporter.stage("timing"), lambda: stages("it", 1, 2)):
            with pytest.raises(error):
                step()
    assert not capfd.readouterr().err, "no traceback of a destructor"


def test_without_a_signal_nothing_is_raised(listening: None) -> None:
    interruption.check()


def test_a_thread_is_begun_only_where_a_signal_could_end_the_wait(listening: None) -> None:
    """Each costs more than a run of a small network."""
    here = threading.current_thread()
    assert interruption.interruptible(threading.current_thread) != here
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    assert interruption.interruptible(threading.current_thread) == here


def test_a_signal_ends_the_wait_for_native_code() -> None:
    """`threading.Event.wait` in another thread stands for a kernel that never ends."""
    code = (
        "import os, signal, threading, time\n"
        "from onnxprune.common import interruption\n"
        "interruption.listen()\n"
        "assert interruption.interruptible(lambda: 3) == 3\n"
        "try:\n"
        "    interruption.interruptible(lambda: 1 / 0)\n"
        "except ZeroDivisionError:\n"
        "    print('as it was', flush=True)\n"
        "threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()\n"
        "try:\n"
        "    interruption.interruptible(lambda: time.sleep(1000))\n"
        "except interruption.Terminated:\n"
        "    interruption.leave(143)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "as it was\n", "")
