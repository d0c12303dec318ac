"""Runs finished points again from nothing but their config.json, and compares what comes out."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.numpy

from onnxprune.common.errors import InputError, one_line
from onnxprune.common.files import read_json
from onnxprune.models import own_digest
from onnxprune.results import store
from onnxprune.settings.point import Point
from onnxprune.settings.sweep import Sweep
from onnxprune.study.controller import run_sweep

# What another environment may change: sums in another order round otherwise, and training then takes another path.
POINTS = 1.0  # of accuracies and sparsities, in percent
LOSS_SHARE, LOSS_NATS = 0.1, 0.02  # of cross-entropies, whichever is more
COUNT_SHARE = 0.01  # of MACs, parameters, bytes
MASK_SHARE = 0.1  # of all units, kept in one and removed in the other
_TIMED = ("seconds", "per_second", "memory_bytes", "latency", "speedup", "timing_")  # parts of the names of columns
_ROUNDING = ("weights", "parity_max_abs_diff", "before_finetuning_parity_max_abs_diff", "base_parity_max_abs_diff")
_IDENTITIES = ("spec_hash", "base_id", "network_id")  # follow from the settings and the data, which are compared


@dataclass(frozen=True)
class Repetition:
    """A finished point and the same one run again.

    Attributes:
        folder: name of the point.
        differences: what is not bit-identical -> how it differs; timings are left out.
        beyond: those of them that are beyond the tolerances of another environment.
        changes: what is not as it was in the environment -> how.
        ratios: timing column -> now / then; they decide nothing.
    """

    folder: str
    differences: dict[str, str]
    beyond: list[str]
    changes: dict[str, str]
    ratios: dict[str, float]

    @property
    def reproduced(self) -> bool:
        """Bit-identical; where the environment changed, within the tolerances is enough."""
        return not (self.beyond if self.changes else self.differences)


def rerun(
    folder: Path, runs: Path, data_dir: Path | None = None, say: Callable[[str], None] = lambda line: None
) -> list[Repetition]:
    """Runs a point, or every finished point of a sweep, again under `runs`, and compares.

    Bases are trained again too, each once.

    Args:
        say: gets a line for each point that is left out because its files are not those that were measured.

    Raises:
        InputError: `folder` has nothing finished that could be run again, or `runs` has something in it already.
    """
    if runs.exists() and any(runs.iterdir()):
        raise InputError(f"{runs} is not empty: a rerun needs a new folder, so that it reuses nothing")
    left_out: list[str] = []
    then = _finished(folder, left_out.append)
    if not then:
        found = left_out or ["it is neither a finished point nor the folder of a sweep that has one"]
        raise InputError(f"{folder}: {'; '.join(found)}")
    for line in left_out:
        say(line)
    for path in then.values():
        if (store.finished_record(path) or {}).get("cleaned"):
            raise InputError(f"{path} was cleaned: its model and masks, which a rerun is compared with, are gone")
    if (folder / store.SPEC).is_file():
        plan = Sweep.read(folder / store.SPEC)
    else:
        plan = Sweep.one_point(read_json(folder / store.CONFIG))
    points = sorted(then, key=lambda point: repr(point.base_settings()))  # those of a base follow each other
    outcome = run_sweep(dataclasses.replace(plan, points=points), runs, data_dir)
    now = _finished(outcome.folder, say)
    failures = "; ".join(f"{name}: {reason}" for name, reason in outcome.failures.items())
    return [
        compare(path, now[point]) if point in now else Repetition(path.name, {"run": failures}, ["run"], {}, {})
        for point, path in then.items()
    ]


def _finished(folder: Path, say: Callable[[str], None]) -> dict[Point, Path]:
    """The finished points of a sweep's folder, or the one in a point's folder, by their settings; `say` is told of
    those that are not what was measured."""
    paths = sorted(folder.glob(f"*/{store.METRICS}")) if (folder / store.SPEC).is_file() else [folder / store.METRICS]
    found = {}
    for path in paths:
        if not path.exists():
            continue
        record = store.finished_record(path.parent)
        wrong = (
            [store.METRICS] if record is None else store.damaged_files(path.parent, record, store.CONFIG, store.MODEL)
        )
        if wrong:
            say(f"{path.parent.name} is left out: {', '.join(wrong)} is not what was measured")
            continue
        try:
            (point,) = Sweep.one_point(read_json(path.parent / store.CONFIG)).points
        except InputError as error:
            say(f"{path.parent.name} is left out: {one_line(error)}")
            continue
        found[point] = path.parent
    return found


def compare(then: Path, now: Path) -> Repetition:
    """Compares the folders of two finished runs of one point."""
    records = [store.finished_record(folder) or {} for folder in (then, now)]
    metrics = [record["metrics"] for record in records]
    timed = {name for name in metrics[0] if name != "theoretical_speedup" and any(part in name for part in _TIMED)}
    old, new = (
        {name: value for name, value in columns.items() if name not in timed and name not in _IDENTITIES}
        | {f"cross-entropy of epoch {epoch}": loss for epoch, loss in enumerate(record["epoch_losses"], 1)}
        for columns, record in zip(metrics, records, strict=True)
    )
    differences, beyond = {}, []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after or _both_nan(before, after):
            continue
        differences[name] = f"{old.get(name, 'not there')} -> {new.get(name, 'not there')}"
        # a column that only one of the two versions has is no difference in what was measured
        if name in old and name in new and name not in _ROUNDING and not _tolerable(name, before, after):
            beyond.append(name)
    for name, text, tolerable in _array_differences(then, now):
        differences[name] = text
        if not tolerable:
            beyond.append(name)
    same_version = len({record["environment"].get("onnxprune_version") for record in records}) == 1
    model = (read_json(then / store.CONFIG) or {}).get("model", "")
    if old.get("data_checksum") == new.get("data_checksum") and same_version and own_digest(model) is not None:
        hashes = [columns["spec_hash"] for columns in metrics]
        if hashes[0] != hashes[1]:  # of the same settings and data
            differences["the model's file"] = f"{model} is not what it was"
            beyond.append("the model's file")
    environments = [record["environment"] for record in records]
    changes = {
        name: f"{environments[0].get(name, 'unknown')} -> {environments[1].get(name, 'unknown')}"
        for name in sorted(environments[0].keys() | environments[1].keys())
        if name != "memory_bytes" and environments[0].get(name) != environments[1].get(name)
    }
    ratios = {
        name: metrics[1][name] / metrics[0][name]
        for name in sorted(timed)
        if all(type(columns.get(name)) in (int, float) for columns in metrics) and metrics[0][name]
    }
    return Repetition(then.name, differences, beyond, changes, ratios)


def _both_nan(before: Any, after: Any) -> bool:
    return isinstance(before, float) and isinstance(after, float) and before != before and after != after


def _tolerable(name: str, before: Any, after: Any) -> bool:
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in (before, after)):
        return False
    if any(part in name for part in ("accuracy", "fidelity", "agreement", "sparsity")):
        return bool(abs(after - before) <= POINTS)
    if name.endswith(("relative_error", "cosine")):
        return bool(abs(after - before) <= POINTS / 100)
    if "entropy" in name:
        return bool(abs(after - before) <= max(LOSS_NATS, LOSS_SHARE * abs(before)))
    return bool(abs(after - before) <= COUNT_SHARE * abs(before))


def _array_differences(then: Path, now: Path) -> Iterator[tuple[str, str, bool]]:
    """Masks and weights that differ: which, how, and whether that is within the tolerances."""
    old, new = (safetensors.numpy.load_file(folder / store.MASKS) for folder in (then, now))
    total, changed = _changed(old, new)
    if changed:
        yield "masks", f"{changed:,} of {total:,} units", changed <= MASK_SHARE * total
    old, new = (_weights(folder / store.MODEL) for folder in (then, now))
    total, changed = _changed(old, new)
    if changed:
        yield "weights", f"{changed:,} of {total:,} numbers", True  # the file's accuracy and counts are what matters


def _changed(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> tuple[int, int]:
    """Elements in all, and elements whose bytes differ; arrays that are not in both, or not of one shape, do wholly."""
    total = changed = 0
    for name in old.keys() | new.keys():
        pair = [arrays[name] for arrays in (old, new) if name in arrays]
        size = max(array.size for array in pair)
        total += size
        if len(pair) == 2 and pair[0].shape == pair[1].shape and pair[0].dtype == pair[1].dtype:
            if pair[0].tobytes() != pair[1].tobytes():
                changed += max(1, int((pair[0] != pair[1]).sum()))  # NaN and signed zeros: at least one
        else:
            changed += size
    return total, changed


def _weights(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
