"""Picture files as pixels: the one way in which all of onnxprune reads them, by Pillow."""

import contextlib
import io
import re
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps

from onnxprune.common.environment import available_memory
from onnxprune.common.errors import InputError
from onnxprune.common.files import check_is_file, is_folder
from onnxprune.data.names import shown_name

# names of picture files in a folder end so; what is in them decides how they are read
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp"))

_MODES = {1: "L", 3: "RGB"}  # channels -> Pillow's mode
_DEEP = ("I", "F")  # Pillow's modes of more than 8 bits a channel begin so; it clips them at 255
_DEEP_IN_FILE = re.compile(";16[BLN]")  # in how it unpacks others of 16 bits a channel: the lower 8 are dropped
_LARGE = 2**22  # pixels: larger ones are read one at a time, whatever the threads
_BYTES_A_PIXEL = 20  # with all copies on the way to grey or RGB
_one_large = threading.Lock()
# Pillow has readers of 40 formats more, one of which runs another program
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")


def files_in(folder: Path, ignored: Counter[str] | None = None) -> list[Path]:
    """The files of pictures in a folder and in the folders in it; links to folders are not followed.

    Args:
        ignored: counts what is left out, by its kind.

    Raises:
        InputError: a folder cannot be listed.
    """
    ignored = Counter() if ignored is None else ignored
    found = []
    waiting = [folder]
    while waiting:
        for entry in entries(waiting.pop(), ignored):
            if is_folder(entry):
                if entry.is_symlink():
                    ignored["reached by a link to a folder"] += 1
                else:
                    waiting.append(entry)
            elif entry.suffix.lower() in SUFFIXES:
                found.append(entry)
            else:
                ignored[f"not pictures ({shown_name(entry.suffix.lower()) or 'without a suffix'})"] += 1
    return sorted(found)


def entries(folder: Path, ignored: Counter[str] | None = None) -> list[Path]:
    """What lies in a folder, but for what is hidden, which is counted; an InputError where it cannot be listed."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{shown_name(str(folder))}: cannot be listed: {error.strerror}") from None
    hidden = {path for path in found if path.name.startswith(".") or path.name == "__MACOSX"}
    if ignored is not None and hidden:
        ignored["hidden"] += len(hidden)
    return [path for path in found if path not in hidden]


def read_picture(path: Path, shape: tuple[int, int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """The picture as uint8 (C, H, W), and its own (width, height).

    It becomes grey or RGB, as `shape` says, and is resized, whatever its proportions.

    Raises:
        InputError: naming `path` and what is wrong.
    """
    check_is_file(path)
    with bombs_refused():
        try:
            picture = upright(path)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    return as_pixels(picture, shape), picture.size


@contextlib.contextmanager
def bombs_refused() -> Iterator[None]:
    """Makes an error of Pillow's warning of pictures with very many pixels, in all threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def upright(source: Path | bytes) -> Image.Image:
    """The picture in a file, or in what was read of one, as people see it, in Pillow's mode L (grey) or RGB.

    It is turned as its camera says, and white where it is transparent; in RGB only where some pixel has a colour. To be
    called within `bombs_refused`.

    Raises:
        InputError: it cannot be read; the message does not name it.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS) as file:
            if file.mode.startswith(_DEEP) or _DEEP_IN_FILE.search(str(file.tile)):
                raise InputError("has more than 8 bits a channel: convert it first")
            pixels = file.width * file.height
            needed = pixels * _BYTES_A_PIXEL
            with _one_large if pixels > _LARGE else contextlib.nullcontext():
                if pixels > _LARGE and needed > available_memory():
                    raise InputError(
                        f"the picture has {pixels:,} pixels, which take {needed / 1e9:,.1f} GB of memory to read, "
                        "more than is free"
                    )
                file.load()
                return _plain(ImageOps.exif_transpose(file))
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"the picture has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's readers raise whatever their format's parser does
        raise InputError("not a picture that Pillow can read, or a damaged one") from error


def upright_size(content: bytes) -> tuple[int, int]:
    """(height, width) that the head of a file says its picture has, once it is turned as its camera says.

    To be called within `bombs_refused`.

    Raises:
        InputError: there is no such head.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as file:
            width, height = file.size
            turned = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"the picture has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Exception as error:
        raise InputError("not a picture that Pillow can read, or a damaged one") from error
    return (width, height) if turned else (height, width)


def as_pixels(picture: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    """A picture as uint8 (C, H, W) of 1 or 3 channels; resized by Pillow's antialiased bilinear filter."""
    channels, height, width = shape
    picture = picture.convert(_MODES[channels])
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(height, width, channels).transpose(2, 0, 1)


def _plain(picture: Image.Image) -> Image.Image:
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    if picture.mode in ("1", "L"):
        return picture.convert("L")
    picture = picture.convert("RGB")
    red, green, blue = picture.split()
    grey = all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue))
    return red if grey else picture
