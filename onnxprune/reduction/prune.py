"""Prunes an ONNX file on its own graph: decides, cuts, checks, repairs, and says what it cost."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxprune.analysis.comparison import compare
from onnxprune.common.errors import InputError
from onnxprune.common.files import digest
from onnxprune.common.widths import AUTO, DEFAULT_STEP
from onnxprune.graph.files import files_of
from onnxprune.graph.metadata import parse
from onnxprune.graph.network import Network, label_of, metadata
from onnxprune.graph.tensors import Shape
from onnxprune.reduction import single_weights
from onnxprune.reduction.fidelity import Fidelity, accuracy, answers, check_answers, compare_answers
from onnxprune.reduction.output_file import check_output
from onnxprune.reduction.preparation import Prepared, prepare
from onnxprune.reduction.recovery import METHODS
from onnxprune.reduction.result import Accuracy, GroupReport, LayerReport, PruneReport, Repair, Size
from onnxprune.reduction.samples import Data, Samples, read_samples
from onnxprune.reduction.settings import FROM_SAMPLES, UNITS, PruneSettings, parse_target
from onnxprune.reduction.units import Advance, Outcome, UnitPruning
from onnxprune.runtime.probe import probe
from onnxprune.runtime.steps import measured_step
from onnxprune.settings.values import channel_step
from onnxprune.version import __version__

_SECONDS_TO_OPEN = 30  # of the processor, for a file
# properties of a file that no longer hold once it is pruned
_STALE = ("accuracy", "sparsity", "technique", "criterion", "schedule", "granularity", "spec_hash", "seed")


def _silent(what: str, done: int, total: int) -> None:
    """Nobody is told."""


def prune(
    path: str | Path,
    *,
    sparsity: float | None = None,
    target: str | tuple[str, float] | None = None,
    max_drop: float | None = None,
    technique: str = "structured",
    criterion: str | None = None,
    data: Data | None = None,
    data_dir: str | Path | None = None,
    samples: int = 512,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    output: str | Path | None = None,
    shapes: Mapping[str, Shape] | None = None,
    channel_align: int | str = DEFAULT_STEP,
    recovery: Sequence[str] = METHODS,
    seed: int = 0,
    threads: int | None = None,
    latency: bool = True,
    batch_sizes: Sequence[int] = (),
    seconds: float = 3.0,
    dry_run: bool = False,
    advance: Advance = _silent,
) -> PruneReport:
    """Prunes an ONNX file, writes the result, and compares the two.

    Args:
        sparsity: percent of the units or weights that go.
        target: "macs=0.5" or "latency=0.5" (measured): the share of the original's that is left; shares of the layers
            then follow from their sensitivity and cost.
        max_drop: points that may be lost, see `PruneSettings`. Exactly one of the three is given; a dry run needs none.
        technique: "structured", "neuron", "weight" or "unstructured".
        criterion: default: "obs" with data, else "l1".
        data: samples to judge and repair by: arrays by input name, an .npz of them, a dataset's name or .npz, or a
            folder of pictures.
        data_dir: folder of the datasets.
        samples: of the data, at most.
        mean, std: of images' pixels in [0, 1], where the file's metadata do not say them.
        output: default: beside the file, named after what was done: MODEL-structured-50.onnx.
        shapes: input name -> shape with the batch, where the file leaves more than the batch open.
        channel_align: kept widths of convolutions are multiples of it; "auto": of the step that onnxruntime's speed
            has on this machine, measured.
        recovery: of "bias", "ridge", "match", those that may repair the network.
        threads: of the processor, for latency; default: one for each core.
        latency: whether the two files are timed, at these `batch_sizes` and for so many `seconds`.
        dry_run: nothing is repaired and nothing written.
        advance: told what is being done, how much of it is done, and how much there is.

    Raises:
        InputError: the file, the samples or the settings cannot be used.
        RunError: the result fails its check; nothing is written.
    """
    path = Path(path)
    if dry_run and sparsity is None and target is None and max_drop is None:
        sparsity = 0.0
    threads = threads or os.cpu_count() or 1
    settings = PruneSettings(
        technique=technique,
        criterion=criterion,
        sparsity=sparsity,
        target=parse_target(target) if isinstance(target, str) else target,
        max_drop=max_drop,
        align=_step(channel_align, threads),
        recovery=tuple(recovery),
        samples=samples,
        threads=threads,
        seed=seed,
    )
    if output is None:
        output = path.with_name(f"{path.stem}-{settings.title}.onnx")
    report = prune_file(
        path,
        None if dry_run else Path(output),
        settings,
        data=data,
        data_dir=None if data_dir is None else Path(data_dir),
        mean=mean,
        std=std,
        shapes=shapes,
        advance=advance,
    )
    if latency and report.output is not None:
        advance("comparing", 0, 1)
        how: dict[str, Any] = {"batch_sizes": batch_sizes, "shapes": shapes, "threads": threads, "seconds": seconds}
        try:
            report = replace(report, comparison=tuple(compare(path, [report.output], **how)))
        except InputError as error:  # the file is there and checked: that the two cannot be timed does not undo it
            report = replace(report, not_compared=str(error))
    return report


def prune_file(
    path: Path,
    output: Path | None,
    settings: PruneSettings,
    *,
    data: Data | None = None,
    data_dir: Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    shapes: Mapping[str, Shape] | None = None,
    advance: Advance = _silent,
) -> PruneReport:
    """Prunes an ONNX file, and writes the result where it is shown to be what was asked for.

    Args:
        output: None: nothing is repaired and nothing written.
        data, mean, std: samples to judge and repair by, see `onnxprune.reduction.samples.read_samples`.
        shapes: input name -> shape, where the file leaves more than the batch open.
        advance: told what is being done, how much of it is done, and how much there is.

    Raises:
        InputError: the file, the samples or the settings cannot be used.
        RunError: the result fails its check; nothing is written.
    """
    settings = settings.resolved(data is not None)
    advance("reading the file", 0, 1)
    probe(path, seconds=_SECONDS_TO_OPEN, counted=shapes or {})
    files = files_of(path)
    if output is not None:
        check_output(path, output, files, "prune")
    prepared = prepare(path, shapes, settings.seed)
    properties = metadata(prepared.source.model)
    samples = None
    if data is not None:
        samples = read_samples(
            data,
            prepared.source,
            parse(properties),
            count=settings.samples,
            mean=mean,
            std=std,
            data_dir=data_dir,
            seed=settings.seed,
        )
        check_answers(path, prepared.source, samples)
    work = _units if settings.technique in UNITS else _weights
    report, plain, network = work(path, prepared, settings, samples, advance, output is not None)
    report = replace(report, before=replace(report.before, bytes=sum(file.stat().st_size for file in files)))
    if output is None:
        return report
    if samples is not None:
        report = _measured(report, prepared.source, plain, network, samples, advance)
    kept = {name: value for name, value in metadata(network.model).items() if name not in _STALE}
    onnx.helper.set_model_props(network.model, {**kept, **_provenance(path, report)})
    replaced = output.exists()
    network.save(output)
    size = sum(file.stat().st_size for file in files_of(output))
    return replace(report, output=output, replaced=replaced, after=replace(report.after, bytes=size))


def _units(
    path: Path, prepared: Prepared, settings: PruneSettings, samples: Samples | None, advance: Advance, makes: bool
) -> tuple[PruneReport, Network, Network]:
    """Removes whole units: the report so far, and the network before and after recovery."""
    graph = prepared.graph
    pruning = UnitPruning(path, prepared, settings, samples, advance, recovers=makes)
    if makes and not pruning.can_go:
        reasons = sorted({group.frozen.reason for group in graph.groups if group.frozen})
        raise InputError(
            f"{path}: no unit of it can be removed: {'; '.join(reasons[:3]) or 'it has no layers with weights'}"
        )
    made = pruning.outcome()
    groups = tuple(_group(prepared, pruning, made, place) for place in range(len(graph.groups)))
    nodes = made.network.nodes
    repairs = tuple(Repair(label_of(nodes[fit.node]), fit.method, fit.before, fit.after) for fit in made.fits)
    report = _report(path, prepared, settings, samples, made.network, made.keep)
    return replace(report, groups=groups, check=made.check, repairs=repairs), made.plain, made.network


def _group(prepared: Prepared, pruning: UnitPruning, made: Outcome, place: int) -> GroupReport:
    graph = prepared.graph
    group = graph.groups[place]
    mine = np.zeros(graph.count, bool)
    mine[np.concatenate(group.units)] = True
    macs = sum(product.macs for product in graph.products if any(mine[labels].any() for labels in product.factors))
    gone = len(made.removed.get(place, ()))
    return GroupReport(
        producers=group.producers,
        units=len(group.units),
        kept=len(group.units) - gone,
        width=group.width,
        frozen=group.frozen.reason if group.frozen else None,
        frozen_by=group.frozen.node if group.frozen else "",
        macs_share=macs / max(graph.macs(np.ones(graph.count, bool)), 1.0),
        error_added=pruning.error_added(place, gone) if gone else None,
    )


def _weights(
    path: Path, prepared: Prepared, settings: PruneSettings, samples: Samples | None, advance: Advance, makes: bool
) -> tuple[PruneReport, Network, Network]:
    """Puts zeros in place of single weights: likewise."""
    source = prepared.graph.network
    names = single_weights.prunable(source)
    if not names:
        raise InputError(f"{path}: it has no layers with weights")
    share, scope = (settings.sparsity or 0) / 100, "global" if settings.technique == "unstructured" else "layer"
    criterion = str(settings.criterion)
    scores = single_weights.scores(source, criterion, settings.seed)
    plain = network = single_weights.apply(source, single_weights.magnitude_masks(scores, share, scope))
    if samples is not None and criterion in FROM_SAMPLES and makes:
        network, _ = single_weights.prune_by_samples(
            prepared.graph,
            samples.batches,
            share,
            scope,
            criterion,
            bool(settings.recovery),
            lambda done, total: advance("pruning layers", done, total),
            settings.seed,
        )
    nodes = network.nodes
    layers = []
    for node, position in names.values():
        value = network.weights[nodes[node].input[position]]
        layers.append(LayerReport(label_of(nodes[node]), value.size, value.size - int(np.count_nonzero(value))))
    report = _report(path, prepared, settings, samples, network, np.ones(prepared.graph.count, bool))
    return replace(report, layers=tuple(layers)), plain, network


def _report(
    path: Path,
    prepared: Prepared,
    settings: PruneSettings,
    samples: Samples | None,
    network: Network,
    keep: np.ndarray,
) -> PruneReport:
    """What is known of a pruned network before anything is measured on samples."""
    whole = np.ones(prepared.graph.count, bool)
    return PruneReport(
        source=path,
        output=None,
        replaced=False,
        settings=settings,
        before=_size(prepared, prepared.source, whole),
        after=_size(prepared, network, keep),
        groups=(),
        layers=(),
        check=0.0,
        repairs=(),
        fidelity_plain=None,
        fidelity=None,
        accuracy=None,
        samples=samples.source if samples else None,
    )


def _step(channel_align: int | str, threads: int) -> int:
    try:
        asked = channel_step(channel_align)
    except InputError as error:
        raise InputError(f"channel_align: {error}, or {AUTO}") from None
    return measured_step(threads) if isinstance(asked, str) else asked


def _size(prepared: Prepared, network: Network, keep: np.ndarray) -> Size:
    floating = [value for value in network.weights.values() if value.dtype.kind == "f"]
    return Size(
        macs=round(prepared.graph.macs(keep) / prepared.batch),
        params=sum(value.size for value in floating),
        nonzero_params=sum(int(np.count_nonzero(value)) for value in floating),
        bytes=network.model.ByteSize() + sum(value.nbytes for value in network.weights.values()),
    )


def _measured(
    report: PruneReport, source: Network, plain: Network, network: Network, samples: Samples, advance: Advance
) -> PruneReport:
    """With fidelity to the original, and accuracy where there are labels."""
    original = answers(source, samples.held_out)

    def fidelity(pruned: Network) -> Fidelity:
        return compare_answers(original, answers(pruned, samples.held_out))

    report = replace(report, fidelity_plain=fidelity(plain), fidelity=fidelity(network))
    if samples.test is None:
        return report
    scores = []
    for number, item in enumerate((source, plain, network)):
        advance("measuring accuracy", number, 3)
        score = accuracy(item, samples.test)
        if score is None:
            return report
        scores.append(score)
    return replace(report, accuracy=Accuracy(*scores))


def _provenance(path: Path, report: PruneReport) -> dict[str, str]:
    """What the file says of how it was made."""
    settings = report.settings
    asked = {
        "sparsity": settings.sparsity,
        "target": settings.target and f"{settings.target[0]}={settings.target[1]:g}",
        "max_drop": settings.max_drop,
        "channel_align": settings.align,
        "recovery": list(settings.recovery),
        "samples": settings.samples if report.samples else 0,
        "seed": settings.seed,
    }
    found = {
        "pruned_from": path.name,
        "pruned_from_sha256": digest(path) or "",
        "pruned_by": f"onnxprune {__version__}",
        "technique": settings.technique,
        "criterion": str(settings.criterion),
        "sparsity": f"{100 * report.share_gone:.4f}" if settings.sparsity is None else f"{settings.sparsity:g}",
        "prune_settings": json.dumps({name: value for name, value in asked.items() if value is not None}),
    }
    if report.accuracy is not None:
        found["accuracy"] = f"{report.accuracy.recovered:.4f}"
    return found
