"""Folders for a while: gone when they are closed, and those of killed processes when another one begins."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from onnxprune.common import temporary


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(temporary, "_parent", None)
    temporary._remove_orphans.cache_clear()
    return tmp_path


def test_folders_of_killed_processes_go_and_others_stay(place: Path) -> None:
    code = "from onnxprune.common.temporary import temporary_folder as f; import os; x = f(); print(x.name); "
    shown = {**os.environ, "TMPDIR": str(place)}
    killed = subprocess.run(
        [sys.executable, "-c", f"{code} import sys; sys.stdout.flush(); os._exit(9)"],
        env=shown, capture_output=True, text=True, check=False,
    )  # fmt: skip
    left = Path(killed.stdout.strip())
    assert left.is_dir() and left.parent == place
    others = [place / name for name in ("onnxprune-elsewhere-1-x", f"{temporary._prefix()}{os.getpid()}-x", "mine")]
    for other in others:
        other.mkdir()
    with temporary.temporary_folder() as folder:
        assert Path(folder).parent == place
        assert not left.exists()
        assert all(other.is_dir() for other in others)
    assert not Path(folder).exists()


def test_of_a_process_that_another_one_looks_after_they_are_in_its_folder(place: Path) -> None:
    (place / "given").mkdir()
    temporary.keep_temporary_folders_in(place / "given")
    with temporary.temporary_folder() as folder:
        assert Path(folder).parent == place / "given"
