"""Decides what goes: masks by NNI, which ranks as the criterion says."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

import nni
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onnxprune.bridge.coupling import Coupling, coupling
from onnxprune.common.errors import InputError
from onnxprune.pruning import pruners
from onnxprune.pruning.calibration import CALIBRATION_BATCH, calibration_order
from onnxprune.pruning.criteria.whole_layers import decide_layers
from onnxprune.pruning.layers import Target, groups_of, prunable_layers, targets, weighted_layer, working_copy
from onnxprune.pruning.ranking import Candidates, Ranking
from onnxprune.pruning.request import Masks, Memory, Request
from onnxprune.settings.vocabulary import CRITERIA
from onnxprune.training.batches import Batches, fitting_micro_batch
from onnxprune.training.cost import Spent
from onnxprune.training.device import device_of
from onnxprune.training.opcount import metered
from onnxprune.training.strides import strides_taken_first


def decide(
    network: nn.Module,
    request: Request,
    batches: Batches,
    memory: Memory | None = None,
    gone: Masks | None = None,
    spent: Spent | None = None,
) -> Masks:
    """What the request removes from `network`, which is left untouched.

    Args:
        memory: keeps scores that are taken from images, the same at every sparsity; of this network alone.
        gone: masks decided before, whose removed units stay removed and count.
        spent: gets what the decision took; of scores that are remembered, what finding them took, once.

    Returns:
        Layer -> 0/1 mask: of the shape of its weight for single weights, (units,) for output units.

    Raises:
        InputError: the network has nothing that the technique could remove, or its channels cannot be followed.
    """
    network = working_copy(network)
    if request.granularity == "layer":
        return decide_layers(network, request)
    spent = Spent() if spent is None else spent
    candidates = _candidates(network, request, batches)
    with metered(spent, device_of(network)):
        ranking = _ranking(candidates)
    scores = _Scores({} if memory is None else memory, spent)
    if candidates.are_weights:
        return _decide_weights(candidates, ranking, scores, gone or {})
    return _decide_channels(candidates, ranking, scores, gone or {})


@dataclass(frozen=True)
class _Scores:
    """Where scores are remembered, and what gets the cost of finding them."""

    memory: Memory
    spent: Spent


def check(network: nn.Module, request: Request, batches: Batches) -> None:
    """Looks whether `decide` can be asked this, without asking NNI: at the layers and at what the criterion looks at.

    Raises:
        InputError: the network has nothing that the technique could remove, or its channels cannot be followed.
    """
    network = working_copy(network)
    if request.granularity == "layer":
        decide_layers(network, request)
        return
    candidates = _candidates(network, request, batches)
    if CRITERIA[request.criterion].ranking and _ranking(candidates).called:
        _check_called(candidates)


def _check_called(candidates: Candidates) -> None:
    """Refuses layers that a criterion would not see, see `Ranking.called`."""
    called = set()
    network = copy.deepcopy(candidates.network)
    for name in candidates.layers:
        network.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.add(name))
    network(candidates.batches.take(torch.arange(min(2, len(candidates.batches))))[0])
    if uncalled := [name for name in candidates.layers if name not in called]:
        raise InputError(
            f"criterion '{candidates.request.criterion}' looks at layers that are called, and '{uncalled[0]}' is not: "
            f"use another criterion, or --keep {','.join(uncalled)}"
        )


def _candidates(network: nn.Module, request: Request, batches: Batches) -> Candidates:
    return Candidates(network, request, prunable_layers(network, request, batches.images.shape[1:]), batches)


def _ranking(candidates: Candidates) -> Ranking:
    ranking: Ranking = resolve_name(CRITERIA[candidates.request.criterion].ranking)(candidates)
    return ranking


def _decide_weights(candidates: Candidates, ranking: Ranking, scores: _Scores, gone: Masks) -> Masks:
    request, layers = candidates.request, candidates.layers
    if request.globally:
        config = [{"op_names": layers, "target_names": ["weight"], "sparse_ratio": request.sparsity / 100}]
    else:
        config = []
        for name in layers:
            target = ranking.layer_target(weighted_layer(candidates.network, name).weight, request.share(name))
            config.append({"op_names": [name], "target_names": ["weight"], **target})
    found = _masks(candidates, ranking, config, scores, gone)
    return {layer: found[layer]["weight"] for layer in layers}


def _decide_channels(candidates: Candidates, ranking: Ranking, scores: _Scores, gone: Masks) -> Masks:
    network, request, layers = candidates.network, candidates.request, candidates.layers
    units = coupling(network, candidates.batches.images.shape[1:])
    wanted = targets(units, layers, request, gone)
    judged = ranking.norms or {name: name for name in layers}
    judged = {name: judged[name] for name in layers if name in judged}
    config = [{"op_names": [judged[name]], "sparse_ratio": ratio} for name, ratio in nni_ratios(wanted, judged).items()]
    before = {judged[name]: mask for name, mask in gone.items() if name in judged}
    raw = _masks(candidates, ranking, config, scores, before, joints(units, wanted, judged))
    # a unit's mask is the same all over its weights, or is that of its BatchNorm's one weight
    found = {name: raw[place]["weight"].reshape(len(units.outputs[name]), -1)[:, 0] for name, place in judged.items()}
    return completed(units, wanted, found, layers)


def nni_ratios(wanted: list[Target], judged: Iterable[str]) -> dict[str, float]:
    """Judged layer -> the ratio that NNI is told, in the order of `judged`."""
    ratios = dict.fromkeys(judged, 0.0)
    for target in wanted:
        for name in target.group.layers:
            if name in judged:
                ratios[name] = max(ratios[name], target.ratio)
    return ratios


def joints(units: Coupling, wanted: list[Target], judged: Mapping[str, str]) -> list[pruners.Joint]:
    """The groups that NNI has to rank as one: all but those that are the outputs of one layer, one by one.

    Args:
        judged: layer -> the layer or BatchNorm whose scores count.
    """
    found = []
    for target in wanted:
        group = target.group
        if len(group.layers) == 1 and np.array_equal(units.outputs[group.layers[0]], group.units):
            continue
        first, last = group.units[[0, -1]]
        places = {}
        for name in group.layers:
            if name in judged:
                of = units.outputs[name]
                places[judged[name]] = torch.from_numpy(np.where((of >= first) & (of <= last), of - first, -1))
        found.append(pruners.Joint(places, len(group.units), target.removed, target.ratio))
    return found


def completed(units: Coupling, wanted: list[Target], found: Masks, layers: list[str]) -> Masks:
    """Masks of all layers, from those of the judged ones: with what is coupled to them, and emptied groups."""
    gone = units.gone(found)
    for target in wanted:
        gone[target.group.units] |= target.emptied
    return units.masks(gone, layers, next(iter(found.values())).device)


def shuffled(network: nn.Module, masks: Masks, input_shape: tuple[int, ...], generator: torch.Generator) -> Masks:
    """As many output units of each group as the masks remove, by chance."""
    units = coupling(network, input_shape)
    gone = units.gone(masks)
    for group in groups_of(units, list(masks)):
        order = torch.randperm(len(group.units), generator=generator).numpy()
        gone[group.units] = gone[group.units][order]
    return units.masks(gone, masks, next(iter(masks.values())).device)


def _masks(
    candidates: Candidates,
    ranking: Ranking,
    config: list[dict[str, Any]],
    scores: _Scores,
    gone: Masks,
    joints: Sequence[pruners.Joint] = (),
) -> pruners.Metrics:
    """The masks that NNI decides on; the network is as before."""
    network, request = candidates.network, candidates.request
    settings: dict[str, Any] = {}
    if ranking.training_steps:
        settings = {
            "evaluator": _evaluator(candidates, ranking.training_steps),
            "training_steps": ranking.training_steps,
        }
    kind = pruners.scoring_lowest(pruners.coupled(ranking.pruner, joints), gone)
    pruner = pruners.remembering(kind)(network, config, **settings)
    if request.globally:
        pruner.share = request.sparsity / 100
    identity = (request.technique, request.criterion, request.seed)
    layers = {name for entry in config for name in entry["op_names"]}
    known, cost = scores.memory.get(identity, ({}, Spent()))
    if layers == known.keys():
        masks = pruner._generate_sparsity(known)
        again = (identity, frozenset(layers)) in scores.spent.known
    else:
        cost, again = Spent(), False
        with metered(cost, device_of(network)):
            _, masks = pruner.compress()
        if ranking.training_steps or ranking.remembered:  # others are quicker judged than kept
            # without the layers that lose nothing: those NNI does not look at
            scores.memory[identity] = (pruner.metrics, cost)
    if not again:
        scores.spent.add(cost)
        scores.spent.known.add((identity, frozenset(layers)))
    pruner.unwrap_model()
    network.eval()
    return {layer: dict(targets) for layer, targets in masks.items()}


def _evaluator(candidates: Candidates, steps: int) -> pruners.TorchEvaluator:
    """NNI's view of training: gradients on fixed training images with a learning rate of 0, so that criteria that
    look at gradients leave weights and BatchNorm statistics as they are."""
    network, batches = candidates.network, candidates.batches
    order = calibration_order(batches, candidates.request.seed)
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
            with strides_taken_first(model):
                step(batches.take(order[start : start + size]), model).backward()
            optimizer.step()

    network.requires_grad_()  # layers that a user has frozen are judged too
    optimizer = nni.trace(torch.optim.SGD)(network.parameters(), lr=0.0)
    return pruners.TorchEvaluator(training_func, optimizer, training_step)
