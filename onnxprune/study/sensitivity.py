"""How much each layer bears: accuracy when units are removed from one layer alone, without fine-tuning; without labels
fidelity.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from onnxprune.bridge.measure import judged_network
from onnxprune.common.errors import InputError
from onnxprune.common.output import silenced
from onnxprune.common.progress import Reporter, Verbosity
from onnxprune.pruning.decide import decide
from onnxprune.pruning.layers import leading_layers
from onnxprune.pruning.remove import zeroed
from onnxprune.pruning.request import Request
from onnxprune.results.quality import ACCURACY, FIDELITY
from onnxprune.results.task import RetryPolicy
from onnxprune.settings.point import FIELDS
from onnxprune.settings.sweep import Sweep
from onnxprune.study import soundness
from onnxprune.study.base import ensure_base
from onnxprune.study.feasibility import check_prunable
from onnxprune.study.jobs import Materials
from onnxprune.training.setup import training_batches


@dataclass(frozen=True)
class LayerAccuracy:
    """What is left when one layer alone loses units.

    Attributes:
        layer: its name.
        units: how many it has: weights, or output units.
        sparsity: percent of them that were to go.
        removed: units that went.
        accuracy: top-1 on the validation split, in percent, before any fine-tuning; None without labels.
        fidelity: to the base on the validation split, in percent, without labels; else None.
        drop: percentage points below the base's on the same images.
    """

    layer: str
    units: int
    sparsity: float
    removed: int
    accuracy: float | None
    fidelity: float | None
    drop: float


def sensitivity(
    plan: Sweep,
    runs: Path,
    data_dir: Path | None = None,
    images: int | None = None,
    verbosity: Verbosity = Verbosity.NORMAL,
) -> list[LayerAccuracy]:
    """Removes each share of the plan from each layer of its base in turn (Li et al. 2017, arXiv 1608.08710).

    The base is trained unless `runs` has it. Units are zeroed in place, which computes what the shrunk network does; as
    nothing is timed, any width will do, and the share is the one that was asked for.

    Args:
        plan: points that differ in sparsity alone.
        images: of the validation split, always the same ones; default: all.

    Raises:
        InputError: points that differ in more, nothing to prune, or data that cannot be had.
        RunError: the base failed.
    """
    for name in FIELDS:
        if name != "sparsity" and len({getattr(point, name) for point in plan.points}) > 1:
            raise InputError(f"sensitivity is of one network, pruned in one way: expected one {name}, got several")
    first = plan.points[0]
    materials = Materials(data_dir, verbosity)
    dataset = materials.dataset(first)
    soundness.check([first], materials)
    check_prunable([first], materials)
    device = torch.device(first.device)
    found = []
    with Reporter(1 + len(plan.points), verbosity) as reporter:
        for note in materials.notes:
            reporter.say(note)
        ensure_base(first, dataset, runs, reporter, RetryPolicy())
        base = materials.base(first, runs)
        quality = ACCURACY if dataset.labelled else FIDELITY
        request = Request.of(first, granularity="unit", sparsity=0, channel_align=1)
        with silenced():
            batches = training_batches(first, dataset, base.network)
            layers = leading_layers(base.network, request, dataset.input_shape)
            whole = judged_network(base.network, dataset, device, base.network, images).percent
        for point in plan.points:
            reporter.begin(f"{point.sparsity:g} % of each layer")
            worst = whole
            for layer in layers:
                reporter.stage(layer)
                alone = dataclasses.replace(request, shares={layer: point.sparsity / 100})
                with silenced():
                    masks = decide(base.network, alone, batches, base.memory)
                    network = zeroed(base.network, alone, masks, dataset.input_shape)
                    left = judged_network(network, dataset, device, base.network, images).percent
                mask = masks[layer]
                removed = mask.numel() - int(mask.sum())
                either = {name: left if name == quality.name else None for name in (ACCURACY.name, FIDELITY.name)}
                found.append(LayerAccuracy(layer, mask.numel(), point.sparsity, removed, **either, drop=whole - left))
                worst = min(worst, left)
            reporter.end(f"validation {quality.name} at least {worst:.2f} %, of {whole:.2f} %")
    return found
