"""The most memory that a stretch of work took."""

from types import SimpleNamespace

import numpy as np
import pytest

from onnxprune.training import memory
from onnxprune.training.memory import PeakMemory


def test_what_was_taken_and_given_back_counts() -> None:
    with PeakMemory() as nothing:
        pass
    with PeakMemory() as much:
        np.ones(2**25)  # 256 MiB
    assert nothing.peak_bytes is not None and much.peak_bytes is not None
    assert much.peak_bytes - nothing.peak_bytes > 200 * 2**20


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_where_the_mark_cannot_be_reset_it_is_that_of_the_process(
    platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_STATUS", memory.Path("/nowhere"))
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(memory.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3_000))
    with PeakMemory() as peak:
        pass
    assert peak.peak_bytes == (3_000 * 1024 if platform == "linux" else 3_000)


def test_windows_has_a_mark_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_STATUS", memory.Path("/nowhere"))
    monkeypatch.setattr(memory, "resource", None)
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=12_345))
    monkeypatch.setattr(memory.psutil, "Process", lambda: process)
    with PeakMemory() as peak:
        pass
    assert peak.peak_bytes == 12_345
