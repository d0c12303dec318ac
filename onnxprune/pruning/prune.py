"""Removes a share of a network's units: masks by NNI, then NNI's speedup for the techniques that shrink."""

import copy
import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import nni
import torch
from nni.compression.speedup import ModelSpeedup
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.nn import functional as F

from onnxprune.common.errors import InputError
from onnxprune.graph.elimination import ALIGN_FROM
from onnxprune.models.densenet import removable_layers, remove_layers
from onnxprune.pruning import pruners
from onnxprune.settings.vocabulary import TECHNIQUES
from onnxprune.training.loop import Batches, fitting_micro_batch, seeded_generator

CALIBRATION_STEPS = 10
CALIBRATION_BATCH = 256
SLIM_STEPS = 20
# criterion -> the score of rectified activations, of which the mean over images and places is taken
ACTIVATION_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "apoz": lambda activations: (activations > 0).to(activations.dtype),
    "activation": lambda activations: activations,
}


Masks = dict[str, Tensor]
Memory = dict[tuple[str, str, int], pruners.Metrics]


@dataclass(frozen=True)
class Request:
    """What to remove.

    Attributes:
        technique, criterion, granularity: canonical names from the registries.
        sparsity: the share of prunable units to remove, in percent.
        channel_align: see `kept_channels`; 1: any number may be kept.
        seed: decides random criteria and the images that criteria look at.
        shares: layer -> its own share (0 to 1) in place of `sparsity`; every layer is then ranked by itself, and those
            that are not named lose nothing.
    """

    technique: str
    criterion: str
    granularity: str
    sparsity: float
    channel_align: int
    seed: int
    shares: Mapping[str, float] | None = None

    def share(self, layer: str) -> float:
        """What `layer` is to lose, 0 to 1."""
        return self.sparsity / 100 if self.shares is None else self.shares.get(layer, 0.0)

    @property
    def globally(self) -> bool:
        """Whether there is one ranking over all layers."""
        return TECHNIQUES[self.technique].scope == "global" and self.shares is None


@dataclass
class Pruned:
    """A pruned network and what was done to it.

    Attributes:
        network: the pruned network, its structure smaller where the technique shrinks.
        held: parameter name -> 0/1 mask that fine-tuning must keep; names and shapes of `network`.
        unit_masks: layer -> 0/1 mask of what was removed, in the shape before shrinking: of the weight tensor for
            single weights, of the output units (units,) for channels.
        whole_layers: whether a unit is a layer.
    """

    network: nn.Module
    held: Masks = field(default_factory=dict)
    unit_masks: Masks = field(default_factory=dict)
    whole_layers: bool = False

    @property
    def removed(self) -> tuple[int, int]:
        """Units removed and units prunable, over all layers."""
        masks = self.unit_masks.values()
        if self.whole_layers:
            return sum(not mask.any() for mask in masks), len(masks)
        return sum(int((mask == 0).sum()) for mask in masks), sum(mask.numel() for mask in masks)

    @property
    def empty_layers(self) -> list[str]:
        """Layers that lost every unit and so let nothing through; a layer that is left out blocks nothing."""
        return [] if self.whole_layers else [name for name, mask in self.unit_masks.items() if not mask.any()]


def prune(
    network: nn.Module,
    request: Request,
    batches: Batches,
    input_shape: tuple[int, int, int],
    memory: Memory | None = None,
) -> Pruned:
    """Prunes a copy of `network`, which is left untouched, in evaluation mode.

    Args:
        batches: training images, which some criteria look at.
        input_shape: (C, H, W) of one image.
        memory: keeps scores that are taken from images, the same at every sparsity; of this network alone.

    Raises:
        InputError: the network has nothing that the technique could remove.
    """
    return remove(network, request, decide(network, request, batches, memory), input_shape)


def decide(
    network: nn.Module,
    request: Request,
    batches: Batches,
    memory: Memory | None = None,
    gone: Masks | None = None,
) -> Masks:
    """What the request removes from `network`, which is left untouched.

    Args:
        gone: masks decided before, whose removed units stay removed and count.

    Returns:
        Layer -> 0/1 mask: of the shape of its weight for single weights, (units,) for output units.

    Raises:
        InputError: the network has nothing that the technique could remove.
    """
    network = _working_copy(network)
    if request.granularity == "layer":
        return _decide_layers(network, request)
    memory = {} if memory is None else memory
    if TECHNIQUES[request.technique].unit == "weight":
        return _decide_weights(network, request, batches, memory, gone or {})
    return _decide_channels(network, request, batches, memory, gone or {})


def remove(network: nn.Module, request: Request, masks: Masks, input_shape: tuple[int, int, int]) -> Pruned:
    """A copy of `network`, in evaluation mode, without what `masks` (see `decide`) remove.

    A layer that loses all of its output units keeps one, because no ONNX layer can be empty; it is zero and held so.

    Args:
        input_shape: (C, H, W) of one image.
    """
    network = _working_copy(network)
    if request.granularity == "layer":
        remove_layers(network, {name for name, mask in masks.items() if not mask.any()})
        return Pruned(network, unit_masks=masks, whole_layers=True)
    if TECHNIQUES[request.technique].unit == "weight":
        held = held_weights(network, request, masks)
        apply_held(network, held)
        return Pruned(network, held, masks)
    empty = {name: mask for name, mask in masks.items() if not mask.any()}
    with torch.no_grad():  # NNI takes a unit that is zero already for one more to remove
        for module in empty | _norms_fed(network, empty):
            for parameter in network.get_submodule(module).parameters():
                parameter.fill_(1)
    shrunk = _shrink(network, {name: mask if mask.any() else _first(mask) for name, mask in masks.items()}, input_shape)
    held = held_weights(shrunk, request, {name: mask[:1] for name, mask in empty.items()})
    apply_held(shrunk, held)
    return Pruned(shrunk, held, masks)


def held_weights(network: nn.Module, request: Request, masks: Masks) -> Masks:
    """Parameter name -> 0/1 mask that keeps what `masks` remove at zero in a network of full size.

    Of an output unit these are its weights, its bias, and the scale and shift of every BatchNorm it feeds, so that the
    network computes what it does once it has shrunk.
    """
    if TECHNIQUES[request.technique].unit == "weight":
        return {f"{layer}.weight": mask for layer, mask in masks.items()}
    held = {}
    for module, mask in (masks | _norms_fed(network, masks)).items():
        for name, parameter in network.get_submodule(module).named_parameters():
            held[f"{module}.{name}"] = mask.view(-1, *[1] * (parameter.dim() - 1)).expand_as(parameter).clone()
    return held


def _norms_fed(network: nn.Module, masks: Masks) -> Masks:
    """BatchNorm -> 0/1 mask of its channels, of those that masked units feed."""
    return {
        name: mask
        for name, mask in masks_of_inputs(network, masks).items()
        if isinstance(network.get_submodule(name), nn.BatchNorm2d) and not mask.all()
    }


def masks_of_inputs(network: nn.Module, masks: Masks) -> Masks:
    """Convolution, linear layer or BatchNorm -> 0/1 mask of its inputs: 0 where only masked units feed one.

    Those fed by the images themselves are left out.

    Args:
        masks: layer -> 0/1 mask (units,) of its output units.
    """
    found: Masks = {}
    known: dict[Any, Tensor | None] = {}
    for node in symbolic_trace(network).graph.nodes:
        inputs = [known[source] for source in node.all_input_nodes]
        mask = inputs[0] if len(inputs) == 1 else None
        if node.op == "call_function" and node.target is torch.cat:
            mask = torch.cat(inputs) if all(entry is not None for entry in inputs) else None
        elif node.op == "call_module":
            module = network.get_submodule(node.target)
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                if mask is not None:
                    places = module.weight.shape[1] if isinstance(module, nn.Linear) else len(mask)
                    found[node.target] = mask.repeat_interleave(places // len(mask))  # flattened channel by channel
                if not isinstance(module, nn.BatchNorm2d):
                    mask = masks.get(node.target, torch.ones(len(module.weight), device=module.weight.device))
        known[node] = mask
    return found


def apply_held(network: nn.Module, held: Masks) -> None:
    """Zeroes what `held` (parameter name -> 0/1 mask) says, in place."""
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, mask in held.items():
            parameters[name].mul_(mask)


def zeroed(network: nn.Module, request: Request, masks: Masks) -> nn.Module:
    """A copy of `network` of full size with zeros for what the masks remove."""
    network = copy.deepcopy(network)
    apply_held(network, held_weights(network, request, masks))
    return network


def _working_copy(network: nn.Module) -> nn.Module:
    # NNI takes views of weights that only the default memory layout allows
    return copy.deepcopy(network).eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _first(mask: Tensor) -> Tensor:
    return F.one_hot(torch.zeros((), dtype=torch.long, device=mask.device), len(mask)).to(mask)


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


def target_units(network: nn.Module, layer: str, request: Request) -> tuple[int, int]:
    """How many units `layer` is to lose, and how many it has; of output units at least one stays to be ranked."""
    weight, share = _layer(network, layer).weight, request.share(layer)
    if TECHNIQUES[request.technique].unit == "weight":
        return round(share * weight.numel()), weight.numel()
    return len(weight) - kept_channels(len(weight), share, request.channel_align), len(weight)


def target_shape(network: nn.Module, layer: str, request: Request) -> tuple[int, ...]:
    """The shape of the mask of a layer's units."""
    shape = tuple(_layer(network, layer).weight.shape)
    return shape if TECHNIQUES[request.technique].unit == "weight" else shape[:1]


def nni_share(removed: int, units: int) -> float:
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
    gone: Masks,
    **arguments: Any,
) -> pruners.Metrics:
    """The masks a pruner decides on; the network is as before."""
    settings = {key: value for key, value in arguments.items() if key != "share"}
    pruner = pruners.remembering(pruners.scoring_lowest(pruner_class, gone))(network, config, **settings)
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


def _decide_weights(network: nn.Module, request: Request, batches: Batches, memory: Memory, gone: Masks) -> Masks:
    layers = prunable_layers(network, request)
    modules = {name: _layer(network, name) for name in layers}
    arguments: dict[str, Any] = {}
    pruner: Any = pruners.LevelPruner
    if request.globally:
        share = request.sparsity / 100
        config = [{"op_names": layers, "target_names": ["weight"], "sparse_ratio": share}]
        arguments["share"] = share
        pruner = pruners.GlobalLevelPruner
    else:
        config = [
            {"op_names": [name], "target_names": ["weight"], **_layer_target(module.weight, request, name)}
            for name, module in modules.items()
        ]
    if request.criterion == "taylor":
        pruner = pruners.GlobalTaylorPruner if request.globally else pruners.WeightTaylorPruner
        arguments["evaluator"] = _evaluator(network, batches, request.seed, CALIBRATION_STEPS)
        arguments["training_steps"] = CALIBRATION_STEPS
    elif request.criterion == "lamp":
        pruner = pruners.rescored(pruner, pruners.lamp)
    elif request.criterion == "random":
        pruner = pruners.randomised(pruner, seeded_generator(request.seed, "random criterion"))
    found = _masks(network, pruner, config, request, memory, gone, **arguments)
    return {layer: found[layer]["weight"] for layer in layers}


def _layer_target(weight: Tensor, request: Request, layer: str) -> dict[str, float]:
    """NNI's setting for one layer of a per-layer technique.

    The threshold of Han et al. 2015 is a multiple of the layer's standard deviation. The multiple taken here is the
    quantile that would remove exactly the requested share of normally distributed weights.
    """
    share = request.share(layer)
    if request.criterion != "threshold":
        return {"sparse_ratio": nni_share(round(share * weight.numel()), weight.numel())}
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


def _decide_channels(network: nn.Module, request: Request, batches: Batches, memory: Memory, gone: Masks) -> Masks:
    layers = prunable_layers(network, request)
    targets = {name: target_units(network, name, request) for name in layers}
    units = {name: count for name, (_, count) in targets.items()}
    emptied = [name for name in layers if request.share(name) == 1]
    judged = _normalised_layers(network) if request.criterion == "slim" else {name: name for name in layers}
    config = [{"op_names": [judged[name]], "sparse_ratio": nni_share(*target)} for name, target in targets.items()]
    arguments: dict[str, Any] = {}
    pruner: Any = {"l2": pruners.L2NormPruner, "fpgm": pruners.FPGMPruner}.get(request.criterion, pruners.L1NormPruner)
    if request.criterion == "random":
        pruner = pruners.randomised(pruner, seeded_generator(request.seed, "random criterion"))
    elif request.criterion in ACTIVATION_SCORES:
        scores = _activation_scores(network, layers, batches, request)
        pruner = pruners.rescored(pruner, lambda layer, own: scores[layer].view_as(own))
    elif request.criterion in ("taylor", "slim"):
        pruner, steps = (
            (pruners.TaylorPruner, CALIBRATION_STEPS)
            if request.criterion == "taylor"
            else (pruners.ScalingFactorPruner, SLIM_STEPS)
        )
        arguments = {"evaluator": _evaluator(network, batches, request.seed, steps), "training_steps": steps}
    gone = {judged[name]: mask for name, mask in gone.items()}
    raw = _masks(network, pruner, config, request, memory, gone, **arguments)
    # a unit's mask is the same all over its weights, or is that of its BatchNorm's one weight
    keep = {name: raw[judged[name]]["weight"].reshape(units[name], -1)[:, 0] for name in layers}
    return keep | {name: torch.zeros_like(keep[name]) for name in emptied}


def _activation_scores(network: nn.Module, layers: list[str], batches: Batches, request: Request) -> Masks:
    """Layer -> score of each output unit (units,): of its activation over calibration images, rectified and after the
    BatchNorm that alone follows the layer, as the next layers see it."""
    score = ACTIVATION_SCORES[request.criterion]
    followed = _normalised_layers(network)
    sums: dict[str, Tensor] = {}

    def add(layer: str, output: Tensor) -> None:
        sums[layer] = sums.get(layer, 0) + score(F.relu(output)).flatten(2).mean(2).sum(0)

    hooks = [
        network.get_submodule(followed.get(layer, layer)).register_forward_hook(
            lambda _, __, output, layer=layer: add(layer, output if output.dim() > 2 else output.unsqueeze(2))
        )
        for layer in layers
    ]
    order = torch.randperm(len(batches), generator=seeded_generator(request.seed, "pruning criterion"))
    with torch.no_grad():
        for index in order[: CALIBRATION_STEPS * CALIBRATION_BATCH].split(64):
            network(batches.take(index)[0])
    for hook in hooks:
        hook.remove()
    return sums


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


def _decide_layers(network: nn.Module, request: Request) -> Masks:
    """The dense layers with the lowest mean score of their weights; only DenseNet's can be left out."""
    names = removable_layers(network)
    if not names:
        raise InputError(
            "granularity 'layer' needs an architecture whose layers can be left out: densenet121 is one; slp and cnn "
            "are not"
        )
    scores = _layer_scores(network, names, request)
    removed = set(sorted(names, key=lambda name: scores[name])[: round(request.sparsity / 100 * len(names))])
    return {
        name: torch.full((len(_layer(network, f"{name}.conv2").weight),), float(name not in removed)) for name in names
    }


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
