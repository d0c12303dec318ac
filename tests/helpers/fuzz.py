"""Damaged ONNX files, and running many of them through onnxprune in a process of their own."""

import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import onnx

REPOSITORY = Path(__file__).parents[2]
BACKEND = Path(onnx.__file__).parent / "backend/test/data"
SECONDS = 5
MEMORY = 3 * 2**30


def foreign_files() -> list[Path]:
    """The models that the onnx package carries."""
    return sorted(BACKEND.rglob("*.onnx"))


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One damage: bytes changed, cut, inserted, or a field of the protobuf set to something absurd."""
    kind = rng.choice(["flip", "cut", "insert", "field", "field", "field"])
    at = rng.randrange(len(data))
    if kind == "flip":
        changed = bytearray(data)
        for _ in range(rng.choice([1, 3, 10])):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(changed)
    if kind == "cut":
        return data[:at] + data[at + rng.randrange(1, len(data)) :]
    if kind == "insert":
        return data[:at] + rng.randbytes(rng.randrange(1, 50)) + data[at:]
    model = onnx.load_from_string(data)
    _edit(model, rng)
    return model.SerializeToString()


def _edit(model: onnx.ModelProto, rng: random.Random) -> None:
    """Changes one field of a message found by walking down at random."""
    message = model.graph
    while True:
        field, value = rng.choice(message.ListFields())
        if field.message_type is None:
            break
        inner = rng.choice(list(value)) if field.is_repeated else value
        if not inner.ListFields():
            return
        if field.is_repeated and rng.random() < 0.1:
            getattr(message, field.name).append(inner)
            return
        message = inner
    absurd: dict[str, list] = {
        "int": [-1, 0, 1, 2, 7, 255, 10**6, 2**31 - 1, 2**31, 10**18, -(2**63), 2**63 - 1],
        "float": [float("nan"), float("inf"), -1.0, 1e30],
        "str": ["", "x", "y" * 100_000, "Conv", "Loop", "Reshape"],
        "bytes": [b"", b"\x00", bytes(1000), b"\xff" * 64],
    }
    sample = value[0] if field.is_repeated else value
    while True:
        new = rng.choice(absurd[type(sample).__name__])
        try:
            if field.is_repeated:
                getattr(message, field.name)[rng.randrange(len(value))] = new
            else:
                setattr(message, field.name, new)
            return
        except ValueError:  # out of the field's range
            continue


def outcomes(paths: list[Path], check: str) -> Iterator[tuple[Path, str, str, float]]:
    """Of each file: "ok", "refused" (InputError), "failed" (another exception) or "crashed"; the message; seconds.

    Args:
        check: "profile" (all but latency), "probe", or "prune" (half of it, beside the file).
    """
    left = list(paths)
    while left:
        done = subprocess.run(
            [sys.executable, str(Path(__file__)), check, *map(str, left)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=False,
        )
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        for path, (outcome, message, seconds) in zip(left, rows, strict=False):
            yield path, outcome, message, seconds
        left = left[len(rows) :]
        if left:
            yield left.pop(0), "crashed", f"{done.returncode}: {done.stderr[-500:]}", 0


def _main(check: str, paths: list[str]) -> None:
    import signal

    from onnxprune.analysis.profiling import profile
    from onnxprune.common.errors import InputError
    from onnxprune.reduction.prune import prune
    from onnxprune.runtime.probe import probe

    checks = {
        "profile": lambda path: profile(path, latency=False),
        "probe": probe,
        "prune": lambda path: prune(path, sparsity=50, latency=False),
    }
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for path in map(Path, paths):
        start = time.monotonic()
        signal.alarm((12 if check == "prune" else 2) * SECONDS)  # kills the process, which counts as a crash
        try:
            checks[check](path)
            row = ["ok", ""]
        except InputError as error:
            row = ["refused", str(error)]
        except Exception as error:
            row = ["failed", f"{type(error).__name__}: {error}"[:1000]]
        signal.alarm(0)
        print(json.dumps([*row, time.monotonic() - start]), flush=True)  # noqa: T201


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
