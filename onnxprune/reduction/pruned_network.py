"""The pruned network of a file, and what is known of it: decides, cuts, checks, repairs and measures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from onnxprune.common.errors import InputError
from onnxprune.common.files import digest
from onnxprune.graph.channels import ChannelGraph
from onnxprune.graph.files import load
from onnxprune.graph.macs import OPERATORS
from onnxprune.graph.metadata import MEASURED, PRUNING
from onnxprune.graph.network import Network, label_of, metadata, parameters
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.sharing import weight_places
from onnxprune.graph.tensors import Shape
from onnxprune.reduction import single_weights
from onnxprune.reduction.accuracy import Evidence, accuracy_property, on_test_images, percent_right, why_not_tested
from onnxprune.reduction.fidelity import Fidelity, answers, compare_answers, samples_for
from onnxprune.reduction.preparation import Prepared, prepare
from onnxprune.reduction.result import Accuracy, GroupReport, LayerReport, PruneReport, Repair, Size
from onnxprune.reduction.samples import Samples, SampleSource
from onnxprune.reduction.settings import FROM_SAMPLES, UNITS, PruneSettings
from onnxprune.reduction.units import Outcome, UnitPruning
from onnxprune.runtime.long_work import Advance
from onnxprune.version import __version__


def prune_file(
    path: Path,
    settings: PruneSettings,
    makes: bool,
    data: SampleSource | None,
    shapes: Mapping[str, Shape] | None,
    advance: Advance,
) -> tuple[PruneReport, Network | None]:
    """Prunes an ONNX file, and gives the report so far with the network, shown to be what was asked for.

    Args:
        makes: whether the network is wanted; else it is None, and nothing is repaired but where that decides what goes.
        data: of samples to judge and repair by.
        shapes: input name -> shape, where the file leaves more than the batch open.

    Raises:
        InputError: the file, the samples or the settings cannot be used.
        RunError: the result fails its check.
    """
    prepared = prepare(path, shapes, settings.seed)
    samples = samples_for(path, prepared.source, data, settings.samples, settings.seed) if data else None
    if settings.technique in UNITS:
        report, plain, network = _units(path, prepared, settings, samples, advance, makes)
    else:
        report, plain, network = _weights(path, prepared, settings, samples, advance)
    if not makes:
        return report, None
    if samples is not None:
        report = _measured(report, prepared.source, plain, network, samples, advance)
    kept = {name: value for name, value in metadata(network.model).items() if name not in (*MEASURED, *PRUNING)}
    if report.accuracy is not None and samples is not None:
        kept |= accuracy_property(report.accuracy.recovered, kept, samples)
    onnx.helper.set_model_props(network.model, {**kept, **_provenance(path, report)})
    return report, network


def _units(
    path: Path, prepared: Prepared, settings: PruneSettings, samples: Samples | None, advance: Advance, makes: bool
) -> tuple[PruneReport, Network, Network]:
    """Removes whole units: the report so far, and the network before and after recovery."""
    graph = prepared.graph
    recovers = makes or settings.max_drop is not None  # which is of the recovered network
    pruning = UnitPruning(path, prepared, settings, samples, advance, recovers)
    if makes and not pruning.can_go:
        reasons = _without_units(graph) + sorted({group.frozen.reason for group in graph.groups if group.frozen})
        raise InputError(
            f"{path}: no unit of it can be removed: {'; '.join(reasons[:3]) or 'it has no layers with weights'}"
        )
    made = pruning.outcome()
    groups = tuple(_group(prepared, pruning, made, place) for place in range(len(graph.groups)))
    nodes = made.network.nodes
    repairs = tuple(Repair(label_of(nodes[fit.node]), fit.method, fit.before, fit.after) for fit in made.fits)
    plain, network = prepared.as_stored(made.plain), prepared.as_stored(made.network)
    report = _report(path, prepared, settings, samples, network, made.keep)
    return replace(report, groups=groups, check=made.check, repairs=repairs), plain, network


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


def _without_units(graph: ChannelGraph) -> list[str]:
    """Why operators with weights have no units: they are not followed (a depthwise convolution need not have any)."""
    makers = {name for group in graph.groups for name in group.producers}
    weights = {name for name, value in graph.network.weights.items() if value.dtype.kind == "f" and value.ndim > 1}
    kinds = {
        operator_type(node)
        for node in graph.network.nodes
        if operator_type(node) in OPERATORS.keys() - {"Conv", "ConvTranspose"}
        and label_of(node) not in makers
        and weights & set(node.input)
    }
    return [f"{kind} with such weights is not supported" for kind in sorted(kinds)]


def _weights(
    path: Path, prepared: Prepared, settings: PruneSettings, samples: Samples | None, advance: Advance
) -> tuple[PruneReport, Network, Network]:
    """Puts zeros in place of single weights: likewise."""
    source = prepared.graph.network
    names = weight_places(source)
    if not names:
        raise InputError(f"{path}: it has no layers with weights")
    share, scope = (settings.sparsity or 0) / 100, "global" if settings.technique == "unstructured" else "layer"
    criterion = str(settings.criterion)
    scores = single_weights.scores(source, criterion, settings.seed)
    plain = network = single_weights.apply(source, single_weights.magnitude_masks(scores, share, scope))
    if samples is not None and criterion in FROM_SAMPLES:
        network, masks = single_weights.prune_by_samples(
            prepared.graph,
            samples.fitting,
            share,
            scope,
            criterion,
            bool(settings.recovery),
            lambda done, total: advance("pruning layers", done, total),
            settings.seed,
        )
        plain = single_weights.apply(source, masks)
    nodes = network.nodes
    layers = []
    for (node, position), *_ in names.values():
        value = network.weights[nodes[node].input[position]]
        layers.append(LayerReport(label_of(nodes[node]), value.size, value.size - int(np.count_nonzero(value))))
    plain, network = prepared.as_stored(plain), prepared.as_stored(network)
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
    model, file_bytes = load(path)
    bytes_left = network.model.ByteSize() + sum(value.nbytes for value in network.weights.values())
    return PruneReport(
        source=path,
        output=None,
        replaced=False,
        settings=settings,
        before=_size(prepared, np.ones(prepared.graph.count, bool), parameters(path, model.graph), file_bytes),
        after=_size(prepared, keep, network.parameters(path), bytes_left),
        groups=(),
        layers=(),
        check=0.0,
        repairs=(),
        fidelity_plain=None,
        fidelity=None,
        accuracy=None,
        tested=None,
        samples=samples.source if samples else None,
    )


def _size(prepared: Prepared, keep: np.ndarray, found: Iterable[tuple[str, np.ndarray]], size: int) -> Size:
    values = [value for _, value in found]
    return Size(
        macs=round(prepared.graph.macs(keep) / prepared.batch),
        params=sum(value.size for value in values),
        nonzero_params=sum(int(np.count_nonzero(value)) for value in values),
        bytes=size,
    )


def _measured(
    report: PruneReport, source: Network, plain: Network, network: Network, samples: Samples, advance: Advance
) -> PruneReport:
    """With fidelity to the original, and accuracy where there are labels."""
    original = answers(source, samples.held_out)

    def fidelity(pruned: Network) -> Fidelity:
        return compare_answers(original, answers(pruned, samples.held_out), samples.held_out)

    report = replace(report, fidelity_plain=fidelity(plain), fidelity=fidelity(network))
    right = on_test_images((source, plain, network), samples, advance)
    if right is None:
        return replace(report, not_tested=why_not_tested(samples))
    return replace(report, accuracy=Accuracy(*map(percent_right, right)), tested=Evidence.of(right))


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
    return {
        "pruned_from": path.name,
        "pruned_from_sha256": digest(path) or "",
        "pruned_by": f"onnxprune {__version__}",
        "technique": settings.technique,
        "criterion": str(settings.criterion),
        "sparsity": f"{100 * report.share_gone:.4f}" if settings.sparsity is None else f"{settings.sparsity:g}",
        "prune_settings": json.dumps({name: value for name, value in asked.items() if value is not None}),
    }
