"""What commands say where an extra is not installed, and that the others do without it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import REPOSITORY
from made_up import hand_made
from packaging.requirements import Requirement

from onnxprune import cli

EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
HIDING = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
from onnxprune.cli import main
for words in {commands}:
    sys.argv = ["onnxprune", *words]
    try:
        main()
    except SystemExit as ended:
        print("exit code", ended.code, file=sys.stderr)
"""


def without(extra: str, commands: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Commands, one after the other, where the modules of an extra cannot be imported, nor where it is "", those of
    any; after each, its exit code is a line of the errors."""
    modules = {module for module, of in cli._EXTRAS.items() if extra in (of, "")}
    words = [command.split() for command in commands]
    return subprocess.run(
        [sys.executable, "-c", HIDING.format(modules=modules, commands=words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_every_package_of_the_extras_is_known() -> None:
    modules = {"scikit-learn": "sklearn"}
    for extra in ("study", "report"):
        for text in EXTRAS[extra]:
            name = Requirement(text).name
            if name != "onnxprune":
                assert cli._EXTRAS[modules.get(name, name)] == extra


@pytest.mark.parametrize(
    ("extra", "needed"),
    [
        (
            "study",
            {
                "run --model slp --dataset data.npz": "torch",
                "sweep --model slp --dry-run": "torch",
                "sensitivity --model slp": "torch",
                "evaluate model.onnx --dataset digits": "sklearn",
            },
        ),
        ("report", {"plot sweep --out figure.pdf": "matplotlib", "report sweep": "plotly"}),
    ],
)
def test_what_is_missing_is_one_line_and_exit_code_2(extra: str, needed: dict[str, str], tmp_path: Path) -> None:
    hand_made(tmp_path, "sweep", technique="weight", sparsity=[0, 50])
    _model(tmp_path / "model.onnx")
    np.savez(
        tmp_path / "data.npz",
        **{f"x_{split}": np.arange(640, dtype=np.uint8).reshape(10, 8, 8) for split in ("train", "test")},
        **{f"y_{split}": np.arange(10) % 2 for split in ("train", "test")},
    )
    done = without(extra, list(needed), tmp_path)
    lines = (
        f'Error: this needs {module}: pip install "onnxprune[{extra}]"\nexit code 2\n' for module in needed.values()
    )
    assert done.stderr == "".join(lines)


def test_files_need_no_extra(tmp_path: Path) -> None:
    hand_made(tmp_path, "sweep", technique="weight", sparsity=[0, 50])
    _model(tmp_path / "model.onnx")
    commands = [
        "profile model.onnx --seconds 0.01",
        "compare model.onnx model.onnx --seconds 0.01",
        "prune model.onnx --sparsity 50 --technique weight --output pruned.onnx --seconds 0.01",
        "results sweep --csv",
        "models",
    ]
    done = without("", commands, tmp_path)
    assert [line for line in done.stderr.splitlines() if "exit code" in line] == ["exit code 0"] * 5, done.stderr


def _model(path: Path) -> None:
    """A classifier of images of 28 x 28 into ten classes."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[batch, 1, 28, 28] input) => (float[batch, 10] logits) {
            flat = Flatten (input)
            logits = MatMul (flat, weight)
        }"""
    )
    weight = np.random.default_rng(0).normal(size=(784, 10)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    onnx.save(model, path)
