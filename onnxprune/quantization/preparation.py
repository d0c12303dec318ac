"""A file made ready for quantisation: its fusions done, its nodes named, its layers known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, helper, numpy_helper

from onnxprune.common.errors import InputError, StorageError, one_line
from onnxprune.common.temporary import temporary_folder
from onnxprune.graph import contrib
from onnxprune.graph.counting import macs_within, node_counts
from onnxprune.graph.macs import OPERATORS
from onnxprune.graph.network import Network, attribute, check_source, label_of, opset, read, set_attribute
from onnxprune.graph.node_inference import contradiction
from onnxprune.graph.nodes import label, operator_type, subgraphs, used_names
from onnxprune.graph.number_types import is_floating, is_quantised
from onnxprune.graph.shapes import input_shapes
from onnxprune.graph.tensors import Shape
from onnxprune.runtime.session import FATAL

NEEDED_OPSET = 13  # before, weights have one scale for all channels
_RESIZE_WITH_MODES = 11
_NEXT_TO_NOTHING = 1e-4  # of the largest weight
_PLACES = "coordinate_transformation_mode"
_LARGEST = 2**31 - 2**24  # bytes of weights: models are handed to onnxruntime in one piece


@dataclass(frozen=True)
class Layer:
    """A product, or a node whose subgraphs hold some.

    Attributes:
        name: of its node in the file.
        node: of its node in the prepared model, of which it may be a part.
        operator: there.
        macs: for one sample.
        obstacle: why it stays in float32; None where it can be quantised.
    """

    name: str
    node: str
    operator: str
    macs: int
    obstacle: str | None


@dataclass(frozen=True)
class Prepared:
    """
    Attributes:
        source: the network of the file as it is.
        model: what computes the same, with BatchNormalization and biases fused as onnxruntime would fuse them.
        layers: in the order of the file.
        places: node of the file -> node of the model that does its work.
        macs: of the file, for one sample.
    """

    source: Network
    model: ModelProto
    layers: tuple[Layer, ...]
    places: Mapping[str, str]
    macs: int

    def nodes_of(self, names: Collection[str], path: Path) -> tuple[str, ...]:
        """Nodes of the model that do the work of these nodes of the file.

        Raises:
            InputError: a name that no node of the file has.
        """
        unknown = [name for name in names if name not in self.places]
        if unknown:
            known = ", ".join(layer.name for layer in self.layers[:4])
            raise InputError(
                f"{path}: there is no node {unknown[0]!r}; its layers are called {known}"
                + (f" and {len(self.layers) - 4} more: see profile" if len(self.layers) > 4 else "")
            )
        return tuple(dict.fromkeys(self.places[name] for name in names))


def prepare(path: Path, kinds: Sequence[str] | None, shapes: Mapping[str, Shape] | None = None) -> Prepared:
    """Reads a file and makes it ready.

    Args:
        kinds: operators whose products with weights will be converted; None: every product is.
        shapes: input name -> shape, where the file leaves more than the batch open; for counts.

    Raises:
        InputError: it cannot be read or run, is quantised already, or has no weights to quantise.
    """
    source = read(path)
    _refuse(path, source)
    named = _named(source)
    model = _optimised(path, named)
    _check_weights(path, model)
    places = _places(named, model)
    _make_plain(model)
    _fill_empty_channels(model)
    _split_gemms(model, whole=kinds is None or "Gemm" in kinds)
    if kinds is None:
        _compute_constant_outputs(model)
    else:
        _copy_weights_read_both_ways(model)
    _declare_types(path, model)
    nodes = {node.name: node for node in model.graph.node}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    counted = named.proto()
    counts = node_counts(path, counted, input_shapes(path, counted.graph, None, shapes))
    macs = {found.name: found.macs for found in counts}
    layers = []
    for node in named.nodes:
        within = macs_within(node, counts)
        if (operator_type(node) in OPERATORS or within) and node.name in places:
            made = nodes[places[node.name]]
            obstacle = None if kinds is None else _obstacle(made, constants, kinds)
            layers.append(Layer(node.name, made.name, made.op_type, within + macs.get(label(node), 0), obstacle))
    if not any(layer.obstacle is None for layer in layers):
        reasons = sorted({layer.obstacle for layer in layers if layer.obstacle})
        raise InputError(
            f"{path}: nothing of it can be quantised: {'; '.join(reasons[:3]) or 'it has no layers with weights'}"
        )
    return Prepared(source, model, tuple(layers), places, sum(found.macs for found in counts))


def _refuse(path: Path, network: Network) -> None:
    check_source(path, network)
    kinds = {operator_type(node) for node in network.nodes}
    if is_quantised(kinds):
        raise InputError(f"{path}: it is quantised already: give the file with floating-point weights")
    if any("TreeEnsemble" in kind for kind in kinds):
        raise InputError(f"{path}: a tree ensemble has no layers with weights to quantise")
    if sum(value.nbytes for value in network.weights.values()) > _LARGEST:
        raise InputError(
            f"{path}: its weights are over 2 GiB, which onnxruntime's quantiser does not take in one piece"
        )


def _check_weights(path: Path, model: ModelProto) -> None:
    """Raises an InputError where all numbers that it computes with are of other types than float32, whatever type the
    file stores them in."""
    sizes = {tensor.data_type for tensor in model.graph.initializer if prod(tensor.dims) > 1}
    floats = {kind.name for kind in map(helper.tensor_dtype_to_np_dtype, sizes) if is_floating(kind)}
    if floats and "float32" not in floats:
        raise InputError(f"{path}: its weights are {' and '.join(sorted(floats))}: give the file of float32")


def _named(source: Network) -> Network:
    """The same with a name of its own for each node: the quantiser tells nodes by their names."""
    named = source.copy()
    taken: Counter[str] = Counter()
    for node in named.model.graph.node:
        name = label_of(node)
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
    return named


def in_needed_opset(path: Path, network: Network) -> ModelProto:
    """The network in opset 13 or later: converted by onnx where it is of an earlier one.

    Raises:
        InputError: onnx cannot convert it.
    """
    model = network.proto()
    before = opset(model)
    if before >= NEEDED_OPSET:
        return model
    try:
        model = onnx.version_converter.convert_version(model, NEEDED_OPSET)
        if before < _RESIZE_WITH_MODES:
            _keep_places_of_resizing(model)
    except Exception as error:  # onnx's errors share no base class
        raise InputError(
            f"{path}: it is of opset {before}, and scales by channel need {NEEDED_OPSET}: export it again "
            f"({one_line(error)})"
        ) from error
    return model


def _optimised(path: Path, network: Network) -> ModelProto:
    """The network after onnxruntime's basic optimisations, which are those that are right on any processor."""
    model = in_needed_opset(path, network)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with temporary_folder() as folder:
        target = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            if target.exists():  # what it writes to has been loaded
                raise StorageError(f"cannot write to {target}: is the disk full? {one_line(error)}") from error
            raise InputError(f"{path}: onnxruntime cannot load it: {one_line(error)}") from error
        return onnx.load(target)


def _fill_empty_channels(model: ModelProto) -> None:
    """Gives channels that have a bias and no weights, as pruning leaves them, a weight that changes next to nothing.

    The step of a bias is that of the channel's weights times that of the inputs: without weights it is far too coarse.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        names = node.input[1:3]
        if node.op_type not in ("Conv", "Gemm") or len(names) < 2 or not all(name in constants for name in names):
            continue
        weights, biases = (numpy_helper.to_array(constants[name]).copy() for name in names)
        channels = np.moveaxis(weights, 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1, 0)
        if channels.dtype != np.float32 or biases.size != len(channels):
            continue
        empty = ~channels.reshape(len(channels), -1).any(1) & (biases.reshape(-1) != 0)
        if empty.any() and channels.any():
            channels[(empty, *(0,) * (channels.ndim - 1))] = _NEXT_TO_NOTHING * np.abs(channels).max()
            constants[names[0]].CopyFrom(numpy_helper.from_array(weights, names[0]))


def _keep_places_of_resizing(model: ModelProto) -> None:
    """Says which places the results of Resize are taken from, as operators before opset 11 took them: what onnx's
    converter leaves open means others. The nearest was the one before, but in images that became smaller."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Resize" and attribute(node, _PLACES) is None:
            set_attribute(node, _PLACES, "asymmetric")
            scales = constants.get(node.input[2])
            smaller = scales is not None and numpy_helper.to_array(scales).min(initial=1) < 1
            set_attribute(node, "nearest_mode", "ceil" if smaller else "floor")


def _make_plain(model: ModelProto) -> None:
    """Brings fused Gemm nodes into the form that the quantiser handles: alpha and beta 1, a bias (N,).

    It fails on the bias (1, N) that the fusion of MatMul and Add leaves (onnxruntime issue 24815), and takes the scale
    of a bias to be that of alpha 1.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        if node.op_type != "Gemm":
            continue
        for position, factor in ((1, attribute(node, "alpha", 1.0)), (2, attribute(node, "beta", 1.0))):
            name = node.input[position] if position < len(node.input) else ""
            if name not in constants or readers[name] > 1:
                continue
            value = numpy_helper.to_array(constants[name])
            if position == 2 and value.size == max(value.shape, default=1):
                value = np.resize(value, _columns(node, constants) or value.size)  # of one number: as often as needed
            constants[name].CopyFrom(numpy_helper.from_array((value * np.float32(factor)).astype(value.dtype), name))
            set_attribute(node, "alpha" if position == 1 else "beta", 1.0)


def _split_gemms(model: ModelProto, *, whole: bool) -> None:
    """Brings Gemm nodes whose bias is not one number for each output into the form of a product and an Add.

    Such are sums with a computed tensor that onnxruntime has fused.

    Args:
        whole: whether other Gemm nodes stay as they are. Else each becomes a MatMul of its name: the quantiser would
            give it another one, and transposes a constant in place though other nodes read it.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    taken = {name for node in graph.node for name in node.output} | used_names(graph)

    transposed: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        bias = node.input[2] if len(node.input) > 2 else ""
        plain = node.op_type == "Gemm" and all(attribute(node, name, 1.0) == 1 for name in ("alpha", "beta"))
        if not plain or attribute(node, "transA", 0) or (whole and (not bias or _is_bias(node, constants))):
            nodes.append(node)
            continue
        if not whole:
            name = node.input[1]
            if attribute(node, "transB", 0) and name not in transposed:
                transposed[name] = _fresh(f"{name}_transposed", taken)
                if name in constants:
                    value = np.ascontiguousarray(numpy_helper.to_array(constants[name]).T)
                    graph.initializer.append(numpy_helper.from_array(value, transposed[name]))
                else:
                    label = f"{node.name}_Transpose"
                    nodes.append(helper.make_node("Transpose", [name], [transposed[name]], label, perm=[1, 0]))
            weight = transposed[name] if attribute(node, "transB", 0) else name
            node.CopyFrom(helper.make_node("MatMul", [node.input[0], weight], node.output, node.name))
        nodes.append(node)
        if bias:
            result, product = node.output[0], _fresh(f"{node.output[0]}_product", taken)
            node.output[0] = product
            del node.input[2:]
            nodes.append(helper.make_node("Add", [product, bias], [result], f"{node.name}_Add"))
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    used = used_names(graph)
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _copy_weights_read_both_ways(model: ModelProto) -> None:
    """Gives products whose channels are another axis of a weight than for the first that reads it a copy of their own.

    The quantiser has scales for one axis alone, and an autoencoder's decoder may have the encoder's weights.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    taken = {name for node in graph.node for name in node.output} | used_names(graph)
    axes: dict[str, int] = {}
    copies: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in constants:
            continue
        name = node.input[1]
        axis = 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1
        if axes.setdefault(name, axis) == axis:
            continue
        if name not in copies:
            copies[name] = _fresh(f"{name}_copy", taken)
            graph.initializer.add().CopyFrom(constants[name])
            graph.initializer[-1].name = copies[name]
        node.input[1] = copies[name]


def _compute_constant_outputs(model: ModelProto) -> None:
    """Puts an Identity in front of outputs that are constants: the converter to float16 expects them to be computed."""
    graph = model.graph
    outputs = {value.name for value in graph.output}
    taken = {name for node in graph.node for name in node.output} | used_names(graph)
    for tensor in graph.initializer:
        if tensor.name not in outputs:
            continue
        name = tensor.name
        tensor.name = _fresh(f"{name}_constant", taken)
        for node in graph.node:
            node.input[:] = [tensor.name if read == name else read for read in node.input]
        graph.node.insert(0, helper.make_node("Identity", [tensor.name], [name], _fresh(f"{name}_Identity", taken)))


def _declare_types(path: Path, model: ModelProto) -> None:
    """Adds types of tensors of which onnx's inference knows nothing: the quantiser and the converter to float16 fail on
    what has none.

    Raises:
        InputError: the file's shapes contradict each other.
    """
    graph = model.graph
    while any(contrib.has_rule(node) for node in graph.node):
        try:
            inferred = onnx.shape_inference.infer_shapes(model).graph
        except Exception as error:  # onnx's errors share no base class
            raise contradiction(path, error) from error
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        types |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
        news = {
            name: kind
            for node in graph.node
            if contrib.has_rule(node) and node.input[0] in types
            for name, kind in zip(node.output, contrib.output_types(node, types[node.input[0]]), strict=False)
            if name and name not in types
        }
        if not news:
            return
        graph.value_info.extend(helper.make_tensor_value_info(name, kind, None) for name, kind in news.items())


def _fresh(name: str, taken: set[str]) -> str:
    """A name that is not taken, and is from now on."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _is_bias(node: NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether what a Gemm adds is one constant number for each output."""
    bias = constants.get(node.input[2])
    return bias is not None and list(bias.dims) == [_columns(node, constants)]


def _columns(node: NodeProto, constants: Mapping[str, onnx.TensorProto]) -> int | None:
    """Outputs of a Gemm, where its weight is constant."""
    weight = constants.get(node.input[1])
    return None if weight is None else weight.dims[0 if attribute(node, "transB", 0) else 1]


def _places(named: Network, model: ModelProto) -> dict[str, str]:
    """Node of the file -> the node of the model that makes its output, or the first that one further on is made by."""
    makers = {name: node.name for node in model.graph.node for name in node.output if name}
    kept = {node.name for node in model.graph.node}
    readers: dict[str, list[NodeProto]] = {}
    for node in named.nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    places = {}
    for node in named.nodes:
        if node.name in kept:
            places[node.name] = node.name
            continue
        at: NodeProto | None = node
        while at is not None:
            made = next((makers[name] for name in at.output if name in makers), None)
            if made is not None:
                places[node.name] = made
                break
            following = [reader for name in at.output for reader in readers.get(name, ())]
            at = following[0] if len(following) == 1 else None
    return places


def _obstacle(node: NodeProto, constants: Mapping[str, onnx.TensorProto], kinds: Sequence[str]) -> str | None:
    """Why a product cannot be quantised."""
    if any(subgraphs(node)):
        return "its subgraphs stay as they are"
    if node.op_type not in kinds:
        return f"onnxruntime has no {node.op_type} in this type, or a slow one"
    weight = constants.get(node.input[1])
    if weight is None:
        return "its weights are on the left" if node.input[0] in constants else "it multiplies two activations"
    if weight.data_type != onnx.TensorProto.FLOAT:
        return f"its weights are {helper.tensor_dtype_to_np_dtype(weight.data_type)}"
    if node.op_type == "MatMul" and len(weight.dims) != 2:
        return f"its weights have {len(weight.dims)} dimensions"
    if node.op_type != "Gemm":
        return None
    if attribute(node, "transA", 0) or any(attribute(node, name, 1.0) != 1 for name in ("alpha", "beta")):
        return "it transposes or scales its input"
    return None
