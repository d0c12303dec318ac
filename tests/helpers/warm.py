"""Real processes without the seconds that a fresh one spends on imports.

They are forked from a server that has imported what most of them need. What a test says of imports, or of what is
printed by them, it must try in a fresh process.
"""

import multiprocessing
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.reduction import DupFd
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]

_PRELOADED = (
    "uncollected onnxprune.commands.study onnxprune.commands.tables onnxprune.report.page onnxprune.runtime.helper "
    "onnxprune.schedules.one_shot onnxprune.study.local onnxprune.study.point "
    "matplotlib.figure onnx_tool pandas PIL.Image pyarrow.dataset pyarrow.parquet rich.table sklearn.datasets.data "
    "sklearn.model_selection "
    "torch._dynamo torch.onnx.utils torch.utils.flop_counter frozen"
)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_PRELOADED.split())


class _Stream:
    """A descriptor that goes along to a process that is started."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return _received, (DupFd(self.number),)


def _received(duplicate: Any) -> _Stream:
    return _Stream(duplicate.detach())


def start(
    run: Callable[..., None],
    *arguments: Any,
    cwd: Path | str | None = None,
    environment: Mapping[str, str] | None = None,
    streams: Sequence[int] = (),
    file_bytes: int | None = None,
) -> Any:
    """Starts a process that calls a function, as a `multiprocessing.Process`.

    Args:
        environment: all of it; default: that of this process.
        streams: descriptors that become its standard output and error, or input, output and error.
        file_bytes: no file of it may grow beyond that, as if the disk were full.
    """
    _start_server()
    given = [(place, _Stream(number)) for place, number in enumerate(streams, 3 - len(streams))]
    how = (given, str(cwd or Path.cwd()), dict(environment or os.environ), file_bytes)
    process = _CONTEXT.Process(target=_be, args=(*how, run, arguments))
    process.start()
    return process


def _start_server() -> None:
    """Starts it, where it is not there yet, with this folder to import from: Python 3.11 does not tell it of any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()


def _be(
    streams: list[tuple[int, _Stream]],
    cwd: str,
    environment: dict[str, str],
    file_bytes: int | None,
    run: Callable[..., None],
    arguments: Sequence[Any],
) -> None:
    for place, stream in streams:
        os.dup2(stream.number, place)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(place, mode, buffering=1, closefd=False) for place, mode in enumerate("rww")
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    run(*arguments)


def command(words: Sequence[str]) -> None:
    """`onnxprune` with these words; it is imported anew, with what the folders of PYTHONPATH add to it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnxprune"]:
        del sys.modules[name]
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = ["onnxprune", *words]
    from onnxprune.__main__ import main

    main()


def script(words: Sequence[str]) -> None:
    """`python` with these words: a file, or -c and code, and its arguments."""
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path[:0] = [""]
        exec(words[1], {"__name__": "__main__"})
        return
    sys.argv = list(words)
    sys.path[:0] = [str(Path(words[0]).parent)]
    runpy.run_path(words[0], run_name="__main__")


class Fresh:
    """In place of the fresh process that a helper or a worker is: with the part of Popen that its caller uses."""

    def __init__(self, function: str, text: bool = False, **how: Any) -> None:
        (asked, ask), (answers, answered) = os.pipe(), os.pipe()
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            self._process = start(resolved, function, streams=[asked, answered, nowhere.fileno()])
        os.close(asked)
        os.close(answered)
        self.pid = self._process.pid
        kind = "" if text else "b"
        self.stdin, self.stdout = os.fdopen(ask, f"w{kind}"), os.fdopen(answers, f"r{kind}")

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self.poll()

    def kill(self) -> None:
        self._process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def resolved(function: str) -> None:
    """A function by its name, "module:function"."""
    resolve_name(function)()


def run(
    what: Callable[..., None], words: Sequence[str], cwd: Path | str, environment: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Runs one of these two to its end, and catches what it prints."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        streams = (out.fileno(), err.fileno())
        process = start(what, list(words), cwd=cwd, environment=environment, streams=streams)
        process.join(300)
        assert process.exitcode is not None, "it hangs"
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(list(words), process.exitcode, out.read(), err.read())


_CLIENT = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(sys.argv[1])
    socket.send_fds(server, ["\\0".join([os.getcwd(), *sys.argv[2:]]).encode()], [0, 1, 2])
    sys.exit(int(server.recv(9)))
"""


class Shell:
    """A context in which scripts of bash start such processes: `definitions` go before their lines."""

    def __init__(self, folder: Path) -> None:
        client = folder / "client.py"
        client.write_text(_CLIENT)
        ask = f'"{sys.executable}" -S -E "{client}" "{folder / "socket"}"'
        self.definitions = [f'onnxprune() {{ {ask} command "$@"; }}', f'python() {{ {ask} script "$@"; }}']
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(folder / "socket"))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Shell":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)  # which ends the waiting for the next one
        self._socket.close()
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                asked, _ = self._socket.accept()
                with asked:
                    message, streams, _, _ = socket.recv_fds(asked, 2**16, 3)
                    cwd, kind, *words = message.decode().split("\0")
                    process = start({"command": command, "script": script}[kind], words, cwd=cwd, streams=streams)
                    for stream in streams:
                        os.close(stream)
                    process.join()
                    asked.send(str(process.exitcode).encode())
