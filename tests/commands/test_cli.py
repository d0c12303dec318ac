"""The command line as a user meets it: streams, exit codes, messages."""

import contextlib
import csv
import io
import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import REPOSITORY, called, from_nothing, small_npz

from onnxprune import cli


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, onnxprune.cli\n"
        "try: onnxprune.cli.cli.main(['--help'], prog_name='onnxprune')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'nni', 'pandas', 'onnx', 'onnxruntime', 'torchvision', 'sklearn', 'rich', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for command in ("sweep", "run", "models", "datasets", "techniques", "results"):
        assert command in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("command", ["sweep", "run", "search"])
def test_a_terminal_says_what_is_going_on_before_pytorch_is_imported(command: str, tmp_path: Path) -> None:
    """That takes seconds: here it takes until the process is ended."""
    import pty

    slow = tmp_path / "slow" / "torch"
    slow.mkdir(parents=True)
    (slow / "__init__.py").write_text("import time\ntime.sleep(600)")
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxprune", command, "--model", "slp", "--out", str(tmp_path / "runs")],
        env={**os.environ, "PYTHONPATH": f"{slow.parent}{os.pathsep}{REPOSITORY}", "TERM": "xterm"},
        stdout=subprocess.DEVNULL,
        stderr=its_end,
        cwd=tmp_path,
    )
    try:
        shown = b""
        while b"loading PyTorch and NNI" not in shown:
            assert select.select([terminal], [], [], 60)[0], shown
            shown += os.read(terminal, 4096)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(its_end)


def test_sweep_help_lists_every_setting_and_needs_no_pytorch() -> None:
    from onnxprune.settings.point import FIELDS

    code = (
        "import sys, onnxprune.cli\n"
        "try: onnxprune.cli.cli.main(['sweep', '--help-all'], prog_name='onnxprune')\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'nni', 'pandas', 'onnxruntime'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    for name in FIELDS:
        assert f"--{name.replace('_', '-')}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "--model", "resnet"], ["unknown model 'resnet'", "slp, cnn, densenet121"]),
        (["sweep", "--dataset", "svhn"], ["unknown dataset 'svhn'", "digits", "FILE.npz"]),
        (["sweep", "--sparsity", "120"], ["sparsity", "0 to 100", "120"]),
        (["sweep", "--technique", "magic"], ["unknown technique 'magic'", "unstructured"]),
        (["sweep", "--batch-size", "-5"], ["batch_size", "-5"]),
        (["run", "--sparsity", "0:100:10"], ["expected the settings of one point, got those of 11"]),
        (
            ["run", "--technique", "neuron", "--criterion", "fpgm"],
            ["does not accept", "taylor, apoz, activation, obs, random"],
        ),
        (["run", "--model", "slp", "--hidden", "0", "--technique", "neuron"], ["nothing to prune"]),
        (
            ["run", "--model", "slp", "--hidden", "1", "--technique", "structured"],
            ["nothing to prune", "layer 'hidden'", "a single unit has to stay", "use technique weight"],
        ),
        (["sensitivity", "--model", "slp", "--hidden", "1", "--technique", "neuron"], ["nothing to prune"]),
        (["sweep", "nowhere.toml"], ["nowhere.toml"]),
        (["sweep", "--sparsity", "0", "--dataset", "nowhere.npz"], ["nowhere.npz"]),
        (["run", "--device", "cuda"], ["cuda", "--device cpu"]),
        (["results", "nowhere"], ["nowhere", "not the folder of a sweep"]),
        (["sweep", "--epochz", "3"], ["--epochz"]),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    if "cuda" in arguments and _has_cuda():
        pytest.skip("this machine has CUDA")
    done = called(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert list(tmp_path.iterdir()) == []


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def test_listings_name_everything() -> None:
    for command, words in {
        "models": ["slp", "cnn", "DenseNet-121"],
        "datasets": ["digits", "fmnist", "1x28x28", "10 classes"],
        "techniques": ["weight", "neuron", "structured", "unstructured", "fpgm", "at-init", "1906.10771"],
    }.items():
        done = called(command)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        for word in words:
            assert word in done.stdout
        rows = json.loads(called(command, "--json").stdout)
        assert len(rows) == len(list(csv.DictReader(io.StringIO(called(command, "--csv").stdout)))) > 0


@pytest.mark.usefixtures("brief_probe")
def test_dry_run_prints_the_plan_and_its_cost_and_writes_nothing(tmp_path: Path) -> None:
    arguments = ["sweep", "--model", "slp", "--dataset", "digits", "--epochs", "2", "--finetune-epochs", "1"]
    arguments += ["--dry-run", "--sparsity", "0,50"]
    done = called(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["technique", "weight,", "neuron,", "structured,", "unstructured", "(4)"] in lines
    assert ["sparsity", "0,", "50", "(2)"] in lines
    for words in ("points    8, from 1 unpruned network", "time      about", "disk", "memory"):
        assert words in done.stdout
    assert "model=slp" not in done.stdout
    assert called(*arguments, "--verbose", cwd=tmp_path).stdout.count("model=slp") == 8
    plan = json.loads(called(*arguments, "--json", cwd=tmp_path).stdout)
    images = plan["cost"]["training_images"] // (2 + 8)  # 2 epochs of the base, 1 of each point
    assert plan["cost"]["training_images"] == images * 10
    # forward 2 x 101,632; backward the same for the weights, and 2 x 1,280 for the hidden units' gradient
    assert plan["cost"]["training_flops"] == images * 10 * (4 * 101_632 + 2 * 1_280)
    assert list(tmp_path.iterdir()) == []


def test_run_prints_a_table_on_stdout_and_progress_on_stderr(tmp_path: Path) -> None:
    data = small_npz(tmp_path / "squares.npz")
    arguments = ["run", "--model", "slp", "--dataset", data, "--technique", "structured", "--epochs", "3"]
    done = from_nothing(*arguments, "--latency-seconds", "0.05", "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    assert "squares.npz, batch 256, one-shot, 1 seed" in done.stdout
    assert "structured" in done.stdout
    assert "IPA" in done.stdout
    assert "base slp-squares" in done.stderr
    said = ("batch size 256 is ", "the base is trained by ", "base slp-squares", "point slp-squares", "Results: ")
    assert [line for line in done.stderr.splitlines() if not line.startswith(said)] == [], "of what it imports, say"
    assert "Warning" not in done.stdout
    again = called(*arguments, "--latency-seconds", "0.05", "--out", tmp_path / "runs", "--json")
    assert "already done" in again.stderr
    (row,) = json.loads(again.stdout)
    assert row["sparsity"] == 50
    assert row["accuracy"] > 60
    sweep = next(path for path in (tmp_path / "runs").iterdir() if path.name != "bases")
    csv = called("results", sweep, "--csv").stdout.splitlines()
    assert len(csv) == 2
    assert csv == (sweep / "results.csv").read_text().splitlines()


def test_a_corrupt_dataset_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 not a zip file")
    done = called("run", "--dataset", broken, "--out", tmp_path / "runs")
    assert done.returncode == 2
    assert "broken.npz" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("command", "goes_on"), [("sweep", True), ("search", True), ("prune", False)])
def test_interrupted_only_studies_are_said_to_go_on(
    command: str, goes_on: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["onnxprune", command])
    monkeypatch.setattr(cli.cli, "main", interrupted)
    monkeypatch.setattr(cli.interruption, "listen", lambda: None)
    monkeypatch.setattr(cli.interruption, "end", lambda: 130)
    monkeypatch.setattr(cli.interruption, "leave", sys.exit)
    with pytest.raises(SystemExit):
        cli.main()
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("Interrupted.")
    assert ("continues a study" in said) == goes_on


def test_what_is_said_of_an_interruption_reaches_the_terminal_wherever_it_came(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As while a block that leads stderr to a log is being left, which is then not undone."""

    def interrupted(*arguments: object, **options: object) -> None:
        contextlib.redirect_stderr(io.StringIO()).__enter__()
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.cli, "main", interrupted)
    monkeypatch.setattr(cli.interruption, "listen", lambda: None)
    monkeypatch.setattr(cli.interruption, "end", lambda: 130)
    monkeypatch.setattr("sys.stderr", sys.stderr)
    monkeypatch.setattr("sys.argv", ["onnxprune", "prune"])
    with pytest.raises(SystemExit):
        cli.main()
    assert capfd.readouterr().err == "Interrupted.\n"
