"""The command line against what people mistype: one line a problem, exit code 2, nothing written."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import trained
from command_line import small_npz
from photos import photos

from onnxprune.cli import main

SWEEP = [
    "--model resnet", "--model slp,", "--model=", "--dataset svhn", "--dataset none.npz", "--dataset broken.npz",
    "--dataset folder.npz", "--dataset text.npz", "--dataset pickled.npz", "--dataset floats.npz",
    "--dataset ../../etc/passwd", "--batch-size 0", "--batch-size -5", "--batch-size 2.5", "--batch-size nan",
    "--batch-size 1e99", "--batch-size 9999999999", "--batch-size many", "--batch-size=,", "--technique magic",
    "--technique weights", "--criterion l3", "--technique neuron --criterion fpgm", "--schedule later",
    "--granularity half", "--granularity layer", "--model densenet121 --technique weight --granularity layer",
    "--sparsity 120", "--sparsity -1", "--sparsity nan", "--sparsity inf", "--sparsity 0:100", "--sparsity 0:100:0",
    "--sparsity 50:0:10", "--sparsity 0:100:nan", "--sparsity 0:100:1:1", "--sparsity 0:100:1e-9", "--sparsity ten",
    "--seed -1", "--seed 0.5", "--seeds 0", "--seeds 99999999", "--seeds 2 --seed 1", "--epochs -1", "--epochs 1e9",
    "--finetune-epochs some", "--learning-rate 0", "--learning-rate nan", "--learning-rate -0.1",
    "--learning-rate 1e300", "--finetune-learning-rate inf", "--augment mirror", "--train-limit 0",
    "--model slp --hidden -1", "--model slp --hidden 1e12", "--hidden 64",
    "--model slp --hidden 0 --technique neuron", "--model slp --stem small", "--stem tiny", "--channel-align 0",
    "--device tpu", "--latency-batch 0", "--latency-threads 0", "--latency-seconds -1", "--latency-seconds nan",
    "--technique structured --criterion slim", "--name ../../x", "--name /absolute", "--name .hidden", "--name bases",
    "--name=", "--name a/b", "--seeds 10000 --sparsity 0:100:0.001", "--epochz 3", "--out file", "--data-dir file",
    "--also int4", "--also=", "--out bad\udcff", "none.toml", "folder", "text.npz", "escape.toml", "unknown.toml",
    "surrogate.npz", "--dataset folder", "--dataset ./none", "--dataset none/where", "--dataset folder.npz",
    "--dataset pets", "--dataset pets --image-size 0", "--dataset pets --image-size 8x8x8", "--image-size 32",
    "--dataset whole.npz --image-size 32", "--dataset pets --image-size wide",
]  # fmt: skip
LONG = "x" * 300
OTHERS = [
    "swep", "results", "results none", "results file", "results folder", "rerun", "rerun none", "rerun file",
    "rerun folder", "run --sparsity 0:100:10", "run --technique weight,neuron",
    "run --model slp --hidden 0 --technique neuron", "doctor --data-dir file", "doctor extra", "deploy none",
    "deploy folder", "evaluate none.onnx --dataset digits", "evaluate file --dataset digits",
    "sensitivity --dataset pets", "search --dataset pets --max-drop 1", "run --dataset pets",
    "sweep --dataset pets --dry-run", "doctor --dataset pets --image-size x",
    "predict none.onnx none.png", "models extra", "compare . .", "predict . .", f"profile {LONG}",
    f"compare {LONG} {LONG}", f"predict {LONG} none.png", f"evaluate {LONG} --dataset digits", f"report {LONG}",
    f"plot {LONG}", f"deploy {LONG}", "search --dataset digits --max-drop nan --dry-run",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    (folder / "file").write_text("no folder, no model")
    (folder / "folder").mkdir()
    (folder / "folder.npz").mkdir()
    (folder / "broken.npz").write_bytes(small_npz(folder / "whole.npz").read_bytes()[:2000])
    (folder / "text.npz").write_text("text")
    np.savez(folder / "pickled.npz", **dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), np.array([{}])))
    np.savez(folder / "floats.npz", **dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), np.ones((9, 4, 4))))
    photos(folder / "pets", ("cat",))  # a class alone
    (folder / "escape.toml").write_text('name = "../../escape"\n')
    (folder / "unknown.toml").write_text('sparsities = [1]\n[model]\nname = "cnn"\n')
    (folder / "surrogate.npz").write_bytes(b"\xff\xfe")
    return folder


@pytest.mark.parametrize("line", [f"sweep --dataset digits {line}" for line in SWEEP] + OTHERS)
def test_bad_input_is_told_in_lines_and_nothing_is_written(
    line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path for path in place.rglob("*"))
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.argv", ["onnxprune", *line.split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capfd.readouterr()
    assert stopped.value.code == 2, said.err
    assert said.out == ""
    assert "Traceback" not in said.err
    told = [text for text in said.err.splitlines() if text.startswith("Error: ")]
    assert 1 <= len(told) <= 4
    assert len(set(told)) == len(told)
    assert all(text in told or text.startswith(("Usage: ", "Try '")) or not text for text in said.err.splitlines())
    assert sorted(path for path in place.rglob("*")) == before


@pytest.mark.parametrize(
    "line",
    ["profile", "profile x --html", "predict mlp.onnx", "clean", "compare mlp.onnx", "report", "doctor --data-dir"],
)
def test_an_empty_path_is_not_the_folder_we_are_in(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    trained.mlp(tmp_path / "mlp.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["onnxprune", *line.split(), ""])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "expected a path, got an empty one" in capfd.readouterr().err


@pytest.mark.parametrize("line", ["predict {1} x.png", "evaluate {0} --dataset {1}", "report {1}", "compare {1} {1}"])
def test_what_may_not_be_looked_at_is_bad_input(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    model, place, look = trained.mlp(tmp_path / "mlp.onnx"), tmp_path / "secret", os.stat

    def stat(path: str, *how: Any, **more: Any) -> os.stat_result:
        if str(path).startswith(str(place)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return look(path, *how, **more)

    monkeypatch.setattr("os.stat", stat)
    monkeypatch.setattr("sys.argv", ["onnxprune", *line.format(model, place / "inside").split()])
    with pytest.raises(SystemExit) as stopped:
        main()
    (told,) = capfd.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert told.startswith("Error: ") and "Permission denied" in told and str(place / "inside") in told


def test_every_problem_of_a_spec_is_told_with_the_nearest_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text(f'modle = "cnn"\nsparsty = 5\nbatch_size = 0\nname = {json.dumps("../../x")}\n')
    monkeypatch.setattr("sys.argv", ["onnxprune", "sweep", str(spec)])
    with pytest.raises(SystemExit):
        main()
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 4
    assert any("did you mean 'model'" in text for text in told)
    assert any("did you mean 'sparsity'" in text for text in told)


@pytest.mark.parametrize(
    ("page", "words"),
    [("mlp.onnx", "the model"), ("x" * 300, "too long"), ("x" * 250, "too long")],
)
def test_a_page_that_cannot_be_written_is_one_line(
    page: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(trained.mlp(tmp_path / "mlp.onnx"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["onnxprune", "profile", path, "--no-latency", "--html", page])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    (told,) = capfd.readouterr().err.splitlines()
    assert told.startswith("Error: ") and words in told
    assert [path.name for path in tmp_path.iterdir()] == ["mlp.onnx"]
    onnx.load(path)
