"""The checks of installation, data and machine, each against something that is broken."""

import json
from pathlib import Path

import faults
import pytest
import trained
from command_line import onnxprune, small_npz
from packaging.requirements import Requirement
from photos import photos

from onnxprune.common.errors import RunError
from onnxprune.data.registry import DATASETS
from onnxprune.models import MODELS
from onnxprune.settings.sweep import Sweep
from onnxprune.study import doctor
from onnxprune.study.estimate import check_room, estimate
from onnxprune.training.opcount import count_training_ops


def test_this_installation_works_and_nothing_is_written(tmp_path: Path) -> None:
    done = onnxprune("doctor", "--json", "--data-dir", tmp_path / "none", cwd=tmp_path)
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0, done.stderr
    for subject in ("torch", "nni", "onnxruntime on cpu", "dataset digits", "results"):
        assert findings[subject]["state"] == "ok", findings[subject]
    assert findings["dataset mnist"]["state"] == "note"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        ("onnxprune-is-no-such-package>=1", "not installed"),
        ("numpy>=99", "does not fit >=99"),
        ("onnx-tool>=1", "cannot be imported"),
    ],
)
def test_a_package_that_is_missing_unfit_or_broken_is_named(
    requirement: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(doctor._MODULES, "onnx-tool", "no_such_module")
    monkeypatch.setattr(doctor, "requires", lambda name: [requirement, 'other>=1; extra == "dev"'])
    (finding,) = doctor._packages()
    assert finding.state == "broken"
    assert finding.subject == Requirement(requirement).name
    assert words in finding.text


def test_what_an_extra_would_bring_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = [
        'onnxprune[report]; extra == "study"',
        'no-such-package>=1; extra == "study"',
        'numpy; extra == "report"',
    ]
    monkeypatch.setattr(doctor, "requires", lambda name: declared)
    missing, there = doctor._packages()
    assert (missing.state, missing.text) == ("note", "not installed: pip install 'onnxprune[study]'")
    assert (there.subject, there.state) == ("numpy", "ok")


def test_a_damaged_dataset_is_broken_and_a_good_one_is_counted(tmp_path: Path) -> None:
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").write_bytes(b"damaged")
    small_npz(tmp_path / "fmnist.npz")
    found = {name: doctor._dataset(name, DATASETS[name], tmp_path) for name in ("mnist", "fmnist")}
    assert found["mnist"].state == "broken"
    assert "corrupt" in found["mnist"].text
    assert found["fmnist"].state == "ok"


def test_data_of_ones_own_are_read_as_a_sweep_reads_them(tmp_path: Path) -> None:
    found = doctor._given_dataset(str(photos(tmp_path / "pets")), tmp_path, (6, 5))
    assert found.state == "ok"
    assert "of 3x6x5 (channels x height x width); 2 classes: cat, dog" in found.text
    (tmp_path / "pets/cat/000.png").write_text("text")
    found = doctor._given_dataset(str(tmp_path / "pets"), tmp_path, None)
    assert found.state == "broken"
    assert "1 of 40 pictures cannot be used (cat/000.png" in found.text
    assert doctor._given_dataset(str(tmp_path / "none"), tmp_path, None).state == "broken"
    unlabelled = doctor._given_dataset(str(trained.without_labels(tmp_path / "images.npz")), tmp_path, None)
    assert unlabelled.state == "ok" and unlabelled.text.endswith(
        "of 1x8x8 (channels x height x width); no labels: for a trained FILE.onnx"
    )
    assert doctor._given_dataset(str(small_npz(tmp_path / "mine.npz")), tmp_path, None).state == "ok"


def test_a_place_that_cannot_be_written_to_is_broken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert doctor._writable(tmp_path / "file").state == "broken"
    assert doctor._writable(tmp_path / "new" / "deep").state == "ok"


@pytest.mark.parametrize(
    ("resource", "changes", "advice"),
    [
        ("free_disk", {}, "--out"),
        ("available_memory", {}, "--hidden"),
        ("available_memory", {"latency_batch": 10_000}, "--latency-batch"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_before_it_starts(
    resource: str, changes: dict, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = Sweep.parse(changes).points
    check_room(points, tmp_path, workers=1)
    monkeypatch.setattr(f"onnxprune.study.estimate.{resource}", lambda *_: 1_000_000)
    with pytest.raises(RunError, match=advice):
        check_room(points, tmp_path, workers=1)


def test_points_side_by_side_take_as_many_times_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = Sweep.parse({"model": "cnn"}).points
    monkeypatch.setattr("onnxprune.study.estimate.available_memory", lambda: 2 * estimate(points).memory_bytes)
    check_room(points, tmp_path, workers=2)
    with pytest.raises(RunError, match=r"3 times.*--workers"):
        check_room(points, tmp_path, workers=3)


def test_a_network_of_any_size_is_estimated_without_its_memory() -> None:
    (point,) = Sweep.one_point({"model": "slp", "hidden": 1_000_000}).points
    found = estimate([point])
    assert found.memory_bytes > 784 * 1_000_000 * 4
    assert found.disk_bytes > 2 * 784 * 1_000_000 * 4
    (both,) = Sweep.one_point({"model": "slp", "hidden": 1_000_000, "also": "int8"}).points
    assert estimate([both]).disk_bytes > found.disk_bytes + 2 * 784 * 1_000_000, "a byte a weight, of point and base"
    shape, classes = DATASETS["digits"].shape, 10
    small = count_training_ops(MODELS["slp"].build(shape, classes, 0, hidden=1_000), shape).flops_per_image
    assert found.training_flops == pytest.approx(1000 * small * found.training_images)


def test_disk_is_estimated_from_above_and_not_far(tmp_path: Path) -> None:
    outcome = faults.sweep(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    needed = estimate(Sweep.parse({"model": "slp", "hidden": 32, "technique": "weight", "sparsity": "0,50,90"}).points)
    assert not outcome.failures
    assert size < needed.disk_bytes < 3 * size
