"""Arrays of images and labels, checked and brought into one form."""

from collections.abc import Sequence

import numpy as np

from onnxprune.common.errors import InputError
from onnxprune.common.output import plural
from onnxprune.data.source import Arrays, DatasetInfo

_PIXELS = "uint8 (pixels 0 to 255), other whole numbers from 0 to 255, or floats from 0 to 1"
_AT_ONCE = 1_000  # images that are made floats


def checked(
    arrays: Arrays, source: str, info: DatasetInfo | None = None, classes: Sequence[str] | None = None
) -> Arrays:
    """Images as (N, C, H, W) uint8 and labels as (N,) int64.

    Images come as (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels. Where both ends could be the
    channels, the last is, as in Keras's own files. With `info` they must also be what that dataset is made of;
    `classes` are the names of the user's own, by label, none where there are no labels.

    Raises:
        InputError: naming `source` and what is wrong.
    """
    if all(images.dtype.kind == "f" for images in (arrays[0], arrays[2])):
        highest = [float(images.max()) for images in (arrays[0], arrays[2]) if images.size]
        if len(highest) == 2 and min(highest) <= 1 < max(highest):
            raise InputError(
                f"{source}: x_train goes up to {highest[0]:g}, x_test up to {highest[1]:g}: expected one scale"
            )
    x_train, x_test = (
        check_images(images, f"{source}: {key}") for images, key in ((arrays[0], "x_train"), (arrays[2], "x_test"))
    )
    y_train, y_test = (
        _check_labels(labels, f"{source}: {key}") for labels, key in ((arrays[1], "y_train"), (arrays[3], "y_test"))
    )
    for key, images, labels in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(images) != len(labels):
            raise InputError(
                f"{source}: {plural(len(images), 'image')} in x_{key} but {plural(len(labels), 'label')} in y_{key}"
            )
    if x_train.shape[1:] != x_test.shape[1:]:
        raise InputError(f"{source}: images of x_train are {x_train.shape[1:]}, those of x_test {x_test.shape[1:]}")
    if len(y_train) < 2:
        raise InputError(f"{source}: expected at least 2 training images, one to validate on, got {len(y_train)}")
    if classes is not None and not classes:
        return x_train, y_train, x_test, y_test
    if not y_train.any():
        raise InputError(f"{source}: expected labels of at least 2 classes in y_train, got only 0")
    if info:
        if x_train.shape[1:] != info.shape:
            raise InputError(f"{source}: images are {x_train.shape[1:]}, but {info.title} has {info.shape}; replace it")
        highest_label = int(y_train.max())
        if highest_label >= len(info.classes):
            raise InputError(
                f"{source}: labels go up to {highest_label}, but {info.title} has {len(info.classes)} classes"
            )
    else:
        _check_every_class(y_train, source, classes)
    if int(y_test.max()) > int(y_train.max()):
        raise InputError(f"{source}: y_test has label {int(y_test.max())}, which is not in y_train")
    return x_train, y_train, x_test, y_test


def check_images(images: np.ndarray, what: str) -> np.ndarray:
    """Images as (N, C, H, W), uint8, as `checked` takes them; an InputError names `what` is wrong.

    Floats from 0 to 1 are shares of 255, and rounded; other numbers are pixels: whole ones from 0 to 255.
    """
    if images.ndim not in (3, 4) or (images.ndim == 4 and not {images.shape[1], images.shape[3]} & {1, 3}):
        raise InputError(
            f"{what} has shape {images.shape}, expected (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels"
        )
    if 0 in images.shape:
        raise InputError(f"{what} is empty: its shape is {images.shape}")
    images = _as_bytes(images, what)
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images)


def _as_bytes(images: np.ndarray, what: str) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "iuf":
        raise InputError(f"{what} is {images.dtype}, expected {_PIXELS}")
    low, high = images.min(), images.max()
    if not (np.isfinite(low) and np.isfinite(high)):  # NaN is the smallest and the largest of all
        raise InputError(f"{what} has numbers that are not finite, expected {_PIXELS}")
    if low < 0 or high > 255:
        raise InputError(f"{what} has numbers from {low:g} to {high:g}, expected {_PIXELS}")
    shares = images.dtype.kind == "f" and high <= 1
    found = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _AT_ONCE):
        part = images[start : start + _AT_ONCE]
        whole = np.rint(part.astype(np.float64) * 255 if shares else part)
        if not shares and not np.array_equal(whole, part):
            raise InputError(f"{what} has numbers from {low:g} to {high:g} that are not whole, expected {_PIXELS}")
        found[start : start + _AT_ONCE] = whole
    return found


def _check_every_class(labels: np.ndarray, source: str, classes: Sequence[str] | None) -> None:
    """
    Args:
        labels: of the training images.
        classes: their names; None where nothing names them.

    Raises:
        InputError: a class without training images.
    """
    there = np.unique(labels)
    highest = int(there[-1])
    count = highest + 1 if classes is None else len(classes)
    if highest >= count:
        raise InputError(f"{source}: y_train has label {highest}, but classes names {count}")
    if there[0] == 1 and len(there) == highest and highest >= count - 1:
        raise InputError(
            f"{source}: y_train has labels from 1 to {highest}, expected labels that start at 0: subtract 1 from each"
        )
    if len(there) < count:
        missing = next(label for label, found in enumerate([*there.tolist(), -1]) if label != found)
        named = f"label {missing}" if classes is None else f"label {missing}, which is {classes[missing]!r}"
        raise InputError(
            f"{source}: y_train has no {named}: expected every label from 0 to the number of classes minus 1, got "
            f"{len(there):,} different labels up to {highest:,}"
        )


def _check_labels(labels: np.ndarray, what: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "uib":
        raise InputError(f"{what} is {labels.dtype} of shape {labels.shape}, expected integers of shape (N,)")
    if not len(labels):
        raise InputError(f"{what} is empty")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > np.iinfo(np.int64).max:
        raise InputError(f"{what} has labels from {low} to {high}, expected 0 to the number of classes minus 1")
    return labels.astype(np.int64)
