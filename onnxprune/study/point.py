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
from onnxprune.bridge.export import replace_metadata
from onnxprune.bridge.measure import EVALUATION_BATCH, PROVENANCE, Measured, export_and_measure, judged
from onnxprune.common import environment
from onnxprune.common.files import compressed_bytes, replacing
from onnxprune.common.progress import Listener
from onnxprune.data.dataset import Dataset
from onnxprune.pruning.remove import Pruned
from onnxprune.pruning.request import Masks, Request
from onnxprune.results import store
from onnxprune.results.quality import ACCURACY, FIDELITY, quality_of
from onnxprune.results.task import RetryPolicy, ensure
from onnxprune.runtime.lock import timing_lock
from onnxprune.schedules.context import PruningContext
from onnxprune.settings.point import Point
from onnxprune.settings.vocabulary import SCHEDULES
from onnxprune.study.base import Base, cost_columns
from onnxprune.study.latency import latency_columns
from onnxprune.study.twins import Twin, find_twin
from onnxprune.training.batches import fitting_micro_batch
from onnxprune.training.cost import NO_TRAINING, TrainingCost
from onnxprune.training.opcount import count_training_ops
from onnxprune.training.setup import training_batches

# a context in which nothing else of the same run works, for timing
Exclusive = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class PointRun:
    """A point and what it is run with.

    Attributes:
        folder: where its files go.
        exclusive: gives a context in which nothing else of the same run works, for timing.
        find_twin: looks for the point that has made the network already, as `onnxprune.study.twins.find_twin` does.
    """

    point: Point
    base: Base
    dataset: Dataset
    folder: Path
    listener: Listener
    exclusive: Exclusive = nullcontext
    find_twin: Callable[[Path, str, contextlib.ExitStack], Twin | None] = find_twin

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
        metadata, dead_align = _provenance(self.point, self.folder), self.point.dead_align
        return export_and_measure(
            network,
            self.model_path,
            self.dataset,
            metadata=metadata,
            dead_align=dead_align,
            without=without,
            original=self.base.onnx_path,
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
    with contextlib.ExitStack() as claim:  # until the record is there
        record, reused = ensure(run.folder, run.point.settings(), lambda: _make(run, claim), retry, listener)
    metrics = record["metrics"]
    if "twin" in record and not reused:
        listener.end(f"the network of {record['twin']}, not made again")
        return
    timed = f", measured speedup {metrics['speedup']:.2f}" if metrics["speedup"] is not None else ""
    quality = quality_of(metrics).name
    listener.candidate(
        name,
        drop=metrics[f"base_validation_{quality}"] - metrics[f"validation_{quality}"],
        gain=metrics["speedup"] or metrics["theoretical_speedup"] or 1.0,
    )
    told = f"{quality} {metrics[quality]:.2f} %, MACs {metrics['macs']:,}{timed}"
    listener.end("already done" if reused else told)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _make(run: PointRun, claim: contextlib.ExitStack) -> dict[str, Any]:
    # always as many, beside others or not: sums that are split among threads in another way round otherwise
    with _threads(run.point.threads):
        run.listener.stage("pruning")
        context = _context(run, claim)
        pruned: Pruned = resolve_name(SCHEDULES[run.point.schedule].run)(context)
        return _record(run, context, pruned) if context.twin is None else _record_of_twin(run, context, pruned)


def _context(run: PointRun, claim: contextlib.ExitStack) -> PruningContext:
    point = run.point
    criterion = "random" if point.control == "random" else point.criterion
    return PruningContext(
        point=point,
        base=run.base.network,
        memory=run.base.memory,
        dataset=run.dataset,
        batches=training_batches(point, run.dataset, run.base.network),
        request=Request.of(point, criterion=criterion),
        listener=run.listener,
        find_twin=lambda identity: run.find_twin(run.folder, identity, claim),
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
    achieved = _achieved(pruned, final, base.metrics)
    operators = context.operators or count_training_ops(pruned.network, dataset.input_shape)
    quality = ACCURACY if dataset.labelled else FIDELITY
    validation = judged(run.model_path, dataset.validation, dataset, run.device, final.batch, base.onnx_path)
    metrics = {
        **base.metrics,
        **_before_columns(before, final),
        **final.quality_columns(),
        f"validation_{quality.name}": validation.percent,
        f"base_{quality.name}_change": final.test.percent - base.metrics[f"base_{quality.name}"],
        **final.cost_columns(),
        **cost_columns(cost, context.flops),
        **_whole_cost(context, cost),
        **achieved,
        **_int8(run, final.batch),
        **_latency(run, achieved["theoretical_speedup"]),
        "parity_max_abs_diff": final.parity,
        "most_predicted": final.test.most_predicted,
        "collapsed": final.test.collapsed,
        "empty_layers": len(pruned.empty_layers),
        "data_checksum": dataset.checksum,
        "network_id": context.identity or context.identify(pruned),
        "spec_hash": _spec_hash(run.folder),
        "base_id": base.folder.name,
    }
    if final.test.right is not None:
        store.write_right(run.folder, final.test.right)
    return {
        "metrics": metrics,
        "epoch_losses": cost.epoch_losses,
        "training_operators": asdict(operators),
        "operators": {name: asdict(entry) for name, entry in final.counts.operators.items()},
        **_own_record(run, context, pruned),
    }


def _record_of_twin(run: PointRun, context: PruningContext, pruned: Pruned) -> dict[str, Any]:
    """The record of a network that another point has made: what that measured, and what it took to get here."""
    twin = context.twin
    assert isinstance(twin, Twin)
    twin.copy_files(run.folder)
    replace_metadata(run.model_path, PROVENANCE, _provenance(run.point, run.folder))
    metrics = twin.record["metrics"]
    spent = {"criterion": context.criterion, "calibration": context.calibration}
    metrics = {
        **metrics,
        **_removed_shares(pruned),
        **{f"{name}_flops": part.flops for name, part in spent.items()},
        **{f"{name}_seconds": part.seconds for name, part in spent.items()},
        "empty_layers": len(pruned.empty_layers),
        "file_bytes": run.model_path.stat().st_size,
        "bytes_compressed": compressed_bytes(run.model_path),
        # what is told of its source in the file is of this point's
        **_int8(run, fitting_micro_batch(pruned.network, run.dataset.input_shape, EVALUATION_BATCH)),
        "spec_hash": _spec_hash(run.folder),
    }
    for unit in ("flops", "seconds"):
        parts = [f"{name}_{unit}" for name in _COSTS if f"{name}_{unit}" in metrics]
        metrics[f"tl_{unit}"] = sum(metrics[name] for name in parts)
    names = ("epoch_losses", "training_operators", "operators")
    record = {name: twin.record[name] for name in names}
    return {"metrics": metrics, **record, "twin": twin.folder.name, **_own_record(run, context, pruned)}


def _own_record(run: PointRun, context: PruningContext, pruned: Pruned) -> dict[str, Any]:
    """What a point has of its own, whoever has made its network; writes the masks."""
    masks = {name: mask.to(torch.bool).cpu().contiguous() for name, mask in pruned.unit_masks.items()}
    with replacing(run.folder / store.MASKS) as partial:
        safetensors.torch.save_file(masks, partial)
    return {
        "layers": {name: _remaining(mask) for name, mask in pruned.unit_masks.items()},
        "empty_layers": pruned.empty_layers,
        "path": context.path,
        "environment": environment.of_training(run.point.device),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


_COSTS = ("training", "teacher", "criterion", "calibration", "discarded")  # what a point takes


def _whole_cost(context: PruningContext, training: TrainingCost) -> dict[str, Any]:
    """What making the point took beside the training that led to it, and all of it together."""
    parts = {"criterion": context.criterion, "calibration": context.calibration, "discarded": context.discarded}
    flops = {"teacher_flops": context.teacher_flops, **{f"{name}_flops": part.flops for name, part in parts.items()}}
    seconds = {f"{name}_seconds": part.seconds for name, part in parts.items()}
    return {
        **flops,
        "tl_flops": context.flops + sum(flops.values()),
        **seconds,
        "tl_seconds": training.seconds + sum(seconds.values()),
    }


def _before_columns(before: Measured | None, final: Measured) -> dict[str, Any]:
    """Of the pruned network before training; None where the schedule prunes while it trains."""
    prefix = "before_finetuning_"
    if before is None:
        return {f"{prefix}{name}": None for name in (*final.test.columns, "parity_max_abs_diff")}
    return {**before.quality_columns(prefix), f"{prefix}parity_max_abs_diff": before.parity}


def _provenance(point: Point, folder: Path) -> dict[str, Any]:
    """How the file was made, for its metadata."""
    settings = point.settings()
    return {name: settings[name] for name in PROVENANCE if name in settings} | {"spec_hash": _spec_hash(folder)}


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
    counts = final.counts
    counted = counts.comparable and "base_macs_missing" not in base
    return {
        **_removed_shares(pruned),
        "dead_params": final.dead_params,
        "achieved_weight_sparsity": _percent_less(counts.nonzero_params, base["base_nonzero_params"]),
        "achieved_params_sparsity": _percent_less(counts.params, base["base_params"]),
        "achieved_macs_sparsity": _percent_less(counts.macs, base["base_macs"]) if counted else None,
        "achieved_effective_macs_sparsity": (
            _percent_less(counts.effective_macs, base["base_effective_macs"]) if counted else None
        ),
        "compression_ratio": base["base_nonzero_params"] / counts.nonzero_params if counts.nonzero_params else None,
        "theoretical_speedup": base["base_macs"] / counts.macs if counted else None,
    }


def _removed_shares(pruned: Pruned) -> dict[str, float]:
    """Percent of the units, and of the output units, that masks remove."""
    removed, units = pruned.removed
    return {
        "achieved_sparsity": 100 * removed / units,
        "achieved_channels_sparsity": _channels_removed(pruned.unit_masks),
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
    target, original = run.folder / store.INT8_MODEL, run.base.onnx_path
    found = measure_int8(run.model_path, target, run.dataset, run.device, batch, original)
    return {f"int8_{name}": value for name, value in found.items()}


def _latency(run: PointRun, theoretical: float | None) -> dict[str, Any]:
    """Base and pruned file timed in turn, while nothing else of the run works."""
    with contextlib.ExitStack() as alone:
        if run.point.latency_seconds:
            run.listener.stage("timing")
            alone.enter_context(run.exclusive())
            alone.enter_context(timing_lock(run.listener.say))
        shape, settings = run.dataset.input_shape, run.point.settings()
        return latency_columns(run.base.folder, run.folder, shape, settings, theoretical)
