"""onnxprune: what pruning a neural network costs and gains, measured on the ONNX file that would be deployed."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from onnxprune.common.errors import InputError, OnnxpruneError, RunError
from onnxprune.version import __version__

if TYPE_CHECKING:
    import pandas as pd

    from onnxprune.analysis.profiling import Profile
    from onnxprune.quantization.result import QuantizeReport
    from onnxprune.reduction.result import PruneReport
    from onnxprune.settings.arguments import PointSettings, SweepSettings
    from onnxprune.settings.sweep import Sweep

# before onnxruntime is imported, here or in processes that are started from here: nothing is sent to its makers, unless
# the user says so
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# What PyTorch draws, its exporter and where output goes are of the whole process: studies of several threads take
# turns. One that a study's network begins where its code is imported is of the same thread.
_study = threading.RLock()

__all__ = [
    "InputError",
    "OnnxpruneError",
    "RunError",
    "__version__",
    "profile",
    "prune",
    "quantize",
    "run_experiment",
    "sweep",
]


def sweep(
    spec: str | Path | None = None,
    *,
    out: str | Path = "experiments/runs",
    data_dir: str | Path | None = None,
    retry_failed: bool = False,
    track: Sequence[str] = (),
    workers: int | None = None,
    executor: str = "local",
    executor_settings: Any = None,
    replace: bool = False,
    **settings: Unpack["SweepSettings"],
) -> "pd.DataFrame":
    """Runs a sweep and returns its table, one row a point; the columns are those of `results.csv`.

    Examples:
        >>> table = onnxprune.sweep(model="cnn", dataset="digits", technique=["weight", "structured"], sparsity=[0, 50])

    Args:
        spec: a spec file; `settings` take precedence over it.
        out: folder that results go under.
        data_dir: folder of the datasets.
        retry_failed: run points again that failed before.
        track: names of trackers that get every finished point: "mlflow", "tensorboard".
        workers: processes that run points side by side; default: as many as pay.
        executor: where points run: "local", "ray", or the name that another package gives to its own.
        executor_settings: its own, as `onnxprune.study.cluster.ClusterSettings` for "ray"; default: its defaults.
        replace: remove the points of another study of the same `name`, which is refused otherwise.
        settings: fields of `onnxprune.settings.point.Point`; several values of an axis give the product.

    Raises:
        InputError: settings or data that cannot be used.
        RunError: points failed; the others' results are on disk.
    """
    from onnxprune.settings.calls import checked
    from onnxprune.settings.sweep import Sweep

    how = checked(
        {
            "spec": spec,
            "out": out,
            "data_dir": data_dir,
            "retry_failed": retry_failed,
            "track": track,
            "workers": workers,
            "executor": executor,
            "executor_settings": executor_settings,
            "replace": replace,
        }
    )
    path, given = how.pop("spec"), {**settings}
    return _run(Sweep.parse(given) if path is None else Sweep.read(path, given), **how)


def _run(plan: "Sweep", *, out: Path, replace: bool, **how: Any) -> "pd.DataFrame":
    from onnxprune.study.controller import run_sweep

    with _study:
        outcome = run_sweep(plan, out, others="replace" if replace else "refuse", **how)
    if outcome.failures:
        listed = "; ".join(f"{name}: {reason}" for name, reason in outcome.failures.items())
        raise RunError(f"{len(outcome.failures)} failed of the sweep in {outcome.folder}: {listed}")
    return outcome.table


def run_experiment(
    *,
    out: str | Path = "experiments/runs",
    data_dir: str | Path | None = None,
    retry_failed: bool = False,
    replace: bool = False,
    **settings: Unpack["PointSettings"],
) -> "pd.DataFrame":
    """Runs one point and returns its row, a table of length one.

    Examples:
        >>> row = onnxprune.run_experiment(model="slp", dataset="digits", technique="weight", sparsity=80)

    Args:
        out: folder that results go under.
        data_dir: folder of the datasets.
        retry_failed: run the point again if it failed before.
        replace: remove the points of another study of the same `name`, which is refused otherwise.
        settings: fields of `onnxprune.settings.point.Point`.

    Raises:
        InputError: settings of several points, or settings or data that cannot be used.
        RunError: the point failed.
    """
    from onnxprune.settings.calls import checked
    from onnxprune.settings.sweep import Sweep

    how = checked({"out": out, "data_dir": data_dir, "retry_failed": retry_failed, "replace": replace})
    return _run(Sweep.one_point({**settings}), **how)


def profile(path: str | Path, **settings: Any) -> "Profile":
    """Profiles an ONNX file of any framework; neither PyTorch nor NNI is imported.

    Examples:
        >>> found = onnxprune.profile("model.onnx", batch_sizes=(1, 32))
        >>> found.counts.macs, found.operators, found.nodes, found.latency

    Args:
        settings: of `onnxprune.analysis.profiling.profile`.

    Raises:
        InputError: not an ONNX file, a damaged one, shapes that do not fit or are missing, or CUDA does not run.
    """
    from onnxprune.analysis import profiling
    from onnxprune.settings.calls import checked

    return profiling.profile(**checked({"path": path, **settings}))


def prune(path: str | Path, **settings: Any) -> "PruneReport":
    """Prunes an ONNX file of any framework, and writes a smaller one; neither PyTorch nor NNI is imported.

    Examples:
        >>> found = onnxprune.prune("model.onnx", sparsity=50, data="inputs.npz")
        >>> found.output, found.after.macs / found.before.macs, found.fidelity, found.groups_table()

    Args:
        settings: of `onnxprune.reduction.prune.prune`: those of the command.

    Raises:
        InputError: the file, the data or the settings cannot be used; nothing is written.
        RunError: the result fails its check; nothing is written.
    """
    from onnxprune.reduction import prune as pruning
    from onnxprune.settings.calls import checked

    return pruning.prune(**checked({"path": path, **settings}))


def quantize(path: str | Path, **settings: Any) -> "QuantizeReport":
    """Quantises an ONNX file of any framework to int8 or float16; neither PyTorch nor NNI is imported.

    Examples:
        >>> found = onnxprune.quantize("model.onnx", data="inputs.npz", max_drop=1)
        >>> found.output, found.after.bytes / found.before.bytes, found.fidelity, found.layers_table()

    Args:
        settings: of `onnxprune.quantization.quantize.quantize`: those of the command.

    Raises:
        InputError: the file, the data or the settings cannot be used; nothing is written.
        RunError: the result does not run, or loses more than allowed; nothing is written.
    """
    from onnxprune.quantization import quantize as quantization
    from onnxprune.settings.calls import checked

    return quantization.quantize(**checked({"path": path, **settings}))
