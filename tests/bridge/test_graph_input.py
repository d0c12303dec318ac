"""A trained file that takes images, as it is read for a study."""

from pathlib import Path

import pytest
import trained

from onnxprune.bridge import graph_input


def test_a_file_is_opened_in_a_helper_process_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(graph_input, "probe", lambda path, **how: opened.append(path))
    path = trained.mlp(tmp_path / "mlp.onnx")
    for _ in range(2):
        assert graph_input.read_tried(path).outputs == ["scores"]
    assert opened == [path]
    trained.mlp(path, author="somebody else")
    graph_input.read_tried(path)
    assert opened == [path, path]
