"""Pruning that decides by itself how far to go: the validation split says when to stop."""

import copy
import dataclasses
from dataclasses import dataclass

from torch import nn

from onnxprune.common.shares import within
from onnxprune.pruning.decide import decide
from onnxprune.pruning.layers import leading_layers
from onnxprune.pruning.remove import Pruned
from onnxprune.pruning.request import Masks
from onnxprune.schedules.context import PruningContext

_FIRST_STEP = 0.2  # of what is left of a layer, in the first rounds
_LAST_STEP = 0.02  # a smaller one is not tried
_PROBE_IMAGES = 1_000  # of the validation split, that a layer's sensitivity is taken from
_ALL = ""  # stands for all layers where one ranking goes over them


@dataclass(frozen=True)
class _State:
    """A network of full size with zeros in place, and how it was made."""

    network: nn.Module
    shares: dict[str, float]
    masks: Masks


def adaptive(context: PruningContext) -> Pruned:
    """Raises the sparsity in rounds, each fine-tuned for its part of the epochs, while validation accuracy holds.

    In a round each layer loses a share of what is left of it: most where taking that share from this layer alone cost
    the base least. A round after which the network is more than `max_drop` points of validation accuracy below the
    base, or has collapsed, is taken back, and the next one takes half as much. It ends when a step would be tiny, every
    layer is at the point's sparsity, or the rounds are over; `context.path` has a row a round. At a sparsity of 0 % it
    is fine-tuned in all of the rounds with nothing removed.
    """
    point = context.point
    if not point.sparsity:
        return _unpruned(context)
    limit = context.judged(context.base).percent - point.max_drop
    shape = context.dataset.input_shape
    layers = [_ALL] if context.request.globally else leading_layers(context.base, context.request, shape)
    paces = _paces(context, layers)
    best = _State(copy.deepcopy(context.base), dict.fromkeys(layers, 0.0), {})
    step, number = _FIRST_STEP, 0
    rejected: dict[str, int] | None = None  # what was kept of each layer
    while number < point.rounds and step >= _LAST_STEP:
        trial = _further(context, best, paces, step)
        if trial is None:
            break
        if _kept(trial.masks) == rejected:  # channels go in multiples: a smaller step may come to the same
            step /= 2
            continue
        number += 1
        held = context.held(trial.network, trial.masks)
        context.listener.stage(f"round {number}")
        before = context.cost, context.flops
        context.finetune(trial.network, context.finetuning_epochs / point.rounds, masks=held)
        found = context.judged(trial.network)
        accepted = within(limit - found.percent, 0.0) and not found.collapsed
        context.path.append(
            {
                "round": number,
                "sparsity": _percent(trial.masks),
                "validation_accuracy" if context.dataset.labelled else "validation_fidelity": found.percent,
                "limit": limit,
                "accepted": accepted,
                "layers": {layer: 100 * share for layer, share in trial.shares.items() if layer != _ALL},
            }
        )
        if accepted:
            best = trial
        else:
            context.discard(*before)
            rejected = _kept(trial.masks)
            step /= 2
    return context.remove(best.network, best.masks or _decide(context, best.network, best.shares, {}))


def _unpruned(context: PruningContext) -> Pruned:
    network, rounds = copy.deepcopy(context.base), context.point.rounds
    for number in range(1, rounds + 1):
        context.listener.stage(f"round {number}")
        context.finetune(network, context.finetuning_epochs / rounds)
    return context.remove(network, context.decide(network, 0.0))


def _decide(context: PruningContext, network: nn.Module, shares: dict[str, float], gone: Masks) -> Masks:
    if _ALL in shares:
        return context.decide(network, 100 * shares[_ALL], gone)
    request = dataclasses.replace(context.request, shares=shares)
    return decide(network, request, context.batches, None, gone, context.criterion)


def _further(context: PruningContext, state: _State, paces: dict[str, float], step: float) -> _State | None:
    """A copy of the state from which more is decided to go; None where nothing more may go.

    Channels go in multiples, so that a small share more may take none: then the next one is added.
    """
    most = context.point.sparsity / 100
    shares = state.shares
    network = copy.deepcopy(state.network)
    while True:
        following = {
            layer: min(most, share + step * paces[layer] * max(1 - share, _LAST_STEP))
            for layer, share in shares.items()
        }
        if following == shares:
            return None
        shares = following
        masks = _decide(context, network, shares, state.masks)
        if _percent(masks) > _percent(state.masks):
            return _State(network, shares, masks)


def _kept(masks: Masks) -> dict[str, int]:
    return {layer: int(mask.sum()) for layer, mask in masks.items()}


def _percent(masks: Masks) -> float:
    units = sum(mask.numel() for mask in masks.values())
    return 100 * (1 - sum(int(mask.sum()) for mask in masks.values()) / units) if units else 0.0


def _paces(context: PruningContext, layers: list[str]) -> dict[str, float]:
    """Layer -> how fast it is pruned (over 0, up to 1): 1 for the one whose loss of units costs the base least."""
    if len(layers) == 1:
        return dict.fromkeys(layers, 1.0)
    base = context.base
    whole = context.judged(base, _PROBE_IMAGES).percent
    drops = {}
    for layer in layers:
        context.listener.stage(f"sensitivity of {layer}")
        request = dataclasses.replace(context.request, shares={layer: 0.5})
        zeroed = context.zeroed(base, decide(base, request, context.batches, context.memory, None, context.criterion))
        drops[layer] = max(0.0, whole - context.judged(zeroed, _PROBE_IMAGES).percent)
    mean = sum(drops.values()) / len(drops) or 1.0
    paces = {layer: 1 / (1 + drop / mean) for layer, drop in drops.items()}
    return {layer: pace / max(paces.values()) for layer, pace in paces.items()}
