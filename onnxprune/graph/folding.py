"""Brings a network into a form whose channels can be followed: what does not depend on the data becomes a constant.

Exporters compute weights by nodes, and sizes by chains of Shape, Gather, Mul and Concat. A tensor that depends neither
on data nor on free sizes is a constant, whatever operators made it. Of sizes of which some are free, the others become
constants beside them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

from onnxprune.graph.network import Network, attribute, live_nodes, opset, reads, set_attribute
from onnxprune.graph.nodes import operator_type, rename, subgraphs
from onnxprune.graph.origins import Origins
from onnxprune.graph.tensors import Shape, constants

RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
_BY_DATA = {"Compress", "NonMaxSuppression", "NonZero", "StringSplit", "Unique"}  # the data tell their outputs' shapes
_BY_VALUE = {  # the values of their inputs tell their outputs' shapes: of all of them, or of all but the first
    **dict.fromkeys(("CenterCropPad", "Expand", "OneHot", "Pad", "Reshape", "Resize", "Slice", "Split", "Tile"), 1),
    **dict.fromkeys(("Squeeze", "TopK", "Unsqueeze", "Upsample"), 1),
    **dict.fromkeys(("BlackmanWindow", "ConstantOfShape", "HammingWindow", "HannWindow", "Range"), 0),
}
_REGULAR = ("ai.onnx.ml.", "com.microsoft.")  # domains all of whose operators' shapes depend on shapes alone
_QUANTISED = {"DequantizeLinear"}  # folded, the weights would be floats
_SIZES = {"Expand": 1, "Pad": 1, "Reshape": 1, "Resize": 3, "Tile": 1}  # the input that tells sizes axis by axis
_GEMM_WITHOUT_BIAS = 11  # the first opset in which it needs none
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
        if "." in kind or kind in RANDOM or kind in _QUANTISED or nested:
            continue
        if names <= static or (kind in ("Shape", "Size") and names <= sized):
            static |= made
    return static, sized


def with_known_branches(
    network: Network, static: set[str], values: Sequence[Mapping[str, np.ndarray]]
) -> Network | None:
    """The same network with the nodes of the branch that is taken in place of each If that no data decide; None where
    there is no such If.

    Args:
        static, values: see `fold`.
    """
    conditions = {node.input[0] for node in network.nodes if operator_type(node) == "If"} & static
    origins = Origins(network, static, values)
    known = {name for name in conditions if not origins.is_free(name)}
    if not known:
        return None
    plain = network.copy()
    nodes = []
    for node in network.nodes:
        if operator_type(node) != "If" or node.input[0] not in known:
            nodes.append(node)
            continue
        taken = GraphProto()
        taken.CopyFrom(attribute(node, "then_branch" if values[0][node.input[0]].item() else "else_branch"))
        place = next(filter(None, node.output))
        held = {tensor.name for tensor in constants(taken)}
        own = held | {name for inner in taken.node for name in inner.output if name}
        given = {
            value.name: name
            for value, name in zip(taken.output, node.output, strict=True)
            if name and value.name not in held
        }
        rename(taken, {name: given.get(name, f"{place}/{name}") for name in own})
        plain.weights.update((tensor.name, numpy_helper.to_array(tensor)) for tensor in constants(taken))
        nodes += [inner for inner in taken.node if inner.output[0] not in plain.weights]
        results = zip(taken.output, node.output, strict=True)
        nodes += [
            helper.make_node("Identity", [value.name], [name])
            for value, name in results
            if name not in ("", value.name)
        ]
    plain.replace_nodes(nodes)
    return plain


def fold(
    network: Network,
    static: set[str],
    values: Sequence[Mapping[str, np.ndarray]],
    shapes: Sequence[Mapping[str, Shape]],
) -> Network:
    """The same network with constants for what does not depend on data, and simpler sizes for its reshapes.

    Args:
        static: see `static_names`.
        values: of these, in runs at different free sizes; one run where no size is free.
        shapes: of all tensors, in the same runs.
    """
    folded = network.copy()
    sized = _independent(network)[1]
    origins = Origins(network, static, values)
    fixed = {name for name in static if isinstance(values[0].get(name), np.ndarray) and not origins.is_free(name)}
    stays = {name for node in folded.nodes if not _gives(node, fixed) for name in reads(node)} | set(folded.outputs)
    nodes = []
    twins: dict[tuple[object, ...], str] = {}  # what a constant is made of -> its name
    same: dict[str, str] = {}
    for node in folded.nodes:
        if _gives(node, fixed):
            made_of = (operator_type(node), *map(str, node.attribute), *(same.get(name, name) for name in node.input))
            same[node.output[0]] = twins.setdefault(made_of, node.output[0])
            if same[node.output[0]] != node.output[0] and len(node.output) == 1:
                nodes.append(helper.make_node("Identity", [same[node.output[0]]], [node.output[0]], node.name))
                continue
            if _is_worth_storing(node, folded, values[0], stays):
                for name in node.output:
                    if name:
                        folded.weights[name] = values[0][name]
                continue
            fixed -= set(node.output)
            stays |= {*reads(node), *node.output}
        nodes.append(_without_default_state(node, static, values))
    nodes = [found for node in nodes for found in _with_simple_sizes(folded, node, sized, origins, values[0], shapes)]
    nodes = _transposes_to_gemms(_without_identities(nodes, folded.outputs), folded, shapes[0])
    nodes = live_nodes(nodes, folded.outputs)
    folded.replace_nodes(_with_parts_behind(nodes, folded))
    _shuffles_to_gathers(folded, sized, shapes)
    return folded


def _gives(node: NodeProto, names: set[str]) -> bool:
    """Whether all that the node gives is among these names."""
    return any(node.output) and all(name in names for name in node.output if name)


def _is_worth_storing(node: NodeProto, network: Network, values: Mapping[str, np.ndarray], stays: set[str]) -> bool:
    """False where a few numbers were expanded into many, or a matrix that stays would be stored twice."""
    size = sum(values[name].size for name in node.output if name)
    read = [values[name] for name in node.input if name in stays and name in values]
    if any(value.ndim > 1 and value.dtype.kind == "f" and value.size <= size for value in read):
        return False
    made_of = sum(network.weights[name].size for name in node.input if name in network.weights)
    return size <= max(_SMALL, 2 * made_of)


def _without_default_state(node: NodeProto, static: set[str], values: Sequence[Mapping[str, np.ndarray]]) -> NodeProto:
    """A recurrent node whose initial state is written out as zeros, which is what it is by default."""
    if operator_type(node) not in ("LSTM", "GRU", "RNN"):
        return node
    plain = NodeProto()
    plain.CopyFrom(node)
    for position in (5, 6):
        if position < len(plain.input):
            name = plain.input[position]
            if name in static and not any(run[name].any() for run in values):
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


def _transposes_to_gemms(nodes: Sequence[NodeProto], network: Network, shapes: Mapping[str, Shape]) -> list[NodeProto]:
    """The nodes with products by a transposed matrix, which is read elsewhere too, as Gemms that transpose it."""
    transposed = {
        node.output[0]: node.input[0]
        for node in nodes
        if operator_type(node) == "Transpose"
        and node.input[0] in network.weights
        and network.weights[node.input[0]].ndim == 2
        and list(attribute(node, "perm", [1, 0])) == [1, 0]
    }
    found = []
    for node in nodes:
        product = operator_type(node) == "MatMul" and node.input[1] in transposed
        if product and len(shapes.get(node.input[0], ())) == 2 and opset(network.model) >= _GEMM_WITHOUT_BIAS:
            inputs = [node.input[0], transposed[node.input[1]]]
            node = helper.make_node("Gemm", inputs, list(node.output), node.name, transB=1)
        found.append(node)
    return found


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


def _with_simple_sizes(
    network: Network,
    node: NodeProto,
    sized: set[str],
    origins: Origins,
    values: Mapping[str, np.ndarray],
    shapes: Sequence[Mapping[str, Shape]],
) -> list[NodeProto]:
    """The node, whose sizes are constants where that says the same at every free size; else the sizes that are known
    become constants, and the nodes before it, which are given too, put them together with the others."""
    position = _SIZES.get(operator_type(node), len(node.input))
    name = node.input[position] if position < len(node.input) else ""
    elements = origins.of(name)
    if elements is None or any(other not in sized for other in (node.input[0], node.output[0])):
        return [node]
    if not all(node.output[0] in run and node.input[0] in run for run in shapes) or values[name].dtype != np.int64:
        return [node]
    known = [None if element else int(size) for element, size in zip(elements, values[name], strict=True)]
    target = _simple_target(node, known, shapes)
    if target is None or all(size is None for size in target):
        return [node]
    if attribute(node, "allowzero", 0):
        set_attribute(node, "allowzero", 0)  # here a 0 says "as it was": no size is 0
    made: list[NodeProto] = []
    parts = []
    wanted = [element if size is None else None for element, size in zip(elements, target, strict=True)]
    for source, group in groupby(range(len(target)), lambda axis: (wanted[axis] or ("", 0))[0]):
        axes = list(group)
        if source:
            made += _elements_of(network, source, [(wanted[axis] or ("", 0))[1] for axis in axes], values)
            parts.append(made[-1].output[0])
        else:
            parts.append(_constant(network, f"{node.output[0]}_shape", [target[axis] or 0 for axis in axes]))
    if len(parts) > 1:
        made.append(_new_node(network, "Concat", parts, f"{node.output[0]}_sizes", axis=0))
        parts = list(made[-1].output)
    node.input[position] = parts[0]
    return [*made, node]


def _elements_of(
    network: Network, source: str, places: Sequence[int], values: Mapping[str, np.ndarray]
) -> list[NodeProto]:
    """Nodes of which the last gives these elements of a tensor."""
    made = []
    if values[source].ndim != 1:
        flat = _constant(network, f"{source}_flat", [-1])
        made.append(_new_node(network, "Reshape", [source, flat], f"{source}_vector"))
        source = made[-1].output[0]
    chosen = _constant(network, f"{source}_places", places)
    return [*made, _new_node(network, "Gather", [source, chosen], f"{source}_part", axis=0)]


def _new_node(network: Network, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> NodeProto:
    """A node whose output has a name like the one given, and which is called like its output."""
    name = network.fresh(name)
    node = helper.make_node(kind, inputs, [name], name, **attributes)
    network.model.graph.node.append(node)  # its name is taken from now on
    return node


def _constant(network: Network, name: str, numbers: Sequence[int]) -> str:
    """The name of a new constant, which is like the one given."""
    fresh = network.fresh(name)
    network.weights[fresh] = np.asarray(numbers, np.int64)
    return fresh


def _simple_target(
    node: NodeProto, known: Sequence[int | None], shapes: Sequence[Mapping[str, Shape]]
) -> list[int | None] | None:
    """Sizes, None in place of those that have to be computed; None in place of all where nothing is simpler."""
    source, result = ([run[name] for run in shapes] for name in (node.input[0], node.output[0]))
    if operator_type(node) not in ("Reshape", "Expand"):
        return list(known)
    if len({len(shape) for shape in source}) != 1 or any(len(shape) != len(known) for shape in result):
        return None
    return (_reshape_target if operator_type(node) == "Reshape" else _expand_target)(known, source, result)


def _reshape_target(
    known: Sequence[int | None], source: Sequence[Shape], result: Sequence[Shape]
) -> list[int | None] | None:
    """Sizes with 0 for "as it was" and at most one -1; None where that would not say it."""
    if any(0 in shape for shape in result):
        return None  # it would say "as it was"
    target: list[int | None] = []
    for axis, size in enumerate(known):
        after = [shape[axis] for shape in result]
        if size is not None and len(set(after)) == 1:
            target.append(after[0])
        elif after == [shape[axis] if axis < len(shape) else None for shape in source]:
            target.append(0)
        else:
            target.append(size)
    if target.count(None) == 1 and -1 not in target:
        target[target.index(None)] = -1
    return target


def _expand_target(
    known: Sequence[int | None], source: Sequence[Shape], result: Sequence[Shape]
) -> list[int | None] | None:
    """Sizes with 1 for "as it was"."""
    shift = len(known) - len(source[0])
    before = [[shape[axis - shift] if axis >= shift else 1 for shape in source] for axis in range(len(known))]
    after = [[shape[axis] for shape in result] for axis in range(len(known))]
    return [1 if old == new else size for old, new, size in zip(before, after, known, strict=True)]


def _shuffles_to_gathers(network: Network, sized: set[str], shapes: Sequence[Mapping[str, Shape]]) -> None:
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
        found = [_permutation(run, first, middle, last) for run in shapes]
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
