"""A name is of one study: another one under it is refused, with what differs, or replaces it."""

import dataclasses
from pathlib import Path

import pytest
from command_line import called, small_npz
from made_up import hand_made

import onnxprune
from onnxprune.results import store
from onnxprune.results.tables import result_table
from onnxprune.settings.sweep import Sweep
from onnxprune.study import controller, former
from onnxprune.study.search import search


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_npz(tmp_path_factory.mktemp("data") / "squares.npz")


def settings(data: Path, runs: Path) -> dict[str, object]:
    quick = {
        "model": "slp",
        "hidden": 8,
        "technique": "weight",
        "epochs": 0,
        "finetune_epochs": 0,
        "latency_seconds": 0,
    }
    return {**quick, "dataset": str(data), "out": runs, "name": "mine", "workers": 1}


def test_a_name_with_other_settings_is_refused_and_says_what_differs(data: Path, tmp_path: Path) -> None:
    given = settings(data, tmp_path)
    onnxprune.sweep(**given, sparsity=[50, 60])
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    with pytest.raises(onnxprune.InputError) as caught:
        onnxprune.sweep(**given, sparsity=[50, 80], batch_size=64)
    assert "holds 2 points of another study" in str(caught.value)
    assert "batch_size 256 there, 64 here" in str(caught.value)
    assert "sparsity 50.0, 60.0 there, 50.0, 80.0 here" in str(caught.value)
    assert "--replace" in str(caught.value)
    assert {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("brief_probe")
@pytest.mark.parametrize("named", [False, True])
def test_a_plan_is_refused_where_its_run_would_be(named: bool, data: Path, tmp_path: Path) -> None:
    """Of a dataset with a name the former runs say which data it was, also those that failed."""
    given = settings(data, tmp_path) | ({"dataset": "digits"} if named else {})
    flags = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
    plain, broken = [*flags, "--sparsity", "50"], [*flags, "--learning-rate", "1e6", "--epochs", 5]
    broken += ["--sparsity", "50", "--name", "broken"]
    assert called("sweep", *plain).returncode == 0
    assert called("sweep", *broken).returncode == 1
    for command in ([*flags, "--sparsity", "50,80"], broken, [*plain, "--batch-size", 64, "--replace"]):
        planned = called("sweep", *command, "--dry-run")
        assert planned.returncode == 0, planned.stderr
    for command in ([*flags, "--sparsity", "80"], [*plain, "--batch-size", 64]):
        planned, run = called("sweep", *command, "--dry-run"), called("sweep", *command)
        assert (planned.returncode, run.returncode) == (2, 2)
        assert planned.stderr == run.stderr
        assert "another study" in run.stderr
    searched = called("search", *(word for word in plain if word not in ("--sparsity", "50")), "--dry-run")
    assert searched.returncode == 0, searched.stderr


def test_points_may_be_added_and_the_same_again_goes_on(data: Path, tmp_path: Path) -> None:
    given = settings(data, tmp_path)
    onnxprune.sweep(**given, sparsity=[50])
    assert len(onnxprune.sweep(**given, sparsity=[50, 80])) == 2
    assert len(onnxprune.sweep(**given, sparsity=[50, 80])) == 2


def test_replace_leaves_the_new_points_alone_and_keeps_those_in_both(data: Path, tmp_path: Path) -> None:
    given = settings(data, tmp_path)
    first = onnxprune.sweep(**given, sparsity=[50, 60]).set_index("sparsity")["folder"]
    kept = tmp_path / "mine" / first[50] / store.METRICS
    written = kept.stat().st_mtime_ns
    flags = [
        "--name",
        "mine",
        "--model",
        "slp",
        "--hidden",
        8,
        "--technique",
        "weight",
        "--epochs",
        0,
        "--sparsity",
        "50,80",
    ]
    flags += ["--finetune-epochs", 0, "--latency-seconds", 0, "--dataset", data, "--out", tmp_path, "--workers", 1]
    assert called("sweep", *flags).returncode == 2
    done = called("sweep", *flags, "--replace", "--json")
    assert done.returncode == 0, done.stderr
    assert kept.stat().st_mtime_ns == written
    assert not (tmp_path / "mine" / first[60]).exists()
    assert sorted(Sweep.read(tmp_path / "mine" / store.SPEC).values["sparsity"]) == [50, 80]
    assert sorted(result_table(tmp_path / "mine")["sparsity"]) == [50, 80]


def test_other_data_under_a_name_are_told_too(tmp_path: Path) -> None:
    data = small_npz(tmp_path / "squares.npz")
    given = settings(data, tmp_path / "runs")
    onnxprune.sweep(**given, sparsity=[50])
    small_npz(data, classes=2)
    with pytest.raises(onnxprune.InputError, match="other data, weights or files of networks"):
        onnxprune.sweep(**given, sparsity=[50])


def test_one_point_with_other_data_can_be_run_as_its_message_says(tmp_path: Path) -> None:
    data = small_npz(tmp_path / "squares.npz")
    options = ["--model", "slp", "--hidden", 8, "--epochs", 0, "--finetune-epochs", 0, "--latency-seconds", 0]
    command = ["run", *options, "--dataset", data, "--out", tmp_path / "runs"]
    assert called(*command).returncode == 0
    small_npz(data, classes=2)
    refused = called(*command)
    assert refused.returncode == 2 and "expected another --name, or --replace" in refused.stderr
    assert called(*command, "--name", "other").returncode == 0
    assert called(*command, "--replace").returncode == 0


def test_a_search_adds_to_its_own_study_and_to_no_other(data: Path, tmp_path: Path) -> None:
    plan = {key: value for key, value in settings(data, tmp_path).items() if key not in ("out", "workers")}
    search(Sweep.parse({**plan, "sparsity": 50}), 100, tmp_path, step=50, workers=1)
    again = search(Sweep.parse({**plan, "sparsity": 50}), 100, tmp_path, step=25, workers=1)
    assert again[0].sparsity == 75, "at 100 % it has collapsed"
    assert Sweep.read(tmp_path / "mine" / store.SPEC).values["sparsity"] == sorted(
        result_table(tmp_path / "mine")["sparsity"]
    )
    with pytest.raises(onnxprune.InputError, match="batch_size 256 there, 64 here"):
        search(Sweep.parse({**plan, "batch_size": 64, "sparsity": 50}), 100, tmp_path, step=50, workers=1)


def test_one_point_says_all_of_itself(tmp_path: Path) -> None:
    plan = Sweep.one_point({"model": "slp"})
    (tmp_path / "sweep.toml").write_text(plan.to_toml())
    assert Sweep.read(tmp_path / "sweep.toml").points == plan.points


def test_a_running_point_is_not_removed(tmp_path: Path) -> None:
    sweep = hand_made(tmp_path, "mine", technique="weight", sparsity=[50])
    (folder,) = former.others(sweep, ())
    with store.claimed(folder), pytest.raises(onnxprune.RunError, match="another process is running"):
        former.remove([folder])
    assert folder.exists()


def test_a_search_that_cannot_be_run_removes_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**settings(data, tmp_path), "sparsity": 50}
    onnxprune.sweep(**given)
    (result,) = (tmp_path / "mine").glob(f"*/{store.METRICS}")
    plan = Sweep.parse({name: value for name, value in given.items() if name not in ("out", "workers")})
    other = dataclasses.replace(plan, points=[dataclasses.replace(point, batch_size=64) for point in plan.points])

    def full(*_: object) -> None:
        raise onnxprune.RunError("no room")

    with monkeypatch.context() as patched, pytest.raises(onnxprune.RunError, match="no room"):
        patched.setattr(controller, "check_room", full)
        search(other, 1.0, tmp_path, replace=True, workers=1)
    assert result.is_file()
    search(other, 100.0, tmp_path, replace=True, workers=1, step=50)
    assert not result.exists()
