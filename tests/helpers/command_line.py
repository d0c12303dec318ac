"""The command line in a process of its own, and data for it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).parents[2]


def onnxprune(*arguments: object, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onnxprune", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


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
