"""What the public functions are called with: wrong types are told in a line, as by the commands."""

import inspect
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import trained

import onnxprune
from onnxprune.analysis import profiling
from onnxprune.common.errors import InputError
from onnxprune.quantization import quantize as quantization
from onnxprune.quantization.settings import QuantizeSettings
from onnxprune.reduction import prune as pruning
from onnxprune.reduction.settings import PruneSettings
from onnxprune.settings.calls import ARGUMENTS, checked
from onnxprune.study import controller
from onnxprune.study.controller import Outcome


def test_every_argument_of_the_public_functions_is_checked() -> None:
    """By its name, or with the settings that it belongs to."""
    functions: list[Callable[..., Any]] = [
        *(onnxprune.sweep, onnxprune.run_experiment, profiling.profile, pruning.prune, quantization.quantize)
    ]
    names = {name for function in functions for name in inspect.signature(function).parameters}
    of_settings = {*PruneSettings.__dataclass_fields__, *QuantizeSettings.__dataclass_fields__, "channel_align"}
    assert names - ARGUMENTS.keys() <= of_settings | {"settings", "executor_settings"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"batch_sizes": 256}, "batch_sizes: expected a list such as [1, 32], got 256"),
        ({"batch_sizes": "256"}, "batch_sizes: expected a list such as [1, 32], got '256'"),
        ({"batch_sizes": [1.5]}, "batch_sizes: expected a whole number from 1 to 1,000,000,000, got 1.5"),
        ({"shapes": {"x": 5}}, "shapes: expected a list such as [1, 3, 32, 32], got 5"),
        ({"shapes": [("x", (1, 2))]}, "shapes: expected a dictionary of inputs by name"),
        ({"values": 0.5}, "values: expected a dictionary of inputs by name"),
        ({"values": {"x": [[1, 2], [3]]}}, "values: expected a number or an array, got [[1, 2], [3]]"),
        ({"keep": None}, 'keep: expected a list such as ["name"], got None'),
        ({"recovery": "bias"}, "recovery: expected a list such as [\"name\"], got 'bias'"),
        ({"recovery": [1]}, "recovery: expected a name, got 1"),
        ({"technique": ["neuron"]}, "technique: expected a name, got ['neuron']"),
        ({"device": "gpu"}, "device: unknown device 'gpu'"),
        ({"workers": [2]}, "workers: expected a number, got [2]"),
        ({"latency": "no"}, "latency: expected true or false, got 'no'"),
        ({"mean": 0.5}, "mean: expected a list such as [0.5], got 0.5"),
        ({"out": 5}, "out: expected a path, got 5"),
        ({"path": b"m.onnx"}, "path: expected a path, got b'm.onnx'"),
        ({"advance": 5}, "advance: expected a function, got 5"),
        ({"data": [1.0]}, "data: expected arrays by the names of the inputs"),
        ({"data": np.ones((8, 64))}, "data: expected arrays by the names of the inputs"),
        ({"data": {0: np.ones((8, 64))}}, "data: expected arrays by the names of the inputs"),
    ],
)
def test_a_wrong_type_is_told_in_a_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        checked(given)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_right_types_are_taken_in_the_forms_that_people_have() -> None:
    given = {"batch_sizes": np.array([1, 32]), "shapes": {"x": [np.int64(1), 3]}, "workers": "2", "mean": None}
    found = checked({**given, "path": "m.onnx", "unknown": 5})
    expected = {"batch_sizes": (1, 32), "shapes": {"x": (1, 3)}, "workers": 2, "mean": None}
    assert found == {**expected, "path": Path("m.onnx"), "unknown": 5}


def test_the_public_functions_check_what_they_are_called_with(tmp_path: Path) -> None:
    file = trained.mlp(tmp_path / "m.onnx")
    calls: list[Callable[[], Any]] = [
        lambda: onnxprune.profile(file, batch_sizes="256"),
        lambda: onnxprune.prune(file, sparsity=50, batch_sizes="256"),
        lambda: onnxprune.quantize(file, type="float16", batch_sizes="256"),
        lambda: onnxprune.sweep(model="slp", workers=[2]),  # type: ignore[arg-type]
        lambda: onnxprune.sweep(5),  # type: ignore[arg-type]
        lambda: onnxprune.run_experiment(model="slp", out=5),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(InputError, match="expected a "):
            call()


def test_studies_of_several_threads_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side they would draw one another's random numbers."""
    running, together = [], []

    def study(plan: Any, *_: Any, **__: Any) -> Outcome:
        running.append(plan)
        time.sleep(0.02)
        together.append(len(running))
        running.pop()
        return Outcome(Path(), pd.DataFrame({"sparsity": [plan.points[0].sparsity]}), {})

    monkeypatch.setattr(controller, "run_sweep", study)
    with ThreadPoolExecutor(4) as threads:
        how = {"model": "slp", "dataset": "digits", "technique": "weight"}
        found = list(threads.map(lambda sparsity: onnxprune.run_experiment(**how, sparsity=sparsity), range(4)))
    assert [table.sparsity.item() for table in found] == [0, 1, 2, 3]
    assert together == [1] * 4
