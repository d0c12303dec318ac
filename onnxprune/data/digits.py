"""scikit-learn's handwritten digits, which come with the installation."""

from pathlib import Path

import numpy as np

from onnxprune.data.source import Arrays, DatasetInfo


def _read(_: Path) -> Arrays:
    """scikit-learn's 1,797 digits of 8x8 pixels (0 to 16), enlarged to 28x28; every class gives a fifth to the test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    small = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.ascontiguousarray(_widened(_widened(small).transpose(0, 2, 1)).transpose(0, 2, 1))
    train, test = train_test_split(
        np.arange(len(images)), test_size=0.2, random_state=0, stratify=digits.target, shuffle=True
    )
    train, test = np.sort(train), np.sort(test)
    return images[train], digits.target[train], images[test], digits.target[test]


def _widened(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W) as (N, H, 28): all their rows as one image, which is faster than one image after the other."""
    from PIL import Image

    rows = Image.fromarray(np.ascontiguousarray(images).reshape(-1, images.shape[2]))
    return np.asarray(rows.resize((28, rows.height), Image.Resampling.BILINEAR)).reshape(*images.shape[:2], 28)


DIGITS = DatasetInfo(
    title="scikit-learn's handwritten digits, enlarged; needs no download",
    shape=(1, 28, 28),
    classes=tuple("0123456789"),
    train_images=1_294,
    folder="",
    read=_read,
)
