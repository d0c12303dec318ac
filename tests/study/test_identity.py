"""What a result is known by is what it was made of, whatever happens to files meanwhile."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import trained
from command_line import small_npz
from made_up import finish

from onnxprune.common import environment
from onnxprune.common.errors import InputError, RunError
from onnxprune.common.files import digest
from onnxprune.common.progress import Reporter, Verbosity
from onnxprune.results import store
from onnxprune.results.task import RetryPolicy
from onnxprune.settings.point import Point
from onnxprune.settings.sweep import Sweep
from onnxprune.study import base as bases
from onnxprune.study.controller import _reused
from onnxprune.study.jobs import Job, Materials, check_unchanged
from onnxprune.study.local import Local

QUIET = Reporter(1, Verbosity.QUIET)


def one_point(**settings: Any) -> Point:
    (point,) = Sweep.one_point({"model": "slp", "technique": "weight", "sparsity": 0.0, **settings}).points
    return point


@pytest.fixture
def slp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Point:
    """A point with a file of weights that fit its network."""
    point = one_point(hidden=0, latency_seconds=0)
    state = bases.build_network(point, Materials(None).dataset(point)).state_dict()
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, path)
    return dataclasses.replace(point, weights=str(path))


def disturbed(path: Path) -> None:
    """Other content of the same size and, for who looks at nothing else, of the same time."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_the_same_size_and_time_are_not_the_same_file(slp: Point) -> None:
    path = Path(str(slp.weights))
    before, name = digest(path), slp.base_id("data")
    disturbed(path)
    assert digest(path) != before
    assert slp.base_id("data") != name


def test_weights_that_change_between_plan_and_use_fail_their_points_in_one_line(slp: Point, tmp_path: Path) -> None:
    materials = Materials(None)
    name = slp.base_id(materials.dataset(slp).checksum)
    job = Job(tmp_path / "sweep" / slp.point_id(materials.dataset(slp).checksum), slp, tmp_path, None, RetryPolicy())
    disturbed(Path(str(slp.weights)))
    ((failed, error),) = Local(None, [], materials, 1).run({name: [job]}, RetryPolicy(), QUIET)
    assert failed == name
    assert str(error) == (
        f"the data of digits, or the weights {slp.weights}, changed while the study ran: start it again"
    )
    assert not (tmp_path / "bases").exists()


@pytest.mark.parametrize("back", [False, True])
def test_weights_that_change_while_they_are_read_are_not_trained_on(
    slp: Point, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    build, path = bases.build_network, Path(str(slp.weights))
    before = path.read_bytes()

    def meddled(*arguments: Any) -> Any:
        disturbed(path)
        network = build(*arguments)
        if back:
            path.write_bytes(before)
        return network

    monkeypatch.setattr(bases, "build_network", meddled)
    dataset = Materials(None).dataset(slp)
    with pytest.raises(RunError, match=r"weights.safetensors changed while the study ran"):
        bases.ensure_base(slp, dataset, tmp_path, QUIET, RetryPolicy())
    (folder,) = (tmp_path / "bases").glob("slp-*")
    assert not (folder / store.METRICS).exists()


def test_a_models_file_that_changes_while_it_is_read_is_not_studied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = trained.mlp(tmp_path / "mlp.onnx", author="somebody")
    point = one_point(model=str(file), dataset=str(trained.dataset(tmp_path / "digits8.npz")))
    build = bases.build_network

    def meddled(*arguments: Any) -> Any:
        network = build(*arguments)
        disturbed(file)
        return network

    monkeypatch.setattr(bases, "build_network", meddled)
    dataset = Materials(None).dataset(point)
    with pytest.raises(RunError, match=r"mlp.onnx changed while the study ran"):
        bases.ensure_base(point, dataset, tmp_path, QUIET, RetryPolicy())


def test_data_that_vanish_fail_their_points_in_one_line(tmp_path: Path) -> None:
    data = small_npz(tmp_path / "squares.npz")
    point = one_point(dataset=str(data))
    checksum = Materials(None).dataset(point).checksum
    job = Job(tmp_path / "sweep" / point.point_id(checksum), point, tmp_path, None, RetryPolicy())
    data.unlink()
    ((_, error),) = Local(None, [], Materials(None), 1).run({point.base_id(checksum): [job]}, RetryPolicy(), QUIET)
    assert isinstance(error, RunError)
    assert str(error).startswith("what was there when the study began is not any more: ")
    assert "\n" not in str(error)


def test_data_that_were_replaced_do_not_get_the_old_name(tmp_path: Path) -> None:
    data = small_npz(tmp_path / "squares.npz")
    point = one_point(dataset=str(data))
    planned = point.point_id(Materials(None).dataset(point).checksum)
    check_unchanged(point, Materials(None), point_id=planned)
    small_npz(data, classes=2)
    with pytest.raises(RunError, match=r"squares\.npz changed while the study ran"):
        check_unchanged(point, Materials(None), point_id=planned)


def test_results_of_another_environment_are_named_when_they_are_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = one_point()
    materials = Materials(None)
    folder = finish(tmp_path / "demo", point)
    record = store.finished_record(folder)
    assert record is not None
    here = dict(environment.describe("cpu"))
    store.finish(folder, {**record, "environment": here})
    assert _reused({folder: point}, tmp_path, materials, here=True) == []
    then = {**here, "torch_version": "1.0", "numeric_variables": "OMP_NUM_THREADS=77", "memory_bytes": 1}
    store.finish(folder, {**record, "environment": then})
    (line,) = _reused({folder: point}, tmp_path, materials, here=True)
    assert line.startswith("1 finished base or point of another environment is reused as it is: ")
    assert f"torch_version 1.0 (now {here['torch_version']})" in line
    assert f"numeric_variables OMP_NUM_THREADS=77 (now {here['numeric_variables'] or 'none'})" in line
    assert "memory" not in line


def test_variables_that_say_how_libraries_compute_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MKL_CBWR", "AVX2\x1b")
    found = environment.describe.__wrapped__("cpu")["numeric_variables"]
    assert "OMP_NUM_THREADS=3" in found
    assert "MKL_CBWR=AVX2\\x1b" in found


def test_a_file_of_weights_that_is_gone_is_told(slp: Point) -> None:
    Path(str(slp.weights)).unlink()
    with pytest.raises(InputError, match="cannot read the weights"):
        slp.base_id("data")
