"""One task of a sweep, a base or a point: done once, whole or not at all, by one process at a time."""

import errno
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.common import interruption
from onnxprune.common.errors import BusyError, RunError, StorageError, described
from onnxprune.common.output import logged
from onnxprune.common.progress import Listener
from onnxprune.results import store

_STORAGE_ERRORS = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)]


@dataclass(frozen=True)
class RetryPolicy:
    """What to do about tasks that are not simply missing.

    Attributes:
        retry_failed: do again what failed before.
        wait: for another process that is doing the same task.
    """

    retry_failed: bool = False
    wait: bool = True


def ensure(
    folder: Path,
    config: dict[str, Any],
    work: Callable[[], dict[str, Any]],
    retry: RetryPolicy,
    listener: Listener,
) -> tuple[dict[str, Any], bool]:
    """The record of a task, and whether its files were there already; `work` makes the files and the record otherwise.

    A task whose files do not fit the checksums in its record is set aside and done again.

    Raises:
        BusyError: another process is doing the task, and the policy says not to wait.
        RunError: the task failed, now or before; its folder says why.
        StorageError: nothing can be written any more; the task counts as not begun.
    """
    with store.claimed(folder, wait=False) as ours:
        if ours:
            return _ensure(folder, config, work, retry, listener)
    if not retry.wait:
        raise BusyError(f"another process is running {folder}")
    listener.say(f"waiting for another process, which is running {folder.name}")
    with store.claimed(folder):
        return _ensure(folder, config, work, retry, listener)


def _ensure(
    folder: Path, config: dict[str, Any], work: Callable[[], dict[str, Any]], retry: RetryPolicy, listener: Listener
) -> tuple[dict[str, Any], bool]:
    record = done_before(folder, retry, listener)
    if record is not None:
        return record, True
    try:
        store.begin(folder, config)
        begun = time.monotonic()
        with logged(folder / store.LOG):
            record, reason, trace = _attempt(work)
        if record is not None:
            try:
                return store.finish(folder, {**record, "wall_seconds": time.monotonic() - begun}), False
            except RunError as error:
                reason = str(error)
        if any(text in reason for text in _STORAGE_ERRORS):
            raise OSError(reason)
        store.write_error(folder, reason, trace)
    except (OSError, StorageError) as error:
        raise unfinished(folder, error) from None
    raise RunError(reason)


def unfinished(folder: Path, error: OSError | StorageError) -> StorageError:
    """What is said where the files of a task, in its folder, cannot be written."""
    reason = StorageError.of(folder, error) if isinstance(error, OSError) else error
    return StorageError(f"{reason}; what is finished is kept, the same command continues a study from there")


def done_before(folder: Path, retry: RetryPolicy, listener: Listener) -> dict[str, Any] | None:
    """The record of a claimed folder whose task is done; None where it is to be done. Damaged files are set aside.

    Raises:
        RunError: the task failed before, and the policy says not to try again.
    """
    record = store.finished_record(folder)
    if record is not None:
        damaged = store.damaged_files(folder, record)
        if not damaged:
            return record
        kept = store.set_aside(folder)
        listener.say(f"{folder.name} is damaged ({', '.join(damaged)}): kept as {kept}, made again")
    reason = store.recorded_error(folder)
    if reason is not None and not retry.retry_failed:
        raise RunError(f"{reason} (in an earlier run; --retry-failed tries again)")
    return None


def _attempt(work: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any] | None, str, str]:
    """The record, or None with the reason and the traceback, as texts: what the failed work held is freed.

    Every exception but a full disk's is caught: it must not lose the other tasks.
    """
    try:
        return work(), "", ""
    except StorageError:
        raise
    except Exception as error:
        interruption.check()  # native code may have made another error of it
        return None, described(error), traceback.format_exc()
