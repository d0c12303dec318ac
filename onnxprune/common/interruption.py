"""Signals that ask the process to end.

Python raises their exception wherever it happens to be. In a destructor or a callback of the garbage collector it is
lost, and the process goes on: so those who work for long ask again between their steps.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn, TypeVar

T = TypeVar("T")


class Terminated(BaseException):
    """The system asked the process to end: SIGTERM, or SIGHUP when its terminal is closed."""


_EXCEPTIONS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
if hasattr(signal, "SIGHUP"):
    _EXCEPTIONS[signal.SIGHUP] = Terminated
_asked: list[int] = []  # the signals that came
_left: list[threading.Thread] = []  # in which calls went on when nobody waited for them any more


def listen() -> None:
    """From now on SIGINT raises KeyboardInterrupt, SIGTERM and SIGHUP raise Terminated, in the main thread.

    SIGHUP stays ignored where it is, as under `nohup`.
    """
    _asked.clear()
    for number in _EXCEPTIONS:
        if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _raise)
    sys.unraisablehook = _print_lost


def end() -> int:
    """The exit code for the signal that came; another one from now on ends the process at once, without a word."""
    for number in _EXCEPTIONS:
        if signal.getsignal(number) == _raise:
            signal.signal(number, signal.SIG_DFL)
    return 128 + (_asked[-1] if _asked else signal.SIGINT)


@contextlib.contextmanager
def not_lost() -> Iterator[None]:
    """Where a signal came, raises its exception in place of what native code made of it, as of an import that ended."""
    try:
        yield
    except Exception:
        check()
        raise


def check() -> None:
    """Raises again what a signal raised before, where that was lost; in the main thread, where signals are."""
    if _asked and threading.current_thread() is threading.main_thread():
        raise _EXCEPTIONS[signal.Signals(_asked[-1])]


def interruptible(work: Callable[[], T]) -> T:
    """What a call of native code gives, made in a thread of its own, so that a signal ends the wait for it.

    The call goes on all the same: the process is to end next, by `leave`. Where no signal is heard by Python, as in the
    helper, or in another thread, there is nothing to wait for, and it is made at once: a thread for each costs time.
    """
    if not callable(signal.getsignal(signal.SIGINT)) or threading.current_thread() is not threading.main_thread():
        return work()
    found: list[T] = []
    failed: list[BaseException] = []

    def attempt() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        _left.append(thread)
        raise
    if failed:
        raise failed[0]
    return found[0]


def leave(code: int) -> NoReturn:
    """Ends the process; at once where native code is still running, which its tidying up would crash."""
    if any(thread.is_alive() for thread in _left):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    _asked.append(number)
    raise _EXCEPTIONS[signal.Signals(number)]


def _print_lost(lost: "sys.UnraisableHookArgs") -> None:
    """As Python does, but for the exceptions of signals, which are raised again."""
    if not isinstance(lost.exc_value, tuple(_EXCEPTIONS.values())):
        sys.__unraisablehook__(lost)
