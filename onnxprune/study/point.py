"""One point: prune, shrink, fine-tune, export, verify, evaluate, count, time, record."""

import contextlib
import datetime
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from onnxprune.bridge.eight_bits import measure_int8
from onnxprune.bridge.measure import Measured, export_and_measure, validation_accuracy
from onnxprune.common import environment
from onnxprune.common.files import replacing
from onnxprune.common.progress import Listener
from onnxprune.data.dataset import Dataset
from onnxprune.pruning.remove import Pruned
from onnxprune.pruning.request import Masks, Request
from onnxprune.results import store
from onnxprune.results.task import RetryPolicy, ensure
from onnxprune.runtime.lock import timing_lock
from onnxprune.runtime.timing import compare
from onnxprune.schedules.context import PruningContext
from onnxprune.settings.point import Point
from onnxprune.settings.vocabulary import SCHEDULES
from onnxprune.study.base import Base, cost_columns
from onnxprune.training.cost import NO_TRAINING
from onnxprune.training.opcount import count_training_ops
from onnxprune.training.setup import training_batches

_TIMED = ("latency_ms_median", "latency_ms_p90", "latency_runs", "speedup", "speedup_noise")

# a context in which nothing else of the same run works, for timing
Exclusive = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class PointRun:
    """A point and what it is run with.

    Attributes:
        folder: where its files go.
        exclusive: gives a context in which nothing else of the same run works, for timing.
    """

    point: Point
    base: Base
    dataset: Dataset
    folder: Path
    listener: Listener
    exclusive: Exclusive = nullcontext

    @property
    def model_path(self) -> Path:
        """The exported network."""
        return self.folder / store.MODEL

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device(self.point.device)

    def measure(self, network: nn.Module, without: Masks | None = None) -> Measured:
        """Exports a network, without the units that these masks remove, to the point's file and measures that."""
        dead_align = None if self.point.keep_dead else self.point.channel_align
        metadata = _provenance(self.point, self.folder)
        return export_and_measure(
            network, self.model_path, self.dataset, metadata=metadata, dead_align=dead_align, without=without
        )


def run_point(run: PointRun, retry: RetryPolicy) -> None:
    """Runs a point; a point that is already in its folder is not run again.

    Raises:
        BusyError: another process is running the point, and the policy says not to wait.
        RunError: the point failed; its folder says why.
        StorageError: its files cannot be written.
    """
    listener, name = run.listener, run.folder.name
    listener.begin(f"point {name}")
    record, reused = ensure(run.folder, run.point.settings(), lambda: _make(run), retry, listener)
    metrics = record["metrics"]
    timed = f", measured speedup {metrics['speedup']:.2f}" if metrics["speedup"] is not None else ""
    listener.candidate(
        name,
        drop=metrics["base_validation_accuracy"] - metrics["validation_accuracy"],
        gain=metrics["speedup"] or metrics["theoretical_speedup"] or 1.0,
    )
    listener.end("already done" if reused else f"accuracy {metrics['accuracy']:.2f} %, MACs {metrics['macs']:,}{timed}")


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _make(run: PointRun) -> dict[str, Any]:
    # always as many, beside others or not: sums that are split among threads in another way round otherwise
    with _threads(run.point.threads):
        run.listener.stage("pruning")
        context = _context(run)
        pruned: Pruned = resolve_name(SCHEDULES[run.point.schedule].run)(context)
        return _record(run, context, pruned)


def _context(run: PointRun) -> PruningContext:
    point = run.point
    criterion = "random" if point.control == "random" else point.criterion
    return PruningContext(
        point=point,
        base=run.base.network,
        memory=run.base.memory,
        dataset=run.dataset,
        batches=training_batches(point, run.dataset),
        request=Request.of(point, criterion=criterion),
        listener=run.listener,
    )


def _record(run: PointRun, context: PruningContext, pruned: Pruned) -> dict[str, Any]:
    """Measures what the schedule has made, and writes the masks."""
    base, dataset = run.base, run.dataset
    run.listener.stage("measuring")
    without = pruned.unit_masks if pruned.in_file else None
    before = None if context.untrained is None else run.measure(context.untrained, without)
    trained = context.cost is not None and context.cost.updates > 0
    final = before if before is not None and not trained else run.measure(pruned.network, without)
    cost = context.cost or NO_TRAINING
    operators = context.operators or count_training_ops(pruned.network, dataset.input_shape)
    metrics = {
        **base.metrics,
        **_before_columns(before),
        **final.accuracy_columns(),
        "validation_accuracy": validation_accuracy(run.model_path, dataset, run.device, final.batch),
        "accuracy_change": final.test.accuracy - base.metrics["base_accuracy"],
        **final.cost_columns(),
        **cost_columns(cost, context.flops),
        **_achieved(pruned, final, base.metrics),
        **_int8(run, final.batch),
        **_latency(run),
        "parity_max_abs_diff": final.parity,
        "collapsed": final.test.constant,
        "empty_layers": len(pruned.empty_layers),
        "data_checksum": dataset.checksum,
        "spec_hash": _spec_hash(run.folder),
        "base_id": base.folder.name,
    }
    masks = {name: mask.to(torch.bool).cpu().contiguous() for name, mask in pruned.unit_masks.items()}
    with replacing(run.folder / store.MASKS) as partial:
        safetensors.torch.save_file(masks, partial)
    return {
        "metrics": metrics,
        "layers": {name: _remaining(mask) for name, mask in pruned.unit_masks.items()},
        "empty_layers": pruned.empty_layers,
        "path": context.path,
        "epoch_losses": cost.epoch_losses,
        "training_operators": asdict(operators),
        "operators": {name: asdict(entry) for name, entry in final.counts.operators.items()},
        "environment": environment.of_training(run.point.device),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _before_columns(before: Measured | None) -> dict[str, Any]:
    """Of the pruned network before training; None where the schedule prunes while it trains."""
    prefix = "before_finetuning_"
    if before is None:
        names = ("accuracy", "top5_accuracy", "cross_entropy", "parity_max_abs_diff")
        return {f"{prefix}{name}": None for name in names}
    return {**before.accuracy_columns(prefix), f"{prefix}parity_max_abs_diff": before.parity}


def _provenance(point: Point, folder: Path) -> dict[str, Any]:
    """How the file was made, for its metadata."""
    names = ("model", "technique", "criterion", "schedule", "granularity", "sparsity", "control", "seed")
    settings = point.settings()
    return {name: settings[name] for name in names if name in settings} | {"spec_hash": _spec_hash(folder)}


def _spec_hash(folder: Path) -> str:
    """The hash of the settings, which ends the name of the folder."""
    return folder.name.rsplit("-", 1)[1]


def _remaining(mask: Tensor) -> dict[str, int]:
    return {"units": mask.numel(), "kept": int(mask.sum())}


def _percent_less(now: float, then: float) -> float:
    return 100 * (1 - now / then)


def _achieved(pruned: Pruned, final: Measured, base: dict[str, Any]) -> dict[str, Any]:
    """What was removed indeed, in percent of the base, and the two ratios of the pruning literature.

    Shares of MACs are None where those of the base or of the point are not complete: they cannot be compared.
    """
    removed, units = pruned.removed
    counts = final.counts
    counted = counts.complete and "base_macs_missing" not in base
    return {
        "achieved_sparsity": 100 * removed / units,
        "achieved_channels_sparsity": _channels_removed(pruned.unit_masks),
        "achieved_weight_sparsity": _percent_less(counts.nonzero_params, base["base_nonzero_params"]),
        "achieved_params_sparsity": _percent_less(counts.params, base["base_params"]),
        "achieved_macs_sparsity": _percent_less(counts.macs, base["base_macs"]) if counted else None,
        "achieved_effective_macs_sparsity": (
            _percent_less(counts.effective_macs, base["base_effective_macs"]) if counted else None
        ),
        "compression_ratio": base["base_nonzero_params"] / counts.nonzero_params if counts.nonzero_params else None,
        "theoretical_speedup": base["base_macs"] / counts.macs if counted else None,
    }


def _channels_removed(unit_masks: dict[str, Tensor]) -> float:
    """Percent of the output units, over all pruned layers, that are gone or have nothing but zero weights."""
    kept = torch.cat([mask.reshape(len(mask), -1).any(dim=1) for mask in unit_masks.values()])
    return 100 * (1 - kept.to(torch.float64).mean().item())


def _int8(run: PointRun, batch: int) -> dict[str, Any]:
    """Of the second file, where there is to be one."""
    if run.point.also != "int8":
        return {}
    run.listener.stage("quantising")
    found = measure_int8(run.model_path, run.folder / store.INT8_MODEL, run.dataset, run.device, batch)
    return {f"int8_{name}": value for name, value in found.items()}


def _latency(run: PointRun) -> dict[str, Any]:
    """Base and pruned file, and their second ones, timed in turn; None in every column where timing was off."""
    point = run.point
    files = {"": run.model_path}
    if point.also == "int8":
        files |= {"int8_": run.folder / store.INT8_MODEL, "base_int8_": run.base.folder / store.INT8_MODEL}
    columns: dict[str, Any] = {"base_latency_ms_median": None}
    for prefix in files:
        columns |= dict.fromkeys(f"{prefix}{name}" for name in _TIMED)
    if point.latency_seconds == 0:
        return columns
    run.listener.stage("timing")
    there = {prefix: path for prefix, path in files.items() if path.is_file()}  # what cannot be quantised is not
    with run.exclusive(), timing_lock(run.listener.say):
        found = compare(
            run.base.onnx_path,
            list(there.values()),
            run.dataset.input_shape,
            point.latency_batch,
            device=point.device,
            threads=point.latency_threads,
            seconds=point.latency_seconds,
        )
    columns["base_latency_ms_median"] = found[0].base.median_ms
    for prefix, timed in zip(there, found, strict=True):
        values = (timed.other.median_ms, timed.other.p90_ms, timed.other.runs, timed.speedup, timed.noise)
        columns |= {f"{prefix}{name}": value for name, value in zip(_TIMED, values, strict=True)}
    return columns
