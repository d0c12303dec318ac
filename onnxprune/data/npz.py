"""Arrays in .npz files, read without unpickling anything and not before their sizes are looked at."""

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from onnxprune.common.environment import available_memory
from onnxprune.common.errors import InputError, one_line
from onnxprune.common.files import check_is_file
from onnxprune.common.limits import memory_limited
from onnxprune.data.names import check_class_names
from onnxprune.data.source import OwnData

ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")
_IMAGES, _LABELS = ["x_train", "x_test"], ["y_train", "y_test"]

CLASSES = "classes"  # an array that may be there too: their names, by label

# what unfolds to more than that, and so many times its packed size, is no data but an attack or a mistake
_LARGE = 10**9
_TIMES = 50

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# NotImplementedError, of a kind of packing that Python has not, is a RuntimeError
_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, MemoryError)


def read_npz(path: Path) -> OwnData:
    """The arrays of an .npz file under Keras's names, and the names of its classes where it has some.

    A file with neither y_train nor y_test has no labels.

    Raises:
        InputError: no such file, or not one of plain arrays with those names.
    """
    names = array_names(path)
    missing = [key for key in ARRAY_NAMES if key not in names]
    if missing == _LABELS:
        images = read_arrays(path, _IMAGES)
        x_train, x_test = (images[key] for key in _IMAGES)
        y_train, y_test = (np.zeros(found.shape[:1], int) for found in (x_train, x_test))
        return OwnData((x_train, y_train, x_test, y_test), ())
    if missing:
        raise InputError(
            f"{path} has no {', '.join(missing)}: expected the arrays {', '.join(ARRAY_NAMES)}, or the images alone "
            f"({', '.join(_IMAGES)}) where there are no labels"
        )
    arrays = read_arrays(path, [*ARRAY_NAMES, *([CLASSES] if CLASSES in names else [])])
    x_train, y_train, x_test, y_test = (arrays[key] for key in ARRAY_NAMES)
    return OwnData((x_train, y_train, x_test, y_test), _class_names(path, arrays.get(CLASSES)))


def array_names(path: Path) -> list[str]:
    """Names of what is in an .npz file.

    Raises:
        InputError: no such file, or none that is an archive.
    """
    check_is_file(path)
    if not zipfile.is_zipfile(path):  # NumPy would take it for a pickle and advise to load it unsafely
        raise InputError(f"{path} is not an .npz file: not a zip archive, or only part of one")
    try:
        with np.load(path, allow_pickle=False) as file:
            return list(file.files)
    except _ERRORS as error:
        raise _not_plain(path, error) from None


def read_arrays(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Some of the arrays of an .npz file.

    Raises:
        InputError: they are no plain arrays, or damaged, or would not fit the memory.
    """
    try:
        _check_sizes(path, names)
        with memory_limited(), np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names}
    except _ERRORS as error:
        raise _not_plain(path, error) from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy gives other members of the archive as bytes
            raise InputError(f"{path}: {name} is not an array")
    return arrays


def _not_plain(path: Path, error: BaseException) -> InputError:
    return InputError(f"{path} is not an .npz file of plain arrays: {one_line(error)}")


def _check_sizes(path: Path, names: Collection[str]) -> None:
    """
    Raises:
        InputError: arrays would take more memory than there is, or far more than their file says they can be worth.
    """
    total = packed = 0
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        for name in names:
            member = members.get(f"{name}.npy") or members[name]
            size = _declared(archive, member)
            total += size
            packed += member.compress_size
            for what, before, after in ((f"{name} is", member.compress_size, size), ("its arrays are", packed, total)):
                if after > _LARGE and after > _TIMES * before:
                    raise InputError(
                        f"{path}: {what} {before / 1e6:,.1f} MB that unpack to {after / 1e9:,.1f} GB, far more than "
                        "images do; if the file is right, save it with numpy.savez, which does not compress"
                    )
    if total > available_memory():
        raise InputError(
            f"{path}: its arrays take {total / 1e9:,.1f} GB of memory, {available_memory() / 1e9:,.1f} GB are available"
        )


def _declared(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Bytes of an array by its own head, which is what NumPy makes room for, or of a member that is no array."""
    with archive.open(member) as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            return member.file_size
        file.seek(0)
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"array format {version} is for records")
        shape, _, kind = _HEADERS[version](file)
        if kind.hasobject:
            raise ValueError(
                f"{member.filename.removesuffix('.npy')} holds Python objects, which are not unpickled: save numbers "
                "or texts, as .astype(int) or .astype(str) make them"
            )
        size = kind.itemsize
        for length in shape:
            size *= length
        if file.tell() + size != member.file_size:
            raise ValueError(f"{member.filename} is {member.file_size:,} bytes, its header says {file.tell() + size:,}")
        return size


def _class_names(path: Path, names: np.ndarray | None) -> tuple[str, ...] | None:
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind not in "USiu":
        raise InputError(f"{path}: {CLASSES} is {names.dtype} of shape {names.shape}, expected names of shape (N,)")
    try:
        texts = [name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()]
    except UnicodeDecodeError:
        raise InputError(f"{path}: {CLASSES} has names that are not in UTF-8") from None
    return tuple(check_class_names(f"{path}: {CLASSES}", texts))
