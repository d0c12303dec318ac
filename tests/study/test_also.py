"""`--also int8`: the second file of points and base, what is measured on it, and what is chosen among all."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from command_line import called

from onnxprune.common.errors import RunError
from onnxprune.common.progress import Verbosity
from onnxprune.common.shares import wilson
from onnxprune.data.dataset import Dataset, Split
from onnxprune.delivery import headline
from onnxprune.delivery.choice import choose
from onnxprune.delivery.constraints import constraints
from onnxprune.delivery.deployment import source_of
from onnxprune.delivery.variants import with_variants
from onnxprune.graph.counting import count
from onnxprune.report.shipping import accuracy_of_variants
from onnxprune.results import store
from onnxprune.runtime.bystanders import Disturbance
from onnxprune.runtime.timing import Comparison, Latency
from onnxprune.settings.sweep import Sweep
from onnxprune.study import latency
from onnxprune.study.controller import run_sweep
from onnxprune.study.jobs import Materials

COUNTS = ("macs", "effective_macs", "flops", "onnx_tool_ops", "params", "nonzero_params")
SETTINGS = {
    "model": "slp", "dataset": "digits", "technique": "neuron", "sparsity": [50, 100], "epochs": 2,
    "finetune_epochs": 1, "train_limit": 300, "also": "int8", "latency_seconds": 0.1,
}  # fmt: skip


def timed(ms: float) -> Comparison:
    latencies = [Latency(each, each + 1, None, each, 0.1, 50) for each in (4.0, ms)]
    disturbance = Disturbance(others=0.0, spread=0.0, load=0.5, busy=None)
    return Comparison(*latencies, speedup=4 / ms, interval=(3 / ms, 5 / ms), noise=0.01, disturbance=disturbance)


@dataclass(frozen=True)
class Study:
    folder: Path
    table: pd.DataFrame
    dataset: Dataset
    calls: list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    runs = tmp_path_factory.mktemp("runs")
    plan = Sweep.parse(SETTINGS)
    calls: list[tuple[Any, ...]] = []

    def compare(base: Path, others: list[Path], *rest: Any, **options: Any) -> list[Comparison]:
        calls.append((base, others))
        return [timed(ms) for ms in (2.0, 1.0, 3.0)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "compare", compare)
        outcome = run_sweep(plan, runs, workers=1, verbosity=Verbosity.QUIET)
    assert not outcome.failures
    return Study(outcome.folder, outcome.table, Materials(None).dataset(plan.points[0]), calls)


def scored(path: Path, dataset: Dataset, split: Split) -> float:
    """Percent that the file classifies rightly."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    mean, std = (np.float32(numbers).reshape(-1, 1, 1) for numbers in (dataset.mean, dataset.std))
    (found,) = session.run(None, {session.get_inputs()[0].name: (split.images / np.float32(255) - mean) / std})
    return 100 * float((found.argmax(1) == split.labels).mean())


def test_columns_of_the_second_files_are_those_of_the_files(study: Study) -> None:
    bases = study.folder.parent / "bases"
    for row in study.table.to_dict("records"):
        for prefix, folder in (("", study.folder / row["folder"]), ("base_", bases / row["base_id"])):
            path = folder / store.INT8_MODEL
            counts = count(path)
            assert row[f"{prefix}int8_accuracy"] == pytest.approx(
                scored(path, study.dataset, study.dataset.test), abs=0.6
            )
            assert row[f"{prefix}int8_validation_accuracy"] == pytest.approx(
                scored(path, study.dataset, study.dataset.validation), abs=1.1
            )
            assert row[f"{prefix}int8_macs"] == counts.macs_by_type.get("int8", 0) == row[f"{prefix}macs"]
            assert row[f"{prefix}int8_file_bytes"] == path.stat().st_size
            assert 0 < row[f"{prefix}int8_bytes_compressed"] < row[f"{prefix}int8_file_bytes"]
            assert row[f"{prefix}int8_top5_accuracy"] >= row[f"{prefix}int8_accuracy"]
            assert row[f"{prefix}int8_cross_entropy"] == pytest.approx(row[f"{prefix}cross_entropy"], abs=0.1)
        assert row["int8_collapsed"] == row["collapsed"] == (row["sparsity"] == 100)
        assert row["base_int8_collapsed"] is False
        assert row["also"] == "int8"
    assert set(study.table["base_int8_accuracy"]) != {study.table["int8_accuracy"].iloc[1]}


def test_all_four_files_are_timed_in_one_measurement(study: Study) -> None:
    base_id = study.table["base_id"].iloc[0]
    base = study.folder.parent / "bases" / base_id
    for row in study.table.to_dict("records"):
        own = study.folder / row["folder"]
        others = [own / store.MODEL, own / store.INT8_MODEL, base / store.INT8_MODEL]
        assert (base / store.MODEL, others) in study.calls
        assert (row["latency_ms_median"], row["int8_latency_ms_median"], row["base_int8_latency_ms_median"]) == (
            2,
            1,
            3,
        )
        assert (row["speedup"], row["int8_speedup"], row["base_int8_speedup"]) == (2.0, 4.0, 4 / 3)
        assert (row["int8_latency_ms_p90"], row["int8_latency_runs"], row["int8_speedup_noise"]) == (2, 50, 0.01)
        assert (row["base_int8_latency_ms_p90"], row["base_int8_latency_runs"]) == (4, 50)
        assert row["base_int8_speedup_noise"] == 0.01


def test_it_is_part_of_the_ids_where_it_is_used_and_of_no_others() -> None:
    (plain,) = Sweep.one_point({"model": "slp", "sparsity": 50}).points
    (also,) = Sweep.one_point({"model": "slp", "sparsity": 50, "also": "int8"}).points
    assert plain.base_id("x") != also.base_id("x")
    assert plain.point_id("x") != also.point_id("x")
    assert plain.also is None


def test_what_cannot_be_quantised_has_the_reason_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune.bridge import eight_bits
    from onnxprune.common.errors import InputError

    def refuse(path: Path, *rest: object) -> None:
        raise InputError(f"{path}: onnxruntime's quantiser fails on it: for this test")

    monkeypatch.setattr(eight_bits, "prepare", refuse)
    settings = {**SETTINGS, "sparsity": 50, "epochs": 0, "finetune_epochs": 0}
    outcome = run_sweep(Sweep.parse(settings), tmp_path, workers=1, verbosity=Verbosity.QUIET)
    assert not outcome.failures
    (row,) = outcome.table.to_dict("records")
    assert row["int8_missing"] == row["base_int8_missing"] == "onnxruntime's quantiser fails on it: for this test"
    assert pd.isna(row["int8_accuracy"]) and pd.isna(row["int8_speedup"]) and pd.isna(row["base_int8_speedup"])
    assert row["speedup"] > 0  # the others are timed all the same
    assert not list(tmp_path.rglob(store.INT8_MODEL))
    assert list(with_variants(outcome.table)["variant"]) == ["float32"]


def test_the_choice_is_among_all_and_tells_what_int8_alone_gives(study: Study) -> None:
    table = study.table
    assert sorted(with_variants(table)["variant"]) == ["float32"] * 2 + ["int8"] * 2 + ["int8 alone"]
    choice = choose(table, constraints(max_drop=100))
    assert choice.row["variant"] == "int8"
    assert choice.row["sparsity"] == 50
    assert choice.row["speedup"] == 4.0
    assert choice.row["accuracy"] == table[table["sparsity"] == 50]["int8_accuracy"].item()
    assert source_of(choice.row, study.folder).is_file()
    assert choice.alone is not None
    assert choice.alone["speedup"] == 4 / 3
    assert choice.alone["macs"] == table["base_macs"].iloc[0]
    assert choice.alone_lacks == ()
    (pruned,) = [row for row in with_variants(table).to_dict("records") if row["file"] == store.INT8_MODEL][:1]
    base = pruned["base_latency_ms_median"]
    assert pruned["latency_ms_paired"] == pytest.approx(base / pruned["speedup"]), "not that of the file in float32"
    with pytest.raises(RunError, match="nearest"):
        choose(table.assign(int8_speedup=1.5), constraints(max_latency_ms=1.9, max_bytes=0))
    assert choose(table, constraints(max_latency_ms=1.1)).row["variant"] == "int8", "the others take 2 and 3 ms"
    strict = choose(table, constraints(min_speedup=3))
    assert strict.alone_lacks == ("speedup at least 3",)
    dense = choose(table.assign(int8_speedup=0.5, speedup=0.5), constraints(max_drop=100))
    assert dense.row["variant"] == "int8 alone"
    assert source_of(dense.row, study.folder) == study.folder.parent / "bases" / dense.row["base_id"] / store.INT8_MODEL


def test_deploy_copies_the_chosen_file_with_its_card(study: Study, tmp_path: Path) -> None:
    done = called("deploy", study.folder, "--max-drop", 100, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    (model,) = tmp_path.glob("*.onnx")
    assert model.name.endswith("-50-int8.onnx")
    row = study.table[study.table["sparsity"] == 50].iloc[0]
    assert model.read_bytes() == (study.folder / row["folder"] / store.INT8_MODEL).read_bytes()
    assert "then it was converted to 8 bits" in model.with_suffix(".md").read_text()
    assert f"{row['base_int8_file_bytes']:,} bytes, measured speedup 1.33; it meets every constraint" in done.stdout
    (entry,) = json.loads((tmp_path / "index.json").read_text())
    assert (entry["accuracy"], entry["speedup"]) == (row["int8_accuracy"], 4.0)


def test_the_table_and_the_figure_show_both(study: Study) -> None:
    done = called("results", study.folder)
    assert "int8 acc" in done.stdout
    assert "4.00x" in done.stdout
    figure = accuracy_of_variants(study.table, "latency_ms_paired", "ms")
    assert figure is not None
    points = {trace.name: list(trace.x) for trace in figure.data}
    assert points == {"base": [4.0], "pruned": [2.0], "pruned + int8": [1.0], "int8": [3.0]}  # collapsed ones are not
    assert accuracy_of_variants(study.table.drop(columns="int8_accuracy"), "latency_ms_paired", "ms") is None
    assert accuracy_of_variants(study.table.assign(latency_ms_paired=np.nan), "latency_ms_paired", "ms") is None


def test_the_control_of_a_pruned_file_in_8_bits_is_in_8_bits() -> None:
    table = pd.DataFrame(
        {
            "folder": ["a", "b"], "base_id": "base", "sparsity": [0.0, 50.0], "control_point": "a",
            "accuracy": [98.0, 97.0], "base_accuracy": 97.5, "int8_accuracy": [96.0, 95.0], "test_images": 200,
            "accuracy_change": [0.0, -1.0], "control_accuracy": 98.0, "images_lost": [0, 3], "schedule": "one-shot",
            "accuracy_low": 94.0, "accuracy_high": 99.0,
        }
    ).convert_dtypes()  # fmt: skip
    row = with_variants(table).to_dict("records")[-1]
    assert (row["variant"], row["accuracy_change"], row["control_accuracy"]) == ("int8", -1.0, 96.0)
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx(wilson(190, 200))
    assert pd.isna(row["images_lost"])
    assert headline.change(row) == (
        "-1.00 against the 0 % control's 96.00 % in 8 bits; base 97.50 %, -2.50 including fine-tuning and 8 bits"
    )


def test_the_base_in_8_bits_has_the_median_of_its_timings() -> None:
    table = pd.DataFrame(
        {
            "folder": ["a", "b", "c"], "base_id": "base", "sparsity": [0.0, 50.0, 80.0], "accuracy": 90.0,
            "speedup": 1.0, "latency_ms_median": 1.0, "base_int8_accuracy": 89.0, "base_int8_speedup": [9.0, 2.0, 3.0],
            "base_int8_latency_ms_median": [0.1, 0.5, 0.3], **{f"base_{name}": 1 for name in COUNTS},
        }
    ).convert_dtypes()  # fmt: skip
    row = with_variants(table).to_dict("records")[-1]
    assert (row["variant"], row["speedup"], row["latency_ms_median"], row["sparsity"]) == ("int8 alone", 3.0, 0.3, 0.0)
