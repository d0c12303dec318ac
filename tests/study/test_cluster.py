"""Sweeps on a Ray cluster of two nodes: the same results as on this machine, whatever happens to a node."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from click.testing import CliRunner
from faults import SETTINGS, TIMED
from ray.cluster_utils import Cluster as Nodes

import onnxprune
from onnxprune.cli import cli
from onnxprune.common.files import read_json
from onnxprune.common.progress import Verbosity
from onnxprune.results import store
from onnxprune.settings.point import Point
from onnxprune.settings.sweep import Sweep
from onnxprune.study import cluster_tasks
from onnxprune.study.cluster import Cluster, ClusterSettings
from onnxprune.study.controller import Outcome, run_sweep
from onnxprune.study.jobs import data_settings

STUDY = {**SETTINGS, "technique": "weight,neuron", "sparsity": "0,50,90", "seeds": 2}
SMALL = {**STUDY, "sparsity": "50"}


def untimed(table: pd.DataFrame) -> pd.DataFrame:
    return table[[name for name in table if not any(word in name for word in (*TIMED, "latency", "speedup"))]]


def test_ray_sends_nothing_to_its_makers() -> None:
    code = (
        "import onnxprune.study.ray_library\n"
        "from ray._common.usage.usage_lib import usage_stats_enabled\n"
        "print(usage_stats_enabled())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_USAGE_STATS_ENABLED"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


@pytest.fixture(scope="module")
def node() -> Iterator[Nodes]:
    """One node, of one processor."""
    found = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield found
    found.shutdown()


@pytest.fixture(scope="module")
def nodes(node: Nodes) -> Nodes:
    """Two nodes of one processor each."""
    node.add_node(num_cpus=1)
    return node


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run_sweep(Sweep.parse(STUDY), tmp_path_factory.mktemp("local"), workers=1, verbosity=Verbosity.QUIET)


def on(nodes: Nodes, runs: Path, plan: dict[str, Any] = STUDY, **how: Any) -> Outcome:
    return run_sweep(
        Sweep.parse(plan),
        runs,
        executor="ray",
        executor_settings=ClusterSettings(nodes.address),
        verbosity=Verbosity.QUIET,
        **how,
    )


@pytest.mark.slow  # Ray starts two nodes, and they their workers
def test_the_table_is_that_of_this_machine(nodes: Nodes, tmp_path: Path) -> None:
    local = run_sweep(Sweep.parse(SMALL), tmp_path / "local", workers=1, verbosity=Verbosity.QUIET)
    there = on(nodes, tmp_path / "there", SMALL)
    assert there.failures == {}
    assert len(there.table) == 4
    pd.testing.assert_frame_equal(untimed(there.table), untimed(local.table))
    # and so are the files, but for when they were made
    for name in local.table["folder"]:
        for file in (store.MODEL, store.MASKS, store.CONFIG):
            assert (there.folder / name / file).read_bytes() == (local.folder / name / file).read_bytes()
        assert (there.folder / name / store.LOG).is_file()


@pytest.mark.slow
def test_each_executor_goes_on_where_the_other_stopped(nodes: Nodes, local: Outcome, tmp_path: Path) -> None:
    half = {**STUDY, "seeds": 1, "name": "both"}
    run_sweep(Sweep.parse(half), tmp_path, workers=1, verbosity=Verbosity.QUIET)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(store.METRICS)}
    whole = on(nodes, tmp_path, {**STUDY, "name": "both"})
    assert all(path.stat().st_mtime_ns == then for path, then in written.items())
    pd.testing.assert_frame_equal(untimed(whole.table), untimed(local.table))
    again = run_sweep(Sweep.parse({**STUDY, "name": "both"}), tmp_path, workers=1, verbosity=Verbosity.QUIET)
    pd.testing.assert_frame_equal(again.table, whole.table)


@pytest.mark.slow
def test_what_fails_is_recorded_and_the_rest_goes_on(nodes: Nodes, tmp_path: Path) -> None:
    plan = {**STUDY, "seeds": 1, "technique": "weight", "finetune_learning_rate": 1e6, "finetune_epochs": 5}
    found = on(nodes, tmp_path, {**plan, "sparsity": "50,100"})
    ((name, reason),) = found.failures.items()
    assert "-s50-" in name
    assert "diverged" in reason
    assert "diverged" in (found.folder / name / store.ERROR).read_text()
    assert len(found.table) == 1, "without weights there is nothing that could diverge"
    assert "--retry-failed" in on(nodes, tmp_path, {**plan, "sparsity": "50,100"}).failures[name]
    base = on(nodes, tmp_path, {**plan, "learning_rate": 1e6, "epochs": 5})
    assert len(base.failures) == 4
    assert any("its base" in reason for reason in base.failures.values())


@pytest.mark.slow
def test_equal_networks_are_made_once_whoever_runs_them(nodes: Nodes, tmp_path: Path) -> None:
    plan = {**STUDY, "technique": "weight,neuron,structured", "sparsity": "0,50,50.3", "seeds": 1, "name": "study"}
    local = run_sweep(Sweep.parse(plan), tmp_path / "local", workers=1, verbosity=Verbosity.QUIET)
    first = run_sweep(
        Sweep.parse({**plan, "sparsity": "50", "technique": "neuron"}), tmp_path, workers=1, verbosity=Verbosity.QUIET
    )
    there = on(nodes, tmp_path, plan)
    assert there.failures == {}
    pd.testing.assert_frame_equal(untimed(there.table), untimed(local.table))
    copies = {
        name: record["twin"]
        for name in there.table["folder"]
        if "twin" in (record := read_json(there.folder / name / store.METRICS))
    }
    assert len(copies) == there.table["same_as"].notna().sum() >= 3, "0 % of three techniques is one, and so is 50.3 %"
    (made_here,) = first.table["folder"]
    assert made_here in copies.values(), "what was made on this machine is not made again"
    for name, maker in copies.items():
        assert (there.folder / name / store.RIGHT).read_bytes() == (there.folder / maker / store.RIGHT).read_bytes()
    # and this machine knows what was made there
    for name in copies:
        shutil.rmtree(there.folder / name)
    run_sweep(Sweep.parse(plan), tmp_path, workers=1, verbosity=Verbosity.QUIET)
    for name in copies:
        assert "twin" in read_json(there.folder / name / store.METRICS)


@pytest.mark.slow
def test_what_waits_for_a_network_that_fails_makes_it_itself(nodes: Nodes, tmp_path: Path) -> None:
    plan = {**STUDY, "sparsity": "0", "seeds": 1, "finetune_learning_rate": 1e6, "finetune_epochs": 5}
    found = on(nodes, tmp_path, plan)
    assert len(found.failures) == 2
    assert all("diverged" in reason for reason in found.failures.values())


OF_YOUR_OWN = {"dataset": "digits", "technique": "weight,neuron", "sparsity": "50", "latency_seconds": 0}
OWN = """
import math
from torch import nn

def build(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), 8), nn.ReLU(), nn.Linear(8, classes))
"""


@pytest.mark.slow
def test_files_of_your_own_are_sent_to_the_nodes(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes work in other folders: they find neither file by its name."""
    monkeypatch.chdir(tmp_path)
    Path("mynet.py").write_text(OWN)
    plan = {**OF_YOUR_OWN, "model": "mynet.py:build"}
    first = on(nodes, tmp_path / "there", plan)
    assert first.failures == {}
    local = run_sweep(Sweep.parse(plan), tmp_path / "local", workers=1, verbosity=Verbosity.QUIET)
    pd.testing.assert_frame_equal(untimed(first.table), untimed(local.table))
    (base,) = (tmp_path / "local" / "bases").glob(f"*/{store.CHECKPOINT}")
    shutil.copy(base.with_name(store.MODEL), "model.onnx")
    shutil.copy(base, "weights.safetensors")
    for more in ({"weights": "weights.safetensors"}, {"model": "model.onnx"}):
        found = on(nodes, tmp_path / "there", {**plan, **more})
        assert (len(found.table), found.failures) == (2, {})


@pytest.mark.slow
def test_a_package_that_the_nodes_lack_is_one_line(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_alone.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    found = on(nodes, tmp_path, {**OF_YOUR_OWN, "model": "mine_alone:build"})
    assert any("there is no module mine_alone" in reason for reason in found.failures.values())
    assert not any("lost by the cluster" in reason for reason in found.failures.values())


@pytest.mark.slow
def test_a_file_that_changes_after_the_plan_is_made_fails_its_points(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "mynet.py"
    own.write_text(OWN)
    begin = Cluster._begin_base

    def changed(*arguments: Any) -> Any:
        own.write_text(OWN + "# another one\n")
        return begin(*arguments)

    monkeypatch.setattr(Cluster, "_begin_base", changed)
    plan = {**OF_YOUR_OWN, "model": f"{own}:build"}
    found = on(nodes, tmp_path, plan)
    assert len(found.failures) == 1 + 2, "the base and its points"
    assert any("changed while the study ran" in reason for reason in found.failures.values())


def test_the_first_that_asks_makes_a_network_until_it_fails() -> None:
    networks = cluster_tasks.Networks({"known": "before"})
    assert networks.maker("known", "first") == "before"
    assert networks.maker("new", "first") == "first"
    assert networks.maker("new", "second") == "first"
    networks.forget("first")
    assert networks.maker("new", "second") == "second"
    assert networks.maker("known", "second") == "before"


def test_data_are_told_apart_by_how_a_file_takes_them() -> None:
    """What is sent to the nodes once is normalised for a trained file, and not for other networks."""

    def given(model: str, **changes: Any) -> Any:
        return data_settings(Point(model=model, dataset="digits", **changes))

    file = "model.onnx"
    networks = [given("slp"), given("slp", train_limit=20), given(file), given(file, mean="0.1"), given(file, std="2")]
    assert len({*networks}) == len(networks)
    assert given("slp", technique="neuron") == given("slp", seed=1) == given("slp")


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"threads": 64}, "no node of the cluster has more than 1"), ({"device": "cuda"}, "--num-gpus")],
)
def test_what_a_cluster_cannot_do_is_refused_before_anything_runs(
    settings: dict[str, Any], words: str, node: Nodes, tmp_path: Path
) -> None:
    with pytest.raises(onnxprune.InputError, match=words):
        on(node, tmp_path / "runs", {**STUDY, **settings})
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow  # Ray tries for half a minute
def test_a_cluster_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    command = ["sweep", "--executor=ray", "--address=ray://127.0.0.1:9", "--technique=weight", f"--out={tmp_path}"]
    done = subprocess.run([sys.executable, "-m", "onnxprune", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "no Ray cluster can be reached" in done.stderr
    assert not list(tmp_path.iterdir())


def test_options_of_ray_without_ray_are_refused() -> None:
    done = CliRunner().invoke(cli, ["sweep", "--gpus-per-point=0.5", "--dry-run"])
    assert done.exit_code == 2
    assert "--executor ray" in done.output


def test_a_gate_suspends_the_others_and_survives_the_one_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_tasks, "_SECONDS_TO_NOTICE", 0.05)
    first, second = (subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2))

    def states() -> list[bool]:
        return [psutil.Process(process.pid).status() == psutil.STATUS_STOPPED for process in (first, second)]

    async def scene() -> None:
        gate = cluster_tasks._Gate()
        for process in (first, second):
            await gate.register(process.pid)
        await gate.enter(first.pid)
        await asyncio.sleep(0.1)
        assert states() == [False, True]
        os.kill(second.pid, signal.SIGCONT)
        await gate.register(second.pid)  # as one that comes later
        await asyncio.sleep(0.1)
        assert states() == [False, True]
        waiting = asyncio.ensure_future(gate.enter(second.pid))
        await asyncio.sleep(0.1)
        assert not waiting.done(), "two are inside"
        await gate.leave(first.pid)
        await asyncio.wait_for(waiting, 5)
        await asyncio.sleep(0.1)
        assert states() == [True, False]
        second.kill()
        second.wait()
        await asyncio.sleep(0.2)
        assert psutil.Process(first.pid).status() != psutil.STATUS_STOPPED, "it is left suspended for ever"
        await asyncio.wait_for(gate.enter(os.getpid()), 5)

    try:
        asyncio.run(scene())
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_node_that_dies_in_the_middle_loses_nothing(local: Outcome, tmp_path: Path) -> None:
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    doomed = nodes.add_node(num_cpus=1)
    killed = []

    def kill() -> None:
        while len(list(tmp_path.glob(f"*/*/{store.METRICS}"))) < 2 + 3:  # bases count
            time.sleep(0.05)
        nodes.remove_node(doomed, allow_graceful=False)
        killed.append(len(list(tmp_path.glob(f"*/*/{store.METRICS}"))))

    watcher = threading.Thread(target=kill, daemon=True)
    watcher.start()
    try:
        there = on(nodes, tmp_path)
    finally:
        watcher.join(10)
        nodes.shutdown()
    assert killed, "the sweep was over before"
    assert killed[0] < 2 + 12, "the sweep was nearly over before"
    assert there.failures == {}
    pd.testing.assert_frame_equal(untimed(there.table), untimed(local.table))
