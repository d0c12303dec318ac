"""Trying a file of unknown origin in a process of its own."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil

from onnxprune.common.errors import InputError
from onnxprune.common.processes import signal_of, start
from onnxprune.runtime.session import open_session

_START = 3  # seconds of the processor's time that imports take

_WAITING = 4  # times the limit by the clock


def probe(
    path: Path,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    device: str = "cpu",
    threads: int = 1,
    values: Mapping[str, np.ndarray] | None = None,
    limits: Mapping[str, int] | None = None,
    file_bytes: int | None = None,
    seconds: float = 4,
    memory: int = 4 * 2**30,
) -> None:
    """Tries a file of unknown origin in a process of its own: onnxruntime crashes on some that are damaged.

    It is checked by `graph.files.load`, opened, and run once on random inputs, as it will be here.

    Args:
        shapes: of the inputs; without them, the file is only opened.
        values, limits: see `random_inputs`.
        file_bytes: of the file and its external data; without it, those of files beside it with its name count.
        seconds: limit of the processor's time, and of four times as much by the clock; one more is added for every
            50 MB of them.
        memory: limit of resident bytes; four times as many are added.

    Raises:
        InputError: the file cannot be used, or its process crashed or went beyond the limits.
    """
    size = _bytes_around(path) if file_bytes is None else file_bytes
    request = {
        "path": str(path),
        "shapes": None if shapes is None else dict(shapes),
        "values": {name: [value.dtype.name, value.tolist()] for name, value in (values or {}).items()},
        "limits": dict(limits or {}),
        "device": device,
        "threads": threads,
    }
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
        stdin.write(json.dumps(request).encode())
        stdin.seek(0)
        child = start(
            "onnxprune.runtime.probe:answer_probe",
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,  # native code prints there, and what it says comes back in the answer
        )
        try:
            problem = _watch(child, seconds + size / 50e6, threads, memory + 4 * size)
        finally:
            child.kill()
            child.wait()
        stdout.seek(0)
        lines = stdout.read().decode(errors="replace").splitlines()
    if problem is None and child.returncode == 0 and lines:
        problem = json.loads(lines[-1])
        if problem is None:
            return
        raise InputError(problem)
    if problem is not None:
        raise InputError(f"{path}: given up: {problem}")
    raise InputError(f"{path}: onnxruntime cannot run it: {_ending(child.returncode)}")


def answer_probe() -> None:
    """The other side of `probe`: reads the request from stdin, and prints null or what is wrong as JSON."""
    from onnxprune.common.errors import one_line  # the study's own exports need no onnx here
    from onnxprune.graph.files import load
    from onnxprune.runtime.random_inputs import random_inputs

    asked = json.load(sys.stdin)
    path = Path(asked["path"])
    values = {name: np.asarray(value, np.dtype(kind)) for name, (kind, value) in asked["values"].items()}
    problem = None
    try:
        load(path)
        session = open_session(path, device=asked["device"], threads=asked["threads"])
        if asked["shapes"] is not None:
            session.run(None, random_inputs(session, asked["shapes"], values=values, limits=asked["limits"]))
    except InputError as error:
        problem = str(error)
    except Exception as error:  # onnxruntime's exceptions share no base class
        problem = f"{path}: onnxruntime cannot run it: {one_line(error)}"
    print("\n" + json.dumps(problem), flush=True)  # noqa: T201 - on a line of its own, whatever came before
    os._exit(0)  # tearing a session down may crash where running it did not


def _watch(child: subprocess.Popen[bytes], seconds: float, threads: int, memory: int) -> str | None:
    """Waits for the process; what is wrong where it goes beyond a limit.

    Others may keep the processor busy: its own time counts, of all its threads, and the clock's only where it waits.
    """
    process = psutil.Process(child.pid)
    end = time.monotonic() + _WAITING * seconds
    memory = min(memory, psutil.virtual_memory().available * 9 // 10)
    while True:
        try:
            child.wait(0.01)
            return None
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(psutil.Error):  # it has just ended
            if process.memory_info().rss > memory:
                return f"a single run takes over {memory / 2**30:.1f} GiB of memory"
            if sum(process.cpu_times()[:2]) > threads * (seconds + _START) or time.monotonic() > end:
                return f"a single run does not finish in time, {seconds:.3g} s"


def _bytes_around(path: Path) -> int:
    """Of the file and those beside it, which may hold its external data."""
    try:
        return sum(file.stat().st_size for file in path.parent.iterdir() if file.stem.startswith(path.stem))
    except OSError:
        return 0


def _ending(code: int) -> str:
    signal_name = signal_of(code)
    return f"its process ended with exit code {code}" if signal_name is None else f"its process crashed ({signal_name})"
