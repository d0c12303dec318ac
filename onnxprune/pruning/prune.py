"""Removes a share of a network's units: masks by NNI, then NNI's speedup for the techniques that shrink."""

import copy
import gc
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import nni
import torch
from nni.compression.speedup import ModelSpeedup
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.nn import functional as F

from onnxprune.errors import InputError
from onnxprune.models.densenet import removable_layers, remove_layers
from onnxprune.pruning import TECHNIQUES, pruners
from onnxprune.training import Batches, fitting_micro_batch, seeded_generator

ALIGN_FROM = 32
CALIBRATION_STEPS = 10
CALIBRATION_BATCH = 256
SLIM_STEPS = 20


@dataclass(frozen=True)
class Request:
    """What to remove.

    Attributes:
        technique, criterion, granularity: canonical names from the registries.
        sparsity: the share of prunable units to remove, in percent.
        channel_align: see `kept_channels`; 1: any number may be kept.
        seed: decides random criteria and the images that Taylor and slim look at.
    """

    technique: str
    criterion: str
    granularity: str
    sparsity: float
    channel_align: int
    seed: int


@dataclass
class Pruned:
    """A pruned network and what was done to it.

    Attributes:
        network: the pruned network, its structure smaller where the technique shrinks.
        held: parameter name -> 0/1 mask that fine-tuning must keep; names and shapes of `network`.
        unit_masks: layer -> 0/1 mask of what was removed, in the shape before shrinking: of the weight tensor for
            single weights, of the output units (units,) for channels.
        removed: units removed and units prunable, over all layers.
        empty_layers: layers that lost every unit and so let nothing through.
    """

    network: nn.Module
    held: dict[str, Tensor] = field(default_factory=dict)
    unit_masks: dict[str, Tensor] = field(default_factory=dict)
    removed: tuple[int, int] = (0, 0)
    empty_layers: list[str] = field(default_factory=list)


Memory = dict[tuple[str, str, int], pruners.Metrics]


def prune(
    network: nn.Module,
    request: Request,
    batches: Batches,
    input_shape: tuple[int, int, int],
    memory: Memory | None = None,
) -> Pruned:
    """Prunes a copy of `network`, which is left untouched, in evaluation mode.

    Args:
        batches: training images, which the taylor and slim criteria look at.
        input_shape: (C, H, W) of one image.
        memory: keeps scores that are taken from images, the same at every sparsity; of this network alone.

    Raises:
        InputError: the network has nothing that the technique could remove.
    """
    # NNI takes views of weights that only the default memory layout allows
    network = copy.deepcopy(network).eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if request.granularity == "layer":
        return _prune_layers(network, request)
    memory = {} if memory is None else memory
    if TECHNIQUES[request.technique].unit == "weight":
        return _prune_weights(network, request, batches, memory)
    return _prune_channels(network, request, batches, input_shape, memory)


def prunable_layers(network: nn.Module, request: Request) -> list[str]:
    """Names of the layers the request ranks, in the network's order.

    Single weights are taken from every convolution and linear layer. Output units are never taken from the
    classifier, whose units are the classes; the slim criterion judges only layers followed by a BatchNorm.

    Raises:
        InputError: there is none, with the reason.
    """
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    if TECHNIQUES[request.technique].unit == "weight":
        return layers
    layers = [name for name in layers if name != "classifier"]
    if not layers:
        raise InputError(
            f"technique '{request.technique}' has nothing to prune: the network's only layer is the classifier, whose "
            "output units are the classes; use technique weight or unstructured, or a network with hidden units"
        )
    if request.criterion == "slim":
        followed = _normalised_layers(network)
        layers = [name for name in layers if name in followed]
        if not layers:
            raise InputError(
                "criterion 'slim' needs BatchNorm layers right after the layers it prunes: use --batch-norm with the "
                "cnn, densenet121, or another criterion (l1, l2, fpgm)"
            )
    return layers


def _layer(network: nn.Module, name: str) -> nn.Conv2d | nn.Linear:
    module = network.get_submodule(name)
    assert isinstance(module, nn.Conv2d | nn.Linear)
    return module


def _normalised_layers(network: nn.Module) -> dict[str, str]:
    """Layer -> the BatchNorm that alone consumes its output."""
    found = {}
    for node in symbolic_trace(network).graph.nodes:
        if node.op != "call_module" or not isinstance(network.get_submodule(node.target), nn.BatchNorm2d):
            continue
        source = node.args[0]
        if source.op == "call_module" and len(source.users) == 1:
            found[source.target] = node.target
    return found


def _nni_share(removed: int, units: int) -> float:
    """The ratio from which NNI, which truncates units * ratio, removes exactly `removed` of `units`."""
    if removed in (0, units):
        return float(removed // units)
    return (removed + 0.5) / units


def _masks(
    network: nn.Module,
    pruner_class: Any,
    config: list[dict[str, Any]],
    request: Request,
    memory: Memory,
    **arguments: Any,
) -> pruners.Metrics:
    """The masks a pruner decides on; the network is as before."""
    settings = {key: value for key, value in arguments.items() if key != "share"}
    pruner = pruners.remembering(pruner_class)(network, config, **settings)
    if "share" in arguments:
        pruner.share = arguments["share"]
    identity = (request.technique, request.criterion, request.seed)
    layers = {name for entry in config for name in entry["op_names"]}
    if layers == memory.get(identity, {}).keys():
        masks = pruner._generate_sparsity(memory[identity])
    else:
        _, masks = pruner.compress()
        if "evaluator" in arguments:  # others are quicker judged than remembered
            memory[identity] = pruner.metrics  # without the layers that lose nothing: those NNI does not look at
    pruner.unwrap_model()
    network.eval()
    return {layer: dict(targets) for layer, targets in masks.items()}


def _evaluator(network: nn.Module, batches: Batches, seed: int, steps: int) -> pruners.TorchEvaluator:
    """NNI's view of training: gradients on fixed training images with a learning rate of 0, so that criteria that
    look at gradients leave weights and BatchNorm statistics as they are."""
    order = torch.randperm(len(batches), generator=seeded_generator(seed, "pruning criterion"))
    most = min(CALIBRATION_BATCH, len(batches))
    channels, height, width = batches.images.shape[1:]
    size = fitting_micro_batch(network, (channels, height, width), most)
    starts = [step * size % (len(batches) - size + 1) for step in range(steps)]

    def training_step(batch: tuple[Tensor, Tensor], model: nn.Module) -> Tensor:
        images, labels = batch
        return F.cross_entropy(model(images), labels)

    def training_func(model: nn.Module, optimizer: Any, step: Any, *_: object, **__: object) -> None:
        model.eval()
        for start in starts:
            optimizer.zero_grad()
            step(batches.take(order[start : start + size]), model).backward()
            optimizer.step()

    optimizer = nni.trace(torch.optim.SGD)(network.parameters(), lr=0.0)
    return pruners.TorchEvaluator(training_func, optimizer, training_step)


def _prune_weights(network: nn.Module, request: Request, batches: Batches, memory: Memory) -> Pruned:
    layers = prunable_layers(network, request)
    share = request.sparsity / 100
    generator = seeded_generator(request.seed, "random criterion")
    modules = {name: _layer(network, name) for name in layers}
    arguments: dict[str, Any] = {}
    pruner: Any = pruners.LevelPruner
    if TECHNIQUES[request.technique].scope == "global":
        config = [{"op_names": layers, "target_names": ["weight"], "sparse_ratio": share}]
        arguments["share"] = share
        pruner = pruners.GlobalLevelPruner
        if request.criterion == "taylor":
            pruner = pruners.GlobalTaylorPruner
            arguments["evaluator"] = _evaluator(network, batches, request.seed, CALIBRATION_STEPS)
            arguments["training_steps"] = CALIBRATION_STEPS
    else:
        config = [
            {"op_names": [name], "target_names": ["weight"], **_layer_target(module.weight, request)}
            for name, module in modules.items()
        ]
    if request.criterion == "random":
        pruner = pruners.randomised(pruner, generator)
    found = _masks(network, pruner, config, request, memory, **arguments)
    masks = {layer: found[layer]["weight"] for layer in layers}
    with torch.no_grad():
        for layer, mask in masks.items():
            modules[layer].weight.mul_(mask)
    return Pruned(
        network,
        held={f"{layer}.weight": mask for layer, mask in masks.items()},
        unit_masks=masks,
        removed=_count_removed(masks),
        empty_layers=_empty(masks),
    )


def _layer_target(weight: Tensor, request: Request) -> dict[str, float]:
    """NNI's setting for one layer of a per-layer technique.

    The threshold of Han et al. 2015 is a multiple of the layer's standard deviation. The multiple taken here is the
    quantile that would remove exactly the requested share of normally distributed weights.
    """
    share = request.sparsity / 100
    if request.criterion != "threshold":
        return {"sparse_ratio": _nni_share(round(share * weight.numel()), weight.numel())}
    if share == 1:
        return {"sparse_threshold": float("inf")}
    return {"sparse_threshold": statistics.NormalDist().inv_cdf((1 + share) / 2) * weight.detach().std().item()}


def kept_channels(units: int, share: float, align: int) -> int:
    """How many of `units` output units stay when a `share` of them is to go.

    Layers of 32 units or more keep a multiple of `align`, the nearest one, because onnxruntime's kernels lose more on
    other widths than the removal gains; where less than one would be left, a multiple of its half. At least one unit
    stays, for no layer can be empty.
    """
    if share == 0:  # nothing goes, even where the number of units is no multiple
        return units
    kept = units * (1 - share)
    if units < ALIGN_FROM or align == 1:
        return max(1, round(kept))
    step = align if kept >= align else align // 2
    return min(units, max(step, round(kept / step) * step))


def _prune_channels(
    network: nn.Module, request: Request, batches: Batches, input_shape: tuple[int, int, int], memory: Memory
) -> Pruned:
    layers = prunable_layers(network, request)
    share = request.sparsity / 100
    everything = share == 1
    units = {name: len(_layer(network, name).weight) for name in layers}
    # at 100 % one unit a layer stays in the structure, because no ONNX layer can be empty, and is zeroed below
    kept = {name: 1 if everything else kept_channels(units[name], share, request.channel_align) for name in layers}
    judged = _normalised_layers(network) if request.criterion == "slim" else {name: name for name in layers}
    config = [
        {"op_names": [judged[name]], "sparse_ratio": _nni_share(units[name] - kept[name], units[name])}
        for name in layers
    ]
    arguments: dict[str, Any] = {}
    pruner: Any = {"l1": pruners.L1NormPruner, "l2": pruners.L2NormPruner, "fpgm": pruners.FPGMPruner}.get(
        request.criterion
    )
    if request.criterion == "random":
        pruner = pruners.randomised(pruners.L1NormPruner, seeded_generator(request.seed, "random criterion"))
    elif request.criterion in ("taylor", "slim"):
        pruner, steps = (
            (pruners.TaylorPruner, CALIBRATION_STEPS)
            if request.criterion == "taylor"
            else (pruners.ScalingFactorPruner, SLIM_STEPS)
        )
        arguments = {"evaluator": _evaluator(network, batches, request.seed, steps), "training_steps": steps}
    raw = _masks(network, pruner, config, request, memory, **arguments)
    # a unit's mask is the same all over its weights, or is that of its BatchNorm's one weight
    keep = {name: raw[judged[name]]["weight"].reshape(units[name], -1)[:, 0] for name in layers}
    shrunk = _shrink(network, keep, input_shape)
    held = {}
    if everything:
        held = _zero_layers(shrunk, layers)
        keep = {name: torch.zeros_like(mask) for name, mask in keep.items()}
    return Pruned(shrunk, held=held, unit_masks=keep, removed=_count_removed(keep), empty_layers=_empty(keep))


def _shrink(network: nn.Module, keep: dict[str, Tensor], input_shape: tuple[int, int, int]) -> nn.Module:
    """The network without the units whose entry in `keep` (layer -> (units,)) is 0, by NNI's speedup.

    A removed channel is gone from its consumers too: what a BatchNorm would have made of it (a constant) is dropped.
    """
    if all(bool(mask.all()) for mask in keep.values()):
        return network  # nothing to remove: the network stays itself, bit for bit
    masks = {}
    for name, mask in keep.items():
        module = _layer(network, name)
        shape = (-1,) + (1,) * (module.weight.dim() - 1)
        masks[name] = {"weight": mask.view(shape).expand_as(module.weight).clone()}
        if module.bias is not None:
            masks[name]["bias"] = mask.clone()
    device = next(network.parameters()).device
    # NNI finds dead channels by running random data through; its own batch of 8 is the least that works
    images = torch.randn(8, *input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shrunk: nn.Module = ModelSpeedup(network, images, masks, graph_module=symbolic_trace(network)).speedup_model()
    gc.collect()  # NNI leaves every intermediate tensor in reference cycles: gigabytes for a DenseNet
    return shrunk.eval()


def _zero_layers(network: nn.Module, layers: list[str]) -> dict[str, Tensor]:
    """Zeroes what is left of `layers` and returns the masks that keep it so."""
    held = {}
    with torch.no_grad():
        for layer in layers:
            for name, parameter in network.get_submodule(layer).named_parameters():
                parameter.zero_()
                held[f"{layer}.{name}"] = torch.zeros_like(parameter)
    return held


def _prune_layers(network: nn.Module, request: Request) -> Pruned:
    """Removes the dense layers with the lowest mean score of their weights; only DenseNet's can be left out."""
    names = removable_layers(network)
    if not names:
        raise InputError(
            "granularity 'layer' needs an architecture whose layers can be left out: densenet121 is one; slp and cnn "
            "are not"
        )
    scores = _layer_scores(network, names, request)
    removed = set(sorted(names, key=lambda name: scores[name])[: round(request.sparsity / 100 * len(names))])
    masks = {
        name: torch.full((len(_layer(network, f"{name}.conv2").weight),), float(name not in removed)) for name in names
    }
    remove_layers(network, removed)
    return Pruned(network.eval(), unit_masks=masks, removed=(len(removed), len(names)))


def _layer_scores(network: nn.Module, names: Sequence[str], request: Request) -> dict[str, float]:
    if request.criterion == "random":
        values = torch.rand(len(names), generator=seeded_generator(request.seed, "random criterion"))
        return dict(zip(names, values.tolist(), strict=True))
    power = {"l1": 1, "l2": 2}[request.criterion]
    scores = {}
    for name in names:
        convolutions = [_layer(network, f"{name}.{part}") for part in ("conv1", "conv2")]
        weights = torch.cat([convolution.weight.detach().flatten() for convolution in convolutions])
        scores[name] = weights.abs().pow(power).mean().item()  # a mean: earlier layers have fewer weights
    return scores


def _count_removed(masks: dict[str, Tensor]) -> tuple[int, int]:
    removed = sum(int((mask == 0).sum()) for mask in masks.values())
    return removed, sum(mask.numel() for mask in masks.values())


def _empty(masks: dict[str, Tensor]) -> list[str]:
    return [name for name, mask in masks.items() if not mask.any()]
