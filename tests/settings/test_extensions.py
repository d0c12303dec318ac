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
from onnxprune.study.executors import ExecutorKind

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
executor = ExecutorKind("last ones first", make="tiny:Backwards")


class Backwards:
    def __init__(self, settings, points, materials, workers):
        self.materials = materials

    def __enter__(self):
        return self

    def __exit__(self, *error):
        Path(__file__).with_name("done").write_text("\\n".join(self.done))

    def run(self, groups, retry, listener):
        from onnxprune.study.base import ensure_base
        from onnxprune.study.jobs import in_turn

        self.done = []
        for base_id, jobs in groups.items():
            ensure_base(jobs[0].point, self.materials.dataset(jobs[0].point), jobs[0].runs, listener, retry)
            for job, error in in_turn(jobs[::-1], self.materials, listener):
                self.done.append(job.folder.name)
                yield job, error
"""
ENTRY_POINTS = "\n".join(
    f"[onnxprune.{group}]\n{name} = tiny:{attribute}\n"
    for group, name, attribute in (
        ("models", "tiny", "model"),
        ("datasets", "bright", "dataset"),
        ("criteria", "largest", "criterion"),
        ("techniques", "again", "technique"),
        ("schedules", "untouched", "schedule"),
        ("executors", "backwards", "executor"),
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


NETWORK = """
from onnxprune.models import Model, Recipe

recipe = Recipe(epochs=1, finetune_epochs=1, learning_rate=0.1, finetune_learning_rate=0.1)
model = Model("Odd", "what cannot be pruned", "odd", micro_batch=64, recipe=recipe)


def build(input_shape, classes):
    from math import prod

    import torch
    from torch import nn

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(prod(input_shape), 8), nn.Linear(8, classes)

        def forward(self, images):
            features = self.first(images.flatten(1))
            BODY

    return Odd()
"""


@pytest.fixture
def odd(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with a package that adds a network whose forward ends in these lines."""
    information = tmp_path / "odd-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[onnxprune.models]\nodd = odd:model\n")
    (tmp_path / "odd.py").write_text(NETWORK.replace("BODY", request.param))
    return tmp_path


def run(installed: Path, *arguments: object) -> str:
    done = onnxprune(*arguments, PYTHONPATH=f"{REPOSITORY}:{installed}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_are_known_before_anything_is_imported(installed: Path) -> None:
    text = run(installed, "sweep", "--help-all")
    assert all(name in text for name in ("tiny", "bright", "again", "untouched", "backwards"))
    run(installed, "sweep", "--model", "slp", "--dry-run")  # what is not asked for is not needed
    assert not (installed / "imported").exists()
    assert "one hidden layer of 8 units" in run(installed, "models")
    assert "criteria: l1, l2, threshold, obs, random, largest" in run(installed, "techniques")
    assert (installed / "imported").exists()


def test_one_of_everything_from_another_package_makes_points(installed: Path) -> None:
    of_others = ("--model", "tiny", "--dataset", "bright", "--schedule", "untouched", "--latency-seconds", 0)
    out = ("--out", installed / "runs", "--csv", "--quiet")
    ways = ("--technique", "weight", "--criterion", "largest", "--sparsity", "50,75", "--executor", "backwards")
    rows = run(installed, "sweep", *of_others, *ways, *out).splitlines()[1:]
    assert [row.partition(",untouched,")[0] for row in rows] == ["tiny,bright,256,weight,largest"] * 2
    names = [path.parent.name for path in (installed / "runs").glob("tiny-*/*/metrics.json")]
    assert (installed / "done").read_text().split() == sorted(names, key=lambda name: "-s75-" not in name)
    again = run(installed, "run", *of_others, "--technique", "again", "--sparsity", 50, *out)
    assert ",again,l1,untouched," in again.splitlines()[1]


def test_a_package_that_is_broken_is_one_clear_line(installed: Path) -> None:
    (installed / "tiny.py").write_text("import nothing_of_that_name")
    done = onnxprune("run", "--model", "tiny", PYTHONPATH=f"{REPOSITORY}:{installed}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "model 'tiny' of tiny cannot be loaded: ModuleNotFoundError" in line


@pytest.mark.parametrize(
    ("odd", "arguments", "problem"),
    [
        (
            "return self.last(nn.functional.layer_norm(features, (8,)))",
            ("--technique", "weight,structured,neuron", "--sparsity", "10,50"),
            ["technique 'structured' has nothing to prune: all units have to stay, those of layer 'first' because",
             "technique 'neuron' has nothing to prune: all units have to stay, those of layer 'first' because"],
        ),
        (
            "return self.last(torch.relu(features) if len(features) > 0 else features)",
            ("--technique", "neuron", "--criterion", "apoz"),
            ["this criterion needs a network that torch.fx can trace"],
        ),
        (
            "return self.last(torch.special.i0(features))",
            ("--technique", "weight"),
            ["the network cannot be exported: UnsupportedOperatorError"],
        ),
        (
            "raise KeyError(3)",
            ("--technique", "weight"),
            ["cannot be trained on images of shape (1, 28, 28) alone: KeyError: 3"],
        ),
    ],
    indirect=["odd"],
)  # fmt: skip
def test_what_cannot_be_pruned_is_refused_before_anything_is_trained(
    odd: Path, arguments: tuple[str, ...], problem: list[str]
) -> None:
    place = ("--out", odd / "runs")
    done = onnxprune("sweep", "--model", "odd", *arguments, *place, PYTHONPATH=f"{REPOSITORY}:{odd}")
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(problem), lines
    assert all(f"model 'odd': {text}" in line for text, line in zip(problem, lines, strict=True)), lines
    assert not (odd / "runs").exists()
