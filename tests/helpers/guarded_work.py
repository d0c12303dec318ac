"""What tests have done in the helper process."""

import errno
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from onnxprune.common.errors import RunError
from onnxprune.common.temporary import temporary_folder
from onnxprune.runtime import helper as helping


def add(one: int, other: int) -> int:
    helping.say(f"adding {one}")
    return one + other


def process() -> int:
    return os.getpid()


def hears() -> bool:
    """Whether Ctrl-C is Python's to raise there."""
    return callable(signal.getsignal(signal.SIGINT))


def fill() -> None:
    helping.stage("writing", 1.0)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def look() -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "secret")


def surroundings() -> tuple[int, int, list[str], list[str]]:
    """Its number, its group, where it imports from, and the files that it has open."""
    places = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return os.getpid(), os.getpgid(0), sys.path, [str(place.readlink()) for place in places if place.is_symlink()]


def spin() -> None:
    helping.stage("spinning", 0.2)
    while True:
        pass


def spin_within(seconds: float) -> None:
    """Spins in a stage of so many seconds that is within another, and then in that one."""
    helping.stage("the outer one", 0.2)
    with helping.within_stage("the inner one", seconds):
        end = time.process_time() + 0.4
        while time.process_time() < end:
            pass
    while True:
        pass


def hold(seconds: float) -> int:
    """Holds 150 MB for so long."""
    helping.stage("holding", 10)
    held = bytearray(150_000_000).replace(b"\0", b"1")
    time.sleep(seconds)
    return len(held)


def temporary() -> str:
    """The path of a folder that it does not close."""
    with temporary_folder() as folder:
        return tempfile.mkdtemp(dir=Path(folder).parent)


def wait() -> None:
    helping.stage("waiting", 0.1, quiet=True)
    time.sleep(0.5)


def grow() -> int:
    helping.stage("growing", 10)
    return len(bytearray(150_000_000).replace(b"\0", b"1"))


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def crash_once(path: str) -> int:
    if not Path(path).exists():
        Path(path).touch()
        crash()
    return os.getpid()


def refuse() -> None:
    raise RunError("no")


def fail() -> None:
    raise ZeroDivisionError("nothing by nothing")


def endless() -> None:
    helping.stage("running", 1000)
    while True:
        pass
