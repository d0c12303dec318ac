"""A file made ready for pruning: folded, its channels followed, and shown to be what it was."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxprune.common.errors import InputError
from onnxprune.graph.channels import ChannelGraph
from onnxprune.graph.counting import node_counts
from onnxprune.graph.folding import fold, static_names
from onnxprune.graph.follow import follow
from onnxprune.graph.network import Network, read
from onnxprune.graph.nodes import operator_type, subgraphs
from onnxprune.graph.number_types import is_quantised
from onnxprune.graph.shapes import input_shapes
from onnxprune.graph.tensors import Shape
from onnxprune.runtime.execution import Trace, open_network, trace
from onnxprune.runtime.random_inputs import Inputs, random_inputs

TOLERANCE = 1e-4  # of outputs that should be equal, relative to the largest
TOLERANCE_HALF = 1e-2  # likewise, where a network computes in 16 bits


@dataclass(frozen=True)
class Prepared:
    """
    Attributes:
        source: the network of the file as it is.
        graph: its channels, on the folded network.
        feed: a random input of it, with the outputs of the source for it.
        batch: samples of `feed`.
        tolerance: of outputs that should be equal, relative to the largest.
    """

    source: Network
    graph: ChannelGraph
    feed: Inputs
    outputs: Mapping[str, np.ndarray]
    batch: int
    tolerance: float


def prepare(path: Path, shapes: Mapping[str, Shape] | None = None, seed: int = 0) -> Prepared:
    """Reads a file and follows its channels.

    Args:
        shapes: input name -> shape, where the file leaves more than the batch open.

    Raises:
        InputError: it cannot be read or run, is quantised or has no layers, or folding changed what it computes.
    """
    network = read(path)
    _refuse(path, network)
    first, second, feed = _traces(path, network, shapes, seed)
    static = static_names(network)
    values = [None if run_ is None else {**run_.values, **network.weights} for run_ in (first, second)]
    assert values[0] is not None
    folded = fold(network, static, values[0], values[1], (first.shapes, second.shapes if second else None))
    again = trace(folded, feed, folded.outputs)
    outputs = {name: first.values[name] for name in network.outputs}
    error, tolerance = difference(outputs, again.values), _tolerance(network)
    if error > tolerance:
        raise InputError(f"{path}: folding its constants changes its outputs by {error:.1e}: it cannot be pruned")
    other = None if second is None else _retrace(folded, second)
    nested = any(True for node in network.nodes for _ in subgraphs(node))
    counts = node_counts(path, {name: value.shape for name, value in feed.items()}) if nested else ()
    graph = follow(folded, again.shapes, other, counts)
    batch = max((len(value) for value in feed.values() if value.ndim), default=1)
    return Prepared(network, graph, feed, outputs, batch, tolerance)


def _tolerance(network: Network) -> float:
    """That of 32 bits, or where a weight has fewer, that of 16."""
    halves = any(value.dtype.kind == "f" and value.dtype.itemsize < 4 for value in network.weights.values())
    return TOLERANCE_HALF if halves else TOLERANCE


def _refuse(path: Path, network: Network) -> None:
    kinds = {operator_type(node) for node in network.nodes}
    if is_quantised(kinds):
        raise InputError(
            f"{path}: it is quantised: prune the file with floating-point weights, and quantise the result"
        )
    if any("TreeEnsemble" in kind for kind in kinds):
        raise InputError(
            f"{path}: a tree ensemble has no layers to prune: fewer or smaller trees are chosen in training"
        )


def _traces(
    path: Path, network: Network, shapes: Mapping[str, Shape] | None, seed: int
) -> tuple[Trace, Trace | None, Inputs]:
    """Runs at two sizes of what the file leaves free: the second is None where nothing is, or it runs at one only."""
    graph = network.model.graph
    free = {
        value.name: [axis for axis, dim in enumerate(value.type.tensor_type.shape.dim) if dim.dim_value <= 0]
        for value in graph.input
    }
    batched = any(axes[:1] == [0] for axes in free.values())
    keep = static_names(network) | set(network.outputs)
    error: InputError | None = None
    plain = input_shapes(path, graph, None, shapes)
    given = next((plain[name][0] for name in shapes or () if plain[name]), None)
    for batch in (given,) if given or not batched else (2, 1):
        sizes = input_shapes(path, graph, batch, shapes)
        try:
            feed = _feed(network, sizes, seed)
            first = trace(network, feed, keep)
        except InputError as problem:
            error = error or problem
            continue
        for grow in (lambda axis, size: 2 * size if axis else size + 1, lambda axis, size: size if axis else size + 1):
            larger = {
                name: tuple(grow(axis, size) if axis in free[name] else size for axis, size in enumerate(shape))
                for name, shape in sizes.items()
            }
            if larger != sizes:
                try:
                    return first, trace(network, _feed(network, larger, seed), keep), feed
                except InputError:
                    continue
        return first, None, feed
    assert error is not None
    raise InputError(f"{path}: {error}") from error


def _retrace(folded: Network, second: Trace) -> Mapping[str, Shape]:
    """Shapes of the folded network in the second run: names are those of the source, but for new constants."""
    return {**second.shapes, **{name: value.shape for name, value in folded.weights.items()}}


def _feed(network: Network, sizes: Mapping[str, Shape], seed: int) -> Inputs:
    if not network.inputs:
        return {}
    inputs = network.copy()
    inputs.replace_nodes([])  # and so its weights, which opening it would copy
    with open_network(inputs, network.inputs, optimise=False) as session:
        return random_inputs(session, sizes, seed)


def difference(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> float:
    """The largest difference of the outputs that are numbers, each relative to its largest value."""
    worst = 0.0
    for name, value in expected.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.size:
            other = found[name]
            if other.shape != value.shape:
                return float("inf")
            if value.dtype.kind == "f":
                scale = max(float(np.abs(value[np.isfinite(value)]).max(initial=0)), 1e-12)
                gap = np.abs(value.astype(np.float64) - other)
                same = (value == other) | (np.isnan(value) & np.isnan(other))
                worst = max(worst, float(np.where(same, 0, gap).max()) / scale)
    return worst if np.isfinite(worst) else float("inf")
