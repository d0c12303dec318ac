"""Ranges of activations, from samples, by onnxruntime's calibrators."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnxprune.common.output import silenced
from onnxprune.runtime.random_inputs import Inputs

_NAMES = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


def method(calibration: str) -> Any:
    """onnxruntime's own word for a calibration."""
    from onnxruntime.quantization import CalibrationMethod

    return CalibrationMethod[_NAMES[calibration]]


class _Once:
    """What onnxruntime calls a reader: the inputs of one batch, then none."""

    def __init__(self, batch: Inputs) -> None:
        self._batch: Inputs | None = batch

    def get_next(self) -> Inputs | None:
        batch, self._batch = self._batch, None
        return batch


def calibrate(model: Path, batches: Sequence[Inputs], calibration: str, kinds: Sequence[str], out: Path) -> None:
    """Writes the ranges of all activations around nodes of these kinds, in the form that `quantize_static` reads.

    Batches are given one by one: given together, the calibrators of histograms keep every activation of all of them
    (onnxruntime issues 10503, 21979), and fail where the last batch is smaller (18792).
    """
    from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data

    with silenced():
        calibrator = create_calibrator(
            model, list(kinds), str(model.with_suffix(".augmented.onnx")), calibrate_method=method(calibration)
        )
        for batch in batches:
            calibrator.collect_data(_Once(batch))
        save_tensors_data(calibrator.compute_data(), out)
