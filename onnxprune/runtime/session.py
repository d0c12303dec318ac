"""onnxruntime sessions, and running image sets through them."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil

from onnxprune.common.errors import InputError

_FATAL = 4  # onnxruntime's severities: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal

# float32 files compute in float32: onnxruntime's default of TF32 would change the third digit of the logits.
_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})
_CPU: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})
_TINY = '<ir_version: 8, opset_import: ["": 13]> tiny (float[1] x) => (float[1] y) { y = Add (x, x) }'


def open_session(
    path: Path, *, device: str = "cpu", threads: int = 1, profile_to: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session of the ONNX file with all graph optimisations, running its operators one after the other.

    Args:
        device: "cpu" or "cuda"; operators without a CUDA kernel run on the CPU, as in any deployment.
        threads: threads within one operator, on the CPU.
        profile_to: folder for onnxruntime's own profile of the session, which slows it.

    Raises:
        InputError: no such file, onnxruntime cannot load it, or CUDA was asked for and does not run here.
    """
    if not path.is_file():
        raise InputError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    # What goes wrong comes back as an exception; onnxruntime's log lines would only repeat it on the terminal.
    onnxruntime.set_default_logger_severity(_FATAL)
    if device == "cuda":
        _prepare_cuda()
    options = _options(threads)
    if profile_to is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_to / "profile")
    try:
        session = onnxruntime.InferenceSession(
            str(path),
            options,
            providers=[_CUDA, _CPU] if device == "cuda" else [_CPU],
            enable_fallback=0,  # the fallback prints, and would give CPU numbers for CUDA
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(f"{path}: onnxruntime cannot load it: {_first_line(error)}") from error
    if device == "cuda" and session.get_providers()[0] != _CUDA[0]:
        raise _no_cuda()
    return session


def probe(
    path: Path,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    device: str = "cpu",
    threads: int = 1,
    file_bytes: int | None = None,
    seconds: float = 4,
    memory: int = 4 * 2**30,
) -> None:
    """Tries a file of unknown origin in a process of its own: onnxruntime crashes on some that are damaged.

    It is checked by `onnxfile.load`, opened, and run once on random inputs, as it will be here.

    Args:
        shapes: of the inputs; without them, the file is only opened.
        file_bytes: of the file and its external data; without it, those of files beside it with its name count.
        seconds: limit of time; one more is added for every 50 MB of them.
        memory: limit of resident bytes; four times as many are added.

    Raises:
        InputError: the file cannot be used, or its process crashed or went beyond the limits.
    """
    size = _bytes_around(path) if file_bytes is None else file_bytes
    request = json.dumps([str(path), None if shapes is None else dict(shapes), device, threads])
    package = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
        stdin.write(request.encode())
        stdin.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", "from onnxprune.runtime.session import answer_probe; answer_probe()"],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,  # native code prints there, and what it says comes back in the answer
            env=environment,
        )
        try:
            problem = _watch(child, time.monotonic() + seconds + size / 50e6, memory + 4 * size)
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
    raise InputError(f"{path}: onnxruntime cannot run it: {problem or _ending(child.returncode)}")


def answer_probe() -> None:
    """The other side of `probe`: reads the request from stdin, and prints null or what is wrong as JSON."""
    from onnxprune.graph.onnxfile import load, one_line  # the study's own exports need no onnx here
    from onnxprune.runtime.random_inputs import random_feed

    name, shapes, device, threads = json.load(sys.stdin)
    path = Path(name)
    problem = None
    try:
        load(path)
        session = open_session(path, device=device, threads=threads)
        if shapes is not None:
            session.run(None, random_feed(session, shapes))
    except InputError as error:
        problem = str(error)
    except Exception as error:  # onnxruntime's exceptions share no base class
        problem = f"{path}: onnxruntime cannot run it: {one_line(error)}"
    print("\n" + json.dumps(problem), flush=True)  # noqa: T201 - on a line of its own, whatever came before
    os._exit(0)  # tearing a session down may crash where running it did not


def _watch(child: subprocess.Popen[bytes], end: float, memory: int) -> str | None:
    """Waits for the process; what is wrong where it goes beyond a limit."""
    process = psutil.Process(child.pid)
    memory = min(memory, psutil.virtual_memory().available * 9 // 10)
    while True:
        try:
            child.wait(0.01)
            return None
        except subprocess.TimeoutExpired:
            pass
        with contextlib.suppress(psutil.Error):  # it has just ended
            if process.memory_info().rss > memory:
                return f"it takes over {memory / 2**30:.1f} GiB of memory"
        if time.monotonic() > end:
            return "it does not finish in time"


def _bytes_around(path: Path) -> int:
    """Of the file and those beside it, which may hold its external data."""
    try:
        return sum(file.stat().st_size for file in path.parent.iterdir() if file.stem.startswith(path.stem))
    except OSError:
        return 0


def _ending(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"its process crashed ({signal.Signals(-code).name})"
    return f"its process crashed (signal {-code})"


def run_batched(
    session: onnxruntime.InferenceSession,
    images: np.ndarray,
    mean: Any,
    std: Any,
    batch_size: int = 500,
) -> np.ndarray:
    """Logits (N, classes), float32, of uint8 images (N, C, H, W) normalised to (image / 255 - mean) / std.

    Args:
        mean, std: one number, or one for each of the C channels.

    Raises:
        InputError: the file has not one input and one output, or does not take images of this shape.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(f"expected a model of one input and one output, it has {len(inputs)} and {len(outputs)}")
    shift, deviation = (255 * np.asarray(value, np.float32).reshape(-1, 1, 1) for value in (mean, std))
    scale = 1 / deviation  # dividing every pixel would take longer
    logits = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size].astype(np.float32)
        batch -= shift
        batch *= scale
        try:
            logits += session.run([outputs[0].name], {inputs[0].name: batch})
        except Exception as error:
            raise InputError(
                f"the model's input {inputs[0].name!r} is {inputs[0].shape}, it does not take images "
                f"of shape {list(batch.shape)}: {_first_line(error)}"
            ) from error
    return np.concatenate(logits).astype(np.float32, copy=False)


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _FATAL
    # Threads that wait for work spin within a run, as in deployment, but stop when it ends: left spinning they
    # took the cores from the session timed next (DenseNet-121, two threads, interleaved: 11 ms instead of 4).
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def _prepare_cuda() -> None:
    """Loads the CUDA libraries that pip installed, where onnxruntime would not look for them by itself."""
    if _CUDA[0] not in onnxruntime.get_available_providers():
        raise _no_cuda()
    preload = getattr(onnxruntime, "preload_dlls", None)  # since onnxruntime 1.21
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # prints a line for every library it misses
            preload()


def check_cuda() -> None:
    """Tries CUDA by a session of one operator.

    Raises:
        InputError: it does not run here.
    """
    from onnx import parser

    tiny = parser.parse_model(_TINY).SerializeToString()
    _prepare_cuda()
    try:
        session = onnxruntime.InferenceSession(tiny, _options(1), providers=[_CUDA], enable_fallback=0)
        session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise _no_cuda() from error
    if session.get_providers()[0] != _CUDA[0]:
        raise _no_cuda()


def _no_cuda() -> InputError:
    return InputError(
        "CUDA does not run here: there is no GPU, or no CUDA libraries that onnxruntime can use; use --device cpu"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
