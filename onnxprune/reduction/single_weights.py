"""Zeros in place of single weights: nothing shrinks, but zeros can be compressed, or skipped by sparse runtimes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import numpy as np

from onnxprune.graph.channels import ChannelGraph
from onnxprune.graph.network import Network
from onnxprune.graph.sharing import weight_places
from onnxprune.reduction.moments import Moments, Ridge, inverse
from onnxprune.reduction.recovery import gather
from onnxprune.reduction.samples import kept_apart
from onnxprune.reduction.sites import Site, set_bias, set_weights, sites
from onnxprune.runtime.random_inputs import Inputs
from onnxprune.runtime.stages import Stages

# Of the mean of the Gram matrix's diagonal: SparseGPT's 1e-2 is for more samples. Of fewer rows than features that is
# taken which does best on others; by the last hardly anything is made up for.
_DAMPINGS = (3e-2, 3e-1, 3.0, 30.0)
_BLOCK = 128  # columns whose weights are chosen together
_MOST_FEATURES = 8192


def scores(network: Network, criterion: str, seed: int) -> dict[str, np.ndarray]:
    """Importance of every single weight, by the weights alone: l1 (magnitude), l2 (the same order), random."""
    random = np.random.default_rng(seed)
    return {
        name: random.random(network.weights[name].shape)
        if criterion == "random"
        else np.abs(network.weights[name].astype(np.float64))
        for name in sorted(weight_places(network))
    }


def magnitude_masks(score: Mapping[str, np.ndarray], share: float, scope: str) -> dict[str, np.ndarray]:
    """True for the weights that stay: of every layer the same share goes ("layer"), or of all together ("global")."""
    if scope == "layer":
        return {name: _highest(value.ravel(), share).reshape(value.shape) for name, value in score.items()}
    flat = np.concatenate([value.ravel() for value in score.values()])
    kept = _highest(flat, share)
    masks, start = {}, 0
    for name, value in score.items():
        masks[name] = kept[start : start + value.size].reshape(value.shape)
        start += value.size
    return masks


def _highest(values: np.ndarray, share: float) -> np.ndarray:
    """All but the lowest share; equal values go by their place."""
    kept = np.ones(values.size, bool)
    kept[np.argsort(values, kind="stable")[: round(values.size * share)]] = False
    return kept


def apply(network: Network, masks: Mapping[str, np.ndarray]) -> Network:
    """The network with zeros where the masks are False."""
    masked = network.copy()
    for name, kept in masks.items():
        masked.weights[name] = np.where(kept, network.weights[name], np.zeros((), network.weights[name].dtype))
    return masked


def prune_by_samples(
    graph: ChannelGraph,
    batches: Sequence[Inputs],
    share: float,
    scope: str,
    criterion: str,
    repair: bool,
    advance: Callable[[int, int], None] = lambda done, total: None,
    seed: int = 0,
) -> tuple[Network, dict[str, np.ndarray]]:
    """The network without the weights that matter least to its outputs on samples, and the masks.

    Layer after layer, from what the pruned network feeds it: "obs" chooses by what a weight costs once the others of
    its row make up for it, and makes up for it (SparseGPT, Frantar and Alistarh 2023, 2301.00774); "wanda" chooses by
    magnitude times the root mean square of what it multiplies (Sun et al. 2023, 2306.11695), and makes up for it too.

    Args:
        scope: "layer": each loses the same share; "global": by their loss relative to their layer's outputs.
        repair: whether the weights that stay make up for those that go.
    """
    network = graph.network
    todo = [
        site
        for site in sites(network)
        if site.is_first and not site.fixed and site.matrix(network).shape[2] <= _MOST_FEATURES
    ]
    fitted = {network.nodes[site.node].input[site.weight]: site for site in todo}
    score = scores(network, "l1", seed)
    shares = _shares(network, batches, fitted, share, scope, score, seed)
    rest = {name: value for name, value in score.items() if name not in fitted}
    masks = {name: _highest(value.ravel(), shares[name]).reshape(value.shape) for name, value in rest.items()}
    pruned = apply(network, masks)
    nodes = pruned.nodes
    with Stages(network, batches) as original, Stages(pruned, batches) as now:
        for number, site in enumerate(todo):
            advance(number, len(todo))
            original.advance(site.end + 1, keep=[site.result])
            now.advance(site.node, keep=[site.data])
            name = network.nodes[site.node].input[site.weight]
            random = np.random.default_rng([seed, site.node])
            fitting, checking = _moments(site, original, now, random)
            if len(site.together) > 1:
                fitting += _moments_of_others(site, network, batches, random)
            matrix, bias, kept = _fitted(site, pruned, fitting, checking, shares[name], criterion, repair)
            masks[name] = site.weights(pruned, kept.astype(np.float64)) != 0
            set_weights(pruned, nodes, site, matrix)
            if site.bias is not None and repair:
                set_bias(pruned, nodes, site, bias.reshape(-1))
    pruned.drop_unused()
    return pruned, masks


def _moments(site: Site, original: Stages, now: Stages, random: np.random.Generator) -> list[Moments]:
    """Of what a site reads now, and what it gave in the original: of the batches, and of some kept apart."""
    network, count = now.network, len(now)
    fitting = count - kept_apart(count) if count > 1 else count
    return gather(
        site,
        network.nodes[site.node],
        now,
        lambda batch: original.value(batch, site.result),
        site.matrix(network).shape,
        [range(fitting), range(fitting, count)],
        random,
    )


def _moments_of_others(site: Site, network: Network, batches: Sequence[Inputs], random: np.random.Generator) -> Moments:
    """Of those that share its weights: what they will read is not known yet, and what they read in the original is
    taken for it."""
    found = []
    with Stages(network, batches) as original:
        for other in site.together[1:]:
            original.advance(other.end + 1, keep=[other.data, other.result])
            found += _moments(other, original, original, random)
    return reduce(operator.add, found)


def _fitted(
    site: Site, network: Network, fitting: Moments, checking: Moments, share: float, criterion: str, repair: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `_prune_site` gives, by both moments and the damping that does best on the second."""
    damping = _DAMPINGS[0]

    def error(damping: float) -> float:
        matrix, bias, _ = _prune_site(site, network, fitting, share, criterion, repair, damping)
        return checking.error(matrix, bias)

    few = fitting.count < fitting.x.shape[1]
    if repair and few and checking.count and fitting.finite and checking.finite:
        damping = min(_DAMPINGS, key=error)
    return _prune_site(site, network, fitting + checking, share, criterion, repair, damping)


def _prune_site(
    site: Site, network: Network, moments: Moments, share: float, criterion: str, repair: bool, damping: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (groups, outputs, features), bias (groups, outputs) and the mask of the weights."""
    plain = site.matrix(network)
    has_bias = site.bias is not None
    if not moments.finite:
        kept = _highest(np.abs(plain).ravel(), share).reshape(plain.shape)
        return plain * kept, site.offset(network).reshape(plain.shape[:2]), kept
    start = Ridge(moments, plain, damping, has_bias).weights(moments) if repair else plain
    gram = moments.gram(has_bias)
    matrix, kept = np.empty_like(plain), np.empty(plain.shape, bool)
    gone = np.diff(np.rint(share * plain[0].size * np.arange(len(plain) + 1)))  # of each group: all lose the share
    for group, own in enumerate(gone / plain[0].size):
        chosen = None
        if criterion == "wanda":
            squares = np.diagonal(moments.xx[group]) / max(1, moments.count)
            chosen = _highest((np.abs(start[group]) * np.sqrt(squares)).ravel(), own).reshape(start[group].shape)
        matrix[group], kept[group] = _sparse_gpt(start[group], gram[group], own, repair, damping, chosen)
    return matrix, moments.intercept(matrix) if has_bias else site.offset(network), kept


def _sparse_gpt(
    weights: np.ndarray,
    gram: np.ndarray,
    share: float,
    repair: bool,
    damping: float,
    chosen: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (outputs, features) with a share of zeros, and the mask; errors go to columns that come later.

    Args:
        chosen: the mask; None: it is to be found.
    """
    weights = weights.copy()
    # the upper Cholesky factor of the inverse: row i is the inverse of what is left from column i on
    factor = np.linalg.cholesky(inverse(gram, damping)).T
    kept = np.ones(weights.shape, bool)
    diagonal = np.diagonal(factor)
    goal = share * weights.size
    for start in range(0, weights.shape[1], _BLOCK):
        stop = min(start + _BLOCK, weights.shape[1])
        if chosen is not None:
            kept[:, start:stop] = chosen[:, start:stop]
        else:
            loss = np.square(weights[:, start:stop] / diagonal[start:stop])
            # as many as are due by the end of this block, so that the whole share is exact
            due = round(goal * stop / weights.shape[1]) - int((~kept[:, :start]).sum())
            block = np.ones(loss.size, bool)
            block[np.argsort(loss.ravel(), kind="stable")[: max(0, due)]] = False
            kept[:, start:stop] = block.reshape(loss.shape)
        for column in range(start, stop):
            gone = ~kept[:, column]
            error = np.where(gone, weights[:, column], 0) / diagonal[column]
            if repair:
                weights[:, column:] -= error[:, None] * factor[column, column:]
            weights[gone, column] = 0
    return weights * kept, kept


def _shares(
    network: Network,
    batches: Sequence[Inputs],
    fitted: Mapping[str, Site],
    share: float,
    scope: str,
    score: Mapping[str, np.ndarray],
    seed: int,
) -> dict[str, float]:
    """Share of each weight's entries that goes."""
    if scope == "layer":
        return dict.fromkeys(score, share)
    saliency: dict[str, np.ndarray] = {}
    with Stages(network, batches[: max(1, len(batches) // 4)]) as stages:
        for name, site in fitted.items():
            stages.advance(site.end + 1, keep=[site.data, site.result])
            plain = site.matrix(network)
            random = np.random.default_rng([seed, site.node, 1])
            (moments,) = gather(
                site,
                network.nodes[site.node],
                stages,
                lambda batch, site=site: stages.value(batch, site.result),  # type: ignore[misc]
                plain.shape,
                [range(len(stages))],
                random,
            )
            squares = np.diagonal(moments.xx, axis1=1, axis2=2) / max(1, moments.count)
            energy = float(moments.centred(True)[2].sum())
            loss = np.square(plain) * squares[:, None]
            saliency[name] = (loss / max(energy, 1e-12)).ravel()
    for name, value in score.items():
        if name not in saliency:  # its layer is not fitted: magnitudes, relative to the layer's
            saliency[name] = (np.square(value) / max(float(np.square(value).sum()), 1e-12)).ravel()
    masks = magnitude_masks(saliency, share, "global")
    return {name: 1 - float(mask.mean()) for name, mask in masks.items()}
