"""Quantises an ONNX file in the helper process, writes the result and compares the two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxprune.graph.files import files_of
from onnxprune.graph.tensors import Shape
from onnxprune.quantization.result import FileSize, QuantizeReport
from onnxprune.quantization.settings import QuantizeSettings
from onnxprune.reduction.output_file import check_output, compared
from onnxprune.reduction.samples import Data, sample_source
from onnxprune.runtime.long_work import Advance, silent, work_in_helper
from onnxprune.runtime.probe import probe
from onnxprune.runtime.sizes import SECONDS_TO_OPEN


def quantize(
    path: str | Path,
    *,
    type: str = "int8",
    dynamic: bool = False,
    calibration: str = "minmax",
    keep: Sequence[str] = (),
    max_drop: float | None = None,
    data: Data | None = None,
    data_dir: str | Path | None = None,
    samples: int = 512,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    output: str | Path | None = None,
    shapes: Mapping[str, Shape] | None = None,
    seed: int = 0,
    threads: int | None = None,
    latency: bool = True,
    batch_sizes: Sequence[int] = (),
    seconds: float = 3.0,
    advance: Advance = silent,
) -> QuantizeReport:
    """Quantises an ONNX file, writes the result, and compares the two.

    Args:
        type, dynamic, calibration, keep, max_drop, samples, seed: see `QuantizeSettings`.
        data: samples to calibrate and judge by: arrays by input name, an .npz of them, a dataset's name or .npz, or a
            folder of pictures. Static int8 needs them.
        data_dir: folder of the datasets.
        mean, std: of images' pixels in [0, 1], where the file's metadata do not say them.
        output: default: beside the file, named after what was done: MODEL-int8.onnx.
        shapes: input name -> shape with the batch, where the file leaves more than the batch open.
        threads: of the processor, for latency; default: one for each core.
        latency: whether the two files are timed, at these `batch_sizes` and for so many `seconds`.
        advance: told what is being done, how much of it is done, and how much there is.

    Raises:
        InputError: the file, the samples or the settings cannot be used.
        RunError: the result does not run or loses more than allowed; nothing is written.
    """
    path = Path(path)
    settings = QuantizeSettings(type, dynamic, calibration, tuple(keep), max_drop, samples, seed)
    settings.check_samples(data is not None)
    advance("reading the file", 0, 1)
    probe(path, seconds=SECONDS_TO_OPEN, counted=shapes or {}, fresh=False)
    files = files_of(path)
    target = path.with_name(f"{path.stem}-{settings.title}.onnx") if output is None else Path(output)
    check_output(target, files, "quantise")
    asked = (target, settings, sample_source(data, data_dir, mean, std), shapes)
    function = "onnxprune.quantization.quantized_network:quantize_file"
    report, network = work_in_helper(function, path, *asked, advance=advance)
    network.save(target)
    report = replace(report, after=FileSize.of(target))
    if not latency:
        return report
    how: dict[str, Any] = {"batch_sizes": batch_sizes, "shapes": shapes, "threads": threads, "seconds": seconds}
    return compared(report, path, target, advance, **how)
