"""Processes that are forked from one that has imported what they need: a new one is there in milliseconds.

That one, the nursery, is a fresh Python process. It imports and does nothing else: no threads run in it but those that
libraries start when they are loaded and can take through a fork (OpenBLAS). So what it forks starts as a fresh process
would, but for the seconds of the imports, which are spent once.
"""

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import IO, Any, NoReturn

from onnxprune.common.output import silenced
from onnxprune.common.processes import start

POSSIBLE = sys.platform == "linux"  # macOS's own libraries do not bear a fork without an exec

_SET_AT_LOADING = ("OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "PYTHON", "LD_")  # variables that libraries read then


class Child:
    """A forked process, with the attributes and methods of `subprocess.Popen` that its callers need."""

    def __init__(self, stdin: IO[str], stdout: IO[str], status: IO[str]) -> None:
        self.stdin, self.stdout = stdin, stdout
        self.returncode: int | None = None
        self._pid: int | None = None
        self._status = status
        self._born, self._ended = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        with self._status:
            for line in self._status:
                if self._pid is None:
                    self._pid = int(line)
                    self._born.set()
                else:
                    self.returncode = int(line)
        if self.returncode is None:  # the nursery is gone, and nobody could tell any more how this one ends
            if self._pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
            self.returncode = -signal.SIGKILL
        self._born.set()
        self._ended.set()

    @property
    def pid(self) -> int:
        """Its process; waits until it is there. 0: there never was one."""
        self._born.wait()
        return self._pid or 0

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not, in this many seconds.
        """
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.pid and self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Asks it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """A process that has imported modules, or is about to; it ends with this one."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.environment = _set_at_loading()
        here, there = socket.socketpair()
        with there:
            self._process = start(
                "onnxprune.common.nursery:serve",
                *modules,
                stdin=there.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for this process
            )
        self._channel = here

    @property
    def usable(self) -> bool:
        """Whether it runs, and what it forks would be what a fresh process is."""
        return self._process.poll() is None and self.environment == _set_at_loading()

    def fork(self, function: str) -> Child:
        """A process, leader of a group of its own, that calls a function ("module:function") and then ends.

        Its standard input and output are pipes, what it writes to standard error is dropped; it has the environment and
        the working folder that this process has now.
        """
        (taken, given), (made, making), (status, telling) = (os.pipe() for _ in range(3))
        request = {"function": function, "environment": dict(os.environ), "folder": str(Path.cwd())}
        try:
            message = json.dumps(request).encode()
            socket.send_fds(self._channel, [len(message).to_bytes(4, "big")], [taken, making, telling])
            self._channel.sendall(message)
        finally:
            for end in (taken, making, telling):
                os.close(end)
        return Child(os.fdopen(given, "w", encoding="utf-8"), os.fdopen(made, encoding="utf-8"), os.fdopen(status))

    def end(self) -> None:
        """Ends it; what it has forked goes on."""
        self._channel.close()
        self._process.wait()


def _set_at_loading() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_SET_AT_LOADING)}


_kept: dict[tuple[str, ...], Nursery] = {}


def fork(function: str, modules: Sequence[str]) -> Child:
    """A process that calls a function, from a nursery with these modules, which is kept for the next ones."""
    key = tuple(modules)
    if key in _kept and not _kept[key].usable:
        _kept.pop(key).end()
    if key not in _kept:
        _kept[key] = Nursery(modules)
    return _kept[key].fork(function)


@atexit.register
def _end_all() -> None:
    for nursery in _kept.values():
        nursery.end()
    _kept.clear()


def serve(*modules: str) -> None:
    """The nursery: forks what is asked for on the socket that is its standard input, until that ends."""
    with silenced():
        for module in modules:
            import_module(module)
    gc.freeze()  # what is there by now is shared with all that is forked, and not walked through in each of them
    channel = socket.socket(fileno=os.dup(0))
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.set_wakeup_fd(waking)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: dict[int, int] = {}  # process -> where it is told how it ends
    while True:
        ready, _, _ = select.select([channel.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _tell_ends(children)
        if channel.fileno() in ready:
            header, ends, _, _ = socket.recv_fds(channel, 4, 3)
            if not header:
                return
            request = json.loads(_exactly(channel, int.from_bytes(header, "big")))
            process = os.fork()
            if process == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for end in (channel.detach(), woken, waking, ends[2], *children.values()):
                    os.close(end)
                _be(request, *ends[:2])
            for end in ends[:2]:
                os.close(end)
            children[process] = ends[2]
            _tell(ends[2], process)


def _exactly(channel: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = channel.recv(count - len(found))
        if not piece:
            sys.exit(1)  # the caller is gone
        found += piece
    return found


def _tell_ends(children: dict[int, int]) -> None:
    for process in list(children):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            end = children.pop(process)
            _tell(end, os.waitstatus_to_exitcode(status))
            os.close(end)


def _tell(end: int, number: int) -> None:
    with contextlib.suppress(OSError):  # the caller is gone
        os.write(end, f"{number}\n".encode())


def _be(request: dict[str, Any], taken: int, making: int) -> NoReturn:
    """The forked process, from here to its end."""
    code = 1
    try:
        os.setpgid(0, 0)
        for own, given in ((0, taken), (1, making)):
            os.dup2(given, own)
            os.close(given)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        resolve_name(request["function"])()
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        os._exit(code)
