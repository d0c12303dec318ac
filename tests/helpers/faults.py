"""Sweeps in processes of their own, to be killed, stopped, starved and run at the same time."""

import contextlib
import ctypes
import fnmatch
import functools
import io
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import warm

from onnxprune import cli
from onnxprune.settings.sweep import Sweep
from onnxprune.study.controller import Outcome, run_sweep

SETTINGS = {
    "model": "slp",
    "dataset": "digits",
    "hidden": 32,
    "epochs": 1,
    "finetune_epochs": 1,
    "train_limit": 200,
    "latency_seconds": 0,
}
TIMED = ("seconds", "per_second", "memory", "timing_")
NOBODY = 65534
_CLONE_NEWNET = 0x40000000
_ASKING = ("Ip:OutRequests", "Ip:OutNoRoutes", "Tcp:ActiveOpens", "Udp:OutDatagrams")
_PR_SET_DUMPABLE = 4


def arguments(out: Path, **changes: Any) -> list[str]:
    """The command line of a small sweep."""
    settings = {**SETTINGS, "technique": "weight,neuron", "sparsity": "0,50,90", **changes}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return ["sweep", f"--out={out}", *options]


def sweep(runs: Path, retry_failed: bool = False, **changes: Any) -> Outcome:
    """Runs a small sweep in this process."""
    settings = {**SETTINGS, "technique": "weight", "sparsity": [0, 50, 90], **changes}
    return run_sweep(Sweep.parse(settings), runs, retry_failed=retry_failed)


def resumed(runs: Path, retry_failed: bool = False) -> str:
    """What the sweep of `arguments` says when it begins, or goes on, in this process, and succeeds."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert not sweep(runs, retry_failed, technique="weight,neuron").failures, said.getvalue()
    assert not leftovers(runs)
    return said.getvalue()


def start(
    command: list[str],
    log: Path,
    file_bytes: int | None = None,
    *,
    first: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Starts the command line in a process.

    Args:
        file_bytes: no file of it may grow beyond that, as if the disk were full.
        first: called in the process before.
        environment: all of it; default: that of this process.
    """
    with log.open("a") as stream:
        streams = [stream.fileno()] * 2
        return warm.start(run_command, command, first, streams=streams, file_bytes=file_bytes, environment=environment)


def start_until(runs: Path, pattern: str, command: list[str], log: Path, **how: Any) -> Any:
    """Starts the command line in a process, and returns when it stands still: it has just made a file like `pattern`,
    which it is about to give its name. What comes next happens there, however slow the machine is: `go_on`."""
    first = functools.partial(_stand_still_at, str(runs / pattern), how.pop("first", None))
    process = start(command, log, first=first, **how)
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.005)
        assert process.is_alive(), f"it was over before it made any {pattern}"
    return process


def go_on(process: Any) -> None:
    os.kill(process.pid, signal.SIGCONT)


def _stand_still_at(pattern: str, first: Callable[[], None] | None) -> None:
    stood = False

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal stood
        if event == "os.rename" and not stood and fnmatch.fnmatchcase(os.fsdecode(arguments[1]), pattern):
            stood = True
            os.kill(os.getpid(), signal.SIGSTOP)

    if first is not None:
        first()
    sys.addaudithook(look)


def run_command(command: list[str], first: Callable[[], None] | None = None) -> None:
    if first is not None:
        first()
    sys.argv = ["onnxprune", *command]
    cli.main()


def finish(command: list[str], log: Path, file_bytes: int | None = None, **how: Any) -> int:
    """Runs the command line to its end and returns its exit code."""
    return ended(start(command, log, file_bytes, **how))


def ended(process: Any) -> int:
    """Waits for the end of a process, and returns its exit code.

    Others may keep the machine busy for minutes: it hangs where it and its children have worked for a minute, or where
    they sleep for one.
    """
    moved, last = time.monotonic(), -1.0
    while process.exitcode is None:
        process.join(0.5)
        with contextlib.suppress(psutil.Error):  # it has just ended
            own = psutil.Process(process.pid)
            family = [own, *own.children(recursive=True)]
            worked = sum(sum(member.cpu_times()[:2]) for member in family)
            if worked != last or any(member.status() == psutil.STATUS_RUNNING for member in family):
                moved, last = time.monotonic(), worked
            assert worked < 60 and time.monotonic() < moved + 60, "it hangs"
    return int(process.exitcode)


def as_ordinary_user() -> None:
    """What root may do, nobody else may; the process is `NOBODY`'s from now on, where it was root's."""
    tempfile.tempdir = None
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1)  # as that of a user who logs in: what is in /proc of it is its own


def cut_off(run: Callable[..., None], argument: Any, asked: Path) -> None:
    """Calls a function where there is no network, not even this machine, and writes to a file, a line each, in what
    ways it or any process of it asked for one."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    try:
        run(argument)
    finally:
        lines = Path("/proc/self/net/snmp").read_text().splitlines()  # of this namespace
        counts = {}
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            kind, *columns = names.split()
            counts |= dict(zip((kind + name for name in columns), map(int, values.split()[1:]), strict=True))
        asked.write_text("".join(f"{name}\n" for name in _ASKING if counts[name]))


def on_one_processor() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def untimed(runs: Path) -> pd.DataFrame:
    """The table of the one sweep under `runs`, without what takes another time every time."""
    (path,) = runs.glob("*/results.csv")
    table = pd.read_csv(path)
    return table[[name for name in table if not any(word in name for word in TIMED)]]


def leftovers(runs: Path) -> list[Path]:
    """Half-written files under `runs`."""
    return list(runs.rglob("*.part"))
