"""Products of two activations: onnxruntime computes them in 8 bits where both have been in 8 bits, asked for or not."""

from collections.abc import Collection, Mapping

from onnx import GraphProto, NodeProto

_PRODUCTS = ("Conv", "Gemm", "MatMul")  # that onnxruntime has in 8 bits
_CUTS = ("Relu", "Clip")  # are fused with the convolution before


def in_eight_bits(graph: GraphProto) -> set[str]:
    """Names of the products of two activations that are computed in 8 bits."""
    makers = _makers(graph)
    found = [node for node in graph.node if node.op_type in _PRODUCTS and None not in _read(node, makers)]
    before_relu = {node.input[0] for node in graph.node if node.op_type == "Relu"}  # which onnxruntime leaves in floats
    return {node.name for node in found if node.op_type != "MatMul" or node.output[0] not in before_relu}


def read_floats(graph: GraphProto, products: Collection[str]) -> None:
    """Lets products that would be computed in 8 bits read values from before their conversion.

    A convolution whose answer others need in floats is not computed in 8 bits any more, so that such an answer is
    taken where there is no other alone. Conversions that nothing reads any more are left.

    Args:
        products: names of nodes; others than products of two activations stay as they are.
    """
    makers = _makers(graph)
    found = in_eight_bits(graph).intersection(products)
    for node in graph.node:
        if node.name not in found:
            continue
        before = {place: name for place, name in enumerate(_read(node, makers)) if name is not None}
        free = [place for place, name in before.items() if not _of_convolution(name, makers)]
        for place in free or [0]:
            node.input[place] = before[place]


def _makers(graph: GraphProto) -> dict[str, NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def _read(node: NodeProto, makers: Mapping[str, NodeProto]) -> list[str | None]:
    """Of its two operands what was converted to 8 bits and back; None where it has not been, or is a constant."""
    return [_before(name, makers) for name in node.input[:2]]


def _before(name: str, makers: Mapping[str, NodeProto]) -> str | None:
    back = makers.get(name)
    there = makers.get(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
    return there.input[0] if there is not None and there.op_type == "QuantizeLinear" else None


def _of_convolution(name: str, makers: Mapping[str, NodeProto]) -> bool:
    maker = makers.get(name)
    while maker is not None and maker.op_type in _CUTS:
        maker = makers.get(maker.input[0])
    return maker is not None and maker.op_type == "Conv"
