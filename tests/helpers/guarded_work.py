"""What tests have done in the helper process."""

import os
import signal
import time
from pathlib import Path

from onnxprune.common.errors import RunError
from onnxprune.runtime import helper as helping


def add(one: int, other: int) -> int:
    helping.say(f"adding {one}")
    return one + other


def process() -> int:
    return os.getpid()


def spin() -> None:
    helping.stage("spinning", 0.2)
    while True:
        pass


def wait() -> None:
    helping.stage("waiting", 0.2, quiet=True)
    time.sleep(1)


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
