"""What other packages add by entry points, and that they are imported only when they are needed."""

from pathlib import Path

import pytest
from command_line import REPOSITORY, onnxprune

MODULE = """
from pathlib import Path

import numpy as np

from onnxprune.data.source import DatasetInfo
from onnxprune.models import Model, Recipe
from onnxprune.settings.vocabulary import Criterion, Schedule, Technique

Path(__file__).with_name("imported").touch()


def build(input_shape, classes):
    from collections import OrderedDict
    from math import prod

    from torch import nn

    hidden, classifier = nn.Linear(prod(input_shape), 8), nn.Linear(8, classes)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), hidden=hidden, relu=nn.ReLU(), classifier=classifier))


def squares(folder):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = (random.integers(0, 100, (60, 4, 4)) + 150 * labels[:, None, None]).astype(np.uint8)
    return images[:40], labels[:40], images[40:], labels[40:]


def largest_first(candidates):
    from onnxprune.pruning import pruners
    from onnxprune.pruning.ranking import Ranking

    return Ranking(pruners.rescored(candidates.by_magnitude, lambda layer, scores: scores.max() - scores))


def untouched(context):
    return context.remove(context.base, context.decide(context.base, context.point.sparsity))


recipe = Recipe(epochs=1, finetune_epochs=1, learning_rate=0.1, finetune_learning_rate=0.1)
model = Model("Tiny", "one hidden layer of 8 units", "tiny", micro_batch=64, recipe=recipe)
dataset = DatasetInfo("dark and bright", (1, 4, 4), ("dark", "bright"), 36, "", squares)
criterion = Criterion("the largest weights go", ranking="tiny:largest_first", techniques=("weight",))
technique = Technique("single weights again", unit="weight", scope="layer", criteria=("l1",))
schedule = Schedule("prune and leave it at that", "", "tiny:untouched", settings=())
"""
ENTRY_POINTS = "\n".join(
    f"[onnxprune.{group}]\n{name} = tiny:{attribute}\n"
    for group, name, attribute in (
        ("models", "tiny", "model"),
        ("datasets", "bright", "dataset"),
        ("criteria", "largest", "criterion"),
        ("techniques", "again", "technique"),
        ("schedules", "untouched", "schedule"),
    )
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with a package that adds one of everything."""
    information = tmp_path / "tiny-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "tiny.py").write_text(MODULE)
    return tmp_path


def run(installed: Path, *arguments: object) -> str:
    done = onnxprune(*arguments, PYTHONPATH=f"{REPOSITORY}:{installed}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_are_known_before_anything_is_imported(installed: Path) -> None:
    text = run(installed, "sweep", "--help")
    assert all(name in text for name in ("tiny", "bright", "again", "untouched"))
    run(installed, "sweep", "--model", "slp", "--dry-run")  # what is not asked for is not needed
    assert not (installed / "imported").exists()
    assert "one hidden layer of 8 units" in run(installed, "models")
    assert "criteria: l1, l2, threshold, random, largest" in run(installed, "techniques")
    assert (installed / "imported").exists()


def test_one_of_everything_from_another_package_makes_a_point(installed: Path) -> None:
    of_others = ("--model", "tiny", "--dataset", "bright", "--schedule", "untouched", "--latency-seconds", 0)
    out = ("--sparsity", 50, "--out", installed / "runs", "--csv", "--quiet")
    table = run(installed, "run", *of_others, "--technique", "weight", "--criterion", "largest", *out)
    assert table.splitlines()[1].startswith("tiny,bright,256,weight,largest,untouched,")
    again = run(installed, "run", *of_others, "--technique", "again", *out)
    assert ",again,l1,untouched," in again.splitlines()[1]


def test_a_package_that_is_broken_is_one_clear_line(installed: Path) -> None:
    (installed / "tiny.py").write_text("import nothing_of_that_name")
    done = onnxprune("run", "--model", "tiny", PYTHONPATH=f"{REPOSITORY}:{installed}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "model 'tiny' of tiny cannot be loaded: ModuleNotFoundError" in line
