"""The two matrix products of a recurrent layer, which are fitted like those of other operators.

LSTM, GRU and RNN add two products before their gates: weights times the inputs, and weights times the hidden state
of the step before (onnx.ai/onnx/operators/onnx__LSTM.html). Each is linear in its weights, and is fitted to what
it was in the original: the second one to what the sum of both was, less what the first one gives now.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper

from onnxprune.graph.channels import ChannelGraph
from onnxprune.graph.network import Network, attribute, reads
from onnxprune.graph.nodes import operator_type
from onnxprune.reduction.moments import Moments
from onnxprune.reduction.rows import Rows
from onnxprune.runtime.execution import open_network, run
from onnxprune.runtime.stages import Stages

KINDS = ("LSTM", "GRU", "RNN")
_INPUTS, _STATES, _BIAS = 1, 2, 3  # positions of the weights, and of both biases


@dataclass(frozen=True)
class Product:
    """One of the two; its weights are (directions, gates * hidden, features).

    Attributes:
        node: its place.
        weight: position of the weights: 1, of the inputs, or 2, of the hidden state.
    """

    node: int
    weight: int

    @property
    def has_bias(self) -> bool:
        """Each product has a bias of its own, or has room for one."""
        return True

    def matrix(self, network: Network) -> np.ndarray:
        """The weights, float64."""
        return network.weights[network.nodes[self.node].input[self.weight]].astype(np.float64)

    def offset(self, network: Network) -> np.ndarray:
        """Its bias (directions * gates * hidden,), float64."""
        found: np.ndarray = self._biases(network)[:, self._half(network)]
        return found.reshape(-1)

    def of(self, network: Network, rows: np.ndarray) -> np.ndarray:
        """What it gives for rows (directions, rows, features): (directions, rows, gates * hidden), float64."""
        weights = self.matrix(network)
        return rows.astype(np.float64) @ weights.transpose(0, 2, 1) + self.offset(network).reshape(len(weights), 1, -1)

    def write(self, network: Network, nodes: list[NodeProto], weights: np.ndarray, bias: np.ndarray | None) -> None:
        """Gives the layer these weights and this bias (directions, gates * hidden)."""
        node = nodes[self.node]
        kind = network.weights[node.input[self.weight]].dtype
        biases = self._biases(network)
        if bias is not None:
            biases[:, self._half(network)] = bias
        while len(node.input) <= _BIAS:
            node.input.append("")
        for position, value in ((self.weight, weights), (_BIAS, biases)):
            name = node.input[position]
            if not name or sum(list(reads(item)).count(name) for item in nodes) > 1 or name in network.outputs:
                name = node.input[position] = network.fresh(f"{node.name or node.op_type}_{position}")
            network.weights[name] = value.astype(kind)

    def _half(self, network: Network) -> slice:
        size = self.matrix(network).shape[1]
        return slice(0, size) if self.weight == _INPUTS else slice(size, 2 * size)

    def _biases(self, network: Network) -> np.ndarray:
        """Both (directions, 2 * gates * hidden), float64; zeros where there are none."""
        node = network.nodes[self.node]
        if len(node.input) > _BIAS and node.input[_BIAS]:
            return network.weights[node.input[_BIAS]].astype(np.float64)
        directions, size, _ = self.matrix(network).shape
        return np.zeros((directions, 2 * size))


def products(network: Network) -> list[Product]:
    """Those that can be fitted, in order: of constant weights, and what the hidden state is multiplied by only where it
    is the state itself and the layer begins from constants."""
    found = []
    for place, node in enumerate(network.nodes):
        if operator_type(node) not in KINDS or attribute(node, "layout", 0):
            continue
        names = [*node.input, *[""] * (8 - len(node.input))]
        if any(name and name not in network.weights for name in names[1:4]) or not all(names[1:3]):
            continue
        found.append(Product(place, _INPUTS))
        whole = operator_type(node) != "GRU" or attribute(node, "linear_before_reset", 0)
        if whole and all(not name or name in network.weights for name in names[4:]):
            found.append(Product(place, _STATES))
    return found


def with_states(network: Network) -> dict[int, str]:
    """Place of each recurrent layer -> the tensor of its hidden states, which is given a name where it had none."""
    nodes = network.nodes
    found = {}
    for product in products(network):
        node = nodes[product.node]
        if not node.output[0]:
            node.output[0] = network.fresh(f"{node.output[-1]}_states")
        found[product.node] = node.output[0]
    return found


def rows(
    product: Product,
    graph: ChannelGraph,
    keep: np.ndarray,
    original: Stages,
    now: Stages,
    random: np.random.Generator,
    most: int,
) -> list[Rows]:
    """What the product multiplies in the pruned network, and what it should give, of each batch.

    Args:
        original: past the layer, with its input and its hidden states kept.
        now: before the layer, with its input kept.
        most: rows in all, about.
    """
    was, node = original.network.nodes[product.node], now.network.nodes[product.node]
    made = np.ones(product.matrix(original.network).shape[1], bool)
    for cut in graph.cuts:
        if (cut.node, cut.position, cut.role) == (product.node, product.weight, "producer"):
            made = keep[cut.labels]
    directions = len(product.matrix(original.network))
    states = _states(now, node) if product.weight == _STATES else None
    found = []
    for batch in range(len(now)):
        before, after = original.value(batch, was.input[0]), now.value(batch, node.input[0])
        given = [_by_direction(value, directions) for value in (before, after)]
        read = given
        if states is not None:
            read = [_before(value, node) for value in (original.value(batch, was.output[0]), next(states))]
        count = read[0].shape[1]
        chosen = np.sort(random.choice(count, min(count, max(1, most // len(now))), replace=False))
        read = [rows[:, chosen] for rows in read]
        wanted = product.of(original.network, read[0])[:, :, made]
        if states is not None:
            first = Product(product.node, _INPUTS)
            given = [_after(rows, len(before), node)[:, chosen] for rows in given]
            missing = first.of(original.network, given[0])[:, :, made] - first.of(now.network, given[1])
            if operator_type(node) == "GRU":  # the two are not added in its last gate, but after another product
                missing[:, :, 2 * missing.shape[2] // 3 :] = 0
            wanted += missing
        found.append(Rows(read[1], wanted.astype(after.dtype), None))
    return found


def moments(product: Product, stages: Stages) -> Moments:
    """Of what the product multiplies, for each direction.

    Args:
        stages: past the layer, with its input and its hidden states kept.
    """
    node = stages.network.nodes[product.node]
    directions, _, features = product.matrix(stages.network).shape
    found = Moments.empty(directions, features, 0)
    for batch in range(len(stages)):
        if product.weight == _STATES:
            rows = _before(stages.value(batch, node.output[0]), node)
        else:
            rows = _by_direction(stages.value(batch, node.input[0]), directions)
        found.add(rows, np.zeros((*rows.shape[:2], 0), rows.dtype))
    return found


def _by_direction(inputs: np.ndarray, directions: int) -> np.ndarray:
    """Inputs (steps, batch, features) as rows (directions, rows, features), the same for all."""
    flat = inputs.reshape(-1, inputs.shape[-1])
    return np.broadcast_to(flat, (directions, *flat.shape))


def _before(states: np.ndarray, node: NodeProto) -> np.ndarray:
    """Hidden states (steps, directions, batch, hidden) of the step before, as rows (directions, rows, hidden)."""
    parts = [
        states[1:, direction] if backwards else states[:-1, direction]
        for direction, backwards in enumerate(_backwards(node, states.shape[1]))
    ]
    return np.stack([part.reshape(-1, part.shape[-1]) for part in parts])


def _after(rows: np.ndarray, steps: int, node: NodeProto) -> np.ndarray:
    """Of rows (directions, steps * batch, features) those of steps that have one before."""
    size = rows.shape[1] // steps
    parts = [
        part[:-size] if backwards else part[size:]
        for part, backwards in zip(rows, _backwards(node, len(rows)), strict=True)
    ]
    return np.stack(parts)


def _backwards(node: NodeProto, directions: int) -> list[bool]:
    """Whether each direction goes from the last step to the first."""
    return [attribute(node, "direction", b"forward") == b"reverse" or place == 1 for place in range(directions)]


def _states(now: Stages, node: NodeProto) -> Iterator[np.ndarray]:
    """The hidden states that a layer gives as it is now, for each batch."""
    network = now.network
    part = Network(ModelProto(), dict(network.weights))
    part.model.CopyFrom(network.model)
    del part.model.graph.input[:], part.model.graph.output[:]
    kind = helper.np_dtype_to_tensor_dtype(now.value(0, node.input[0]).dtype)
    part.model.graph.input.append(helper.make_tensor_value_info(node.input[0], kind, None))
    part.replace_nodes([node])
    with open_network(part, [node.output[0]]) as session:
        for batch in range(len(now)):
            yield run(session, {node.input[0]: now.value(batch, node.input[0])})[node.output[0]]
