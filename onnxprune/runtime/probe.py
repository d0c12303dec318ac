"""Trying a file of unknown origin in the helper process: opened and run once, as it will be."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from onnxprune.common.errors import InputError, one_line
from onnxprune.graph.counting import count_model
from onnxprune.graph.files import load
from onnxprune.graph.shapes import input_shapes
from onnxprune.runtime.helper import Limits, guarded, refusals, stage
from onnxprune.runtime.random_inputs import random_inputs
from onnxprune.runtime.session import open_session
from onnxprune.runtime.sizes import SECONDS, bytes_around, reading_seconds, run_memory


def probe(
    path: Path,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    device: str = "cpu",
    threads: int = 1,
    values: Mapping[str, np.ndarray] | None = None,
    limits: Mapping[str, int] | None = None,
    file_bytes: int | None = None,
    seconds: float = SECONDS,
    memory: int | None = None,
    fresh: bool = True,
    counted: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Tries a file of unknown origin in the helper process: onnxruntime crashes on some that are damaged.

    It is checked by `graph.files.load`, opened, and run once on random inputs, as it will be here.

    Args:
        shapes: of the inputs; without them, the file is only opened.
        values, limits: see `random_inputs`.
        file_bytes: of the file and its external data; without it, those of files beside it with its name count.
        seconds: limit of the processor's time, of each thread; one more is added for every 50 MB of them.
        memory: limit of resident bytes; by default some that grow with the files.
        fresh: whether a process that no other file was in is started for it.
        counted: shapes of inputs, where the file leaves more than the batch open: with these, its shapes are inferred,
            its operations counted, and it is run once, for those who do that next in their own process.

    Raises:
        InputError: the file cannot be used, or its process crashed or went beyond the limits.
    """
    size = bytes_around(path) if file_bytes is None else file_bytes
    allowed = Limits(run_memory(size, None) if memory is None else memory, threads, device == "cpu")
    arguments = (path, shapes, device, threads, dict(values or {}), dict(limits or {}), seconds + size / 50e6)
    with refusals(path):
        if counted is not None:
            asked = (path, dict(counted), threads, reading_seconds(size), seconds + size / 50e6)
            guarded("onnxprune.runtime.probe:count_file", *asked, limits=allowed, fresh=fresh)
        guarded("onnxprune.runtime.probe:try_file", *arguments, limits=allowed, fresh=fresh and counted is None)


def count_file(
    path: Path, shapes: Mapping[str, tuple[int, ...]], threads: int, seconds: float, run_seconds: float
) -> None:
    """Infers the shapes of a file, counts its operations and runs it once, as far as its shapes are known.

    Raises:
        InputError: it cannot be read.
    """
    stage("reading and counting it", seconds)
    model, file_bytes = load(path)
    with contextlib.suppress(InputError):  # what does not fit is told by who knows more of its inputs
        resolved = input_shapes(path, model.graph, None, shapes, {})
        counts = count_model(path, model, file_bytes, resolved)
        try_file(path, resolved, "cpu", threads, {}, counts.index_limits, run_seconds)


def try_file(
    path: Path,
    shapes: Mapping[str, Sequence[int]] | None,
    device: str,
    threads: int,
    values: Mapping[str, np.ndarray],
    limits: Mapping[str, int],
    seconds: float,
    what: str = "a single run",
    memory: int | None = None,
) -> None:
    """The other side of `probe`.

    Args:
        what: as which it is told where it goes beyond a limit.
        memory: bytes that it may take.

    Raises:
        InputError: the file cannot be used.
    """
    stage(what, seconds, memory=memory)
    try:
        load(path)
        session = open_session(path, device=device, threads=threads)
        if shapes is not None:
            session.run(None, random_inputs(session, shapes, values=values, limits=limits))
    except (InputError, MemoryError):
        raise
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(f"{path}: onnxruntime cannot run it: {one_line(error)}") from None
