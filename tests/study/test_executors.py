"""Choosing who runs bases and points; one of another package is tried in tests/settings/test_extensions.py."""

from pathlib import Path

import faults
import pytest

from onnxprune.common.errors import InputError
from onnxprune.settings.sweep import Sweep
from onnxprune.study.controller import run_sweep
from onnxprune.study.executors import EXECUTORS, make_settings

PLAN = Sweep.parse({**faults.SETTINGS, "technique": "weight", "sparsity": [50]})


def test_an_unknown_one_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown executor 'slurm': known are local, ray"):
        run_sweep(PLAN, tmp_path / "runs", executor="slurm")
    assert not (tmp_path / "runs").exists()


def test_settings_are_those_of_the_one_that_is_chosen() -> None:
    assert make_settings("local", {}) is None
    with pytest.raises(InputError, match="executor 'local' has no setting 'address'"):
        make_settings("local", {"address": "auto"})
    with pytest.raises(InputError, match="executor 'ray' has no setting 'queue'"):
        make_settings("ray", {"queue": "long"})
    made = make_settings("ray", {"gpus_per_point": 0.25})
    assert (made.address, made.gpus_per_point) == (None, 0.25)


def test_only_on_this_machine_are_its_devices_looked_at() -> None:
    assert [name for name, kind in EXECUTORS.own() if kind.here] == ["local"]
