"""Folders of small pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    """Noise of (height, width), the same for the same seed."""
    height, width = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels if mode == "RGB" else pixels[..., 0]).convert(mode)


def photos(
    folder: Path,
    classes: Sequence[str] = ("cat", "dog"),
    count: int = 20,
    size: tuple[int, int] = (8, 8),
    mode: str = "RGB",
    first: int = 0,
) -> Path:
    """A folder of `count` PNGs for each class, no two of which are the same; enough to be in the test set too."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            seed = first + 1000 * label + index
            picture(seed, size, mode).save(folder / name / f"{index:03d}.png")
    return folder


def squares(folder: Path, classes: Sequence[str] = ("top", "middle", "bottom"), count: int = 60) -> Path:
    """Bright squares of 4x4 in one of three places on 12x12 grey noise: learnable in an epoch."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 60, (12, 12), dtype=np.uint8)
            pixels[4 * label : 4 * label + 4, 4:8] = 250
            Image.fromarray(pixels).save(folder / name / f"{index:03d}.png")
    return folder
