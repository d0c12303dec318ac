"""The command line, in a process of its own or in this one, and data for it."""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import warm

from onnxprune.cli import main

REPOSITORY = Path(__file__).parents[2]


def onnxprune(*arguments: object, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which need not import PyTorch and the like itself."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    return warm.run(warm.command, [str(argument) for argument in arguments], cwd, environment)


def from_nothing(*arguments: object, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a fresh process, as people start it."""
    return subprocess.run(
        [sys.executable, "-m", "onnxprune", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def called(*arguments: object, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """The same in this process, which is quicker; what native code prints is caught too."""
    words = ["onnxprune", *map(str, arguments)]
    streams = (1, 2)
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", words),
    ):
        before = [os.dup(stream) for stream in streams]
        for stream, file in zip(streams, (out, err), strict=True):
            os.dup2(file.fileno(), stream)
        try:
            main()
        except SystemExit as stopped:
            code = int(str(stopped.code))
        finally:
            for stream, kept in zip(streams, before, strict=True):
                os.dup2(kept, stream)
                os.close(kept)
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(words, code, out.read(), err.read())


def small_npz(path: Path, classes: int = 3) -> Path:
    """Bright squares in one of `classes` places: learnable in an epoch."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 240), ("test", 60)):
        labels = rng.integers(0, classes, count)
        images = rng.integers(0, 60, (count, 12, 12), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[4 * label : 4 * label + 4, 4:8] = 250
        arrays[f"x_{split}"], arrays[f"y_{split}"] = images, labels
    np.savez(path, **arrays)
    return path
