"""Quantises an ONNX file: converts, decides what stays in float32, checks, and says what it cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from onnxprune.analysis.comparison import compare
from onnxprune.common.errors import InputError, RunError
from onnxprune.common.files import compressed_bytes, digest
from onnxprune.graph.files import files_of
from onnxprune.graph.metadata import parse
from onnxprune.graph.network import Network, metadata
from onnxprune.graph.shapes import input_shapes
from onnxprune.graph.tensors import Shape
from onnxprune.quantization.conversion import Converter, kinds_of
from onnxprune.quantization.preparation import Prepared, prepare
from onnxprune.quantization.result import Accuracy, FileSize, LayerReport, QuantizeReport
from onnxprune.quantization.sensitivity import Advance, layers_to_keep
from onnxprune.quantization.settings import QuantizeSettings
from onnxprune.reduction.fidelity import accuracy, answers, check_answers, compare_answers, deciding_score
from onnxprune.reduction.output_file import check_output
from onnxprune.reduction.samples import Data, Samples, read_samples
from onnxprune.runtime.execution import open_network, run
from onnxprune.runtime.probe import probe
from onnxprune.runtime.random_inputs import random_inputs
from onnxprune.version import __version__

_SECONDS_TO_OPEN = 30  # of a file: by the clock, and the machine may be busy
_STALE = ("accuracy",)  # properties of a file that no longer hold once it is quantised


def _silent(what: str, done: int, total: int) -> None:
    """Nobody is told."""


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
    advance: Advance = _silent,
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
    target = path.with_name(f"{path.stem}-{settings.title}.onnx") if output is None else Path(output)
    advance("reading the file", 0, 1)
    probe(path, seconds=_SECONDS_TO_OPEN, counted=shapes or {})
    check_output(path, target, files_of(path), "quantise")
    prepared = prepare(path, kinds_of(settings), shapes)
    given = None
    if data is not None:
        given = read_samples(
            data,
            prepared.source,
            parse(metadata(prepared.source.model)),
            count=settings.samples,
            mean=mean,
            std=std,
            data_dir=None if data_dir is None else Path(data_dir),
            seed=seed,
        )
        check_answers(path, prepared.source, given)
    report = _quantize(path, target, prepared, settings, given, shapes, advance)
    if latency:
        advance("comparing", 0, 1)
        how: dict[str, Any] = {"batch_sizes": batch_sizes, "shapes": shapes, "threads": threads, "seconds": seconds}
        try:
            report = replace(report, comparison=tuple(compare(path, [target], **how)))
        except InputError as error:  # the file is there and checked: that the two cannot be timed does not undo it
            report = replace(report, not_compared=str(error))
    return report


def _quantize(
    path: Path,
    target: Path,
    prepared: Prepared,
    settings: QuantizeSettings,
    samples: Samples | None,
    shapes: Mapping[str, Shape] | None,
    advance: Advance,
) -> QuantizeReport:
    """Converts, checks and writes."""
    asked = prepared.nodes_of(settings.keep, path)
    errors: Mapping[str, float] = {}
    sensitive: tuple[str, ...] = ()
    advance("calibrating" if settings.calibrated else "converting", 0, 1)
    with Converter(prepared, settings, samples.fitting if samples else (), path) as converter:
        if settings.max_drop is not None and samples is not None:
            sensitive, errors = layers_to_keep(path, converter, prepared, samples, asked, settings.max_drop, advance)
        network = converter.convert((*asked, *sensitive))
    report = QuantizeReport(
        source=path,
        output=target,
        replaced=target.exists(),
        settings=settings,
        before=_size(path),
        after=FileSize(0, 0),
        layers=_layers(prepared, settings, asked, sensitive, errors),
        drop=None,
        fidelity=None,
        accuracy=None,
        samples=samples.source if samples else None,
    )
    if samples is None:
        _check_run(path, network, shapes, settings.seed)
    else:
        report = _measured(report, prepared.source, network, samples, advance)
    properties = {name: value for name, value in metadata(prepared.source.model).items() if name not in _STALE}
    if report.accuracy is not None:
        properties["accuracy"] = f"{report.accuracy.quantized:.4f}"
    kept = [layer.layer for layer in report.layers if layer.reason]
    onnx.helper.set_model_props(network.model, {**properties, **provenance(path, settings, kept)})
    network.save(target)
    return replace(report, after=_size(target))


def provenance(path: Path, settings: QuantizeSettings, kept: Sequence[str]) -> dict[str, str]:
    """What a quantised file says of how it was made of the one at `path`.

    Args:
        kept: layers that stay in float32.
    """
    asked = {
        "calibration": settings.calibration if settings.calibrated else None,
        "keep": list(settings.keep),
        "max_drop": settings.max_drop,
        "samples": settings.samples if settings.calibrated else None,
        "seed": settings.seed,
    }
    return {
        "quantized_from": path.name,
        "quantized_from_sha256": digest(path) or "",
        "quantized_by": f"onnxprune {__version__}, onnxruntime {onnxruntime.__version__}",
        "quantization": settings.title,
        "quantize_settings": json.dumps({name: value for name, value in asked.items() if value is not None}),
        "float32_layers": json.dumps(list(kept)),
    }


def _layers(
    prepared: Prepared,
    settings: QuantizeSettings,
    asked: Sequence[str],
    sensitive: Sequence[str],
    errors: Mapping[str, float],
) -> tuple[LayerReport, ...]:
    whole = max(1, prepared.macs)
    found = []
    for layer in prepared.layers:
        reason = layer.obstacle or ""
        if not reason and layer.node in asked:
            reason = "asked for"
        elif not reason and layer.node in sensitive:
            reason = "sensitive"
        found.append(
            LayerReport(
                layer=layer.name,
                operator=layer.operator,
                type="float32" if reason else settings.type,
                macs_share=layer.macs / whole,
                reason=reason,
                error_alone=errors.get(layer.node),
            )
        )
    return tuple(found)


def _size(path: Path) -> FileSize:
    files = files_of(path)
    return FileSize(sum(file.stat().st_size for file in files), sum(compressed_bytes(file) for file in files))


def _check_run(path: Path, network: Network, shapes: Mapping[str, Shape] | None, seed: int) -> None:
    """Raises a RunError where the result does not run, or not to finite numbers, on random inputs."""
    sizes = input_shapes(path, network.model.graph, network.fixed_batch or 1, shapes)
    with open_network(network) as session:
        found = run(session, random_inputs(session, sizes, seed))
    _check_finite(path, [found])


def _check_finite(path: Path, found: Sequence[Mapping[str, np.ndarray]]) -> None:
    floats = [
        value for answer in found for value in answer.values() if getattr(value, "dtype", np.dtype(int)).kind == "f"
    ]
    if not all(np.isfinite(value).all() for value in floats):
        raise RunError(
            f"{path}: quantised, its outputs are not finite numbers: numbers on the way exceed the type; leave the "
            "layers that make them in float32 with --keep"
        )


def _measured(
    report: QuantizeReport, source: Network, network: Network, samples: Samples, advance: Advance
) -> QuantizeReport:
    """With fidelity to the original and what was lost, and accuracy where there are labels."""
    found = answers(network, samples.held_out)
    _check_finite(report.source, found)
    advance("measuring what is lost", 0, 1)
    whole, left = (deciding_score(each, source, samples) for each in (source, network))
    report = replace(
        report,
        fidelity=compare_answers(answers(source, samples.held_out), found),
        drop=None if whole is None or left is None else whole - left,
    )
    if samples.test is None:
        return report
    scores = []
    for number, each in enumerate((source, network)):
        advance("measuring accuracy", number, 2)
        score = accuracy(each, samples.test)
        if score is None:
            return report
        scores.append(score)
    return replace(report, accuracy=Accuracy(*scores))
