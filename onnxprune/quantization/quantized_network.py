"""The quantised network of a file, and what is known of it: converts, decides what stays in float32, and measures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from onnxprune.common.errors import InputError, RunError
from onnxprune.common.files import digest
from onnxprune.graph.metadata import MEASURED
from onnxprune.graph.network import Network, metadata, opset
from onnxprune.graph.shapes import input_shapes
from onnxprune.graph.tensors import Shape
from onnxprune.quantization.activation_products import in_eight_bits
from onnxprune.quantization.conversion import Converter, kinds_of
from onnxprune.quantization.preparation import NEEDED_OPSET, Prepared, in_needed_opset, prepare
from onnxprune.quantization.result import Accuracy, FileSize, LayerReport, QuantizeReport
from onnxprune.quantization.sensitivity import layers_to_keep
from onnxprune.quantization.settings import QuantizeSettings
from onnxprune.reduction.accuracy import Evidence, accuracy_property, on_test_images, percent_right, why_not_tested
from onnxprune.reduction.fidelity import answers, compare_answers, deciding_score, samples_for
from onnxprune.reduction.preparation import TOLERANCE, difference
from onnxprune.reduction.samples import Samples, SampleSource
from onnxprune.runtime.execution import open_network, run
from onnxprune.runtime.long_work import Advance
from onnxprune.runtime.random_inputs import Inputs, random_inputs
from onnxprune.version import __version__


def quantize_file(
    path: Path,
    output: Path,
    settings: QuantizeSettings,
    data: SampleSource | None,
    shapes: Mapping[str, Shape] | None,
    advance: Advance,
) -> tuple[QuantizeReport, Network]:
    """Quantises an ONNX file, and gives the report so far with the network, shown to run.

    Args:
        output: where it will be written.
        data: of samples to calibrate and judge by.
        shapes: input name -> shape with the batch, where the file leaves more than the batch open.

    Raises:
        InputError: the file, the samples or the settings cannot be used.
        RunError: the result does not run or loses more than allowed.
    """
    prepared = prepare(path, kinds_of(settings), shapes)
    samples = samples_for(path, prepared.source, data, settings.samples, settings.seed) if data else None
    answered = _answered(path, prepared.source, shapes, settings.seed) if samples is None else (samples.fitting[0], {})
    _check_opset(path, prepared.source, answered[0])
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
        output=output,
        replaced=output.exists(),
        settings=settings,
        before=FileSize.of(path),
        after=FileSize(0, 0),
        layers=_layers(prepared, network, settings, asked, sensitive, errors),
        drop=None,
        fidelity=None,
        accuracy=None,
        tested=None,
        samples=samples.source if samples else None,
    )
    try:
        if samples is None:
            _check_run(path, network, *answered)
        else:
            report = _measured(report, prepared.source, network, samples, advance)
    except InputError as error:  # the original ran
        raise RunError(f"{path}: quantised, it does not run: leave layers in float32 with --keep ({error})") from error
    properties = {name: value for name, value in metadata(prepared.source.model).items() if name not in MEASURED}
    if report.accuracy is not None and samples is not None:
        properties |= accuracy_property(report.accuracy.quantized, properties, samples)
    kept = [layer.layer for layer in report.layers if layer.reason]
    onnx.helper.set_model_props(network.model, {**properties, **provenance(path, settings, kept)})
    return report, network


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
    network: Network,
    settings: QuantizeSettings,
    asked: Sequence[str],
    sensitive: Sequence[str],
    errors: Mapping[str, float],
) -> tuple[LayerReport, ...]:
    whole = max(1, prepared.macs)
    by_chance = in_eight_bits(network.model.graph)  # nobody asked for it, and it is so
    found = []
    for layer in prepared.layers:
        reason = "" if layer.node in by_chance else layer.obstacle or ""
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


def _answered(
    path: Path, source: Network, shapes: Mapping[str, Shape] | None, seed: int
) -> tuple[Inputs, dict[str, np.ndarray]]:
    """Random inputs, and what the original answers to them.

    Raises:
        InputError: an input takes none, or the original does not run on them.
    """
    sizes = input_shapes(path, source.model.graph, source.fixed_batch or 1, shapes)
    with open_network(source) as session:
        try:
            feed = random_inputs(session, sizes, seed)
        except InputError as error:
            raise InputError(f"{path}: {error}: give --data") from error
        return feed, run(session, feed)


def _check_opset(path: Path, source: Network, feed: Inputs) -> None:
    """Raises an InputError where what onnx makes of an earlier opset computes something else.

    Without optimisations, whose rounding may change the order of what is sorted, both run the same kernels.
    """
    before = opset(source.model)
    if before >= NEEDED_OPSET:
        return
    found = []
    for network in (source, Network(in_needed_opset(path, source), {})):
        with open_network(network, optimise=False) as session:
            found.append(run(session, feed))
    if difference(*found) > TOLERANCE:
        raise InputError(
            f"{path}: it is of opset {before}, and what onnx makes of it for opset {NEEDED_OPSET} gives other outputs: "
            f"export it again with opset {NEEDED_OPSET}"
        )


def _check_run(path: Path, network: Network, feed: Inputs, expected: Mapping[str, np.ndarray]) -> None:
    """Raises a RunError where the result does not run on these inputs, or not to finite numbers where the original
    does."""
    with open_network(network) as session:
        _check_finite(path, [expected], [run(session, feed)])


def _check_finite(
    path: Path, expected: Sequence[Mapping[str, np.ndarray]], found: Sequence[Mapping[str, np.ndarray]]
) -> None:
    """Raises a RunError where answers are not finite that were before: masked scores may be minus infinity."""
    pairs = [
        (value, after[name])
        for before, after in zip(expected, found, strict=True)
        for name, value in before.items()
        if getattr(value, "dtype", np.dtype(int)).kind == "f"
    ]
    if any((np.isfinite(before) & ~np.isfinite(after)).any() for before, after in pairs):
        raise RunError(
            f"{path}: quantised, its outputs are not finite numbers: numbers on the way exceed the type; leave the "
            "layers that make them in float32 with --keep"
        )


def _measured(
    report: QuantizeReport, source: Network, network: Network, samples: Samples, advance: Advance
) -> QuantizeReport:
    """With fidelity to the original and what was lost, and accuracy where there are labels."""
    expected, found = (answers(each, samples.held_out) for each in (source, network))
    _check_finite(report.source, expected, found)
    advance("measuring what is lost", 0, 1)
    whole, left = (deciding_score(each, source, samples) for each in (source, network))
    report = replace(
        report,
        fidelity=compare_answers(expected, found, samples.held_out),
        drop=None if whole is None or left is None else whole - left,
    )
    right = on_test_images((source, network), samples, advance)
    if right is None:
        return replace(report, not_tested=why_not_tested(samples))
    return replace(report, accuracy=Accuracy(*map(percent_right, right)), tested=Evidence.of(right))
