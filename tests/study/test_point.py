"""A row of the results, column by column, against computations by hand."""

import contextlib
import dataclasses
import gzip
import math
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import psutil
import pytest
import safetensors.torch
import torch
from command_line import REPOSITORY
from one_call import prune

import onnxprune
from onnxprune.bridge.activity import dead_units
from onnxprune.bridge.start import build_network
from onnxprune.common.files import read_json
from onnxprune.common.progress import Reporter, Verbosity
from onnxprune.data.dataset import Dataset, Split
from onnxprune.pruning.decide import decide
from onnxprune.pruning.remove import Pruned
from onnxprune.pruning.request import Request
from onnxprune.results import store
from onnxprune.results.task import RetryPolicy
from onnxprune.runtime.bystanders import Disturbance
from onnxprune.runtime.timing import Comparison, Latency
from onnxprune.settings.point import Point
from onnxprune.settings.sweep import Sweep
from onnxprune.study import latency as study_latency
from onnxprune.study.base import Base
from onnxprune.study.controller import run_sweep
from onnxprune.study.jobs import Materials
from onnxprune.study.point import PointRun, _achieved, run_point
from onnxprune.training.loop import train
from onnxprune.training.recipe import Recipe
from onnxprune.training.setup import training_batches

CLASSES, HIDDEN, PIXELS = 8, 40, 36
KEPT = 18  # of the hidden units, at 55 %: a matrix product may have any width
KEPT = 18  # of the hidden units, at 55 %: a matrix product may have any width
SETTINGS: dict[str, Any] = {
    "model": "slp", "hidden": HIDDEN, "batch_size": 64, "epochs": 3, "finetune_epochs": 2, "learning_rate": 0.2,
    "finetune_learning_rate": 0.05, "train_limit": 300, "seed": 3, "technique": "weight,neuron,structured",
    "latency_batch": 5, "latency_threads": 2, "latency_seconds": 0.25,
}  # fmt: skip
COMPARISON = Comparison(
    base=Latency(4.0, 4.5, None, 4.1, 0.1, 111),
    other=Latency(2.5, 2.75, None, 2.6, 0.2, 222),
    speedup=1.6,
    interval=(1.5, 1.7),
    noise=0.07,
    disturbance=Disturbance(others=1.5, load=2.5, spread=0.1, busy="a neighbour was loud"),
)


def write_data(path: Path) -> None:
    """Noisy prototypes, which a small network tells apart more often than not."""
    random = np.random.default_rng(0)
    prototypes = random.integers(60, 180, (CLASSES, 6, 6))
    arrays = {}
    for part, count in (("train", 450), ("test", 330)):
        labels = random.integers(0, CLASSES, count)
        noise = random.normal(0, 70, (count, 6, 6))
        arrays[f"x_{part}"] = (prototypes[labels] + noise).clip(0, 255).astype(np.uint8)
        arrays[f"y_{part}"] = labels
    np.savez(path, **arrays)


@dataclasses.dataclass
class Study:
    """A sweep of a point a technique, whose timing is made up: the calls of `compare` and what it would have given."""

    folder: Path
    table: pd.DataFrame
    dataset: Dataset
    points: list[Point]
    base: Base
    calls: list[tuple[Any, ...]]

    def folder_of(self, row: dict[str, Any]) -> Path:
        return self.folder / row["folder"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    runs = tmp_path_factory.mktemp("runs")
    write_data(runs / "prototypes.npz")
    plan = Sweep.parse({**SETTINGS, "dataset": str(runs / "prototypes.npz"), "sparsity": [55, 100]})
    calls = []

    def compare(*arguments: Any, **options: Any) -> list[Comparison]:
        calls.append((*arguments, options))
        return [COMPARISON]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_latency, "compare", compare)
        outcome = run_sweep(plan, runs, workers=1, verbosity=Verbosity.QUIET)
    assert not outcome.failures
    materials = Materials(None)
    base = materials.base(plan.points[0], runs)
    return Study(outcome.folder, outcome.table, materials.dataset(plan.points[0]), plan.points, base, calls)


@pytest.fixture(scope="module")
def rows(study: Study) -> list[dict[str, Any]]:
    return study.table.to_dict("records")


def scores(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """Top-1 and top-5 in percent, cross-entropy in nats."""
    best = np.argsort(-logits, axis=1, kind="stable")
    logits = logits.astype(float)
    losses = [math.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels, strict=True)]
    return (
        100 * float(np.mean(best[:, 0] == labels)),
        100 * float(np.mean((best[:, :5] == labels[:, None]).any(1))),
        float(np.mean(losses)),
    )


def normalised(study: Study, split: Split) -> np.ndarray:
    mean, std = (np.reshape(value, (1, -1, 1, 1)) for value in (study.dataset.mean, study.dataset.std))
    return ((split.images / 255 - mean) / std).astype(np.float32)


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"input": images})[0]


def request_of(point: Point) -> Request:
    return Request(point.technique, point.criterion, "unit", point.sparsity, point.channel_align, point.seed)


def nonzero(path: Path) -> tuple[int, int]:
    """Numbers in a file, and those that are not zero."""
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    return sum(array.size for array in arrays), sum(int(np.count_nonzero(array)) for array in arrays)


def test_scores_are_those_of_the_files_on_their_splits(study: Study, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for prefix, path in (("base_", study.base.onnx_path), ("", study.folder_of(row) / store.MODEL)):
            found = scores(answers(path, normalised(study, study.dataset.test)), study.dataset.test.labels)
            assert row[f"{prefix}accuracy"] == pytest.approx(found[0])
            assert row[f"{prefix}top5_accuracy"] == pytest.approx(found[1])
            assert row[f"{prefix}cross_entropy"] == pytest.approx(found[2], rel=1e-4)
            validation = study.dataset.validation
            found = scores(answers(path, normalised(study, validation)), validation.labels)
            assert row[f"{prefix}validation_accuracy"] == pytest.approx(found[0])
            assert row[f"{prefix}validation_accuracy"] != row[f"{prefix}accuracy"]
        assert row["base_accuracy_change"] == row["accuracy"] - row["base_accuracy"]
        assert row["base_accuracy_change"] < 0 or row["sparsity"] < 100


def test_before_finetuning_is_the_base_pruned(study: Study, rows: list[dict[str, Any]]) -> None:
    batches = training_batches(study.points[0], study.dataset, study.base.network)
    for point in study.points:
        pruned = prune(study.base.network, request_of(point), batches, study.dataset.input_shape)
        with torch.no_grad():
            logits = pruned.network(torch.from_numpy(normalised(study, study.dataset.test))).numpy()
        found = scores(logits, study.dataset.test.labels)
        (row,) = (row for row in rows if (row["technique"], row["sparsity"]) == (point.technique, point.sparsity))
        assert row["before_finetuning_accuracy"] == pytest.approx(found[0])
        assert row["before_finetuning_top5_accuracy"] == pytest.approx(found[1])
        assert row["before_finetuning_cross_entropy"] == pytest.approx(found[2], rel=1e-4)
        assert row["before_finetuning_cross_entropy"] != row["cross_entropy"], "fine-tuning did nothing"
        assert 0 <= row["before_finetuning_parity_max_abs_diff"] < 1e-4


def test_counts_and_what_was_achieved_by_hand(study: Study, rows: list[dict[str, Any]]) -> None:
    dense = PIXELS * HIDDEN + HIDDEN * CLASSES
    base_params, base_nonzero = nonzero(study.base.onnx_path)
    assert base_params == dense + HIDDEN + CLASSES
    for row in rows:
        path = study.folder_of(row) / store.MODEL
        masks = safetensors.torch.load_file(study.folder_of(row) / store.MASKS)
        params, left = nonzero(path)
        assert row["params"] == params
        assert row["nonzero_params"] == left
        assert row["file_bytes"] == path.stat().st_size
        assert abs(row["bytes_compressed"] - len(gzip.compress(path.read_bytes(), 6, mtime=0))) < 50
        assert row["base_bytes_compressed"] < row["base_file_bytes"]
        assert row["base_macs"] == row["base_effective_macs"] == dense
        assert row["base_flops"] == 2 * dense
        assert row["base_params"] == base_params
        assert row["base_nonzero_params"] == base_nonzero
        assert row["base_file_bytes"] == study.base.onnx_path.stat().st_size
        assert row["base_onnx_tool_ops"] > dense
        assert row["onnx_tool_ops"] >= row["macs"]
        weights = {
            node.output[0]: array
            for node in onnx.load(path).graph.node
            for name in node.input
            if (array := _initializer(path, name)) is not None and array.ndim == 2
        }
        # a file that answers the same to every image may have but one layer left
        assert row["macs"] == sum(array.size for array in weights.values())
        assert row["effective_macs"] == sum(int(np.count_nonzero(array)) for array in weights.values())
        assert row["flops"] == 2 * row["macs"]
        units = sum(mask.numel() for mask in masks.values())
        gone = units - sum(int(mask.sum()) for mask in masks.values())
        channels = torch.cat([mask.reshape(len(mask), -1).any(1) for mask in masks.values()])
        assert row["achieved_sparsity"] == pytest.approx(100 * gone / units)
        assert row["achieved_channels_sparsity"] == pytest.approx(100 * (~channels).double().mean().item())
        assert row["achieved_weight_sparsity"] == pytest.approx(100 * (1 - left / base_nonzero))
        assert row["achieved_params_sparsity"] == pytest.approx(100 * (1 - params / base_params))
        assert row["achieved_macs_sparsity"] == pytest.approx(100 * (1 - row["macs"] / dense))
        assert row["achieved_effective_macs_sparsity"] == pytest.approx(100 * (1 - row["effective_macs"] / dense))
        assert row["compression_ratio"] == pytest.approx(base_nonzero / left)
        assert row["theoretical_speedup"] == pytest.approx(dense / row["macs"])
        if row["sparsity"] == 55:
            assert row["achieved_sparsity"] == pytest.approx(55, abs=100 * 8 / HIDDEN)
            assert 1 < row["compression_ratio"] < 5


def _initializer(path: Path, name: str) -> np.ndarray | None:
    found = [tensor for tensor in onnx.load(path).graph.initializer if tensor.name == name]
    return onnx.numpy_helper.to_array(found[0]) if found else None


@pytest.mark.parametrize(("complete", "base_complete"), [(True, True), (False, True), (True, False)])
def test_nothing_is_compared_with_an_incomplete_count(complete: bool, base_complete: bool) -> None:
    counts = SimpleNamespace(comparable=complete, macs=25, effective_macs=20, params=5, nonzero_params=4)
    base = {"base_macs": 100, "base_effective_macs": 100, "base_params": 10, "base_nonzero_params": 10}
    base |= {} if base_complete else {"base_macs_missing": "Exp: not counted"}
    pruned = Pruned(torch.nn.Identity(), unit_masks={"layer": torch.tensor([1.0, 0.0])})
    found = _achieved(pruned, SimpleNamespace(counts=counts, dead_params=0), base)  # type: ignore[arg-type]
    ratios = ("achieved_macs_sparsity", "achieved_effective_macs_sparsity", "theoretical_speedup")
    whole = complete and base_complete
    assert [found[name] for name in ratios] == ([75, 80, 4] if whole else [None] * 3)
    assert found["achieved_params_sparsity"] == 50


def test_channels_kept_are_what_was_asked_for(study: Study, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["technique"] != "weight" and row["sparsity"] == 55:
            assert row["channel_align"] == 8
            assert row["macs"] == KEPT * (PIXELS + CLASSES)
            record = read_json(study.folder_of(row) / store.METRICS)
            assert record["layers"] == {"hidden": {"units": HIDDEN, "kept": KEPT}}


def test_everything_removed_is_flagged(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        all_gone = row["sparsity"] == 100
        assert row["collapsed"] == all_gone
        assert row["empty_layers"] == (2 if row["technique"] == "weight" else 1) * all_gone
        assert (row["achieved_sparsity"] == 100) == all_gone


def test_training_is_counted_in_images_flops_and_seconds(study: Study, rows: list[dict[str, Any]]) -> None:
    per_image = 4 * (PIXELS * HIDDEN + HIDDEN * CLASSES) + 2 * HIDDEN * CLASSES
    for row in rows:
        assert row["train_images"] == len(study.dataset.train) == 300
        assert row["available_train_images"] == 405
        assert row["test_images"] == 330
        assert row["base_training_images"] == 3 * 300
        assert row["base_training_updates"] == 3 * 5
        assert row["base_dead_units"] == dead_units(
            study.base.network, training_batches(study.points[0], study.dataset, study.base.network)
        )
        assert row["validation_images"] == 45
        assert row["base_training_flops"] == 900 * per_image
        assert row["training_images"] == 2 * 300
        width = KEPT if row["sparsity"] == 55 else 1
        if row["technique"] != "weight":
            per_image_left = 4 * (PIXELS * width + width * CLASSES) + 2 * width * CLASSES
            assert row["training_flops"] == 600 * per_image_left
        else:
            assert row["training_flops"] == 600 * per_image
        for prefix in ("base_", ""):
            assert 0 < row[f"{prefix}training_seconds"] < 60
            images, seconds = row[f"{prefix}training_images"], row[f"{prefix}training_seconds"]
            assert row[f"{prefix}training_images_per_second"] == pytest.approx(images / seconds)
            assert 50 * 2**20 < row[f"{prefix}training_peak_memory_bytes"] < psutil.virtual_memory().total
        assert row["scaled_learning_rate"] == pytest.approx(0.2 * math.sqrt(64 / 256))
        assert 0 <= row["base_parity_max_abs_diff"] < 1e-4
        assert 0 <= row["parity_max_abs_diff"] < 1e-4


def test_latency_is_of_base_and_point_in_one_measurement(study: Study, rows: list[dict[str, Any]]) -> None:
    assert len(study.calls) == len({row["network_id"] for row in rows}) == 5, "equal networks are timed once"
    options = {"device": "cpu", "threads": 2, "seconds": 0.25}
    for row in rows:
        maker = row["folder"] if pd.isna(row["same_as"]) else row["same_as"]
        path = study.folder / maker / store.MODEL
        assert (study.base.onnx_path, [path], (1, 6, 6), 5, options) in study.calls
        assert row["latency_ms_median"] == 2.5
        assert row["latency_ms_p90"] == 2.75
        assert row["latency_runs"] == 222
        assert row["base_latency_ms_median"] == 4.0
        assert row["speedup"] == 1.6
        assert row["speedup_noise"] == 0.07
        assert (row["speedup_low"], row["speedup_high"]) == (1.5, 1.7)
        assert row["speedup_beyond_theory"] == (1.1 * 1.07 * row["theoretical_speedup"] < 1.5)
        assert (row["timing_other_cores"], row["timing_load_average"]) == (1.5, 2.5)
        assert row["timing_disturbed"] == "a neighbour was loud"
        assert (row["latency_batch"], row["latency_threads"], row["latency_seconds"]) == (5, 2, 0.25)


def test_nothing_else_of_the_run_works_while_a_point_is_timed(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[bool] = []
    timed = []

    @contextlib.contextmanager
    def exclusive() -> Iterator[None]:
        inside.append(True)
        yield
        inside.pop()

    monkeypatch.setattr(study_latency, "compare", lambda *_, **__: timed.append(bool(inside)) or [COMPARISON])
    point = dataclasses.replace(study.points[0], finetune_epochs=0)
    folder = tmp_path / point.point_id(study.dataset.checksum)
    quiet = Reporter(0, Verbosity.QUIET)
    run_point(PointRun(point, study.base, study.dataset, folder, quiet, exclusive), RetryPolicy())
    assert timed == [True]
    assert not inside


def test_settings_in_a_row_are_those_of_its_point(study: Study, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        (point,) = (
            point for point in study.points if point.point_id(study.dataset.checksum) == study.folder_of(row).name
        )
        for name, value in point.settings().items():
            assert row[name] == value or (value is None and pd.isna(row[name])), name
        assert row["spec_hash"] == row["folder"].rpartition("-")[2]
        assert row["base_id"] == point.base_id(study.dataset.checksum) == study.base.folder.name
        assert row["data_checksum"] == study.dataset.checksum


def test_the_environment_in_a_row_is_this_one(rows: list[dict[str, Any]]) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    for row in rows:
        for package in ("torch", "torchvision", "nni", "onnx", "onnx-tool", "numpy"):
            assert row[f"{package.replace('-', '_')}_version"] == version(package)
        assert row["onnxprune_version"] == onnxprune.__version__
        assert commit.stdout.strip() in str(row["git_commit"])
        assert row["cpu_cores"] == psutil.cpu_count(logical=False)
        assert row["memory_bytes"] == psutil.virtual_memory().total
        assert row["training_threads"] == 1
        assert row["python_version"].startswith("3.")


def test_the_seed_decides_the_base(study: Study) -> None:
    """The one in the folder is the one that this seed gives, and no other."""
    point = study.points[0]
    states = []
    for seed in (point.seed, 0):
        network = build_network(dataclasses.replace(point, seed=seed), study.dataset)
        how = Recipe(3, 64, 0.2 * math.sqrt(64 / 256), frozenset(), micro_batch=64, seed=point.seed)
        train(network, training_batches(point, study.dataset, network), how)
        states.append(network.state_dict())
    base = study.base.network.state_dict()
    for name, tensor in base.items():
        torch.testing.assert_close(tensor, states[0][name], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(tensor, states[1][name], rtol=1e-2, atol=1e-2)


def test_the_seed_decides_what_chance_removes(study: Study, tmp_path: Path) -> None:
    point = study.points[0]
    settings = {**SETTINGS, "dataset": point.dataset, "technique": "neuron", "criterion": "random", "sparsity": 60}
    settings |= {"finetune_epochs": 0, "epochs": 0, "latency_seconds": 0}
    plan = Sweep.parse(settings)
    outcome = run_sweep(plan, tmp_path, workers=1, verbosity=Verbosity.QUIET)
    (row,) = outcome.table.to_dict("records")
    (found,) = safetensors.torch.load_file(outcome.folder / row["folder"] / store.MASKS).values()
    masks = {}
    for seed in (3, 0):
        request = dataclasses.replace(request_of(plan.points[0]), seed=seed)
        batches = training_batches(point, study.dataset, study.base.network)
        (masks[seed],) = decide(study.base.network, request, batches).values()
    assert torch.equal(found, masks[3].bool())
    assert not torch.equal(found, masks[0].bool())
    for name in ("latency_ms_median", "latency_ms_p90", "latency_runs", "base_latency_ms_median", "speedup"):
        assert pd.isna(row[name]), "nothing was timed"
    assert pd.isna(row["speedup_noise"])
