"""An ONNX model whose weights are NumPy arrays beside its graph, so that they can be cut, fitted and shared."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.common.errors import InputError
from onnxprune.common.files import replacing
from onnxprune.graph.files import IR_WITH_FREE_INITIALIZERS, load
from onnxprune.graph.light import copy_field
from onnxprune.graph.nodes import operator_type, subgraphs, used_names
from onnxprune.graph.number_types import is_floating
from onnxprune.graph.tensors import constants, constants_within, values
from onnxprune.graph.unfusing import unfuse

_LAID_OUT = "com.microsoft.nchwc"  # the domain of operators that read weights in blocks of channels
_EXTERNAL_ABOVE = 2**31 - 2**20  # protobuf's limit, less what the graph itself takes


@dataclass
class Network:
    """A graph and its constants, which every operation replaces and none changes in place.

    Attributes:
        model: the file without initializers and Constant nodes.
        weights: name -> value of every constant of the main graph.
    """

    model: ModelProto
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def nodes(self) -> list[NodeProto]:
        """In the order of the file."""
        return list(self.model.graph.node)

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs that are not constants, in order."""
        return [value.name for value in self.model.graph.input]

    @property
    def outputs(self) -> list[str]:
        """Names, in order."""
        return [value.name for value in self.model.graph.output]

    @property
    def fixed_batch(self) -> int | None:
        """Samples that a batch has to have; None where the file leaves that open."""
        firsts = [value.type.tensor_type.shape.dim[:1] for value in self.model.graph.input]
        return next((first[0].dim_value for first in firsts if first and first[0].dim_value > 0), None)

    def parameters(self, path: Path) -> Iterator[tuple[str, np.ndarray]]:
        """Name and value of the constants that are floating-point numbers, those of subgraphs too.

        Args:
            path: of the file that the network was read from.
        """
        yield from ((name, value) for name, value in self.weights.items() if is_floating(value.dtype))
        yield from parameters(path, self.model.graph)

    def copy(self) -> Network:
        """A network whose graph may be changed; the weights' arrays are shared."""
        model = ModelProto()
        model.CopyFrom(self.model)
        return Network(model, dict(self.weights))

    def replace_nodes(self, nodes: Iterable[NodeProto]) -> None:
        """Sets the nodes, and drops the constants that none of them reads."""
        kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.model.graph.node[:]
        self.model.graph.node.extend(kept)
        self.drop_unused()

    def drop_unused(self) -> None:
        """Drops the constants that no node reads."""
        used = used_names(self.model.graph)
        self.weights = {name: value for name, value in self.weights.items() if name in used}

    def fresh(self, name: str) -> str:
        """A name that no tensor has yet."""
        taken = set(self.weights) | set(self.inputs) | made_in(self.model.graph)
        candidate, number = name, 0
        while candidate in taken:
            number += 1
            candidate = f"{name}_{number}"
        return candidate

    def proto(self) -> ModelProto:
        """The whole model; over 2 GiB it cannot be serialised, `save` can."""
        model = ModelProto()
        model.CopyFrom(self.model)
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in self.weights.items())
        return model

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all; weights over 2 GiB go into external data beside it.

        Raises:
            StorageError: the disk is full, or the system does not let us write there.
        """
        with replacing(path) as partial:
            if sum(value.nbytes for value in self.weights.values()) <= _EXTERNAL_ABOVE:
                partial.write_bytes(self.proto().SerializeToString(deterministic=True))
                return
            data = path.with_name(path.name + ".data")
            with replacing(data) as partial_data:
                self._write_external(partial, partial_data, data.name)

    def _write_external(self, path: Path, data: Path, location: str) -> None:
        model = ModelProto()
        model.CopyFrom(self.model)
        with data.open("wb") as file:
            for name, value in self.weights.items():
                if value.nbytes < 1024:
                    model.graph.initializer.append(numpy_helper.from_array(value, name))
                    continue
                file.write(b"\0" * (-file.tell() % 4096))
                tensor = model.graph.initializer.add(
                    name=name,
                    dims=value.shape,
                    data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
                    data_location=TensorProto.EXTERNAL,
                )
                for key, entry in (("location", location), ("offset", file.tell()), ("length", value.nbytes)):
                    tensor.external_data.add(key=key, value=str(entry))
                np.ascontiguousarray(value).tofile(file)
        path.write_bytes(model.SerializeToString(deterministic=True))


def parameters(path: Path, graph: GraphProto) -> Iterator[tuple[str, np.ndarray]]:
    """Name and value of a graph's constants that are floating-point numbers, those of subgraphs too."""
    for tensor in constants_within(graph):
        value = values(path, tensor)
        if is_floating(value.dtype):
            yield tensor.name, value


def read(path: Path) -> Network:
    """Reads an ONNX file: functions inlined, nodes that onnxruntime fused apart, Constant nodes and initializers alike
    as arrays.

    Raises:
        InputError: see `onnxprune.graph.files.load`.
    """
    model, _ = load(path)
    unfuse(path, model)
    weights = {tensor.name: values(path, tensor) for tensor in constants(model.graph)}
    kept = [node for node in model.graph.node if not (operator_type(node) == "Constant" and node.output[0] in weights)]
    inputs = [value for value in model.graph.input if value.name not in weights]
    light = ModelProto()
    for field_, value in model.ListFields():
        if field_.name not in ("graph", "functions"):
            copy_field(light, field_, value)
    if len(inputs) < len(model.graph.input):
        light.ir_version = max(light.ir_version, IR_WITH_FREE_INITIALIZERS)
    for field_, value in model.graph.ListFields():
        if field_.name not in ("node", "initializer", "input", "value_info", "quantization_annotation"):
            copy_field(light.graph, field_, value)
    light.graph.input.extend(inputs)
    network = Network(light, weights)
    network.replace_nodes(kept)
    return network


def check_source(path: Path, network: Network) -> None:
    """Raises an InputError where a matrix or filter has numbers that are none, as a training that diverged leaves, or
    where onnxruntime has laid weights out for a processor."""
    laid_out = [node for node in network.nodes if node.domain.startswith(_LAID_OUT)]
    if laid_out:
        raise InputError(
            f"{path}: onnxruntime saved it as it runs it on one kind of processor ({operator_type(laid_out[0])}): give "
            "the file that this was made of"
        )
    for name, value in network.parameters(path):
        if value.ndim > 1 and np.isnan(value).any():
            raise InputError(f"{path}: its weights {name!r} have numbers that are NaN: train or export it again")


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute, or the default where the node does not have it."""
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), default)


def set_attribute(node: NodeProto, name: str, value: Any) -> None:
    """Gives the node an attribute in place of the one it has by this name."""
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def label_of(node: NodeProto) -> str:
    """The node's name, or that of its first output."""
    return node.name or next((name for name in node.output if name), node.op_type)


def reads(node: NodeProto) -> Iterator[str]:
    """Names that the node reads, those that its subgraphs take from outside among them."""
    yield from (name for name in node.input if name)
    for inner in subgraphs(node):
        own = {value.name for value in inner.input} | {tensor.name for tensor in inner.initializer}
        own |= {name for item in inner.node for name in item.output}
        yield from sorted(used_names(inner) - own)


def readers_of(nodes: Sequence[NodeProto]) -> dict[str, list[int]]:
    """Name of a tensor -> places of the nodes that it is read by, as often as each reads it."""
    found: dict[str, list[int]] = {}
    for index, node in enumerate(nodes):
        for name in reads(node):
            found.setdefault(name, []).append(index)
    return found


def made_in(graph: GraphProto) -> set[str]:
    """Names that a graph's nodes give to tensors, those in subgraphs among them."""
    made: set[str] = set()
    for node in graph.node:
        made.update(node.output)
        for inner in subgraphs(node):
            made |= made_in(inner) | {value.name for value in (*inner.input, *inner.initializer)}
    return made


def live_nodes(nodes: list[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """The nodes that the outputs depend on, in order."""
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if any(name in needed for name in node.output if name):
            kept.append(node)
            needed.update(reads(node))
    return kept[::-1]


def in_order(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """The nodes, each behind those whose outputs it or a subgraph of it reads, else in their order.

    Raises:
        ValueError: they go round in a circle.
    """
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    before = [{maker[name] for name in reads(node) if name in maker} for node in nodes]
    after: dict[int, list[int]] = {}
    for index, makers in enumerate(before):
        for other in makers:
            after.setdefault(other, []).append(index)
    missing = [len(makers) for makers in before]
    ready = [index for index, count in enumerate(missing) if not count]
    found = []
    while ready:
        index = heapq.heappop(ready)
        found.append(nodes[index])
        for reader in after.get(index, ()):
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(found) < len(nodes):
        raise ValueError("the nodes of the graph go round in a circle")
    return found


def opset(model: ModelProto) -> int:
    """Version of ONNX's own operators."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)


def metadata(model: ModelProto) -> Mapping[str, str]:
    """The properties of a file."""
    return {entry.key: entry.value for entry in model.metadata_props}
