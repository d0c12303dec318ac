"""The study end to end: real training, NNI, ONNX and onnxruntime, on small data."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import safetensors.torch
from command_line import small_npz

import onnxprune
from onnxprune.commands.tables import print_results
from onnxprune.common.files import read_json, write_json
from onnxprune.pruning.decide import decide
from onnxprune.pruning.request import Masks, Request
from onnxprune.results import store, tables
from onnxprune.results.tables import result_table, write_tables
from onnxprune.schedules import one_shot
from onnxprune.settings.vocabulary import TECHNIQUES

SETTINGS = {"model": "slp", "batch_size": 32, "epochs": 4, "finetune_epochs": 1, "latency_seconds": 0.02, "hidden": 64}
TIMED = ("seconds", "latency", "speedup", "timing_", "per_second", "memory", "finished")
OF_OTHER_ROWS = ("control_", "images_", "same_as")  # and changes against the control


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return small_npz(folder / "squares.npz")


@pytest.fixture(scope="module")
def table(folder: Path, data: Path) -> pd.DataFrame:
    how = {"name": "study", "out": folder / "runs", "workers": 1}
    return onnxprune.sweep(dataset=str(data), sparsity=[0, 50, 100], **how, **SETTINGS)


def untimed(table: pd.DataFrame) -> pd.DataFrame:
    return table[[name for name in table if not any(word in name for word in TIMED)]]


def test_one_row_a_point(table: pd.DataFrame) -> None:
    assert len(table) == 12
    assert list(table["technique"].unique()) == list(TECHNIQUES)
    assert (table.groupby("technique")["sparsity"].apply(list).map(tuple) == (0.0, 50.0, 100.0)).all()


def test_the_printed_table_has_a_line_for_each(table: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    print_results(table)
    shown = capsys.readouterr().out
    for row in table.to_dict("records"):
        assert any(
            text.startswith(f" {row['technique']} ")
            and f" {row['sparsity']:g} " in text
            and f"{row['accuracy']:.2f}" in text
            for text in shown.splitlines()
        ), row
    assert shown.count("collapsed") == 4 + 1


def test_the_base_learns_and_is_shared(table: pd.DataFrame) -> None:
    assert table["base_id"].nunique() == 1
    assert table["base_accuracy"].iloc[0] > 90


def test_the_control_equals_the_base_before_fine_tuning_and_is_the_same_for_all(table: pd.DataFrame) -> None:
    control = table[table["sparsity"] == 0]
    for measure in ("accuracy", "top5_accuracy", "cross_entropy"):
        assert (control[f"before_finetuning_{measure}"] == control[f"base_{measure}"]).all()
    assert control["cross_entropy"].nunique() == 1
    assert (control["cross_entropy"] != control["base_cross_entropy"]).all(), "fine-tuning did nothing"


def test_everything_removed_is_a_constant_prediction_flagged_and_measured(table: pd.DataFrame) -> None:
    gone = table[table["sparsity"] == 100]
    assert gone["collapsed"].all()
    assert (gone["achieved_sparsity"] == 100).all()
    assert gone["accuracy"].between(10, 60).all()  # the share of one of three classes
    assert not table[table["sparsity"] < 100]["collapsed"].any()


def test_counts_follow_from_the_shapes(table: pd.DataFrame) -> None:
    dense = 144 * 64 + 64 * 3
    for row in table[table["sparsity"] == 50].to_dict("records"):
        if TECHNIQUES[row["technique"]].unit == "channel":
            assert row["macs"] == row["effective_macs"] == 144 * 32 + 32 * 3
            assert row["params"] == 144 * 32 + 32 + 32 * 3 + 3
            assert row["file_bytes"] < 0.6 * row["base_file_bytes"]
        else:
            assert row["effective_macs"] <= dense // 2
            # single weights leave units without any behind, which the file goes without
            assert (dense - row["macs"]) % (144 + 3) == 0
            assert row["base_params"] - row["params"] == (dense - row["macs"]) // (144 + 3) * (144 + 3 + 1)
        assert row["flops"] == 2 * row["macs"]
        assert row["theoretical_speedup"] == pytest.approx(dense / row["macs"])
        assert row["achieved_sparsity"] == pytest.approx(50)


def test_every_file_is_deployable(table: pd.DataFrame, folder: Path) -> None:
    for name, row in table.set_index("folder").iterrows():
        path = folder / "runs" / "study" / str(name) / "model.onnx"
        onnx.checker.check_model(str(path), full_check=True)
        metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert metadata["dataset"] == "squares"
        assert json.loads(metadata["classes"]) == ["0", "1", "2"]
        assert json.loads(metadata["input_shape"]) == [1, 12, 12]
        assert len(json.loads(metadata["mean"])) == len(json.loads(metadata["std"])) == 1
        assert metadata["technique"] == row["technique"]
        assert float(metadata["sparsity"]) == row["sparsity"]
        assert float(metadata["accuracy"]) == row["accuracy"]
        assert metadata["spec_hash"] == row["spec_hash"]
        assert metadata["onnxprune_version"] == onnxprune.__version__
        assert row["file_bytes"] == pytest.approx(path.stat().st_size, abs=2000)
        assert sorted(part.name for part in path.parent.iterdir()) == [
            "config.json", "log.txt", "masks.safetensors", "metrics.json", "model.onnx", "right.npy"
        ]  # fmt: skip


def test_accuracy_is_that_of_the_file(table: pd.DataFrame, folder: Path, data: Path) -> None:
    """A deployer's own script, from nothing but the file and its metadata."""
    arrays = np.load(data)
    for name, row in table.set_index("folder").iterrows():
        path = folder / "runs" / "study" / str(name) / "model.onnx"
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        mean, std = json.loads(metadata["mean"])[0], json.loads(metadata["std"])[0]
        images = ((arrays["x_test"][:, None] / 255 - mean) / std).astype(np.float32)
        for batch in (1, 7, len(images)):
            (logits,) = session.run(None, {"input": images[:batch]})
            assert logits.shape == (batch, 3)
        assert 100 * np.mean(logits.argmax(1) == arrays["y_test"]) == pytest.approx(row["accuracy"])


def test_exports_equal_their_networks(table: pd.DataFrame) -> None:
    assert (table["parity_max_abs_diff"] < 1e-4).all()
    assert (table["before_finetuning_parity_max_abs_diff"] < 1e-4).all()


def test_training_cost_is_counted(table: pd.DataFrame) -> None:
    row = table[(table["technique"] == "weight") & (table["sparsity"] == 0)].iloc[0]
    images = row["train_images"]
    per_image = 4 * (144 * 64 + 64 * 3) + 2 * 64 * 3  # forward, weights' gradients, the hidden units' gradient
    assert row["training_images"] == images
    assert row["training_flops"] == images * per_image
    assert row["base_training_flops"] == 4 * images * per_image
    assert row["base_training_seconds"] > 0
    assert row["training_images_per_second"] == pytest.approx(images / row["training_seconds"])


def test_rows_say_where_they_come_from(table: pd.DataFrame) -> None:
    for column in ("seed", "torch_version", "nni_version", "onnxprune_version", "cpu", "data_checksum", "spec_hash"):
        assert table[column].notna().all(), column


def test_masks_on_disk_are_what_was_removed(table: pd.DataFrame, folder: Path) -> None:
    for row in table.to_dict("records"):
        masks = safetensors.torch.load_file(folder / "runs" / "study" / row["folder"] / "masks.safetensors")
        removed = sum(int((~mask).sum()) for mask in masks.values())
        assert 100 * removed / sum(mask.numel() for mask in masks.values()) == pytest.approx(row["achieved_sparsity"])


def test_tables_are_derived_and_open_as_they_are(table: pd.DataFrame, folder: Path) -> None:
    study = folder / "runs" / "study"
    pd.testing.assert_frame_equal(pd.read_parquet(study / "results.parquet"), table, check_dtype=False)
    assert len(pd.read_csv(study / "results.csv")) == len(table)
    (study / "results.csv").unlink()
    pd.testing.assert_frame_equal(write_tables(study), table, check_dtype=False)


def test_derived_rows_are_taken_as_long_as_their_records_are_older(
    table: pd.DataFrame, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Path(shutil.copytree(folder / "runs" / "study", tmp_path / "study"))
    read = []
    finished_record = store.finished_record
    for module in (store, tables):
        monkeypatch.setattr(module, "finished_record", lambda path: read.append(path.name) or finished_record(path))
    changed, gone, damaged = table["folder"][:3]
    for folder in table["folder"]:  # one alone was disturbed: the type of that column goes with it
        record = read_json(study / folder / store.METRICS)
        record["metrics"]["timing_disturbed"] = "swapping" if folder == gone else None
        write_json(study / folder / store.METRICS, record)
    write_tables(study)
    read.clear()
    assert write_tables(study).equals(result_table(study))
    assert read == [], "nothing has changed"
    record = read_json(study / changed / store.METRICS)
    record["metrics"]["accuracy"] = 12.5
    write_json(study / changed / store.METRICS, record)
    shutil.rmtree(study / gone)
    (study / damaged / store.METRICS).write_text("{")
    again = result_table(study)
    assert {*read} == {changed, damaged}
    assert list(again["folder"]) == [name for name in table["folder"] if name not in (gone, damaged)]
    assert again.set_index("folder").loc[changed, "accuracy"] == 12.5
    assert list(again.columns) == list(table.columns)
    assert write_tables(study).equals(again)
    (study / "results.parquet").write_bytes(b"PAR1")
    pd.testing.assert_frame_equal(result_table(study), again, check_dtype=False)


def test_the_same_command_runs_nothing_again(table: pd.DataFrame, folder: Path, data: Path) -> None:
    study = folder / "runs" / "study"
    before = {path: path.stat().st_mtime_ns for path in study.glob("*/metrics.json")}
    again = onnxprune.sweep(study / "sweep.toml", out=folder / "runs")
    assert {path: path.stat().st_mtime_ns for path in study.glob("*/metrics.json")} == before
    pd.testing.assert_frame_equal(again, table, check_dtype=False)


def test_the_same_settings_give_the_same_numbers(table: pd.DataFrame, data: Path, tmp_path: Path) -> None:
    again = onnxprune.sweep(dataset=str(data), sparsity=[50], technique="neuron,unstructured", out=tmp_path, **SETTINGS)
    first = table[table["folder"].isin(again["folder"])].reset_index(drop=True)
    assert len(first) == 2
    alone = [name for name in untimed(again) if not name.startswith(OF_OTHER_ROWS) and "_change" not in name]
    assert "accuracy" in alone
    pd.testing.assert_frame_equal(again[alone], first[alone], check_dtype=False)


def test_a_damaged_base_is_trained_again(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**SETTINGS, "technique": "weight", "dataset": str(data), "out": tmp_path}
    first = onnxprune.run_experiment(sparsity=50, **settings)
    checkpoint = next(tmp_path.glob("bases/*/checkpoint.safetensors"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    second = onnxprune.run_experiment(sparsity=60, **settings)
    assert "damaged" in capsys.readouterr().err
    assert second["base_cross_entropy"].iloc[0] == first["base_cross_entropy"].iloc[0]


def test_seeds_are_folded_into_mean_and_deviation(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = onnxprune.sweep(
        dataset=str(data), technique="weight", sparsity=50, seeds=3, train_limit=100, out=tmp_path, **SETTINGS
    )
    assert list(table["seed"]) == [0, 1, 2]
    assert table["base_id"].nunique() == 3
    assert table["base_cross_entropy"].nunique() == 3
    assert (table["train_images"] == 100).all()
    capsys.readouterr()
    print_results(table)
    shown = " ".join(capsys.readouterr().out.split())  # lines break where the path of the data is long
    assert f"{table['accuracy'].mean():.2f} ± {table['accuracy'].std():.2f}" in shown
    assert "3 seeds" in shown
    assert "100 images (limited: there are 216)" in shown


def test_at_init_prunes_the_untrained_network_and_trains_the_rest(data: Path, tmp_path: Path) -> None:
    settings = {name: value for name, value in SETTINGS.items() if name != "finetune_epochs"}
    row = onnxprune.run_experiment(
        dataset=str(data), technique="structured", sparsity=50, schedule="at-init", out=tmp_path, **settings
    ).iloc[0]
    assert row["before_finetuning_accuracy"] < 80
    assert row["accuracy"] > 90
    assert row["training_images"] == 4 * row["train_images"]
    assert row["macs"] < row["base_macs"]


def test_a_point_that_diverges_is_recorded_with_the_reason(data: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "finetune_learning_rate": 1e6, "finetune_epochs": 5}
    with pytest.raises(onnxprune.RunError, match="diverged"):
        onnxprune.run_experiment(dataset=str(data), out=tmp_path, **settings)
    (failed,) = tmp_path.glob("slp-*/*-s50-*")
    assert "diverged" in (failed / "error.txt").read_text()
    assert not (failed / "metrics.json").exists()


def test_a_crash_of_a_point_does_not_stop_the_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash_at_50(network: object, request: Request, *arguments: object) -> Masks:
        if request.sparsity == 50:
            raise ValueError("something unforeseen")
        return decide(network, request, *arguments)

    settings = {**SETTINGS, "dataset": str(data), "technique": "weight", "sparsity": [0, 50, 90], "out": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(one_shot, "decide", crash_at_50)
        with pytest.raises(onnxprune.RunError, match=r"1 failed.*ValueError: something unforeseen"):
            onnxprune.sweep(**settings)
    assert len(list(tmp_path.glob("slp-*/*/metrics.json"))) == 2
    assert "Traceback" in next(tmp_path.glob("slp-*/*-s50-*/error.txt")).read_text()


def test_a_batch_larger_than_the_data_is_the_data(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**SETTINGS, "batch_size": 60_000, "epochs": 1, "technique": "weight"}
    row = onnxprune.sweep(dataset=str(data), sparsity=[0, 50], out=tmp_path, **settings).iloc[0]
    assert row["batch_size"] == 60_000
    assert capsys.readouterr().err.count("every update uses them all") == 1


def test_run_experiment_takes_one_point_only() -> None:
    with pytest.raises(onnxprune.InputError, match="one point"):
        onnxprune.run_experiment(sparsity=[0, 50])


def test_warnings_that_are_errors_of_the_caller_are_none_of_libraries(tmp_path: Path) -> None:
    plan = {"model": "slp", "dataset": "digits", "technique": "structured", "sparsity": 50, "epochs": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = onnxprune.sweep(**plan, train_limit=50, latency_seconds=0, out=tmp_path, workers=1)
    assert len(found) == 1
    assert "DeprecationWarning" in next(tmp_path.glob("*/*structured*/log.txt")).read_text()
