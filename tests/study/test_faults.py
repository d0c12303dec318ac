"""Whatever happens to a sweep while it runs, the same command then makes the table of an undisturbed one."""

import contextlib
import functools
import importlib
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults
import pandas as pd
import psutil
import pytest
import warm

from onnxprune.common.files import write_json

KILLS = 200


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    runs = tmp_path_factory.mktemp("undisturbed")
    faults.resumed(runs)
    return made(runs)


def made(runs: Path) -> pd.DataFrame:
    """The table; the commit is left out, which git does not tell of a folder of somebody else."""
    return faults.untimed(runs).drop(columns="git_commit")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that an ordinary user may write to, as its home and for its temporary files too."""
    with tempfile.TemporaryDirectory(dir=Path(tempfile.gettempdir())) as name:
        if os.getuid() == 0:
            os.chown(name, faults.NOBODY, faults.NOBODY)
        yield Path(name)
        Path(name).chmod(0o700)


def at_home(place: Path) -> dict[str, str]:
    """The environment of a user whose home that is."""
    mine = {"HOME": str(place), "TMPDIR": str(place), "ONNXPRUNE_CACHE": str(place / "cache"), "USER": "nobody"}
    return {**os.environ, **mine}


def one_line(log: Path, words: str = "") -> None:
    said = log.read_text()
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert words in said, said


def resumed(runs: Path, undisturbed: pd.DataFrame, retry_failed: bool = False) -> None:
    faults.resumed(runs, retry_failed)
    pd.testing.assert_frame_equal(made(runs), undisturbed)


def resumed_by_command(runs: Path, log: Path, undisturbed: pd.DataFrame, *more: str, **how: Any) -> None:
    assert faults.finish([*faults.arguments(runs), *more], log, **how) == 0, log.read_text()
    pd.testing.assert_frame_equal(made(runs), undisturbed)
    assert not faults.leftovers(runs)
    one_line(log)


@pytest.mark.slow  # ten minutes; one kill of each kind is in test_resume.py and test_pool.py
def test_killed_two_hundred_times_with_its_group_or_by_worker(undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    moments = random.Random(0)
    log, runs = tmp_path / "log.txt", tmp_path / "runs"
    command = [*faults.arguments(runs), "--workers=2", "--retry-failed"]
    groups = workers = sweeps = 0
    while groups + workers < KILLS:
        runs.mkdir(exist_ok=True)
        process = faults.start(command, log, first=os.setpgrp)
        while groups + workers < KILLS:
            process.join(moments.uniform(0, 2))
            if not process.is_alive():
                break
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):  # it is none yet, or over
                family = psutil.Process(process.pid).children()
                found = [child for child in family if "worker" in " ".join(child.cmdline())]
                if found and moments.random() < 0.7:
                    moments.choice(found).kill()
                    workers += 1
                else:
                    os.killpg(process.pid, signal.SIGKILL)
                    groups += 1
        if faults.ended(process) == 0:
            pd.testing.assert_frame_equal(made(runs), undisturbed)
            sweeps += 1
            shutil.rmtree(runs)
    resumed_by_command(runs, log, undisturbed, "--retry-failed")
    one_line(log)
    print(f"{groups} kills of the group, {workers} of workers, {sweeps + 1} sweeps")  # noqa: T201
    assert min(groups, workers) > KILLS // 10


def test_stopped_and_continued_it_goes_on(undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    moments, log = random.Random(0), tmp_path / "log.txt"
    process = faults.start(faults.arguments(tmp_path), log)
    stops = 0
    while process.is_alive():
        process.join(moments.uniform(0, 0.2))
        with contextlib.suppress(ProcessLookupError):  # it was over just now
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.01)
            os.kill(process.pid, signal.SIGCONT)
            stops += 1
    assert stops > 3
    assert faults.ended(process) == 0
    one_line(log)
    pd.testing.assert_frame_equal(made(tmp_path), undisturbed)


def _hang_up_is(what: signal.Handlers) -> None:
    signal.signal(signal.SIGHUP, what)


def test_a_terminal_that_is_closed_ends_it_in_order_and_nohup_does_not(
    undisturbed: pd.DataFrame, tmp_path: Path
) -> None:
    log, runs = tmp_path / "log.txt", tmp_path / "runs"
    heard, ignored = (functools.partial(_hang_up_is, what) for what in (signal.SIG_DFL, signal.SIG_IGN))
    process = faults.start_until(runs, "slp-*/*/metrics.json", faults.arguments(runs), log, first=heard)
    os.kill(process.pid, signal.SIGHUP)
    faults.go_on(process)
    assert faults.ended(process) == 129
    one_line(log, "the same command continues a study from there")
    assert not faults.leftovers(runs)
    command = [*faults.arguments(runs), "--quiet"]
    process = faults.start_until(runs, "slp-*/*-s90-*/config.json", command, log, first=ignored)
    os.kill(process.pid, signal.SIGHUP)
    faults.go_on(process)
    while process.is_alive():
        os.kill(process.pid, signal.SIGHUP)
        process.join(0.05)
    assert faults.ended(process) == 0
    pd.testing.assert_frame_equal(made(runs), undisturbed)


@pytest.mark.parametrize(
    "milliseconds", [1, 20, *(pytest.param(wait, marks=pytest.mark.slow) for wait in (0, 4, 100))]
)  # two of five moments: each takes seconds
def test_ctrl_c_twice_is_one_line(milliseconds: int, undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    log, runs = tmp_path / "log.txt", tmp_path / "runs"
    process = faults.start_until(runs, "slp-*/*/model.onnx", faults.arguments(runs), log)
    for _ in range(2):
        with contextlib.suppress(ProcessLookupError):  # it was quick
            os.kill(process.pid, signal.SIGINT)
            faults.go_on(process)
        process.join(milliseconds / 1000)
    assert faults.ended(process) in (130, -signal.SIGINT)
    one_line(log)
    resumed(runs, undisturbed)


def test_a_folder_that_is_deleted_meanwhile_ends_it_in_one_line(undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    log, runs = tmp_path / "log.txt", tmp_path / "runs"
    process = faults.start_until(runs, "slp-*/*/model.onnx", faults.arguments(runs), log)
    shutil.rmtree(runs)
    faults.go_on(process)
    assert faults.ended(process) == 1
    one_line(log, "Error: ")
    resumed(runs, undisturbed)


def _deleted_before(place: str, runs: Path) -> None:
    """From now on a function, module:name, finds nothing under `runs`."""
    module, name = place.split(":")
    owner = importlib.import_module(module)
    then = getattr(owner, name)

    def deleted(*given: Any) -> Any:
        shutil.rmtree(runs)
        return then(*given)

    setattr(owner, name, deleted)


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("sweep", "onnxprune.results.tables:write_tables"),
        ("sweep", "onnxprune.commands.tables:print_claims"),
        ("sweep", "onnxprune.commands.study:write_report"),
        ("retime", "onnxprune.results.tables:write_tables"),
        ("retime", "onnxprune.commands.retime:write_report"),
    ],
)
def test_a_folder_that_is_deleted_at_the_end_is_a_failed_run_and_no_bad_input(
    command: str, place: str, tmp_path: Path
) -> None:
    log, runs = tmp_path / "log.txt", tmp_path / "runs"
    arguments = faults.arguments(runs, technique="weight", sparsity="0", latency_seconds=0.01, workers=1)
    if command == "retime":
        assert faults.finish(arguments, log) == 0
        arguments = ["retime", str(next(runs.glob("slp-*")))]
    assert faults.finish(arguments, log, first=functools.partial(_deleted_before, place, runs)) == 1, log.read_text()
    one_line(log, "Error: ")


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="no users")
def test_a_folder_that_becomes_read_only_ends_it_in_one_line(undisturbed: pd.DataFrame, place: Path) -> None:
    log, runs = place / "log.txt", place / "runs"
    how: dict[str, Any] = {"first": faults.as_ordinary_user, "environment": at_home(place)}
    process = faults.start_until(runs, "slp-*/*/metrics.json", faults.arguments(runs), log, **how)
    folders = [runs, *(path for path in runs.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    faults.go_on(process)
    assert faults.ended(process) == 1
    one_line(log, "Error: cannot write to")
    for folder in folders:
        folder.chmod(0o700)
    resumed_by_command(runs, log, undisturbed, **how)


def test_a_clock_that_is_set_back_again_and_again_changes_nothing(
    undisturbed: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of Python's functions; that of files goes on."""
    moment = time.time()

    def back() -> float:
        nonlocal moment
        moment -= 3600
        return moment

    monkeypatch.setattr(time, "time", back)
    monkeypatch.setattr(time, "time_ns", lambda: round(1e9 * back()))
    outcome = faults.sweep(tmp_path, technique="weight,neuron")
    assert not outcome.failures
    pd.testing.assert_frame_equal(made(tmp_path), undisturbed)


def test_rows_derived_in_a_future_that_is_over_are_not_believed(tmp_path: Path) -> None:
    """A table from before the clock was set back is younger than every record that is made after that."""
    from onnxprune.results import store
    from onnxprune.results.tables import result_table

    folder = faults.sweep(tmp_path).folder
    later = time.time() + 3600
    os.utime(folder / store.TABLE, (later, later))
    path = next(folder.glob("*-s50-*/metrics.json"))
    record = store.finished_record(path.parent)
    assert record is not None
    record["metrics"]["accuracy"] = 12.5
    write_json(path, record)
    table = result_table(folder).set_index("folder")
    assert table.loc[path.parent.name, "accuracy"] == 12.5


def _limit_memory(process: int, spare: int) -> None:
    used = psutil.Process(process).memory_info().vms
    resource.prlimit(process, resource.RLIMIT_AS, (used + spare, resource.RLIM_INFINITY))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits a process that runs")
@pytest.mark.parametrize(
    "spare", [0, pytest.param(2**22, marks=pytest.mark.slow), pytest.param(2**25, marks=pytest.mark.slow)]
)
def test_a_limit_of_memory_ends_in_one_line(spare: int, undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    log, runs = tmp_path / "log.txt", tmp_path / "runs"
    process = faults.start_until(runs, "slp-*/*/model.onnx", faults.arguments(runs), log)
    _limit_memory(process.pid, spare)
    faults.go_on(process)
    faults.ended(process)  # native code may have ended it
    one_line(log)
    resumed(runs, undisturbed, retry_failed=True)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux pins processes")
def test_one_processor_gives_the_same_table(undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    resumed_by_command(tmp_path, tmp_path / "log.txt", undisturbed, first=faults.on_one_processor)


@pytest.mark.slow  # test_resume.py has two in a folder, test_page.py one that watches
def test_two_sweeps_in_a_folder_beside_one_that_watches(undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    logs = [tmp_path / f"{name}.txt" for name in ("first", "second", "watch")]
    first = faults.start_until(tmp_path, "slp-*/*-s50-*/config.json", faults.arguments(tmp_path), logs[0])
    (folder,) = tmp_path.glob("slp-*")
    second = faults.start(faults.arguments(tmp_path), logs[1])
    watching = faults.start(["report", str(folder), "--watch"], logs[2])
    faults.go_on(first)
    assert [faults.ended(process) for process in (first, second, watching)] == [0, 0, 0], [
        log.read_text() for log in logs
    ]
    for log in logs:
        one_line(log)
    assert "6 of 6 done" in logs[2].read_text()
    assert "6" in (folder / "report.html").read_text()
    pd.testing.assert_frame_equal(made(tmp_path), undisturbed)


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="no users")
def test_an_ordinary_user_gets_the_same_table(undisturbed: pd.DataFrame, place: Path) -> None:
    how: dict[str, Any] = {"first": faults.as_ordinary_user, "environment": at_home(place)}
    resumed_by_command(place / "runs", place / "log.txt", undisturbed, **how)
    (model,) = (place / "runs").glob("slp-*/*neuron*-s50-*/model.onnx")
    if all(folder.stat().st_mode & 1 for folder in Path(sys.executable).resolve().parents):  # else it cannot be started
        for command in (["profile", str(model), "--seconds=0.01"], ["evaluate", str(model), "--dataset=digits"]):
            assert faults.finish(command, place / "log.txt", **how) == 0, (place / "log.txt").read_text()


def _call_out(address: str) -> None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(b"hello", (address, 53))


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="root alone makes namespaces")
def test_without_a_network_it_gives_the_same_table_and_asks_for_none(undisturbed: pd.DataFrame, tmp_path: Path) -> None:
    log, asked, runs = (tmp_path / name for name in ("log.txt", "asked.txt", "runs"))
    assert faults.ended(warm.start(faults.cut_off, _call_out, "192.0.2.1", asked)) == 0
    assert asked.read_text(), "it would not be seen"
    with log.open("w") as stream:
        process = warm.start(
            faults.cut_off, faults.run_command, faults.arguments(runs), asked, streams=[stream.fileno()] * 2
        )
    assert faults.ended(process) == 0, log.read_text()
    assert asked.read_text() == ""
    pd.testing.assert_frame_equal(made(runs), undisturbed)
