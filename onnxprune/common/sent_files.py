"""Files that another machine has sent here: copies that stand in for them, by the names they have there."""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from onnxprune.common.temporary import temporary_folder

_copies: dict[Path, Path] = {}
_folders: dict[str, tempfile.TemporaryDirectory[str]] = {}  # content of what was sent -> where it is kept


def keep_sent(files: Mapping[str, bytes]) -> None:
    """Keeps files for as long as this process lives.

    Args:
        files: content by path. Those of a folder stay beside each other, and below it.
    """
    content = hashlib.sha256()
    for name, data in sorted(files.items()):
        content.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(data).digest())
    if content.hexdigest() not in _folders:
        _folders[content.hexdigest()] = temporary_folder()
    folder = _folders[content.hexdigest()]
    for name, data in files.items():
        copy = Path(folder.name, *Path(name).absolute().parts[1:])
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(data)
        _copies[Path(name)] = copy


def sent_or_here(name: str | Path) -> Path:
    """The copy of a file, where one was sent; else the file of that name."""
    return _copies.get(Path(name), Path(name))
