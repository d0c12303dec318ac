"""What a source of data is: what is known of it before it is read, and how it is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x_train, y_train, x_test, y_test


@dataclass(frozen=True)
class OwnData:
    """Data of a user's own.

    Attributes:
        arrays: labels are zeros where there are none.
        classes: their names, by label; None where nothing names them; empty where there are no labels.
    """

    arrays: Arrays
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset before it is loaded.

    Attributes:
        title: its name in the literature.
        shape: (C, H, W) of an image.
        classes: their names, by label.
        train_images: images it trains on, validation and test set taken out.
        folder: where its files lie in the data folder; "" for one that needs no files.
        read: reads that folder; FileNotFoundError where the files are not there.
        torchvision_name: torchvision's class that downloads it; "" where nothing does.
        mirrors: where it downloads from instead of its own addresses, some of which are not HTTPS.
    """

    title: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    train_images: int
    folder: str
    read: Callable[[Path], Arrays]
    torchvision_name: str = ""
    mirrors: tuple[str, ...] = ()
