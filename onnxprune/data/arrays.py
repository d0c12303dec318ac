"""Arrays of images and labels, checked and brought into one form."""

import numpy as np

from onnxprune.common.errors import InputError
from onnxprune.data.source import Arrays, DatasetInfo


def checked(arrays: Arrays, source: str, info: DatasetInfo | None = None) -> Arrays:
    """Images as (N, C, H, W) uint8 and labels as (N,) int64.

    Images come as (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels. Where both ends could be the
    channels, the last is, as in Keras's own files. With `info` they must also be what that dataset is made of.

    Raises:
        InputError: naming `source` and what is wrong.
    """
    x_train, x_test = (
        check_images(images, f"{source}: {key}") for images, key in ((arrays[0], "x_train"), (arrays[2], "x_test"))
    )
    y_train, y_test = (
        _check_labels(labels, f"{source}: {key}") for labels, key in ((arrays[1], "y_train"), (arrays[3], "y_test"))
    )
    for key, images, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(images) != len(labels):
            raise InputError(f"{source}: {len(images):,} images in x_{key} but {len(labels):,} labels in y_{key}")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise InputError(f"{source}: images of x_train are {x_train.shape[1:]}, those of x_test {x_test.shape[1:]}")
    if len(y_train) < 2:
        raise InputError(f"{source}: expected at least 2 training images, one to validate on, got {len(y_train)}")
    classes = int(y_train.max()) + 1
    if classes < 2:
        raise InputError(f"{source}: expected labels of at least 2 classes in y_train, got only 0")
    if int(y_test.max()) >= classes:
        raise InputError(f"{source}: y_test has label {int(y_test.max())}, which y_train has not")
    if classes > len(y_train):
        raise InputError(f"{source}: expected labels from 0 to the number of classes less one, got up to {classes - 1}")
    if info and x_train.shape[1:] != info.shape:
        raise InputError(f"{source}: images are {x_train.shape[1:]}, but {info.title} has {info.shape}; replace it")
    if info and classes > len(info.classes):
        raise InputError(f"{source}: labels go up to {classes - 1}, but {info.title} has {len(info.classes)} classes")
    return x_train, y_train, x_test, y_test


def check_images(images: np.ndarray, what: str) -> np.ndarray:
    """Images as (N, C, H, W), as `checked` takes them; an InputError names `what` is wrong."""
    if images.dtype != np.uint8:
        raise InputError(f"{what} is {images.dtype}, expected uint8 (pixels 0 to 255)")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"{what} has shape {images.shape}, expected (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels"
        )
    if 0 in images.shape:
        raise InputError(f"{what} is empty: its shape is {images.shape}")
    return np.ascontiguousarray(images)


def _check_labels(labels: np.ndarray, what: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise InputError(f"{what} is {labels.dtype} of shape {labels.shape}, expected integers of shape (N,)")
    if not len(labels):
        raise InputError(f"{what} is empty")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > np.iinfo(np.int64).max:
        raise InputError(f"{what} has labels from {low} to {high}, expected 0 to the number of classes less one")
    return labels.astype(np.int64)
