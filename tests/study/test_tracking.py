"""Points handed on to MLflow and TensorBoard, the real ones."""

import os
import socket
import subprocess
import sys
import time
import types
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from command_line import called, onnxprune

from onnxprune.study.tracking import Tracking

SWEEP = (
    "sweep", "--model", "slp", "--dataset", "digits", "--train-limit", 100, "--epochs", 2, "--finetune-epochs", 1,
    "--technique", "weight", "--latency-seconds", 0, "--name", "s", "--quiet",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A local MLflow server with its SQLite store."""
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'store.db'}", "--artifacts-destination", str(folder / "files"),
    ]  # fmt: skip
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=1)
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log.txt").read_text()
                    time.sleep(0.2)
            yield address
        finally:
            os.killpg(process.pid, 9)
            process.wait()


@pytest.mark.slow
def test_mlflow_gets_each_point_once_with_its_model(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sparsity in ("50", "50,90"):  # the second sweep resumes the first
        done = onnxprune(
            *SWEEP, "--sparsity", sparsity, "--track", "mlflow", "--out", tmp_path, "--csv", MLFLOW_TRACKING_URI=server
        )
        assert (done.returncode, done.stderr) == (0, "")
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    client = mlflow.MlflowClient(server)
    experiment = client.get_experiment_by_name("onnxprune/s")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.params["sparsity"] for run in runs) == ["50.0", "90.0"]
    run = next(run for run in runs if run.data.params["sparsity"] == "90.0")
    assert run.info.status == "FINISHED"
    assert run.data.params["technique"] == "weight"
    assert 0 < run.data.metrics["accuracy"] <= 100
    assert run.data.metrics["achieved_sparsity"] == pytest.approx(90, abs=0.1)
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "training_loss")] == [1]
    assert "environment.torch_version" in run.data.tags
    (logged,) = client.search_logged_models([experiment.experiment_id], f"source_run_id = '{run.info.run_id}'")
    folder = mlflow.artifacts.download_artifacts(logged.model_uri, dst_path=str(tmp_path / "model"))
    (file,) = Path(folder).rglob("*.onnx")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    assert session.run(None, {"input": np.zeros((2, 1, 28, 28), np.float32)})[0].shape == (2, 10)


def test_a_server_that_is_away_is_told_before_anything_is_run(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    settings = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = onnxprune(*SWEEP, "--track", "mlflow", "--out", tmp_path, **settings)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: --track mlflow: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # importing TensorBoard
def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is not installed"
    )
    for _ in range(2):
        done = onnxprune(*SWEEP, "--sparsity", "50,90", "--track", "tensorboard", "--out", tmp_path, "--csv")
        assert (done.returncode, done.stderr) == (0, "")
    runs = sorted((tmp_path / "s/tensorboard").iterdir())
    assert len(runs) == 2
    for run in runs:
        assert len(list(run.iterdir())) == 2  # event files of losses and of settings, written once
        read = accumulator.EventAccumulator(str(run)).Reload()
        (loss,) = read.Scalars("training_loss")
        assert loss.step == 1
        assert 0 < read.Scalars("point/accuracy")[0].value <= 100


def test_mlflow_is_told_to_send_nothing_to_its_makers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "")  # so that what is set below goes again
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    said = []
    module = types.ModuleType("mlflow")
    client = types.SimpleNamespace(get_experiment_by_name=lambda name: types.SimpleNamespace(experiment_id="1"))
    module.MlflowClient = lambda: said.append(os.environ.get("MLFLOW_DISABLE_TELEMETRY")) or client  # type: ignore
    module.onnx = types.ModuleType("mlflow.onnx")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.onnx", module.onnx)
    assert not Tracking(["mlflow"], tmp_path).problems
    assert said == ["true"]


def test_an_unknown_tracker_is_one_line(tmp_path: Path) -> None:
    done = called(*SWEEP, "--track", "wandb", "--out", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "Error: unknown tracker 'wandb': known are mlflow, tensorboard.\n"


def test_a_tracker_that_fails_on_the_way_costs_no_point(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/tensorboard").write_text("in the way")
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    arguments = [argument for argument in SWEEP if argument != "--quiet"]
    done = onnxprune(*arguments, "--sparsity", "50,90", "--track", "tensorboard", "--out", tmp_path)
    assert done.returncode == 0
    assert "tensorboard failed at" in done.stderr
    assert len((tmp_path / "s/results.csv").read_text().splitlines()) == 3
