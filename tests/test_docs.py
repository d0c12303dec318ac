"""What the guide says works: its commands are run, its snippets too, and the reference is that of the commands."""

import re
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import trained
import warm
import yaml
from command_line import REPOSITORY

from onnxprune.models import MODELS, Model, Recipe
from onnxprune.settings.arguments import PointSettings, SweepSettings
from onnxprune.settings.point import FIELDS
from onnxprune.settings.sweep import SHORTHANDS, Sweep
from onnxprune.study.controller import run_sweep

DOCS = REPOSITORY / "docs"
SHORT = ("pruning-any-file", "api")
LONG = (  # real studies, and files timed: 5 to 60 s each
    "first-study", "profiling", "quantization", "your-own-network", "your-own-data", "choosing-what-to-ship",
    "schedules", "extending",
)  # fmt: skip
GUIDE = [*SHORT, *(pytest.param(page, marks=pytest.mark.slow) for page in LONG)]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", GUIDE)
def test_the_commands_and_snippets_of_a_page_run_in_order(
    page: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shutil.copytree(REPOSITORY / "models", tmp_path / "models")
    parts = re.findall(r"```(sh|python)\n(.*?)```", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    assert parts
    script = ["set -eu"]
    for number, (language, code) in enumerate(parts):
        if language == "sh":
            script.append(code)
        elif "entry = Model(" not in code and "def build(" not in code:  # those are for the test below
            (tmp_path / f"snippet{number}.py").write_text(code)
            script.append(f"python snippet{number}.py")
    with warm.Shell(tmp_path_factory.mktemp("shell")) as shell:
        done = subprocess.run(
            ["bash", "-c", "\n".join([*shell.definitions, *script])],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr


def test_the_model_of_the_guide_can_be_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, entry = (
        next(block for block in blocks("extending", "python") if mark in block)
        for mark in ("def build(", "entry = Model(")
    )
    module = types.ModuleType("onnxprune.models.lenet")
    exec(build, module.__dict__)
    monkeypatch.setitem(sys.modules, "onnxprune.models.lenet", module)
    names = {"Model": Model, "Recipe": Recipe}
    exec(entry, names)
    monkeypatch.setitem(MODELS._entries, "lenet", names["entry"])
    monkeypatch.setitem(MODELS._names, "lenet", "lenet")
    settings = {"model": "LeNet", "dataset": "digits", "epochs": 1, "train_limit": 200, "latency_seconds": 0}
    # a model that is not in the package but put there for this test is known to no other process
    outcome = run_sweep(Sweep.parse({**settings, "sparsity": [0, 50], "finetune_epochs": 0}), tmp_path, workers=1)
    assert outcome.failures == {}
    assert len(outcome.table) == 8
    shrunk = outcome.table[(outcome.table["technique"] == "structured") & (outcome.table["sparsity"] == 50)]
    assert shrunk["macs"].item() < 0.5 * outcome.table["base_macs"].iloc[0]


def test_every_column_of_the_results_is_documented_and_no_other(tmp_path: Path) -> None:
    plan = {"model": "slp", "dataset": "digits", "technique": "weight", "sparsity": 50, "epochs": 0, "also": "int8"}
    table = run_sweep(Sweep.parse({**plan, "train_limit": 50, "latency_seconds": 0}), tmp_path).table
    file = trained.mlp(tmp_path / "mlp.onnx")
    of_file = {"model": str(file), "dataset": str(trained.without_labels(tmp_path / "images.npz")), "mean": 0, "std": 1}
    plan = {**plan, **of_file, "epochs": None, "finetune_epochs": 0, "latency_seconds": 0}
    without_labels = run_sweep(Sweep.parse(plan), tmp_path / "runs").table
    documented = re.findall(r"^\| `(\w+)` \|", (DOCS / "columns.md").read_text(encoding="utf-8"), re.MULTILINE)
    # there only where some count is not complete, or some network cannot be quantised
    missing = ("macs_missing", "base_macs_missing", "int8_missing", "base_int8_missing")
    assert sorted(documented) == sorted({*table.columns, *without_labels.columns, *missing})


def test_the_reference_is_that_of_the_commands() -> None:
    written = (DOCS / "cli.md").read_text(encoding="utf-8")
    # in a process of its own: click keeps what help looked like when a command was first used
    made = subprocess.run([sys.executable, "-m", "onnxprune.reference"], capture_output=True, text=True)
    assert written == made.stdout, "make it again: python -m onnxprune.reference > docs/cli.md"


def test_links_of_the_docs_lead_somewhere() -> None:
    for page in [*DOCS.glob("*.md"), REPOSITORY / "README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_on_the_site_and_no_other() -> None:
    pages: list[str] = []

    def collect(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            for value in entry.values():
                pages.append(value) if isinstance(value, str) else collect(value)

    collect(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(pages) == sorted(page.name for page in DOCS.glob("*.md"))


def test_the_arguments_of_the_functions_are_the_settings() -> None:
    one, several = (set(kind.__annotations__) for kind in (PointSettings, SweepSettings))
    assert one == {*FIELDS, "name"}
    assert several == {*FIELDS, *SHORTHANDS, "name"}
