"""Finished points, handed on to the tracking tools that people already use; each is an optional extra."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from onnxprune.common.errors import InputError, described
from onnxprune.common.files import PARTIAL
from onnxprune.common.output import silenced
from onnxprune.common.registry import Registry
from onnxprune.results import store


class Tracker(Protocol):
    """Takes points, each once: one that it has already is left alone."""

    def point(self, folder: Path, settings: dict[str, Any], record: dict[str, Any]) -> None:
        """Takes a finished point: its settings as parameters, its numbers as metrics, its losses by epoch."""


class _Mlflow:
    """An MLflow run a point, in an experiment of the sweep's name, with the ONNX file as an ONNX model."""

    def __init__(self, sweep: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # unless the user says otherwise
        import mlflow
        import mlflow.onnx

        self._mlflow = mlflow
        self._client = mlflow.MlflowClient()
        name = f"onnxprune/{sweep.name}"
        known = self._client.get_experiment_by_name(name)
        self._experiment = known.experiment_id if known else self._client.create_experiment(name)

    def point(self, folder: Path, settings: dict[str, Any], record: dict[str, Any]) -> None:
        import onnx

        mlflow = self._mlflow
        if self._client.search_runs([self._experiment], f"tags.`onnxprune.point` = '{folder.name}'", max_results=1):
            return
        with mlflow.start_run(experiment_id=self._experiment, run_name=folder.name) as run:
            mlflow.log_params(settings)
            mlflow.log_metrics(_numbers(record["metrics"]))
            for epoch, loss in enumerate(record["epoch_losses"], start=1):
                mlflow.log_metric("training_loss", loss, step=epoch)
            mlflow.set_tags({f"environment.{name}": value for name, value in record["environment"].items()})
            mlflow.onnx.log_model(
                onnx.load(folder / store.MODEL), name="model", pip_requirements=["onnx", "onnxruntime"]
            )
            # last: a run without it was cut short, and does not count
            self._client.set_tag(run.info.run_id, "onnxprune.point", folder.name)


class _TensorBoard:
    """Event files under `tensorboard/` in the sweep's folder, a run a point."""

    def __init__(self, sweep: Path) -> None:
        import tensorboard  # noqa: F401 - torch's own error does not say what is missing

        self._folder = sweep / "tensorboard"

    def point(self, folder: Path, settings: dict[str, Any], record: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        target, partial = self._folder / folder.name, self._folder / f".{folder.name}{PARTIAL}"
        if target.exists():
            return
        shutil.rmtree(partial, ignore_errors=True)
        with SummaryWriter(str(partial)) as writer:
            for epoch, loss in enumerate(record["epoch_losses"], start=1):
                writer.add_scalar("training_loss", loss, epoch)
            metrics = {f"point/{name}": value for name, value in _numbers(record["metrics"]).items()}
            writer.add_hparams({name: _plain(value) for name, value in settings.items()}, metrics, run_name=".")
        partial.rename(target)


TRACKERS: Registry[Callable[[Path], Tracker]] = Registry("tracker", {"mlflow": _Mlflow, "tensorboard": _TensorBoard})


class Tracking:
    """The trackers of a sweep. One that fails on the way is left out from then on: no sweep is lost to it.

    Attributes:
        problems: what failed.
    """

    def __init__(self, names: Sequence[str], sweep: Path) -> None:
        """Opens the trackers.

        Raises:
            InputError: there is none of such a name, it is not installed, or it cannot be reached.
        """
        self.problems: list[str] = []
        self._trackers: dict[str, Tracker] = {}
        for name in map(TRACKERS.canonical, names):
            try:
                with silenced():
                    self._trackers[name] = TRACKERS[name](sweep)
            except ImportError:
                raise InputError(f"--track {name}: it is not installed: pip install 'onnxprune[{name}]'") from None
            except Exception as error:  # a server that is away raises anything
                raise InputError(f"--track {name}: {described(error)}") from None

    def point(self, folder: Path, settings: dict[str, Any], record: dict[str, Any]) -> None:
        """Hands a finished point to every tracker."""
        for name, tracker in list(self._trackers.items()):
            try:
                with silenced():
                    tracker.point(folder, settings, record)
            except Exception as error:  # its loss is not the sweep's
                del self._trackers[name]
                self.problems.append(
                    f"{name} failed at {folder.name} and takes no more points ({described(error)}); the same command "
                    "again hands on what is missing"
                )


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)
