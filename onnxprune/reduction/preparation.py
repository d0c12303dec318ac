"""A file made ready for pruning: folded, its channels followed, and shown to be what it was."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import helper

from onnxprune.common.errors import InputError
from onnxprune.graph.channels import ChannelGraph
from onnxprune.graph.counting import node_counts
from onnxprune.graph.folding import RANDOM, fold, static_names, with_known_branches
from onnxprune.graph.follow import follow
from onnxprune.graph.network import Network, check_source, read
from onnxprune.graph.nodes import operator_type, subgraphs
from onnxprune.graph.number_types import is_floating, is_quantised
from onnxprune.graph.shapes import input_shapes
from onnxprune.graph.tensors import Shape
from onnxprune.runtime.execution import Trace, open_network, trace
from onnxprune.runtime.random_inputs import Inputs, random_inputs

TOLERANCE = 1e-4  # of outputs that should be equal, relative to the largest
TOLERANCE_HALF = 1e-2  # likewise, where a network computes in 16 bits

_Other = Callable[[int, str], int]  # another size, of one and the name of its axis


@dataclass(frozen=True)
class Prepared:
    """
    Attributes:
        source: the network of the file.
        graph: its channels, on the folded network.
        feed: a random input of it, with the outputs of the source for it.
        batch: samples of `feed`.
        tolerance: of outputs that should be equal, relative to the largest.
        halves: of constants of the folded network that the file stores in 16 bits, to be cast at run time, those types.
    """

    source: Network
    graph: ChannelGraph
    feed: Inputs
    outputs: Mapping[str, np.ndarray]
    batch: int
    tolerance: float
    halves: Mapping[str, np.dtype]

    def as_stored(self, network: Network) -> Network:
        """A network made of the folded one with its constants in the types that the file stores them in."""
        stored = network.copy()
        casts = []
        for name, kind in self.halves.items():
            value = network.weights.get(name)
            if value is None:
                continue
            with np.errstate(all="ignore"):
                half = value.astype(kind)
            if not np.array_equal(np.isfinite(half), np.isfinite(value)):
                continue  # it has grown too large for it
            del stored.weights[name]
            held = stored.fresh(f"{name}_stored")
            stored.weights[held] = half
            casts.append(helper.make_node("Cast", [held], [name], to=helper.np_dtype_to_tensor_dtype(value.dtype)))
        stored.replace_nodes([*casts, *network.nodes])
        return stored


def prepare(path: Path, shapes: Mapping[str, Shape] | None = None, seed: int = 0) -> Prepared:
    """Reads a file and follows its channels.

    Args:
        shapes: input name -> shape, where the file leaves more than the batch open.

    Raises:
        InputError: it cannot be read or run, is quantised, random or without layers, or folding changed its outputs.
    """
    network = read(path)
    _refuse(path, network)
    static = static_names(network)
    feeds, runs = _traces(path, network, static, shapes, seed)
    outputs = [{name: found.values[name] for name in network.outputs} for found in runs]
    plain = network
    while (taken := with_known_branches(plain, static, _values(plain, runs))) is not None:
        plain, static = taken, static_names(taken)
        runs = [trace(plain, feed, static | set(plain.outputs)) for feed in feeds]
    folded = fold(plain, static, _values(plain, runs), [found.shapes for found in runs])
    tolerance = _tolerance(network)
    again = [trace(folded, feed, folded.outputs) for feed in feeds]
    error = max(difference(before, after.values) for before, after in zip(outputs, again, strict=True))
    if error > tolerance:
        kinds = sorted({operator_type(node) for node in network.nodes} & {*RANDOM, "Dropout"})
        if kinds and difference(outputs[0], trace(network, feeds[0], network.outputs).values) > tolerance:
            raise InputError(f"{path}: its outputs are random ({', '.join(kinds)}): export it for inference")
        raise InputError(f"{path}: folding its constants changes its outputs by {error:.1e}: it cannot be pruned")
    feed = feeds[0]
    nested = any(True for node in network.nodes for _ in subgraphs(node))
    counts = node_counts(path, network.proto(), {name: value.shape for name, value in feed.items()}) if nested else ()
    sizes = [found.shapes for found in again]
    graph = follow(folded, sizes[0], sizes[1:], counts)
    return Prepared(
        network, graph, feed, outputs[0], _batch(network, feed, outputs[0], shapes), tolerance, _halves(network, folded)
    )


@np.errstate(all="ignore")  # what 16 bits do not hold is no longer equal
def _halves(network: Network, folded: Network) -> dict[str, np.dtype]:
    """Constants that folding made and 16 bits hold, where the file has such -> the type."""
    kinds = {value.dtype for value in network.weights.values() if is_floating(value.dtype) and value.itemsize == 2}
    return {
        name: kind
        for kind in sorted(kinds, key=str)
        for name, value in folded.weights.items()
        if name not in network.weights and value.dtype == np.float32 and value.size > 1
        if np.array_equal(value.astype(kind).astype(np.float32), value, equal_nan=True)
    }


def _values(network: Network, runs: Sequence[Trace]) -> list[dict[str, np.ndarray]]:
    return [{**found.values, **network.weights} for found in runs]


def _tolerance(network: Network) -> float:
    """That of 32 bits, or where a weight has fewer, that of 16."""
    halves = any(is_floating(value.dtype) and value.dtype.itemsize < 4 for value in network.weights.values())
    return TOLERANCE_HALF if halves else TOLERANCE


def _refuse(path: Path, network: Network) -> None:
    check_source(path, network)
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
    path: Path, network: Network, static: set[str], shapes: Mapping[str, Shape] | None, seed: int
) -> tuple[list[Inputs], list[Trace]]:
    """Runs at several sizes of what the file leaves free: one where nothing is, or where it runs at one only."""
    graph = network.model.graph
    keep = static | set(network.outputs)
    free = _free_axes(network)
    batched = any(0 in axes for axes in free.values())
    error: InputError | None = None
    plain = input_shapes(path, graph, None, shapes)
    given = next((plain[name][0] for name in shapes or () if plain[name]), None)
    for batch in (given,) if given or not batched else (2, 1):
        sizes = {**input_shapes(path, graph, batch, shapes), **(shapes or {})}
        try:
            feeds = [_feed(network, sizes, seed)]
            runs = [trace(network, feeds[0], keep)]
        except InputError as problem:
            error = error or problem
            continue
        for choices in _other_sizes(sizes, free):
            for chosen in choices:
                with contextlib.suppress(InputError):
                    feed = _feed(network, chosen, seed)
                    found = trace(network, feed, keep)
                    if _is_empty_anew(found, runs[0]):
                        continue  # it says nothing of how sizes follow from each other
                    runs.append(found)
                    feeds.append(feed)
                    break
        return feeds, runs
    assert error is not None
    raise InputError(f"{path}: {error}") from error


def _free_axes(network: Network) -> dict[str, dict[int, str]]:
    """Of each input, the axes whose sizes the file leaves free, and their names: equal ones are of equal sizes."""
    return {
        value.name: {
            axis: dim.dim_param or f"axis {axis}"
            for axis, dim in enumerate(value.type.tensor_type.shape.dim)
            if dim.dim_value <= 0
        }
        for value in network.model.graph.input
    }


def _other_sizes(sizes: Mapping[str, Shape], free: Mapping[str, Mapping[int, str]]) -> Iterator[list[dict[str, Shape]]]:
    """Shapes of the inputs at other free sizes: larger, odd, smallest and smaller ones; of each kind those to try.

    Networks may take multiples of some number alone, or squares, or sizes up to a limit. Sizes that are no twins differ
    in the second kind. What a network clamps, as by a slice up to a limit, shows at the smallest alone.
    """
    names = list(dict.fromkeys(name for axes in free.values() for name in axes.values()))

    def same(size: int, name: str) -> int:
        return size

    def more(size: int, name: str) -> int:
        return size + 1

    kinds: tuple[Iterable[tuple[_Other, _Other]], ...] = (  # of the other axes and of the first
        itertools.product((lambda size, name: 2 * size,), (more, same)),
        itertools.product(
            (lambda size, name: size + 1 + 2 * names.index(name), more, lambda size, name: max(1, size - 1)),
            (more, same),
        ),
        [(lambda size, name: 1, lambda size, name: 1)],
        itertools.product((lambda size, name: max(1, size // 2), same), (more, same)),
    )
    known = [sizes]
    for kind in kinds:
        choices = []
        for others, first in kind:
            chosen = {
                name: tuple(
                    (others if axis else first)(size, free[name][axis]) if axis in free[name] else size
                    for axis, size in enumerate(shape)
                )
                for name, shape in sizes.items()
            }
            if chosen not in known:
                choices.append(chosen)
        known += choices
        yield choices


def _batch(
    network: Network, feed: Inputs, outputs: Mapping[str, np.ndarray], shapes: Mapping[str, Shape] | None
) -> int:
    """Samples of a run: the first size of an input and an output; where they have none in common, as where inputs begin
    with steps of time, that which the file leaves free and nobody gave, else one."""
    answered = {len(value) for value in outputs.values() if isinstance(value, np.ndarray) and value.ndim}
    firsts = {name: len(value) for name, value in feed.items() if value.ndim}
    free = [firsts[name] for name, axes in _free_axes(network).items() if 0 in axes and name in firsts]
    common = [size for size in firsts.values() if size in answered]
    return next(iter([*common, *([] if shapes else free)]), 1)


def _is_empty_anew(run: Trace, first: Trace) -> bool:
    """Whether a tensor of a run has no elements that had some in the first."""
    return any(0 in shape and 0 not in first.shapes.get(name, ()) for name, shape in run.shapes.items())


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
