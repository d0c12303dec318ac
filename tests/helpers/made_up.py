"""Finished sweeps of made-up numbers."""

from pathlib import Path
from typing import Any

from onnxprune.common.files import make_folder, write_json, write_text
from onnxprune.results import store
from onnxprune.settings.point import Point
from onnxprune.settings.sweep import Sweep

ENVIRONMENT = {"onnxprune_version": "0.1.0", "git_commit": "abc", "cpu": "A processor", "gpu": None}


def record(point: Point, **changes: Any) -> dict[str, Any]:
    """What a point could have measured: accuracy falls and speed rises with sparsity, a little by seed."""
    kept = 1 - point.sparsity / 100
    shrinks = point.technique in ("neuron", "structured")
    collapsed = point.sparsity == 100
    accuracy = 10.0 if collapsed else 98 - 4 * (1 - kept) ** 2 + point.seed - (0.5 + 0.001 * point.seed) * shrinks
    macs = round(1_000_000 * max(kept, 0.001)) if shrinks else 1_000_000
    speedup = 1_000_000 / macs * 0.7 if shrinks and not collapsed else 1.0
    metrics = {
        "base_accuracy": 98.0 + point.seed,
        "base_top5_accuracy": 100.0,
        "base_cross_entropy": 0.1,
        "base_validation_accuracy": 98.0,
        "base_training_seconds": 2.5,
        "base_training_flops": 3_000_000_000_000,
        "base_macs": 1_000_000,
        "base_effective_macs": 1_000_000,
        "base_params": 5000,
        "base_file_bytes": 20_000,
        "before_finetuning_accuracy": accuracy - 5,
        "accuracy": accuracy,
        "validation_accuracy": accuracy,
        "base_accuracy_change": accuracy - 98 - point.seed,
        "test_images": 1000,
        "cross_entropy": 0.2,
        "macs": macs,
        "effective_macs": 0 if collapsed else round(1_000_000 * kept),
        "nonzero_params": round(5000 * kept),
        "file_bytes": round(20_000 * kept) + 100 if shrinks else 20_000,
        "training_seconds": 1.0,
        "training_flops": 10_000_000_000,
        "tl_seconds": 1.5,
        "tl_flops": 12_000_000_000,
        "achieved_sparsity": point.sparsity,
        "base_latency_ms_median": 1.0,
        "latency_ms_median": 1 / speedup,
        "speedup": speedup,
        "speedup_noise": 0.01,
        "most_predicted": 100.0 if collapsed else 11.0,
        "collapsed": collapsed,
        "base_id": f"{point.model}-{point.dataset_title}-seed{point.seed}",
    }
    return {
        "metrics": {**metrics, **changes},
        "layers": {
            "conv1": {"units": 32, "kept": round(32 * kept)},
            "<b>fc</b>": {"units": 10, "kept": round(10 * kept)},
        },
        "epoch_losses": [0.5, 0.25],
        "environment": ENVIRONMENT,
    }


def finish(sweep: Path, point: Point, **changes: Any) -> Path:
    folder = sweep / point.point_id("checksum")
    store.begin(folder, point.settings())
    (folder / store.MODEL).write_bytes(b"a model")
    store.finish(folder, record(point, **changes))
    return folder


def hand_made(runs: Path, name: str, **settings: Any) -> Path:
    """A finished sweep of made-up numbers."""
    plan = Sweep.parse({"name": name, "model": "cnn", "dataset": "digits", **settings})
    sweep = make_folder(runs / name)
    write_text(sweep / store.SPEC, plan.to_toml())
    for point in plan.points:
        finish(sweep, point)
    for base in {f"{point.model}-{point.dataset_title}-seed{point.seed}" for point in plan.points}:
        write_json(make_folder(runs / "bases" / base) / store.METRICS, {"epoch_losses": [2.0, 1.0, 0.8]})
    return sweep
