"""The helper process, started before the modules of its caller are imported: the two import side by side."""

import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from onnxprune.common.processes import ROOT, start

_begun: "list[Forked]" = []


class Forked:
    """A copy of this process that has become the helper, with the part of `subprocess.Popen` that its caller uses."""

    def __init__(self) -> None:
        (asked, ask), (answers, answered) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _become_helper(asked, answered)
        os.close(asked)
        os.close(answered)
        self.stdin, self.stdout = os.fdopen(ask, "wb"), os.fdopen(answers, "rb")
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self) -> int:
        code = self._ended(0)
        assert code is not None
        return code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _ended(self, options: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, options)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


def _become_helper(asked: int, answered: int) -> NoReturn:
    """As if the process had been started for it: of what it had open it keeps nothing."""
    try:
        os.setpgid(0, 0)  # Ctrl-C is the caller's
        for descriptor, place in ((asked, 0), (answered, 1), (os.open(os.devnull, os.O_WRONLY), 2)):
            os.dup2(descriptor, place)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(place, mode) for place, mode in enumerate("rww"))
        here = ("", str(Path.cwd()))  # what lies in the folder it is called in is not imported
        sys.path[:] = [str(ROOT), *(place for place in sys.path if place not in here)]
        import_module("onnxprune.runtime.helper").serve()
    finally:
        os._exit(1)


def begin() -> None:
    """Starts a helper that the first call will take; for a process without threads that has opened nothing."""
    if sys.platform == "linux":
        _begun.append(Forked())


def helper_process() -> "Forked | subprocess.Popen[Any]":
    """The helper that was begun, or one that begins now."""
    if _begun:
        return _begun.pop()
    group: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}  # Ctrl-C is the caller's
    return start(
        "onnxprune.runtime.helper:serve",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        **group,
    )
