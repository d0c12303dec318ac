"""Results made again: the same, or it is said what differs."""

import json
import shutil
from pathlib import Path

import faults
import numpy as np
import onnx
import pytest
import safetensors.numpy
from command_line import called

from onnxprune.cli import main
from onnxprune.common.errors import InputError
from onnxprune.common.files import write_json
from onnxprune.results import store
from onnxprune.settings.sweep import Sweep
from onnxprune.study.controller import run_sweep
from onnxprune.study.rerun import compare, rerun


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {**faults.SETTINGS, "technique": "weight,neuron,structured,unstructured", "augment": "crop+flip"}
    plan = Sweep.parse({**settings, "sparsity": [0, 50]})
    return run_sweep(plan, tmp_path_factory.mktemp("runs"), workers=1).folder


@pytest.fixture
def copy(sweep: Path, tmp_path: Path) -> Path:
    """A point, and beside it the same, to be changed."""
    point = next(sweep.glob("*-s50-*"))
    shutil.copytree(point, tmp_path / "then")
    return Path(shutil.copytree(point, tmp_path / "now"))


def change(folder: Path, part: str, **values: object) -> None:
    record = json.loads((folder / store.METRICS).read_text())
    record[part].update(values)
    write_json(folder / store.METRICS, record)


@pytest.mark.slow  # the next ones do it with one point, test_sweep.py with a sweep in one process
def test_a_whole_sweep_is_reproduced_bit_for_bit(sweep: Path, tmp_path: Path) -> None:
    found = rerun(sweep, tmp_path)
    assert len(found) == 8
    for repetition in found:
        assert repetition.reproduced
        assert not repetition.differences, repetition
        assert not repetition.changes
        assert repetition.ratios["training_seconds"] > 0
    assert len(list((tmp_path / "bases").glob("*/metrics.json"))) == 1


def test_one_point_is_reproduced_by_the_command(sweep: Path, tmp_path: Path) -> None:
    done = called("rerun", next(sweep.glob("*-s50-*")), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reproduced, bit for bit")
    assert "1 of 1 reproduced" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_result_that_is_not_what_its_settings_give_differs(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Path(shutil.copytree(sweep.parent, tmp_path / "runs"))
    point = next((runs / sweep.name).glob("*neuron*-s50-*"))
    change(point, "metrics", accuracy=99.0)
    monkeypatch.setattr("sys.argv", ["onnxprune", "rerun", str(point), "--out", str(tmp_path / "again"), "--json"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert list(found["differences"]) == ["accuracy"]
    assert found["differences"]["accuracy"].startswith("99.0 -> ")
    assert not found["reproduced"]


def test_timings_never_decide(copy: Path) -> None:
    change(copy, "metrics", training_seconds=1e6, latency_ms_median=1e6, speedup=0.001, base_training_seconds=1e6)
    found = compare(copy.with_name("then"), copy)
    assert found.reproduced
    assert not found.differences
    assert found.ratios["training_seconds"] > 1000


@pytest.mark.parametrize(
    ("name", "value", "tolerable"),
    [
        ("accuracy", 0.5, True),
        ("accuracy", 2.0, False),
        ("cross_entropy", 0.05, True),
        ("cross_entropy", 1.0, False),
        ("params", 5, True),
        ("params", 5_000, False),
        ("parity_max_abs_diff", 1e-3, True),
    ],
)
def test_another_environment_is_named_and_has_tolerances(name: str, value: float, tolerable: bool, copy: Path) -> None:
    then = copy.with_name("then")
    before = json.loads((then / store.METRICS).read_text())["metrics"][name]
    change(copy, "metrics", **{name: before + value})
    assert not compare(then, copy).reproduced
    change(copy, "environment", torch_version="9.9")
    found = compare(then, copy)
    assert list(found.changes) == ["torch_version"]
    assert found.changes["torch_version"].endswith("-> 9.9")
    assert found.reproduced == tolerable
    assert list(found.differences) == [name]


@pytest.mark.parametrize(("share", "tolerable"), [(0.01, True), (0.5, False)])
def test_masks_are_compared_unit_by_unit(share: float, tolerable: bool, copy: Path) -> None:
    masks = safetensors.numpy.load_file(copy / store.MASKS)
    for mask in masks.values():
        count = max(1, int(share * mask.size))
        mask.reshape(-1)[:count] ^= True
    safetensors.numpy.save_file(masks, copy / store.MASKS)
    found = compare(copy.with_name("then"), copy)
    assert list(found.differences) == ["masks"]
    assert not found.reproduced
    assert ("masks" not in found.beyond) == tolerable


def test_a_weight_that_differs_in_its_last_bit_is_found(copy: Path) -> None:
    model = onnx.load(copy / store.MODEL)
    tensor = model.graph.initializer[0]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[0] = np.nextafter(values.reshape(-1)[0], np.float32(9))
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, copy / store.MODEL)
    found = compare(copy.with_name("then"), copy)
    assert list(found.differences) == ["weights"]
    assert "1 of" in found.differences["weights"]
    assert not found.reproduced


def test_a_folder_with_results_is_not_reused(sweep: Path) -> None:
    with pytest.raises(InputError, match="not empty"):
        rerun(sweep, sweep.parent)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a finished point nor"):
        rerun(tmp_path, tmp_path / "again")


def test_a_network_whose_file_has_changed_is_not_reproduced(copy: Path, tmp_path: Path) -> None:
    source = tmp_path / "net.py"
    source.write_text("")
    config = json.loads((copy / store.CONFIG).read_text())
    write_json(copy.with_name("then") / store.CONFIG, {**config, "model": f"{source}:Net"})
    assert compare(copy.with_name("then"), copy).reproduced
    change(copy, "metrics", spec_hash="another0")
    found = compare(copy.with_name("then"), copy)
    assert not found.reproduced
    assert list(found.differences) == found.beyond == ["the model's file"]
