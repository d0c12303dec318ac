"""Brings a network into a form whose channels can be followed: what does not depend on the data becomes a constant.

Exporters compute weights by nodes, and sizes by chains of Shape, Gather, Mul and Concat. Both are told from two runs at
different free sizes: a tensor that depends on no data and is equal in both is a constant, whatever operators made it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import NodeProto, helper

from onnxprune.graph.network import Network, attribute, live_nodes, reads
from onnxprune.graph.nodes import operator_type, subgraphs
from onnxprune.graph.tensors import Shape

_RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
_BY_DATA = {"Compress", "NonMaxSuppression", "NonZero", "StringSplit", "Unique"}  # the data tell their outputs' shapes
_BY_VALUE = {  # the values of their inputs tell their outputs' shapes: of all of them, or of all but the first
    **dict.fromkeys(("CenterCropPad", "Expand", "OneHot", "Pad", "Reshape", "Resize", "Slice", "Split", "Tile"), 1),
    **dict.fromkeys(("Squeeze", "TopK", "Unsqueeze", "Upsample"), 1),
    **dict.fromkeys(("BlackmanWindow", "ConstantOfShape", "HammingWindow", "HannWindow", "Range"), 0),
}
_REGULAR = ("ai.onnx.ml.", "com.microsoft.")  # domains all of whose operators' shapes depend on shapes alone
_QUANTISED = {"DequantizeLinear"}  # folded, the weights would be floats
_SMALL = 2**16  # elements of a constant that may be larger than what it is made of


def static_names(network: Network) -> set[str]:
    """Tensors that depend on constants and on the shapes of others, but on no data."""
    return _independent(network)[0]


def _independent(network: Network) -> tuple[set[str], set[str]]:
    """Tensors whose values depend on no data, and those whose shapes do not."""
    static = set(network.weights)
    sized = static | set(network.inputs)
    for node in network.nodes:
        kind = operator_type(node)
        names = {name for name in node.input if name}
        made = {name for name in node.output if name}
        nested = any(subgraphs(node))
        known = kind not in _BY_DATA and not nested and ("." not in kind or kind.startswith(_REGULAR))
        told = {name for name in node.input[_BY_VALUE[kind] :] if name} if kind in _BY_VALUE else set()
        if names <= static or (known and names <= sized and told <= static):
            sized |= made
        if "." in kind or kind in _RANDOM or kind in _QUANTISED or nested:
            continue
        if names <= static or (kind in ("Shape", "Size") and names <= sized):
            static |= made
    return static, sized


def fold(
    network: Network,
    static: set[str],
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray] | None,
    shapes: tuple[Mapping[str, Shape], Mapping[str, Shape] | None],
) -> Network:
    """The same network with constants for what does not depend on data, and simpler sizes for its reshapes.

    Args:
        static: see `static_names`.
        first, second: their values in two runs at different free sizes; None where no size is free.
        shapes: of all tensors in these runs.
    """
    folded = network.copy()
    sized = _independent(network)[1]
    fixed = {
        name
        for name in static
        if isinstance(first.get(name), np.ndarray) and (second is None or _equal(first[name], second[name]))
    }
    nodes = []
    for node in folded.nodes:
        if all(name in fixed for name in node.output if name) and any(node.output):
            if _is_worth_storing(node, folded, first):
                for name in node.output:
                    if name:
                        folded.weights[name] = first[name]
                continue
            fixed -= set(node.output)
        nodes.append(_without_default_state(node, static, first, second))
    for node in nodes:
        if operator_type(node) in ("Reshape", "Expand") and node.input[0] in sized and node.output[0] in sized:
            _simplify_target(folded, node, shapes)
    nodes = live_nodes(_without_identities(nodes, folded.outputs), folded.outputs)
    folded.replace_nodes(_with_parts_behind(nodes, folded))
    _shuffles_to_gathers(folded, sized, shapes)
    return folded


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    return (
        first.shape == second.shape
        and first.dtype == second.dtype
        and (np.array_equal(first, second, equal_nan=first.dtype.kind == "f"))
    )


def _is_worth_storing(node: NodeProto, network: Network, values: Mapping[str, np.ndarray]) -> bool:
    """False where a few numbers were expanded into many."""
    size = sum(values[name].size for name in node.output if name)
    made_of = sum(network.weights[name].size for name in node.input if name in network.weights)
    return size <= max(_SMALL, 2 * made_of)


def _without_default_state(
    node: NodeProto, static: set[str], first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray] | None
) -> NodeProto:
    """A recurrent node whose initial state is written out as zeros, which is what it is by default."""
    if operator_type(node) not in ("LSTM", "GRU", "RNN"):
        return node
    plain = NodeProto()
    plain.CopyFrom(node)
    for position in (5, 6):
        if position < len(plain.input):
            name = plain.input[position]
            runs = [values[name] for values in (first, second) if values is not None and name in static]
            if runs and not any(values.any() for values in runs):
                plain.input[position] = ""
    while plain.input and not plain.input[-1]:
        plain.input.pop()
    return plain


def _without_identities(nodes: Sequence[NodeProto], outputs: Sequence[str]) -> list[NodeProto]:
    """Reads through Identity, but where it gives an output of the graph its name."""
    origin: dict[str, str] = {}
    kept = []
    for node in nodes:
        for position, name in enumerate(node.input):
            node.input[position] = origin.get(name, name)
        if operator_type(node) == "Identity" and node.output[0] not in outputs and not _is_captured(node, nodes):
            origin[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    return kept


def _with_parts_behind(nodes: Sequence[NodeProto], network: Network) -> list[NodeProto]:
    """The nodes with biases and BatchNormalizations right behind the operators that they belong to, so that nothing is
    computed between what the two give."""
    readers = Counter(network.outputs) + Counter(name for node in nodes for name in reads(node))
    made = {name for node in nodes for name in node.output if name}
    parts: dict[str, NodeProto] = {}
    others = []
    for node in nodes:
        computed = [name for name in node.input if name and name not in network.weights]
        belongs = operator_type(node) in ("Add", "BatchNormalization") and len(computed) == 1
        if belongs and computed[0] in made and readers[computed[0]] == 1:
            parts[computed[0]] = node
        else:
            others.append(node)
    found = []
    for node in others:
        waiting = [node]
        while waiting:
            found.append(waiting.pop())
            waiting += [parts.pop(name) for name in reversed(found[-1].output) if name in parts]
    return found


def _is_captured(node: NodeProto, nodes: Sequence[NodeProto]) -> bool:
    """Whether a subgraph reads its output from outside."""
    name = node.output[0]
    return any(name in set(reads(other)) - set(other.input) for other in nodes if any(subgraphs(other)))


def _simplify_target(
    network: Network, node: NodeProto, shapes: tuple[Mapping[str, Shape], Mapping[str, Shape] | None]
) -> None:
    """Gives a Reshape or Expand a constant target where that says the same at every free size."""
    name = node.input[1] if len(node.input) > 1 else ""
    runs = [found for found in shapes if found is not None]
    if (
        not name
        or name in network.weights
        or not all(node.output[0] in found and node.input[0] in found for found in runs)
    ):
        return
    source = [found[node.input[0]] for found in runs]
    result = [found[node.output[0]] for found in runs]
    if len({len(shape) for shape in result}) != 1 or len({len(shape) for shape in source}) != 1:
        return
    if operator_type(node) == "Reshape":
        target = None if attribute(node, "allowzero", 0) else _reshape_target(source, result)
    else:
        target = _expand_target(source, result)
    if target is not None:
        fresh = network.fresh(f"{node.output[0]}_shape")
        network.weights[fresh] = np.asarray(target, np.int64)
        node.input[1] = fresh


def _reshape_target(source: Sequence[Shape], result: Sequence[Shape]) -> list[int] | None:
    """Sizes with 0 for "as it was" and at most one -1; None where that does not say it."""
    target = []
    for axis in range(len(result[0])):
        sizes = {shape[axis] for shape in result}
        if 0 in sizes:
            return None  # it would say "as it was"
        if len(sizes) == 1:
            target.append(result[0][axis])
        elif all(
            axis < len(before) and before[axis] == after[axis] for before, after in zip(source, result, strict=True)
        ):
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None


def _expand_target(source: Sequence[Shape], result: Sequence[Shape]) -> list[int] | None:
    """Sizes with 1 for "as it was"; None where a size that was 1 grows to one that is free."""
    target = []
    shift = len(result[0]) - len(source[0])
    for axis in range(len(result[0])):
        before = [shape[axis - shift] if axis >= shift else 1 for shape in source]
        after = [shape[axis] for shape in result]
        if before == after:
            target.append(1)
        elif len(set(after)) == 1:
            target.append(after[0])
        else:
            return None
    return target


def _shuffles_to_gathers(
    network: Network, sized: set[str], shapes: tuple[Mapping[str, Shape], Mapping[str, Shape] | None]
) -> None:
    """Replaces Reshape, Transpose, Reshape that only permute one axis (a channel shuffle) by one Gather.

    The reshapes tie the channels of a group; a Gather by constants does not.
    """
    nodes = network.nodes
    readers = Counter(name for node in nodes for name in reads(node))
    producer = {name: node for node in nodes for name in node.output}
    replaced: dict[str, NodeProto] = {}
    for last in nodes:
        middle = producer.get(last.input[0]) if operator_type(last) == "Reshape" else None
        first = producer.get(middle.input[0]) if middle is not None and operator_type(middle) == "Transpose" else None
        if middle is None or first is None or operator_type(first) != "Reshape":
            continue
        inner = {first.output[0], middle.output[0]}
        if any(readers[name] != 1 or name in network.outputs for name in inner) or first.input[0] not in sized:
            continue
        found = [_permutation(run, first, middle, last) for run in shapes if run is not None]
        if found[0] is not None and all(other == found[0] for other in found):
            axis, order = found[0]
            name = network.fresh(f"{last.output[0]}_order")
            network.weights[name] = np.asarray(order, np.int64)
            replaced[last.output[0]] = helper.make_node(
                "Gather", [first.input[0], name], [last.output[0]], last.name or f"{last.output[0]}_shuffle", axis=axis
            )
    kept = [replaced.get(node.output[0], node) if node.output else node for node in nodes]
    network.replace_nodes(live_nodes(kept, network.outputs))


def _permutation(
    shapes: Mapping[str, Shape], first: NodeProto, middle: NodeProto, last: NodeProto
) -> tuple[int, list[int]] | None:
    """Axis and order, where the three nodes only permute the elements of one axis."""
    shape = shapes.get(first.input[0])
    if shape is None or shapes.get(last.output[0]) != shape or first.output[0] not in shapes:
        return None
    places = np.arange(int(np.prod(shape))).reshape(shape)
    split = places.reshape(shapes[first.output[0]])
    order = attribute(middle, "perm", list(range(split.ndim))[::-1])
    moved = split.transpose(order).reshape(shape)
    for axis in range(1, len(shape)):
        if shape[axis] > 1:
            line = tuple(slice(None) if other == axis else 0 for other in range(len(shape)))
            stride = int(np.prod(shape[axis + 1 :]))
            indices = moved[line] // stride % shape[axis]
            if np.array_equal(np.take(places, indices, axis), moved) and sorted(indices) == list(range(shape[axis])):
                return None if list(indices) == list(range(shape[axis])) else (axis, indices.tolist())
    return None
