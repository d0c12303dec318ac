"""Studies of a trained file, --model FILE.onnx."""

from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import trained
from classifiers import classifier
from onnx import numpy_helper

import onnxprune
from onnxprune.common.errors import InputError
from onnxprune.settings.sweep import Sweep
from onnxprune.study.estimate import estimate
from onnxprune.study.jobs import Materials


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.mlp(tmp_path_factory.mktemp("file") / "mlp.onnx", author="somebody")


@pytest.fixture(scope="module")
def study(file: Path) -> tuple[Path, pd.DataFrame]:
    runs = file.parent / "runs"
    found = onnxprune.sweep(
        model=str(file),
        dataset=str(trained.dataset(file.parent / "digits8.npz")),
        technique=["structured", "unstructured", "weight"],
        sparsity=[0, 50],
        finetune_epochs=1,
        channel_align=1,
        latency_seconds=0.05,
        out=runs,
        workers=1,
    )
    return runs, found.set_index(["technique", "sparsity"])


def test_the_base_is_the_file_as_it_is(file: Path, study: tuple[Path, pd.DataFrame]) -> None:
    runs, table = study
    (base,) = (runs / "bases").glob("mlp-digits8-*/model.onnx")
    before, after = arrays(file), arrays(base)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    properties = {entry.key: entry.value for entry in onnx.load(base).metadata_props}
    assert properties["author"] == "somebody", "what the file says of itself stays"
    assert properties["mean"] == "[0.0]", "pixels / 255 are found to be what it was trained on"
    row = table.loc["structured", 0]
    assert row["base_training_images"] == 0
    assert row["base_accuracy"] == pytest.approx(trained.accuracy(file), abs=0.5), "pixels are rounded to bytes"
    assert row["base_macs"] == 64 * 48 + 48 * 32 + 32 * 10


def test_half_of_its_units_leave_the_file_and_the_others_make_up_for_them(study: tuple[Path, pd.DataFrame]) -> None:
    runs, table = study
    row = table.loc["structured", 50]
    assert row["criterion"] == "obs"
    assert row["achieved_sparsity"] == 50
    assert row["macs"] == 64 * 24 + 24 * 16 + 16 * 10
    assert row["before_finetuning_accuracy"] > row["base_accuracy"] - 12, "without the repair it is below 75"
    assert row["parity_max_abs_diff"] < 1e-3
    (path,) = runs.glob("*/*-structured-obs-s50*/model.onnx")
    model = onnx.load(path)
    assert [value.name for value in model.graph.input] == ["pixels"]
    assert [value.name for value in model.graph.output] == ["scores"]


@pytest.mark.parametrize("technique", ["weight", "unstructured"])
def test_half_of_its_weights_are_zero_and_the_others_make_up_for_them(
    technique: str, study: tuple[Path, pd.DataFrame]
) -> None:
    _, table = study
    row = table.loc[technique, 50]
    assert row["achieved_sparsity"] == pytest.approx(50, abs=0.05)
    assert row["before_finetuning_accuracy"] > row["base_accuracy"] - 2


def test_training_goes_on_from_the_file(study: tuple[Path, pd.DataFrame]) -> None:
    _, table = study
    row = table.loc["structured", 0]
    assert row["training_images"] > 1000
    assert row["before_finetuning_accuracy"] == row["base_accuracy"]
    assert row["cross_entropy"] != row["base_cross_entropy"]


def test_the_way_to_a_file_is_not_part_of_what_it_is(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    (one,), (other,) = (
        Sweep.one_point({"model": name, "technique": "weight", "sparsity": 50.0}).points
        for name in ("mlp.onnx", str(file))
    )
    assert one.point_id("data") == other.point_id("data")
    assert one.base_id("data") == other.base_id("data")


def test_its_content_is(tmp_path: Path) -> None:
    path = trained.mlp(tmp_path / "mlp.onnx")
    (point,) = Sweep.one_point({"model": str(path), "technique": "weight", "sparsity": 50.0}).points
    before = point.base_id("data")
    trained.mlp(path, changed="yes")
    assert point.base_id("data") != before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"schedule": "at-init"}, "no untrained weights"),
        ({"schedule": "lottery"}, "no untrained weights"),
        ({"control": "scratch"}, "no untrained weights"),
        ({"mean": "0.5"}, "expected both or neither"),
        ({"mean": "a,b", "std": "1"}, "expected a number"),
        ({"std": "0", "mean": "0"}, "expected a number from"),
        ({"hidden": 64}, "option of slp"),
    ],
)
def test_what_makes_no_sense_for_a_file_is_refused(settings: dict[str, object], words: str, file: Path) -> None:
    with pytest.raises(InputError, match=words):
        Sweep.parse({"model": str(file), "dataset": "digits", **settings})


def test_single_weights_by_obs_are_for_files() -> None:
    with pytest.raises(InputError, match="is for FILE"):
        Sweep.parse({"model": "cnn", "technique": "weight", "criterion": "obs"})


def test_normalisation_that_nobody_knows_is_asked_for(tmp_path: Path) -> None:
    path = trained.mlp(tmp_path / "mlp.onnx")
    model = onnx.load(path)
    for item in model.graph.initializer:
        if item.name == "w1":  # answers as if by chance, whatever it is given
            item.CopyFrom(numpy_helper.from_array(np.zeros((64, 48), np.float32), "w1"))
    onnx.save(model, path)
    data = trained.dataset(tmp_path / "digits8.npz")
    with pytest.raises(InputError, match="give the --mean and --std it was trained with"):
        onnxprune.sweep(model=str(path), dataset=str(data), technique="weight", sparsity=50, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("width", [8, 12])
def test_small_images_get_a_border_for_a_file_of_larger_ones(width: int, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((12 * width, 10))
    path = classifier(tmp_path / "m.onnx", weights, ("batch", 1, 12, width))
    values = {"model": str(path), "dataset": str(trained.dataset(tmp_path / "digits8.npz")), "technique": "weight"}
    (point,) = Sweep.one_point({**values, "sparsity": 50.0, "mean": "0.5", "std": "0.25"}).points
    assert estimate([point]).training_flops > 0
    dataset = Materials(None).dataset(point)
    assert dataset.input_shape == (1, 12, width)
    assert (dataset.mean, dataset.std) == ((0.5,), (0.25,))


def test_what_a_control_takes_is_what_is_gone(file: Path, tmp_path: Path) -> None:
    found = onnxprune.sweep(
        model=str(file),
        dataset=str(trained.dataset(tmp_path / "digits8.npz")),
        technique="weight",
        sparsity=50,
        control="layerwise-random",
        finetune_epochs=0,
        latency_seconds=0,
        out=tmp_path / "runs",
        workers=1,
    )
    (path,) = (tmp_path / "runs").glob("*/*-weight-obs-s50*/model.onnx")
    weights = [value for value in arrays(path).values() if value.ndim == 2]
    zeros = sum(int((value == 0).sum()) for value in weights) / sum(value.size for value in weights)
    assert zeros == pytest.approx(0.5, abs=0.01)
    assert found["achieved_sparsity"].item() == pytest.approx(50, abs=0.1)
