"""Weights that several operators multiply by: of twin towers, of a head for several scales, of layers that repeat."""

from collections import defaultdict

from onnxprune.graph.macs import OPERATORS
from onnxprune.graph.network import Network
from onnxprune.graph.nodes import operator_type

Place = tuple[int, int]  # a node, and the position of one of its inputs


def weight_places(network: Network) -> dict[str, list[Place]]:
    """Name of each matrix or kernel that operators multiply by -> where it is read as such, in order."""
    found: dict[str, list[Place]] = defaultdict(list)
    for index, node in enumerate(network.nodes):
        operator = OPERATORS.get(operator_type(node))
        for position in operator.weights if operator else ():
            name = node.input[position] if position < len(node.input) else ""
            value = network.weights.get(name)
            if value is not None and value.ndim > 1 and value.dtype.kind == "f":
                found[name].append((index, position))
    return dict(found)


def shared_weights(network: Network) -> dict[str, list[Place]]:
    """Those that are read in more than one place.

    Exporters store equal constants once, so that biases of zeros are read by operators that have nothing to do with
    each other. What is multiplied by is read twice only where the network was built so, or where it was never trained.
    """
    return {name: places for name, places in weight_places(network).items() if len(places) > 1}
