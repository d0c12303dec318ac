"""One point: prune, shrink, fine-tune, export, verify, evaluate, count, time, record."""

import contextlib
import datetime
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from onnxprune.bridge.measure import Measured, export_and_measure, validation_accuracy
from onnxprune.common import environment
from onnxprune.common.progress import Listener
from onnxprune.data.dataset import Dataset
from onnxprune.pruning.prune import Pruned, Request
from onnxprune.results import store
from onnxprune.results.step import Rules, ensure
from onnxprune.runtime.timing import compare, timing_lock
from onnxprune.schedules import families as schedules
from onnxprune.schedules.context import Work
from onnxprune.settings.spec import Point
from onnxprune.settings.vocabulary import SCHEDULES
from onnxprune.study.base import Base, cost_columns, training_batches
from onnxprune.study.jobs import Alone
from onnxprune.training.loop import NO_TRAINING
from onnxprune.training.opcount import count_training_ops


def run_point(
    point: Point,
    base: Base,
    dataset: Dataset,
    folder: Path,
    listener: Listener,
    rules: Rules,
    alone: Alone = nullcontext,
) -> None:
    """Runs a point; a point that is already in `folder` is not run again.

    Args:
        alone: a context in which nothing else of the same run works, for timing.

    Raises:
        BusyError: another process is running the point, and the rules say not to wait.
        RunError: the point failed; its folder says why.
        StorageError: its files cannot be written.
    """
    listener.begin(f"point {folder.name}")
    record, reused = ensure(
        folder, point.settings(), lambda: _run(point, base, dataset, folder, listener, alone), rules, listener
    )
    metrics = record["metrics"]
    timed = f", measured speedup {metrics['speedup']:.2f}" if metrics["speedup"] is not None else ""
    listener.candidate(
        folder.name,
        drop=metrics["base_validation_accuracy"] - metrics["validation_accuracy"],
        gain=metrics["speedup"] or metrics["theoretical_speedup"],
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


def _run(point: Point, base: Base, dataset: Dataset, folder: Path, listener: Listener, alone: Alone) -> dict[str, Any]:
    # always as many, beside others or not: sums that are split among threads in another way round otherwise
    with _threads(point.threads):
        return _run_on_threads(point, base, dataset, folder, listener, alone)


def _run_on_threads(
    point: Point, base: Base, dataset: Dataset, folder: Path, listener: Listener, alone: Alone
) -> dict[str, Any]:
    model_path = folder / store.MODEL
    metadata = _provenance(point, folder)

    def measure(network: nn.Module) -> Measured:
        device = torch.device(point.device)
        dead_align = None if point.keep_dead else point.channel_align
        return export_and_measure(network, model_path, dataset, device, metadata, dead_align)

    criterion = "random" if point.control == "random" else point.criterion
    work = Work(
        point,
        base,
        dataset,
        training_batches(point, dataset),
        Request(point.technique, criterion, point.granularity, point.sparsity, point.channel_align, point.seed),
        listener,
        measure,
    )
    listener.stage("pruning")
    pruned = getattr(schedules, SCHEDULES[point.schedule].function)(work)
    listener.stage("measuring")
    trained = work.cost is not None and work.cost.updates > 0
    final = work.before if work.before is not None and not trained else measure(pruned.network)
    cost = work.cost or NO_TRAINING
    operators = work.operators or count_training_ops(pruned.network, dataset.input_shape)
    device = torch.device(point.device)
    metrics = {
        **base.metrics,
        **_before_columns(work.before),
        **final.accuracy_columns(),
        "validation_accuracy": validation_accuracy(model_path, dataset, device, final.batch),
        "accuracy_change": final.test.accuracy - base.metrics["base_accuracy"],
        **final.cost_columns(),
        **cost_columns(cost, work.flops),
        **_achieved(pruned, final, base.metrics),
        **_latency(point, base, model_path, dataset, listener, alone),
        "parity_max_abs_diff": final.parity,
        "collapsed": final.test.constant,
        "empty_layers": len(pruned.empty_layers),
        "data_checksum": dataset.checksum,
        "spec_hash": metadata["spec_hash"],
        "base_id": base.folder.name,
    }
    masks = {name: mask.to(torch.bool).cpu().contiguous() for name, mask in pruned.unit_masks.items()}
    with store.replacing(folder / store.MASKS) as partial:
        safetensors.torch.save_file(masks, partial)
    return {
        "metrics": metrics,
        "layers": {name: _remaining(mask) for name, mask in pruned.unit_masks.items()},
        "empty_layers": pruned.empty_layers,
        "path": work.path,
        "epoch_losses": cost.epoch_losses,
        "training_operators": asdict(operators),
        "operators": {name: asdict(entry) for name, entry in final.counts.operators.items()},
        "environment": environment.of_training(point.device),
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
    return {name: settings[name] for name in names if name in settings} | {"spec_hash": folder.name.rsplit("-", 1)[1]}


def _remaining(mask: Tensor) -> dict[str, int]:
    return {"units": mask.numel(), "kept": int(mask.sum())}


def _percent_less(now: float, then: float) -> float:
    return 100 * (1 - now / then)


def _achieved(pruned: Pruned, final: Measured, base: dict[str, Any]) -> dict[str, Any]:
    """What was removed indeed, in percent of the base, and the two ratios of the pruning literature."""
    removed, units = pruned.removed
    counts = final.counts
    return {
        "achieved_sparsity": 100 * removed / units,
        "achieved_channels_sparsity": _channels_removed(pruned.unit_masks),
        "achieved_weight_sparsity": _percent_less(counts.nonzero_params, base["base_nonzero_params"]),
        "achieved_params_sparsity": _percent_less(counts.params, base["base_params"]),
        "achieved_macs_sparsity": _percent_less(counts.macs, base["base_macs"]),
        "achieved_effective_macs_sparsity": _percent_less(counts.effective_macs, base["base_effective_macs"]),
        "compression_ratio": base["base_nonzero_params"] / counts.nonzero_params if counts.nonzero_params else None,
        "theoretical_speedup": base["base_macs"] / counts.macs,
    }


def _channels_removed(unit_masks: dict[str, Tensor]) -> float:
    """Percent of the output units, over all pruned layers, that are gone or have nothing but zero weights."""
    kept = torch.cat([mask.reshape(len(mask), -1).any(dim=1) for mask in unit_masks.values()])
    return 100 * (1 - kept.to(torch.float64).mean().item())


def _latency(
    point: Point, base: Base, path: Path, dataset: Dataset, listener: Listener, alone: Alone
) -> dict[str, Any]:
    """Base and pruned file timed in turn; None in every column where timing was switched off."""
    if point.latency_seconds == 0:
        names = ("latency_ms_median", "latency_ms_p90", "latency_runs", "base_latency_ms_median", "speedup")
        return dict.fromkeys((*names, "speedup_noise"))
    listener.stage("timing")
    with alone(), timing_lock():
        found = compare(
            base.onnx_path,
            path,
            dataset.input_shape,
            point.latency_batch,
            device=point.device,
            threads=point.latency_threads,
            seconds=point.latency_seconds,
        )
    return {
        "latency_ms_median": found.other.median_ms,
        "latency_ms_p90": found.other.p90_ms,
        "latency_runs": found.other.runs,
        "base_latency_ms_median": found.base.median_ms,
        "speedup": found.speedup,
        "speedup_noise": found.noise,
    }
