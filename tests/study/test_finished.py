"""`--dry-run` of a study that is continued says what is done."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import called, small_npz

SETTINGS = "--epochs 1 --finetune-epochs 1 --latency-seconds 0 --workers 1 --quiet"


def done(directory: Path, *line: str) -> tuple[int, int]:
    """Points of the plan, and those of them that are finished."""
    found = json.loads(called(*line, *SETTINGS.split(), "--dry-run", "--json", cwd=directory).stdout)
    return found["cost"]["points"], found["expected"]["done"]


def run(directory: Path, *line: str) -> None:
    outcome = called(*line, *SETTINGS.split(), cwd=directory)
    assert outcome.returncode == 0, outcome.stderr


@pytest.mark.usefixtures("brief_probe")
def test_points_are_done_of_the_same_data_and_code_alone(tmp_path: Path) -> None:
    code, data = tmp_path / "net.py", small_npz(tmp_path / "squares.npz")
    text = (
        "from torch import nn\n"
        "def make(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.ReLU(),\n"
        "                         nn.Linear(16, classes))\n"
    )
    code.write_text(text)
    line = ("sweep", "--model", "net.py:make", "--dataset", str(data), "--technique", "weight", "--name", "own")
    run(tmp_path, *line, "--sparsity", "0,50")
    assert done(tmp_path, *line, "--sparsity", "0,50,60") == (3, 2)
    code.write_text(text.replace("16", "12"))
    assert done(tmp_path, *line, "--sparsity", "0,50,60", "--replace") == (3, 0)
    code.write_text(text)
    arrays = dict(np.load(data))
    arrays["x_train"][0] ^= 1
    np.savez(data, **arrays)
    assert done(tmp_path, *line, "--sparsity", "0,50,60", "--replace") == (3, 0)


@pytest.mark.usefixtures("brief_probe")
def test_a_measured_step_is_that_of_the_study(tmp_path: Path) -> None:
    data = str(small_npz(tmp_path / "squares.npz"))
    line = ("sweep", "--model", "slp", "--dataset", data, "--technique", "structured", "--channel-align", "auto")
    assert done(tmp_path, *line, "--sparsity", "0,50") == (2, 0)
    run(tmp_path, *line, "--sparsity", "0,50")
    assert done(tmp_path, *line, "--sparsity", "0,50") == (2, 2)


@pytest.mark.usefixtures("brief_probe")
def test_a_search_goes_on_from_what_any_sweep_has(tmp_path: Path) -> None:
    data = str(small_npz(tmp_path / "squares.npz"))
    given = ("--model", "slp", "--dataset", data, "--technique", "weight", "--latency-batch", "16")
    search = ("search", *given, "--step", "10", "--max-drop", "100")
    assert done(tmp_path, *search) == (4, 0), "ten sparsities are halved four times"
    run(tmp_path, "sweep", *given, "--sparsity", "50,100")
    planned, finished = done(tmp_path, *search)
    assert finished == 2 and planned <= 2 + 3, "those on one side of 50 % are left, or none"
    run(tmp_path, *search)
    planned, finished = done(tmp_path, *search)
    assert planned == finished > 0
