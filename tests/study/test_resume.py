"""No run is lost: sweeps that are killed, stopped, starved or damaged, and what the same command then makes of them."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import faults
import pandas as pd
import pytest
import torch

from onnxprune.cli import main
from onnxprune.pruning.decide import decide
from onnxprune.pruning.request import Masks, Request
from onnxprune.report.sources import read
from onnxprune.results import store
from onnxprune.schedules import context, one_shot
from onnxprune.settings.vocabulary import TECHNIQUES
from onnxprune.training.recipe import Recipe

KILLS = 4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("undisturbed")
    faults.resumed(runs)
    return runs


@pytest.fixture
def runs(undisturbed: Path, tmp_path: Path) -> Path:
    """A finished sweep, to be damaged."""
    return Path(shutil.copytree(undisturbed, tmp_path / "runs"))


def killed(command: list[str], runs: Path, kills: int, longest: float) -> int:
    """Kills the command after up to `longest` seconds, again and again, until it is done or was killed often enough."""
    moments = random.Random(0)
    for count in range(kills):
        process = faults.start(command, runs / "log.txt")
        process.join(moments.uniform(0.2 * longest, longest))
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:  # it was done before
            return count
    return kills


def test_killed_again_and_again_the_table_is_that_of_an_undisturbed_run(undisturbed: Path, tmp_path: Path) -> None:
    count = killed(faults.arguments(tmp_path), tmp_path, KILLS, longest=0.6)
    assert count >= 3, "the sweep was done before it could be killed"
    faults.resumed(tmp_path)
    pd.testing.assert_frame_equal(faults.untimed(tmp_path), faults.untimed(undisturbed))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_it_ends_says_how_to_go_on_and_does(number: int, code: int, undisturbed: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    process = faults.start_until(tmp_path, "slp-*/*-s50-*/metrics.json", faults.arguments(tmp_path), log)
    os.kill(process.pid, number)
    faults.go_on(process)
    assert faults.ended(process) == code
    said = log.read_text()
    assert "the same command continues a study from there" in said
    assert "Traceback" not in said
    assert not faults.leftovers(tmp_path)
    assert "already done" in faults.resumed(tmp_path)
    pd.testing.assert_frame_equal(faults.untimed(tmp_path), faults.untimed(undisturbed))


@pytest.mark.parametrize("file_bytes", [2_000, 50_000, 103_500, 150_000])
def test_a_full_disk_ends_the_run_in_one_line_and_room_lets_it_go_on(
    file_bytes: int, undisturbed: Path, tmp_path: Path
) -> None:
    """The disk is full at the log, at a model, at what NNI writes beside it, at the page."""
    log = tmp_path / "log.txt"
    log.touch()
    assert faults.finish(faults.arguments(tmp_path), log, file_bytes) == 1
    if file_bytes > 2_000:  # the log is a file too
        said = log.read_text()
        assert "Error: cannot write to" in said
        assert "File too large" in said
        assert "Traceback" not in said
    assert not faults.leftovers(tmp_path)
    assert not list(tmp_path.rglob("error.txt"))
    faults.resumed(tmp_path)
    pd.testing.assert_frame_equal(faults.untimed(tmp_path), faults.untimed(undisturbed))


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    "pattern",
    [
        "slp-*/*-s50-*/metrics.json",
        "slp-*/*-s50-*/config.json",
        "slp-*/*-s50-*/model.onnx",
        "slp-*/*-s50-*/masks.safetensors",
        "bases/*/checkpoint.safetensors",
        "bases/*/model.onnx",
        "bases/*/metrics.json",
    ],
)
def test_what_is_damaged_is_made_again_and_kept_aside(pattern: str, runs: Path, undisturbed: Path) -> None:
    damaged = sorted(runs.glob(pattern))
    contents = []
    for path in damaged:
        damage(path)
        contents.append(path.read_bytes())
    (runs / "results.csv").unlink(missing_ok=True)
    said = faults.resumed(runs)
    pd.testing.assert_frame_equal(faults.untimed(runs), faults.untimed(undisturbed))
    intact = 7 - len(damaged)
    assert said.count("already done") + said.count("reused") == intact
    if not pattern.endswith("metrics.json"):  # without a record it was never done, and nothing is worth keeping
        kept = sorted(runs.glob(f"{pattern.split('/')[0]}/damaged/*/{damaged[0].name}"))
        assert [path.read_bytes() for path in kept] == contents
        assert said.count("is damaged") == len(damaged)
        assert damaged[0].name in said


def test_missing_files_are_made_again(runs: Path, undisturbed: Path) -> None:
    next(runs.glob("bases/*/checkpoint.safetensors")).unlink()
    next(runs.glob("slp-*/*/config.json")).unlink()
    faults.resumed(runs)
    pd.testing.assert_frame_equal(faults.untimed(runs), faults.untimed(undisturbed))


def test_what_dead_processes_left_half_written_is_removed(runs: Path) -> None:
    folder = next(runs.glob("slp-*"))
    unfinished = next(folder.glob("*/metrics.json"))
    unfinished.unlink()
    for path in (
        folder / ".sweep.toml.1.part",
        unfinished.with_name("model.onnx.part"),
        unfinished.with_name(".x.part"),
    ):
        path.write_text("half")
    faults.resumed(runs)


def test_two_processes_share_a_sweep_and_run_no_point_twice(undisturbed: Path, tmp_path: Path) -> None:
    logs = [tmp_path / "first.txt", tmp_path / "second.txt"]
    processes = [faults.start(faults.arguments(tmp_path), log) for log in logs]
    codes = [faults.ended(process) for process in processes]
    said = "".join(log.read_text() for log in logs)
    assert codes == [0, 0], said
    pd.testing.assert_frame_equal(faults.untimed(tmp_path), faults.untimed(undisturbed))
    over = (", MACs ", ", not made again")  # the latter of a network that another point has made
    made = [line for line in said.splitlines() if line.startswith("point ") and any(word in line for word in over)]
    assert len(made) == len(set(made)) == 6
    assert said.count("trained in 0 s") == 1


def test_a_process_that_dies_gives_its_point_to_the_one_that_waits(undisturbed: Path, tmp_path: Path) -> None:
    pattern = "slp-*/*-s50-*/model.onnx"  # in the middle of a point, which it keeps
    first = faults.start_until(tmp_path, pattern, faults.arguments(tmp_path), tmp_path / "first.txt")
    second = faults.start(faults.arguments(tmp_path), tmp_path / "second.txt")
    while len(list(tmp_path.glob("slp-*/*/metrics.json"))) < 5:
        time.sleep(0.01)
        assert second.is_alive(), (tmp_path / "second.txt").read_text()
    while "waiting for another process" not in (tmp_path / "second.txt").read_text():
        time.sleep(0.01)
        assert second.is_alive(), "it did not wait"
    second.join(0.2)
    assert second.is_alive() and len(list(tmp_path.glob("slp-*/*/metrics.json"))) == 5, "it did not wait"
    first.kill()
    assert faults.ended(second) == 0
    pd.testing.assert_frame_equal(faults.untimed(tmp_path), faults.untimed(undisturbed))


def test_a_claim_is_for_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with store.claimed(folder) as ours, store.claimed(folder, wait=False) as again:
        assert ours
        assert not again
    with store.claimed(folder, wait=False) as ours:
        assert ours


@pytest.mark.parametrize("error", [ValueError("unforeseen\nof two lines"), MemoryError()])
def test_what_failed_is_recorded_listed_again_and_retried_only_when_asked(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail_at_50(network: object, request: Request, *arguments: object) -> Masks:
        if request.sparsity == 50:
            raise error
        return decide(network, request, *arguments)

    monkeypatch.setattr(one_shot, "decide", fail_at_50)
    first = faults.sweep(tmp_path)
    ((name, reason),) = first.failures.items()
    assert type(error).__name__ in reason
    assert "\n" not in reason
    assert len(first.table) == 2
    assert "Traceback" in (first.folder / name / "error.txt").read_text()
    monkeypatch.setattr(one_shot, "decide", decide)
    ((again, reason),) = faults.sweep(tmp_path).failures.items()
    assert again == name
    assert "--retry-failed" in reason
    retried = faults.sweep(tmp_path, retry_failed=True)
    assert not retried.failures
    assert len(retried.table) == 3
    assert not store.failures(retried.folder)


def test_a_point_that_diverges_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = faults.sweep(tmp_path / "quiet").table
    recipe = context.finetuning_recipe
    calls = []

    def exploding_in_the_middle(*arguments: Any) -> Recipe:
        calls.append(arguments)
        how = recipe(*arguments)
        return dataclasses.replace(how, learning_rate=1e30) if len(calls) == 2 else how

    monkeypatch.setattr(context, "finetuning_recipe", exploding_in_the_middle)
    disturbed = faults.sweep(tmp_path / "disturbed", retry_failed=True)
    (reason,) = disturbed.failures.values()
    assert reason.startswith("training diverged")
    kept = quiet[quiet["sparsity"] != 50].reset_index(drop=True)
    timed = [name for name in kept if any(word in name for word in faults.TIMED)]
    pd.testing.assert_frame_equal(disturbed.table.drop(columns=timed), kept.drop(columns=timed))


def test_a_base_that_diverges_fails_its_points_and_no_others(tmp_path: Path) -> None:
    outcome = faults.sweep(tmp_path, learning_rate=1e6, epochs=5)
    assert len(outcome.failures) == 4
    assert "diverged" in next(iter(outcome.failures.values()))
    assert not len(outcome.table)
    again = faults.sweep(tmp_path, learning_rate=1e6, epochs=5)
    assert "in an earlier run" in next(iter(again.failures.values()))
    told = store.failures(outcome.folder)
    assert told.keys() == {name for name, reason in outcome.failures.items() if reason.startswith("its base")}
    assert all(re.match(r"its base \S+ failed: training diverged", reason) for reason in told.values())
    (source,) = read([outcome.folder])
    assert source.finished, "report --watch would look for ever"
    since = outcome.folder / f"{next(iter(told)).rpartition('-')[0]}-00000000"  # of other data
    since.mkdir()
    (since / store.METRICS).touch()
    assert len(store.failures(outcome.folder)) == len(told) - 1


def test_the_command_lists_what_failed_and_exits_with_1_until_it_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def said(command: list[str]) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["onnxprune", *command])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(str(stopped.value.code)), capfd.readouterr().err

    command = faults.arguments(tmp_path, technique="weight", sparsity="50", finetune_learning_rate=1e6)
    command += ["--finetune-epochs=20"]
    code, first = said(command)
    assert code == 1
    assert "1 failed:" in first
    assert "Traceback" not in first
    code, again = said(command)
    assert code == 1
    assert "in an earlier run; --retry-failed tries again" in again
    code, retried = said([*command, "--retry-failed"])
    assert code == 1
    assert "in an earlier run" not in retried
    code, shown = said(["results", str(next(tmp_path.glob("slp-*")))])
    assert code == 0
    assert "1 failed:" in shown
    assert "training diverged" in shown


def test_results_do_not_depend_on_what_else_is_in_the_sweep(undisturbed: Path, tmp_path: Path) -> None:
    torch.manual_seed(12345)
    alone = faults.sweep(tmp_path, technique="neuron", sparsity=[50]).table.iloc[0]
    together = faults.untimed(undisturbed).set_index("folder").loc[alone["folder"]]
    for name in ("accuracy", "cross_entropy", "base_cross_entropy", "validation_accuracy", "achieved_sparsity"):
        assert alone[name] == together[name]


def test_the_record_says_what_it_was_made_on(undisturbed: Path) -> None:
    record = json.loads(next(undisturbed.glob("slp-*/*/metrics.json")).read_text())
    assert set(record["files"]) == {"config.json", "model.onnx", "masks.safetensors", "right.npy"}
    assert record["environment"]["training_threads"] == torch.get_num_threads()


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("workers", "epochs", "longest"), [(1, 1, 1.6), (2, 8, 5)])  # workers take 3 s to start
def test_a_real_sweep_killed_twenty_times_gives_the_same_table(
    workers: int, epochs: int, longest: float, tmp_path: Path
) -> None:
    settings = {"dataset": "fmnist", "train_limit": 20_000, "sparsity": "0:100:10", "workers": workers}
    settings |= {"technique": ",".join(TECHNIQUES), "finetune_epochs": epochs}
    commands = [faults.arguments(tmp_path / name, **settings) for name in ("quiet", "disturbed")]
    for name in ("quiet", "disturbed"):
        (tmp_path / name).mkdir()
    assert faults.finish(commands[0], tmp_path / "quiet" / "log.txt") == 0
    assert killed(commands[1], tmp_path / "disturbed", 20, longest) == 20
    assert faults.finish(commands[1], tmp_path / "disturbed" / "log.txt") == 0
    pd.testing.assert_frame_equal(faults.untimed(tmp_path / "disturbed"), faults.untimed(tmp_path / "quiet"))
