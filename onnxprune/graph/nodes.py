"""What every walk over a graph asks of its nodes."""

from collections.abc import Iterator, Mapping

from onnx import GraphProto, NodeProto

from onnxprune.common.output import printable


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs among its attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def used_names(graph: GraphProto) -> set[str]:
    """Names that the graph's nodes and outputs read, subgraphs included."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for inner in subgraphs(node):
            names |= used_names(inner)
    return names - {""}


def rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Gives tensors other names, old -> new, in subgraphs too."""
    for tensor in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        for listed in (node.input, node.output):
            listed[:] = [names.get(name, name) for name in listed]
        for inner in subgraphs(node):
            rename(inner, names)


def operator_type(node: NodeProto) -> str:
    """The node's operator, with its domain where that is not ONNX's own: "Conv", "com.microsoft.QAttention"."""
    return printable(node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}")


def label(node: NodeProto) -> str:
    """The node's name, or that of the first output that it gives; printable, whatever a file has there."""
    return printable(node.name or next((name for name in node.output if name), node.op_type))
