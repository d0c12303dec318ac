"""One helper process, in which native code works on files of strangers, with limits of memory, time and file size.

A crash, an endless loop or a bomb ends it and not the caller, who waits for it in Python, so that signals work. It is
kept for the next call: what takes long is to start it. It is no jail: it has all the rights of the user.
"""

import contextlib
import math
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, BinaryIO

import psutil

from onnxprune.common import errors
from onnxprune.common.errors import InputError, OnnxpruneError, RunError, bad_path, described
from onnxprune.common.processes import signal_of
from onnxprune.common.temporary import keep_temporary_folders_in, temporary_folder
from onnxprune.runtime.ahead import helper_process

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

GIB = 2**30
_SPARE = GIB // 4  # of address space
_FAT = GIB  # resident bytes with which it is not kept
_START = 60.0  # seconds of the processor's time for imports
_BETWEEN = 0.01  # seconds between looks at it
_IDLE = 120.0  # seconds by the clock in which it does nothing at all


@dataclass(frozen=True)
class Limits:
    """Of a call.

    Attributes:
        memory: resident bytes beside those it begins with.
        threads: how many compute: each has the seconds of its own.
        address_space: whether the system too refuses more; not for CUDA, which reserves far more than it uses, nor
            where files are mapped into memory.
        file_bytes: of a file that it writes.
    """

    memory: int = 4 * GIB
    threads: int = 1
    address_space: bool = True
    file_bytes: int = GIB


class StoppedError(Exception):
    """The helper went beyond a limit or crashed; its text says how."""


# ---- in the helper

_answers: BinaryIO | None = None
_end = math.inf  # of the stage, by the processor's time
_base = 0  # resident bytes with which the call began
_most = math.inf  # that there may be
_stage = ("", 0.0, False)  # what, its seconds, whether it is quiet
_limits = Limits()


def stage(what: str, seconds: float, *, memory: int | None = None, quiet: bool = False) -> None:
    """Tells what begins, and how many seconds of the processor's time it may take; nothing outside a helper.

    Args:
        memory: that it may take, where that is less than the whole call may.
        quiet: whether something is timed, so that the caller looks less often.

    Raises:
        StoppedError: what went before took too long, and the caller has not seen it.
    """
    global _end, _most, _stage
    _check()
    memory = min(memory or _limits.memory, _limits.memory)
    _send("stage", what, seconds, quiet, memory)
    _most = max(_peak(), _base + memory)
    _end, _stage = time.process_time() + _limits.threads * seconds, (what, seconds, quiet)


def _check() -> None:
    """What the caller, who looks now and then, may not have seen."""
    if _answers is not None and time.process_time() > _end:
        raise StoppedError(_too_long(*_stage[:2]))
    if _answers is not None and _peak() > _most:
        raise StoppedError(_too_much(_stage[0], _limits.memory))


def _peak() -> int:
    """The most resident bytes that this process ever had; 0 where the system does not tell."""
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _too_much(what: str, memory: float) -> str:
    return f"{what or 'it'} takes over {memory / GIB:.1f} GiB of memory"


def _too_long(what: str, seconds: float) -> str:
    return f"{what} does not finish in time, {seconds:.3g} s"


@contextlib.contextmanager
def within_stage(what: str, seconds: float) -> Iterator[None]:
    """A stage in the middle of another, which then begins anew; nothing outside a helper."""
    outer, outer_seconds, quiet = _stage
    stage(what, seconds)
    try:
        yield
    finally:
        stage(outer, outer_seconds, quiet=quiet)


def say(*message: Any) -> None:
    """Tells the caller something, for people."""
    _send("say", *message)


def _send(*message: Any) -> None:
    if _answers is not None:
        pickle.dump(message, _answers)
        _answers.flush()


def serve() -> None:
    """The helper: answers calls on standard input until that ends."""
    global _answers, _base, _end, _limits, _most, _stage
    _end_with_the_caller()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # signals are the caller's, and native code need not be left for one
    _answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints is not for the caller
    if resource is not None:
        _limit(resource.RLIMIT_CORE, 0)
    # tabulate, which onnx-tool imports, does without this, which takes as long as half of onnx
    sys.modules["wcwidth"] = None  # type: ignore[assignment]
    import onnxprune.graph.counting  # noqa: F401 - what most calls need, while there is none yet

    while True:
        try:
            function, arguments, _limits, scratch = pickle.load(sys.stdin.buffer)
        except EOFError:
            os._exit(0)  # tearing sessions down may crash where running them did not
        answer: tuple[Any, ...]
        try:
            keep_temporary_folders_in(Path(scratch))
            work = resolve_name(function)
            if resource is not None:
                _limit(resource.RLIMIT_FSIZE, _limits.file_bytes)
            now = psutil.Process().memory_info()
            if resource is not None and _limits.address_space:
                # wider than our own limit: what is beyond that is to be told as such
                _limit(resource.RLIMIT_AS, now.vms + 2 * _limits.memory + _SPARE)
            _base, _end, _stage = now.rss, math.inf, ("it", _START, False)
            _most = max(_peak(), now.rss + _limits.memory)
            _send("ready", now.rss)
            answer = ("done", work(*arguments))
            _check()
        except OnnxpruneError as error:
            answer = ("failed", type(error).__name__, str(error))
        except StoppedError as stopped:
            answer = ("stopped", str(stopped))
        except MemoryError:
            answer = ("stopped", _too_much(_stage[0], _limits.memory))
        except OSError as error:  # a full disk, as that of temporary files
            told = bad_path(error) or RunError(f"{_stage[0]}: {described(error)}")
            answer = ("failed", type(told).__name__, str(told))
        except Exception as error:
            answer = ("raised", described(error))
        _send(*answer)


def _limit(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _end_with_the_caller() -> None:
    """Where the system can: a helper that computes endlessly must not outlive who would stop it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


# ---- in the caller


class _Helper:
    """The process as its caller sees it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.used = False
        # no queue.Queue: a signal while its lock, in Python, is taken or given back leaves it taken for ever
        self._frames: deque[tuple[Any, ...] | None] = deque()
        self._came = threading.Lock()  # free where frames came since it was taken
        self._came.acquire()
        self._process = helper_process()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                self._put(pickle.load(self._process.stdout))
        self._put(None)

    def _put(self, frame: tuple[Any, ...] | None) -> None:
        self._frames.append(frame)
        with contextlib.suppress(RuntimeError):  # it is free already
            self._came.release()

    @property
    def alive(self) -> bool:
        return self.owner == os.getpid() and self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()

    def call(
        self, function: str, arguments: tuple[Any, ...], limits: Limits, scratch: str, tell: Callable[..., None]
    ) -> Any:
        """
        Args:
            scratch: the folder of its temporary files.

        Raises:
            StoppedError: it went beyond a limit.
            _EndedError: it ended.
        """
        assert self._process.stdin is not None
        try:
            pickle.dump((function, arguments, limits, scratch), self._process.stdin)
            self._process.stdin.flush()
        except OSError:
            raise _EndedError(self._ending()) from None
        self.used = True
        watch = _Watch(self._process.pid, limits)
        while True:
            if not self._frames:
                if not self._came.acquire(timeout=watch.pause):
                    watch.look()
                continue
            frame = self._frames.popleft()
            if frame is None:
                raise _EndedError(self._ending())
            kind, *rest = frame
            if kind == "ready":
                watch.base = rest[0]
                watch.begin("it", _START, False)
            elif kind == "stage":
                watch.begin(*rest)
            elif kind == "say":
                tell(*rest)
            elif kind == "done":
                return rest[0]
            elif kind == "failed":
                raise getattr(errors, rest[0])(rest[1])
            elif kind == "stopped":
                raise StoppedError(rest[0])
            else:
                raise RuntimeError(rest[0])

    def _ending(self) -> str:
        code = self._process.wait()
        name = signal_of(code)
        return f"its process ended with exit code {code}" if name is None else f"its process crashed ({name})"

    def fat(self) -> bool:
        """Whether it holds too much memory to be kept."""
        try:
            return bool(psutil.Process(self._process.pid).memory_info().rss > _FAT)
        except psutil.Error:
            return True


class _EndedError(Exception):
    """The helper ended; its text says how."""


class _Watch:
    """Sees that a helper stays within its limits.

    Others may keep the processor busy: its own time counts, of all its threads, and the clock only where it does
    nothing at all.
    """

    def __init__(self, process: int, limits: Limits) -> None:
        self._process, self._limits = psutil.Process(process), limits
        self.base: int | None = None  # resident bytes that it begins with
        self.begin("its start", _START)

    def begin(self, what: str, seconds: float, quiet: bool = False, memory: int | None = None) -> None:
        """Something begins that may take so many seconds and bytes."""
        self._what, self._seconds = what, seconds
        self._memory = self._limits.memory if memory is None else memory
        self.pause = 0.2 if quiet else _BETWEEN
        self._waits = quiet
        self._begun = self._last = self._cpu()
        self._moved = time.monotonic()

    def _cpu(self) -> float:
        try:
            times = self._process.cpu_times()
        except psutil.Error:  # it has just ended
            return 0.0
        return float(times.user + times.system)

    def look(self) -> None:
        """
        Raises:
            StoppedError: it is beyond a limit.
        """
        try:
            resident = self._process.memory_info().rss
        except psutil.Error:  # it has just ended, which the end of its answers tells
            return
        if self.base is not None:
            more = resident - self.base
            limit = min(self._memory, (psutil.virtual_memory().available + more) * 9 // 10)
            if more > limit:
                raise StoppedError(_too_much(self._what, limit))
        used, now = self._cpu(), time.monotonic()
        if used - self._begun > self._limits.threads * self._seconds:
            raise StoppedError(_too_long(self._what, self._seconds))
        if used - self._last > 0.01 or self._waits:
            self._last, self._moved = used, now
        elif now - self._moved > _IDLE:
            raise StoppedError(f"{self._what} has done nothing for {_IDLE:.0f} s")


_lock = threading.RLock()
_kept: list[_Helper] = []


def guarded(
    function: str,
    *arguments: Any,
    limits: Limits | None = None,
    tell: Callable[..., None] = lambda *message: None,
    fresh: bool = False,
) -> Any:
    """What a function gives that is called in the helper process.

    Args:
        function: "module:function"; it calls `stage` when something begins that has a limit.
        arguments: what can be pickled.
        tell: gets what the function says by `say`.
        fresh: whether a new process is started for it, in which nothing is left of other files.

    Raises:
        StoppedError: it went beyond a limit, or crashed.
        OnnxpruneError: the function did.
    """
    # its temporary files are the caller's to remove: it may be killed
    with _lock, temporary_folder() as scratch:
        while True:
            helper = _Helper() if fresh else _taken()
            reused = helper.used
            try:
                found = helper.call(function, arguments, limits or Limits(), scratch, tell)
            except OnnxpruneError:
                _keep(helper)
                raise
            except _EndedError as crash:
                helper.kill()
                if not reused:  # else what an earlier file left may have been to blame
                    raise StoppedError(str(crash)) from None
            except BaseException:  # a limit, or a signal
                helper.kill()
                raise
            else:
                _keep(helper)
                return found


def _taken() -> _Helper:
    while _kept:
        helper = _kept.pop()
        if helper.alive:
            return helper
    return _Helper()


def _keep(helper: _Helper) -> None:
    if _kept or helper.fat():
        helper.kill()
    else:
        _kept.append(helper)


@contextlib.contextmanager
def refusals(path: Any) -> Iterator[None]:
    """Makes what stopped the helper an error of a file.

    Raises:
        InputError: in one line.
    """
    try:
        yield
    except StoppedError as stopped:
        raise InputError(f"{path}: given up: {stopped}") from None


def warm_up() -> None:
    """Starts the helper, where there is none: it imports while the caller does something else."""
    with _lock:
        if not any(helper.alive for helper in _kept):
            _kept.append(_Helper())
