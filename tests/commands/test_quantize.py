"""`quantize` as a user meets it: what is printed, written, refused."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import here
import numpy as np
import pytest
import trained
from command_line import REPOSITORY

from onnxprune.cli import main
from onnxprune.quantization import quantize as quantization


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in this process."""
    here.without_helper(monkeypatch, quantization)
    monkeypatch.setattr("sys.argv", ["onnxprune", "quantize", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capfd.readouterr()
    return int(stopped.value.code or 0), said.out, said.err


@pytest.fixture
def place(tmp_path: Path) -> Path:
    trained.mlp(tmp_path / "mlp.onnx")
    np.savez(tmp_path / "inputs.npz", **trained.unlabelled())
    (tmp_path / "file").write_text("no model")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("none.onnx --dynamic", "no such file"),
        ("file --dynamic", "not an ONNX file"),
        (". --dynamic", "not a file, but a folder"),
        ("mlp.onnx", "give --data, or --dynamic"),
        ("mlp.onnx --type int4", "unknown type 'int4'"),
        ("mlp.onnx --dynamic --max-drop some", "'some' is not a valid float"),
        ("mlp.onnx --dynamic --keep h1,h9", "there is no node 'h9'"),
        ("mlp.onnx --data none.npz", "no such file"),
        ("mlp.onnx --dynamic -o mlp.onnx", "this is the file to quantise"),
        ("mlp.onnx --dynamic -o folder", "is a folder"),
        ("mlp.onnx --dynamic -o .", "is a folder"),
        (f"mlp.onnx --dynamic -o {'x' * 300}.onnx", "the name is too long for a file"),
        ("mlp.onnx --dynamic -o nowhere/m.onnx", "no such folder"),
        ("mlp.onnx --dynamic --input pixels=3", "values of inputs are samples"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    line: str, words: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(place.rglob("*"))
    monkeypatch.chdir(place)
    code, out, err = run(monkeypatch, capfd, *line.split())
    assert (code, out) == (2, "")
    (told,) = [text for text in err.splitlines() if text and not text.startswith(("Usage: ", "Try '"))]
    assert told.startswith("Error: ")
    assert words in told
    assert sorted(place.rglob("*")) == before


def test_the_report_for_people(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    path = place / "mlp.onnx"
    code, out, err = run(
        monkeypatch, capfd, path, "--data", place / "inputs.npz", "--keep", "scores", "--seconds", 0.01, "--threads", 1
    )
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{path}: int8, ranges by minmax from {place / 'inputs.npz'}, 93.5 % of its layers' MACs"
    assert lines[1] == f"written to {place / 'mlp-int8.onnx'}"
    assert "  scores, 6.5 % of the MACs: asked for" in lines
    assert "bytes after gzip" in out
    assert any(line.startswith("  - 8 bits: 9") for line in lines)
    code, out, err = run(monkeypatch, capfd, path, "--dynamic", "--no-latency", "-o", place / "mlp-int8.onnx")
    assert (code, err) == (0, "")
    assert "mlp-int8.onnx, in place of the file that was there" in out
    assert "Without --data it is not known how close" in out
    assert "onnxruntime" not in out


def test_accuracy_comes_with_its_interval_and_what_it_changed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = trained.mlp(tmp_path / "mlp.onnx", mean="[0.0]", std="[1.0]")
    data = trained.dataset(tmp_path / "digits.npz")
    _, out, _ = run(monkeypatch, capfd, path, "--data", data, "--no-latency", "--json")
    found = json.loads(out)["tested"]
    assert 0 < found["images"] == len(np.load(data)["y_test"])
    _, out, _ = run(monkeypatch, capfd, path, "--data", data, "--no-latency")
    interval = ["{low:.1f} to {high:.1f} %".format(**each) for each in found["intervals"]]
    change = (found["gained"] - found["lost"]) / found["images"] * 100
    shown = [re.split(" {2,}", line) for line in out.splitlines() if line[:3] in ("acc", "its", "cha")]
    assert shown[0][0] == f"accuracy, on {found['images']} test images"
    assert shown[1:] == [
        ["its 95 % interval", *interval],
        ["change, points", "-", f"{change:+.2f}, within noise"],
        ["its 95 % interval", "-", "{low:+.2f} to {high:+.2f}".format(**found["change"])],
    ]


def test_json_and_csv(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    words = (place / "mlp.onnx", "--data", place / "inputs.npz", "--no-latency")
    code, out, _ = run(monkeypatch, capfd, *words, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["output"] == str(place / "mlp-int8.onnx")
    assert found["converted_share"] == 1
    assert found["after"]["bytes"] == (place / "mlp-int8.onnx").stat().st_size
    _, out, _ = run(monkeypatch, capfd, *words, "--csv", "--keep", "h2")
    assert [(row["layer"], row["type"]) for row in csv.DictReader(io.StringIO(out))] == [
        ("h1", "int8"), ("h2", "float32"), ("scores", "int8"),
    ]  # fmt: skip


def test_neither_torch_nor_nni_is_imported_and_tools_do_not_print(place: Path) -> None:
    code = (
        "import sys\nfrom onnxprune.cli import main\ntry:\n    main()\nfinally:\n"
        "    print([name for name in ('torch', 'torchvision', 'nni', 'sympy') if name in sys.modules])"
    )
    words = ["quantize", place / "mlp.onnx", "--data", place / "inputs.npz", "--calibration", "entropy", "--no-latency"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words), "--json"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    *report, imported = done.stdout.splitlines()
    assert imported == "[]"
    assert json.loads("\n".join(report))["settings"]["calibration"] == "entropy"
    assert done.stderr == ""


def test_one_sample_is_one_sample(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(
        monkeypatch, capfd, place / "mlp.onnx", "--data", place / "inputs.npz", "--samples", 8, "--no-latency"
    )
    assert code == 0
    assert "on 1 held-out sample " in out
