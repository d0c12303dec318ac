"""What lies in the folder of a sweep from a former one of the same name and other settings."""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from onnxprune.common.errors import BusyError, InputError
from onnxprune.common.files import read_json
from onnxprune.common.output import plural
from onnxprune.results import store
from onnxprune.settings.point import FIELDS, Point

_MOST_VALUES = 5  # of a setting, in a message


def others(sweep: Path, planned: Collection[str]) -> list[Path]:
    """Folders of a sweep's points, finished or failed, that a plan does not have.

    Args:
        planned: names of the folders of the plan's points.
    """
    marks = (store.METRICS, store.ERROR)
    found = {path.parent for mark in marks for path in sweep.glob(f"*/{mark}")} if sweep.is_dir() else set()
    return sorted(folder for folder in found if folder.name not in planned)


def refuse(sweep: Path, planned: Collection[str], points: Collection[Point]) -> None:
    """Sees that a plan has all points that its folder has: otherwise one table would be of two studies.

    Args:
        planned: names of the folders of the plan's points.
        points: the plan's.

    Raises:
        InputError: it has not; the message says what differs.
    """
    found = others(sweep, planned)
    if found:
        raise InputError(
            f"name: {sweep} holds {plural(len(found), 'point')} of another study "
            f"({differences(found, points)}): expected another --name, or --replace, which removes them"
        )


def differences(folders: Collection[Path], points: Collection[Point]) -> str:
    """Settings of which the points in the folders have values that the plan's have not, with both."""
    configs = [config for folder in folders if isinstance(config := read_json(folder / store.CONFIG), dict)]
    told = []
    for name in FIELDS:
        then = list(dict.fromkeys(repr(config[name]) for config in configs if name in config))
        now = list(dict.fromkeys(repr(getattr(point, name)) for point in points))
        if set(then) - set(now):
            told.append(f"{name} {_listed(then)} there, {_listed(now)} here")
    return "; ".join(told) or "of the same settings, but other data, weights or files of networks"


def _listed(values: list[Any]) -> str:
    shown = ", ".join(value.strip("'") for value in values[:_MOST_VALUES])
    return shown if len(values) <= _MOST_VALUES else f"{shown} and {len(values) - _MOST_VALUES} more"


def remove(folders: Collection[Path]) -> None:
    """Removes the folders of points, which no process may be running.

    Raises:
        BusyError: another process is.
    """
    for folder in folders:
        with store.claimed(folder, wait=False) as ours:
            if not ours:
                raise BusyError(f"another process is running {folder}: nothing is replaced while it does")
            shutil.rmtree(folder, ignore_errors=True)
