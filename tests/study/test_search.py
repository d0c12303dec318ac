"""`search` and `sensitivity`: decisions on the validation split."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import trained
from click.testing import CliRunner
from command_line import small_npz
from PIL import Image

import onnxprune
from onnxprune.bridge.measure import judged_network
from onnxprune.cli import cli
from onnxprune.common.errors import RunError
from onnxprune.common.progress import Verbosity
from onnxprune.pruning.decide import decide
from onnxprune.pruning.remove import zeroed
from onnxprune.pruning.request import Request
from onnxprune.report import figures
from onnxprune.results import store
from onnxprune.settings.sweep import Sweep
from onnxprune.study import controller
from onnxprune.study.jobs import Materials
from onnxprune.study.search import search
from onnxprune.study.sensitivity import sensitivity
from onnxprune.training.setup import training_batches

SETTINGS: dict[str, Any] = {
    "model": "slp", "hidden": 64, "batch_size": 32, "epochs": 3, "finetune_epochs": 0, "learning_rate": 0.1,
    "latency_seconds": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_npz(tmp_path_factory.mktemp("data") / "squares.npz", classes=3))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data: str) -> Path:
    """A folder with a sweep in it."""
    folder = tmp_path_factory.mktemp("runs")
    onnxprune.sweep(**SETTINGS, dataset=data, technique="weight", sparsity=[0, 50, 100], out=folder, workers=1)
    return folder


def find(data: str, runs: Path, **changes: Any) -> Any:
    how = {name: changes.pop(name) for name in ("max_drop", "step") if name in changes}
    plan = Sweep.parse({**SETTINGS, "dataset": data, "technique": "weight", "sparsity": 50, **changes})
    return search(plan, how.get("max_drop", 5.0), runs, step=how.get("step", 1), verbosity=Verbosity.QUIET, workers=1)


def test_the_answer_holds_and_the_next_step_does_not(data: str, runs: Path) -> None:
    (found,) = find(data, runs, name="found")
    assert 50 <= found.sparsity < 100
    trials = {trial.sparsity: trial for trial in found.trials}
    assert trials[found.sparsity].accepted
    assert trials[found.sparsity].drop <= 5
    assert not trials[found.sparsity + 1].accepted
    assert trials[found.sparsity + 1].drop > 5
    (folder,) = found.folders
    metrics = json.loads((Path(folder) / store.METRICS).read_text())["metrics"]
    drop = metrics["base_validation_accuracy"] - metrics["validation_accuracy"]
    assert drop == pytest.approx(trials[found.sparsity].drop)
    assert found.metrics["accuracy"] == metrics["accuracy"]
    # what the sweep had is where it began: 50 holds, 100 does not, 6 halvings are left
    assert [trial.sparsity for trial in found.trials if trial.reused] == [50, 100]
    assert found.reused == 2
    assert found.trainings == len(found.trials) - 2 <= 6


def test_a_second_search_trains_nothing(data: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = find(data, runs, name="twice")
    monkeypatch.setattr(controller, "run_sweep", None)
    (again,) = find(data, runs, name="thrice")
    assert again.trainings == 0
    assert again.sparsity == first.sparsity


def test_points_that_are_removed_meanwhile_are_no_answer(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def then_removed(*given: Any, **how: Any) -> controller.Outcome:
        outcome = controller.run_sweep(*given, **how)
        shutil.rmtree(tmp_path)
        return outcome

    monkeypatch.setattr("onnxprune.study.search.run_sweep", then_removed)
    with pytest.raises(RunError, match="removed while the search ran"):
        find(data, tmp_path, step=50)


def test_where_everything_costs_too_much_the_base_is_the_answer(data: str, tmp_path: Path) -> None:
    (found,) = find(data, tmp_path, technique="structured", learning_rate=0.02, max_drop=0, step=50, criterion="random")
    assert found.trainings in (1, 2)
    if found.sparsity == 0:
        assert (found.folders, found.metrics) == ([], {})


def test_where_nothing_costs_too_much_all_but_a_collapsed_network_is_the_answer(data: str, tmp_path: Path) -> None:
    (found,) = find(data, tmp_path, technique="neuron", max_drop=100, step=50)
    assert found.sparsity == 50
    assert {trial.sparsity: trial.accepted for trial in found.trials} == {50: True, 100: False}


def test_seeds_decide_together(data: str, tmp_path: Path) -> None:
    (found,) = find(data, tmp_path, seeds=2, step=25)
    assert len(found.folders) == 2
    assert found.trainings == 2 * len(found.trials)
    drops = [
        json.loads((Path(folder) / store.METRICS).read_text())["metrics"]["base_validation_accuracy"]
        - json.loads((Path(folder) / store.METRICS).read_text())["metrics"]["validation_accuracy"]
        for folder in found.folders
    ]
    answer = next(trial for trial in found.trials if trial.sparsity == found.sparsity)
    assert sum(drops) / 2 == pytest.approx(answer.drop)


def make_up(data: str, runs: Path, test: list[float], validation: list[float], collapsed_from: float = 101) -> None:
    """Points at 25, 50, 75 and 100 % of these accuracies, of a base that has 90 % of both."""
    plan = Sweep.parse({**SETTINGS, "dataset": data, "technique": "weight", "sparsity": [25, 50, 75, 100]})
    checksum = Materials(None).dataset(plan.points[0]).checksum
    for point, tested, validated in zip(plan.points, test, validation, strict=True):
        folder = runs / "sweep" / point.point_id(checksum)
        store.begin(folder, point.settings())
        metrics = {"base_accuracy": 90, "accuracy": tested, "collapsed": point.sparsity >= collapsed_from}
        metrics |= {"base_validation_accuracy": 90, "validation_accuracy": validated, "validation_images": 40}
        store.finish(folder, {"metrics": metrics, "environment": {}})


def test_a_network_that_names_the_commonest_class_alone_is_no_answer(data: str, tmp_path: Path) -> None:
    """Nine images of ten may be of one class: then it loses nothing."""
    make_up(data, tmp_path, [90, 90, 90, 90], [90, 90, 90, 90], collapsed_from=75)
    (found,) = find(data, tmp_path, step=25)
    assert found.sparsity == 50
    assert [trial.accepted for trial in found.trials] == [True, True, False]


def test_the_test_accuracy_has_no_say(data: str, tmp_path: Path) -> None:
    """Points that lose on the validation split at 75 %, and on the test set at 50 % or nowhere."""
    for test_accuracies in ([90, 10, 10, 10], [90, 90, 90, 90]):
        runs = tmp_path / str(test_accuracies[1])
        make_up(data, runs, test_accuracies, [90, 88, 80, 10])
        (found,) = find(data, runs, step=25)
        assert found.sparsity == 50
        assert [trial.drop for trial in found.trials] == [0, 2, 10]
        assert found.trainings == 0


def arguments(data: str, out: Path, **changes: Any) -> list[str]:
    values = {**SETTINGS, "dataset": data, "technique": "weight", **changes}
    return [f"--out={out}", "--quiet", *(f"--{name.replace('_', '-')}={value}" for name, value in values.items())]


def test_search_by_command(data: str, runs: Path) -> None:
    command = ["search", *arguments(data, runs, workers=1), "--max-drop=5", "--step=10"]
    shown = CliRunner().invoke(cli, command, catch_exceptions=False)
    found = json.loads(CliRunner().invoke(cli, [*command, "--json"], catch_exceptions=False).stdout)
    (answer,) = found
    assert f" {answer['sparsity']:g} " in shown.output
    assert f"{answer['metrics']['accuracy']:.2f}" in shown.output
    assert answer["folders"][0] in shown.output
    assert answer["trainings"] == 0, "the command before has trained all"


def test_notes_are_said_once_those_of_a_network_whose_base_is_there_already_too(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "norm.py").write_text(
        "from torch import nn\n\n\ndef net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(144, 16),"
        " nn.LayerNorm(16), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, classes))\n"
    )
    settings = {name: value for name, value in SETTINGS.items() if name != "hidden"} | {"dataset": data}
    settings |= {"model": f"{tmp_path / 'norm.py'}:net", "technique": "weight,structured", "sparsity": 50, "epochs": 1}
    search(Sweep.parse(settings), 5, tmp_path / "runs", step=25, workers=1)
    shown = capsys.readouterr().err
    for note in ("layers that keep all of their units: 1", "too few to train it fully"):
        assert shown.count(note) == 1, shown


def test_a_search_without_a_name_is_beside_a_run_without_one(data: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    own = tmp_path / f"{'a' * 200}.npz"  # whose name makes the longest one there can be
    own.write_bytes(Path(data).read_bytes())
    for command in (["search", "--max-drop=100", "--step=50"], ["run", "--sparsity=50"], ["sweep", "--sparsity=50"]):
        done = CliRunner().invoke(cli, [*command, *arguments(str(own), runs, workers=1)])
        assert done.exit_code == 0, done.output
    (found,) = runs.glob("search-*")
    assert Sweep.read(found / store.SPEC).name == found.name
    assert len([folder for folder in runs.iterdir() if folder.name[0] not in "b."]) == 2


def test_adaptive_has_nothing_to_search_for(data: str, tmp_path: Path) -> None:
    with pytest.raises(onnxprune.InputError, match="finds its own"):
        find(data, tmp_path, schedule="adaptive", finetune_epochs=1)
    assert not list(tmp_path.iterdir())


# Sensitivity


def test_each_layer_alone_loses_units(data: str, runs: Path) -> None:
    plan = Sweep.parse({**SETTINGS, "dataset": data, "technique": "weight", "sparsity": "0,50,100"})
    found = sensitivity(plan, runs, verbosity=Verbosity.QUIET)
    table = pd.DataFrame([vars(entry) for entry in found]).set_index(["layer", "sparsity"])
    assert set(table.index) == {(layer, share) for layer in ("hidden", "classifier") for share in (0, 50, 100)}
    assert (table.xs(0, level="sparsity")[["removed", "drop"]] == 0).all().all()
    assert table.loc[("hidden", 50), "removed"] == 144 * 64 // 2
    assert table.loc[("classifier", 100), "removed"] == 64 * 3
    assert table.xs(100, level="sparsity")["drop"].gt(20).all()
    # one of them by hand
    point = plan.points[0]
    materials = Materials(None)
    base, dataset = materials.base(point, runs), materials.dataset(point)
    request = Request("weight", "l1", "unit", 0, 16, 0, shares={"hidden": 0.5})
    masks = decide(base.network, request, training_batches(point, dataset, base.network))
    assert (masks["classifier"] == 1).all()
    network = zeroed(base.network, request, masks, dataset.input_shape)
    accuracy = judged_network(network, dataset, torch.device("cpu"), base.network).percent
    assert table.loc[("hidden", 50), "accuracy"] == accuracy


def test_a_convolution_loses_the_share_that_is_asked_for_and_not_the_nearest_step(data: str, tmp_path: Path) -> None:
    given = {"model": "cnn", "dataset": data, "batch_size": 64, "epochs": 1, "technique": "structured"}
    found = sensitivity(Sweep.parse({**given, "sparsity": "5,10,50"}), tmp_path, verbosity=Verbosity.QUIET)
    removed = {(entry.units, entry.sparsity): entry.removed for entry in found}
    assert removed == {
        (units, percent): round(units * percent / 100) for units in (32, 64, 128) for percent in (5, 10, 50)
    }


def test_sensitivity_is_of_one_way_to_prune(data: str, tmp_path: Path) -> None:
    plan = Sweep.parse({**SETTINGS, "dataset": data, "sparsity": "50"})
    with pytest.raises(onnxprune.InputError, match="one technique, got several"):
        sensitivity(plan, tmp_path, verbosity=Verbosity.QUIET)


@pytest.mark.parametrize("technique", ["unstructured", "neuron"])
def test_sensitivity_by_command_with_a_picture(technique: str, data: str, runs: Path, tmp_path: Path) -> None:
    values = {name: SETTINGS[name] for name in ("model", "hidden", "batch_size", "epochs", "learning_rate")}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    figure = tmp_path / "map.png"
    command = ["sensitivity", f"--out={runs}", "--quiet", f"--dataset={data}", f"--technique={technique}", *options]
    done = CliRunner().invoke(cli, [*command, "--sparsity=25,75", f"--figure={figure}"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "hidden" in done.stdout
    assert ("classifier" in done.stdout) == (technique == "unstructured")
    with Image.open(figure) as picture:
        assert picture.width > 800
        assert len(picture.convert("RGB").getcolors(10**6) or []) > 20
    rows = json.loads(CliRunner().invoke(cli, [*command, "--sparsity=25", "--images=10", "--json"]).stdout)
    assert {row["sparsity"] for row in rows} == {25}
    assert all(row["accuracy"] in range(0, 101, 10) for row in rows)


def test_a_figure_without_format_is_refused_before_anything_runs(data: str, tmp_path: Path) -> None:
    command = ["sensitivity", f"--dataset={data}", f"--out={tmp_path / 'runs'}", "--figure=map.jpeg"]
    done = CliRunner().invoke(cli, command)
    assert isinstance(done.exception, onnxprune.InputError)
    assert ".svg" in str(done.exception)
    assert not (tmp_path / "runs").exists()


def test_ways_that_differ_in_more_than_the_technique_can_be_told_apart(data: str, runs: Path) -> None:
    command = ["search", *arguments(data, runs, batch_size="32,64", workers=1), "--max-drop=5", "--step=25"]
    shown = CliRunner().invoke(cli, command, catch_exceptions=False).stdout
    found = json.loads(CliRunner().invoke(cli, [*command, "--json"], catch_exceptions=False).stdout)
    assert [(row["model"], row["batch_size"], row["technique"], row["schedule"]) for row in found] == [
        ("slp", 32, "weight", "one-shot"), ("slp", 64, "weight", "one-shot"),
    ]  # fmt: skip
    rows = [line.split() for line in shown.splitlines() if " weight l1 " in line]
    assert [row[0] for row in rows] == ["32", "64"]


def test_the_picture_says_what_is_lost(runs: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(figures, "heat_map", lambda *given: drawn.append(given))
    file = trained.mlp(tmp_path / "mlp.onnx", mean="[0.0]", std="[1.0]")
    own = ["--model=slp", "--hidden=64", "--batch-size=32", "--epochs=3", "--learning-rate=0.1", f"--dataset={data}"]
    answers = [f"--model={file}", f"--dataset={trained.without_labels(tmp_path / 'digits.npz')}"]
    for given in (own, answers):
        command = ["sensitivity", f"--out={runs}", "--quiet", "--technique=weight", "--sparsity=25,75", *given]
        done = CliRunner().invoke(cli, [*command, f"--figure={tmp_path / 'map.png'}"])
        assert done.exit_code == 0, done.output
    (table, title, legend, _), (_, _, other, _) = drawn
    assert list(table.index) == ["hidden", "classifier"] and list(table.columns) == [25, 75]
    assert title.startswith("slp on squares, weight (l1)")
    assert (legend, other) == ("accuracy lost (points)", "fidelity lost (points)")
