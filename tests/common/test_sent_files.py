"""Files from another machine stand in for those of their names."""

from pathlib import Path

import pytest

from onnxprune.common import sent_files
from onnxprune.common.sent_files import keep_sent, sent_or_here


@pytest.fixture(autouse=True)
def nothing_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_files, "_copies", {})


def test_the_copy_stands_in_for_the_file(tmp_path: Path) -> None:
    here = tmp_path / "mynet.py"
    here.write_text("here")
    assert sent_or_here(here) == here
    keep_sent({str(here): b"sent", "relative.onnx": b"graph"})
    assert sent_or_here(str(here)).read_bytes() == b"sent"
    assert sent_or_here("relative.onnx").read_bytes() == b"graph"
    assert here.read_text() == "here"
    keep_sent({str(here): b"sent again"})
    assert sent_or_here(here).read_bytes() == b"sent again"


def test_files_stay_beside_each_other() -> None:
    keep_sent({"/home/model/model.onnx": b"graph", "/home/model/data/weights.bin": b"numbers"})
    assert (sent_or_here("/home/model/model.onnx").parent / "data" / "weights.bin").read_bytes() == b"numbers"
