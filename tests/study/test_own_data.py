"""A study of a folder of pictures, from the pictures to the answer of the file that is shipped."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from command_line import called
from photos import squares
from PIL import Image

import onnxprune as package
from onnxprune.common import progress
from onnxprune.common.errors import InputError, RunError
from onnxprune.common.progress import Reporter, Verbosity
from onnxprune.data.dataset import load
from onnxprune.results import store
from onnxprune.results.task import RetryPolicy
from onnxprune.settings.sweep import Sweep
from onnxprune.study import base as bases
from onnxprune.study.estimate import estimate
from onnxprune.study.jobs import Job, Materials, perform

NAMES = ("Haut|*1*", "=mitte", "élan")  # of the squares at the top, in the middle, at the bottom
SETTINGS = {
    "model": "slp",
    "image_size": 12,
    "technique": ["structured"],
    "sparsity": [0, 50],
    "epochs": 6,
    "batch_size": 16,
    "finetune_epochs": 1,
    "latency_seconds": 0,
    "name": "own",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two sizes."""
    folder = squares(tmp_path_factory.mktemp("data") / "squares", NAMES)
    for file in sorted(folder.rglob("*.png"))[::3]:
        Image.open(file).resize((24, 36), Image.Resampling.NEAREST).save(file)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def table(pictures: Path, runs: Path) -> pd.DataFrame:
    return package.sweep(dataset=pictures, out=runs, workers=1, **SETTINGS)


def test_the_row_says_what_was_read(table: pd.DataFrame, pictures: Path) -> None:
    found = load(str(pictures), size=(12, 12))
    assert set(table["dataset"]) == {str(pictures)}
    assert set(table["image_size"]) == {"12x12"}
    assert set(table["data_checksum"]) == {found.checksum}
    assert set(table["train_images"]) == {len(found.train)}
    assert table["accuracy"].min() > 60
    assert all(name.startswith("slp-squares-b16-") for name in table["folder"])


def test_the_files_name_the_classes_and_predict_and_the_card_too(
    table: pd.DataFrame, runs: Path, tmp_path: Path
) -> None:
    for path in (runs / "own").glob(f"*/{store.MODEL}"):
        known = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert json.loads(known["classes"]) == sorted(NAMES)
        assert json.loads(known["picture_shape"]) == [1, 12, 12]
        assert known["dataset"] == "squares"
    done = called("deploy", runs / "own", "--max-drop", "50", "--out", tmp_path / "models")
    assert done.returncode == 0, done.stderr
    (model,) = (tmp_path / "models").glob("*.onnx")
    assert model.stem.startswith("slp-squares-structured-l1-")
    card = model.with_suffix(".md").read_text(encoding="utf-8")
    assert r"Classes, in order: 0 =mitte, 1 Haut\|\*1\*, 2 élan" in card
    assert "the network `slp` on squares, pruned, " in card
    assert "--image-size 12x12" in card
    for label, name in enumerate(NAMES):
        pixels = np.full((12, 12), 30, np.uint8)
        pixels[4 * label : 4 * label + 4, 4:8] = 250
        Image.fromarray(pixels).resize((48, 24), Image.Resampling.NEAREST).save(tmp_path / f"{label}.png")
        (found,) = json.loads(called("predict", model, tmp_path / f"{label}.png", "--json").stdout)
        assert found["class"] == name


def test_evaluate_gives_the_accuracy_of_the_row(
    table: pd.DataFrame, runs: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_told", set())
    row = table.iloc[-1]
    done = called("evaluate", runs / "own" / row["folder"] / store.MODEL, "--dataset", pictures, "--json")
    found = json.loads(done.stdout)
    assert found["accuracy"] == pytest.approx(row["accuracy"])
    assert [entry["name"] for entry in found["classes"]] == sorted(NAMES)
    assert "squares: 180 pictures of 3 classes" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_same_command_again_runs_nothing(
    table: pd.DataFrame, runs: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "_train_and_assess", lambda *_: pytest.fail("it was trained again"))
    again = package.sweep(runs / "own/sweep.toml", out=runs)  # which names the folder
    pd.testing.assert_frame_equal(again, table)


def test_a_point_is_made_again_bit_for_bit(table: pd.DataFrame, runs: Path, tmp_path: Path) -> None:
    done = called("rerun", runs / "own" / table.iloc[-1]["folder"], "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr + done.stdout


def test_what_is_in_the_pictures_and_what_classes_are_called_decides_the_ids(pictures: Path, tmp_path: Path) -> None:
    (point,) = Sweep.one_point({"dataset": pictures, "image_size": 12, "model": "slp"}).points
    materials = [Materials(None) for _ in range(3)]
    before = point.base_id(materials[0].dataset(point).checksum)
    copy = tmp_path / "squares"
    shutil.copytree(pictures, copy)
    there = dataclasses.replace(point, dataset=str(copy))
    assert there.base_id("x") != point.base_id("x")  # the path is named, as that of a file is
    renamed = copy / "zzz"
    (copy / NAMES[2]).rename(renamed)  # the last one still
    assert materials[1].dataset(there).checksum != materials[0].dataset(point).checksum
    renamed.rename(copy / NAMES[2])
    Image.new("L", (12, 12), 1).save(copy / NAMES[0] / "new.png")
    checksum = materials[2].dataset(there).checksum
    assert checksum not in (materials[0].dataset(point).checksum, materials[1].dataset(there).checksum)
    assert dataclasses.replace(there, dataset=point.dataset).base_id(checksum) != before


def test_pictures_that_change_while_a_study_runs_do_not_get_into_it(
    table: pd.DataFrame, pictures: Path, runs: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "squares"
    shutil.copytree(pictures, copy)
    (point,) = Sweep.one_point({**SETTINGS, "technique": "structured", "sparsity": 50, "dataset": copy}).points
    planned = Materials(None).dataset(point).checksum
    Image.new("L", (12, 12), 1).save(copy / NAMES[0] / "new.png")
    job = Job(tmp_path / "runs" / point.point_id(planned), point, runs, None, RetryPolicy())
    with Reporter(1, Verbosity.QUIET) as reporter, pytest.raises(RunError, match="squares changed while the study ran"):
        perform(job, Materials(None), reporter)
    assert not job.folder.exists()


@pytest.mark.usefixtures("brief_probe")
def test_what_is_told_meanwhile_goes_to_stderr_and_only_once(pictures: Path) -> None:
    line = ("--dataset", pictures, "--image-size", "11", "--sparsity", "0,50", "--technique", "weight")
    done = called("sweep", "--model", "slp,cnn", *line, "--dry-run")
    assert done.returncode == 0
    assert "squares: 180 pictures of 3 classes" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "squares: " not in done.stdout
    assert ["dataset", str(pictures)] in [line.split() for line in done.stdout.splitlines()]
    quiet = called("sweep", "--model", "slp", *line, "--image-size", "10", "--dry-run", "--quiet")
    assert quiet.stderr == ""


def test_the_plan_counts_the_pictures(pictures: Path) -> None:
    found = load(str(pictures), size=(12, 12))
    (point,) = Sweep.one_point({"dataset": pictures, "image_size": 12, "epochs": 1, "finetune_epochs": 0}).points
    assert estimate([point]).training_images == len(found.train)
    assert estimate([dataclasses.replace(point, train_limit=7)]).training_images == 7


def test_a_plan_is_estimated_again_without_reading_again(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (point,) = Sweep.one_point({"dataset": pictures, "image_size": 9}).points
    first = estimate([point])
    monkeypatch.setattr("onnxprune.study.estimate.load", lambda *_, **__: pytest.fail("it was read again"))
    assert estimate([point]) == first


def test_pictures_of_two_sizes_are_refused_before_anything_is_trained(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="differ in size") as error:
        package.sweep(dataset=pictures, out=tmp_path / "runs", model="slp")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_border_is_no_part_of_a_picture(tmp_path: Path) -> None:
    """DenseNet-121 takes nothing as small; what predict reads is resized to the pictures, not to the border."""
    found = load(str(squares(tmp_path / "squares", count=20))).padded(32, 32)
    assert (found.input_shape, found.own_shape) == ((1, 32, 32), (1, 12, 12))


def test_the_listing_says_what_else_may_be_given() -> None:
    assert "or a FOLDER with a folder of pictures (PNG, JPEG) for each class" in called("datasets").stdout
    assert "FOLDER" not in called("datasets", "--json").stdout
