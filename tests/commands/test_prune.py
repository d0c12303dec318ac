"""`prune` as a user meets it: what is printed, written, refused."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import here
import numpy as np
import onnx
import pytest
import trained
from command_line import REPOSITORY, onnxprune, small_npz
from PIL import Image
from pruned import model

from onnxprune.cli import main
from onnxprune.common.progress import Stages
from onnxprune.reduction import prune as pruning


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    trained.mlp(folder / "mlp.onnx")
    (folder / "file").write_text("no model, no folder")
    (folder / "folder").mkdir()
    (folder / "pictures").mkdir()
    for number in range(8):
        Image.new("L", (12, 12), number).save(folder / "pictures" / f"{number}.png")
    np.savez(folder / "inputs.npz", **trained.unlabelled())
    np.savez(folder / "others.npz", others=np.ones((64, 64), np.float32))
    np.savez(folder / "narrow.npz", pixels=np.ones((64, 63), np.float32))
    small_npz(folder / "squares.npz")
    built = model("(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w) y = Relu(h) }", {"w": (4, 3)})
    onnx.save(built, folder / "frozen.onnx")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in this process."""
    here.without_helper(monkeypatch, pruning)
    monkeypatch.setattr("sys.argv", ["onnxprune", "prune", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capfd.readouterr()
    return int(stopped.value.code or 0), said.out, said.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("none.onnx --sparsity 50", "no such file"),
        ("file --sparsity 50", "not an ONNX file"),
        ("folder --sparsity 50", "not a file, but a folder"),
        (". --sparsity 50", "not a file, but a folder"),
        ("/ --sparsity 50", "not a file, but a folder"),
        ("mlp.onnx", "expected one of --sparsity, --target and --max-drop"),
        ("mlp.onnx --sparsity 50 --max-drop 1", "expected one of"),
        ("mlp.onnx --sparsity 120", "expected a number from 0 to 100, got 120.0"),
        ("mlp.onnx --sparsity half", "'half' is not a valid float"),
        ("mlp.onnx --target 0.5", "like macs=0.5"),
        ("mlp.onnx --target bytes=0.5", "expected macs or latency"),
        ("mlp.onnx --sparsity 50 --technique magic", "unknown technique 'magic'"),
        ("mlp.onnx --sparsity 50 --criterion l3", "does not accept criterion 'l3'"),
        ("mlp.onnx --sparsity 50 --criterion obs", "criterion 'obs' judges by samples: give --data"),
        ("mlp.onnx --sparsity 50 --technique neuron", "judges units by samples: give --data"),
        ("mlp.onnx --max-drop 1", "a largest drop is measured on samples: give --data"),
        ("mlp.onnx --sparsity 50 --recovery hope", "unknown recovery 'hope'"),
        ("mlp.onnx --sparsity 50 --mean x", "expected numbers with commas"),
        ("mlp.onnx --sparsity 50 --input pixels:3x65", "does not fit"),
        ("mlp.onnx --sparsity 50 --input other:3x64", "there is no input 'other'"),
        ("mlp.onnx --sparsity 50 --data none.npz", "no such file"),
        ("mlp.onnx --sparsity 50 --data none", "unknown dataset 'none'"),
        ("mlp.onnx --sparsity 50 --data others.npz", "there is no array 'pixels'"),
        ("mlp.onnx --sparsity 50 --data narrow.npz", "the model takes ['any', 64]"),
        ("mlp.onnx --sparsity 50 --data folder", "there is no picture in it"),
        ("mlp.onnx --sparsity 50 --data squares.npz", "do not say how images are normalised"),
        ("mlp.onnx --sparsity 50 --data pictures --mean 0 --std 1", "the size of images is not known"),
        ("mlp.onnx --sparsity 50 --data squares.npz --mean 0 --std 1", "images of 1x12x12 do not fit"),
        ("mlp.onnx --sparsity 50 -o mlp.onnx", "this is the file to prune"),
        ("mlp.onnx --sparsity 50 -o folder/../mlp.onnx", "this is the file to prune"),
        ("mlp.onnx --sparsity 50 -o nowhere/m.onnx", "no such folder"),
        ("mlp.onnx --sparsity 50 -o folder", "is a folder"),
        ("mlp.onnx --sparsity 50 -o .", "is a folder"),
        ("mlp.onnx --sparsity 50 -o /", "is a folder"),
        ("mlp.onnx --sparsity 50 --output=", "expected a path, got an empty one"),
        (f"mlp.onnx --sparsity 50 -o {'x' * 300}.onnx", "the name is too long for a file"),
        (f"mlp.onnx --sparsity 50 -o {'x' * 245}.onnx", "the name is too long for a file"),  # that while it is written
        ("mlp.onnx --sparsity 50 -o /proc/m.onnx", "nothing can be written there"),
        ("frozen.onnx --sparsity 50", "no unit of it can be removed"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    line: str, words: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(place.rglob("*"))
    monkeypatch.chdir(place)
    code, out, err = run(monkeypatch, capfd, *line.split())
    assert code == 2, err
    assert out == ""
    (told,) = [text for text in err.splitlines() if text and not text.startswith(("Usage: ", "Try '"))]
    assert told.startswith("Error: ")
    assert words in told
    assert sorted(place.rglob("*")) == before


def test_the_report_for_people(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = trained.mlp(tmp_path / "mlp.onnx")
    code, out, err = run(
        monkeypatch,
        capfd,
        path,
        "--sparsity",
        50,
        "--data",
        place / "inputs.npz",
        "--channel-align",
        1,
        "--seconds",
        0.01,
    )
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{path}: structured by obs, 50.0 % of the units gone"
    assert lines[1] == f"written to {tmp_path / 'mlp-structured-50.onnx'}"
    assert ["params", "5,018", "2,130", "42.4", "%"] in [line.split() for line in lines]
    assert "same highest score" in out
    assert "  scores, 10 units: they are the model's output 'scores'" in lines
    assert any(line.startswith("Recovery, from ") and "2 by pairs" in line for line in lines)
    assert any(line.startswith(f"{tmp_path / 'mlp-structured-50.onnx'}: ") for line in lines)
    assert "Without --data" not in out
    code, out, err = run(monkeypatch, capfd, path, "--sparsity", 50, "--no-latency")
    assert (code, err) == (0, "")
    assert "mlp-structured-50.onnx, in place of the file that was there" in out
    assert len([line for line in out.splitlines() if line.startswith("Without --data")]) == 1
    assert "onnxruntime" not in out


def test_json_csv_and_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = trained.mlp(tmp_path / "mlp.onnx")
    code, out, _ = run(monkeypatch, capfd, path, "--dry-run")
    assert code == 0
    assert "0.0 % of the units would go; nothing is written" in out
    assert "they are the model's output" in out
    assert [file.name for file in tmp_path.iterdir()] == ["mlp.onnx"]
    code, out, _ = run(monkeypatch, capfd, path, "--technique", "weight", "--sparsity", 50, "--csv", "--no-latency")
    assert [(row["layer"], row["zeros"]) for row in csv.DictReader(io.StringIO(out))] == [
        ("h1", "1536"), ("h2", "768"), ("scores", "160"),
    ]  # fmt: skip
    code, out, _ = run(monkeypatch, capfd, path, "--sparsity", 50, "--json", "--seconds", 0.01, "--threads", 1)
    found = json.loads(out)
    assert found["groups"][0]["producers"] == ["h1"]
    assert found["output"] == str(tmp_path / "mlp-structured-50.onnx")
    assert [entry["model"] for entry in found["comparison"]] == [str(path), found["output"]]
    assert found["comparison"][1]["verdict"]["outcome"] in ("faster", "slower", "no real difference")


def test_many_frozen_groups_are_gathered_by_their_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    outs = ", ".join(f"float[n,3] y{number}" for number in range(14))
    nodes = " ".join(f"y{number} = Softmax <axis = 1> (h{number})" for number in range(14))
    made = " ".join(f"h{number} = MatMul (r, v{number})" for number in range(14))
    weights = {"w": (4, 8), **{f"v{number}": (8, 3) for number in range(14)}}
    built = model(f"(float[n,4] x) => ({outs}) {{ h = MatMul (x, w) r = Relu (h) {made} {nodes} }}", weights)
    onnx.save(built, tmp_path / "m.onnx")
    _, out, _ = run(monkeypatch, capfd, tmp_path / "m.onnx", "--dry-run")
    assert "  14 of them, 42 units: Softmax looks across them; made by h0, h1, h2, h3 and 10 more" in out.splitlines()


def test_a_failed_check_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from onnxprune.reduction import units

    path = trained.mlp(tmp_path / "mlp.onnx")
    monkeypatch.setattr(units, "difference", lambda expected, found: 0.5)
    code, out, err = run(monkeypatch, capfd, path, "--sparsity", 50)
    assert (code, out) == (1, "")
    assert err.startswith("Error: ")
    assert "5.0e-01 of its largest value: it is not written" in err
    assert [file.name for file in tmp_path.iterdir()] == ["mlp.onnx"]


def test_samples_that_the_network_stops_at_are_told_with_the_file(tmp_path: Path) -> None:
    text = "(int64[n,6] x) => (float[n,6,4] y) { a = Gather(table, x) r = Relu(a) y = MatMul(r, w) }"
    onnx.save(model(text, {"table": (8, 16), "w": (16, 4)}), tmp_path / "net.onnx")
    x = np.zeros((64, 6), np.int64)
    x[np.random.default_rng(0).permutation(64)[60]] = 9  # of the last batch
    np.savez(tmp_path / "x.npz", x=x)
    done = onnxprune("prune", "net.onnx", "--sparsity", 50, "--data", "x.npz", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: net.onnx: onnxruntime cannot run the model: ")
    assert "idx=9 must be within" in line


def test_neither_torch_nor_nni_is_imported(tmp_path: Path, place: Path) -> None:
    code = (
        "import sys\nfrom onnxprune.cli import main\nfrom onnxprune.runtime.helper import guarded\n"
        "try:\n    main()\nfinally:\n"
        "    names = {'torch', 'torchvision', 'nni', 'pandas'}\n"
        "    print(names & {*sys.modules}, guarded('builtins:eval', f'{names} & {{*__import__(\"sys\").modules}}'))"
    )
    arguments = [place / "mlp.onnx", "--sparsity", "50", "--data", place / "inputs.npz", "-o", tmp_path / "m.onnx"]
    done = subprocess.run(
        [sys.executable, "-c", code, "prune", *map(str, arguments), "--seconds", "0.01"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "set() set()"
    assert done.stderr == ""


def test_an_interrupt_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.chdir(trained.mlp(tmp_path / "mlp.onnx").parent)
    monkeypatch.setattr(Path, "write_bytes", interrupted)
    code, out, err = run(monkeypatch, capfd, "mlp.onnx", "--sparsity", 50, "-o", "out.onnx")
    assert (code, out, len(err.split("\n\n")), err.strip().count("\n")) == (130, "", 1, 0)
    assert [file.name for file in tmp_path.iterdir()] == ["mlp.onnx"]


def test_progress_is_for_terminals(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> str:
        with Stages() as advance:
            for done in range(3):
                advance("judging units", done, 3)
            advance("recovering", 1, 7)
        return capfd.readouterr().err

    assert told() == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take any stream for a terminal
    monkeypatch.setenv("TERM", "xterm")
    assert "recovering" in told()


def test_help_says_what_there_is() -> None:
    shown = onnxprune("prune", "--help").stdout
    for word in ("structured", "unstructured", "obs", "--dry-run", "macs=0.5", "ridge"):
        assert word in shown
