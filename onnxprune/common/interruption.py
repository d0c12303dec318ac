"""Signals that ask the process to end.

Python raises their exception wherever it happens to be. In a destructor or a callback of the garbage collector it is
printed and lost, and the process goes on: so those who work for long ask again between their steps.
"""

import signal
import threading
from types import FrameType
from typing import NoReturn


class Terminated(BaseException):
    """The system asked the process to end: SIGTERM."""


_EXCEPTIONS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
_asked: list[int] = []  # the signals that came


def listen() -> None:
    """From now on SIGINT raises KeyboardInterrupt and SIGTERM raises Terminated, in the main thread."""
    _asked.clear()
    for number in _EXCEPTIONS:
        signal.signal(number, _raise)


def check() -> None:
    """Raises again what a signal raised before, where that was lost; in the main thread, where signals are."""
    if _asked and threading.current_thread() is threading.main_thread():
        raise _EXCEPTIONS[signal.Signals(_asked[-1])]


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    _asked.append(number)
    raise _EXCEPTIONS[signal.Signals(number)]
