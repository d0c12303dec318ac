"""Dead structure elimination: units that say nothing leave an ONNX file, and what it computes stays the same.

A channel of a convolution or of a matrix product is dead where it is constant, all its weights being zero, and that
constant can be added to the biases of what reads it; or where nothing reads it, all weights that do being zero. Weights
that several operators share stay as they are: without other channels for each, they would be stored several times.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper, shape_inference

from onnxprune.common.files import replacing
from onnxprune.common.widths import least_width
from onnxprune.graph.network import attribute

_SAME = {"Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity", "Dropout"}  # channel by channel


@dataclass
class _Channels:
    """What is known of the channels (C,) of a tensor (N, C, ...).

    Attributes:
        varies: whether they depend on the input.
        values: the constant of one that does not, in float64.
        needed: whether something reads them that cannot take their constant into its bias.
    """

    varies: np.ndarray
    values: np.ndarray
    needed: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.needed = np.zeros(len(self.varies), bool)


def eliminate_dead_units(path: Path, align: int = 1) -> int:
    """Rewrites an ONNX file of ours without its dead units; returns how many channels went.

    A tensor that has no other channels keeps one: no layer can be empty. What an operator that is not known here reads
    stays as it is.

    Args:
        align: what is left of a convolution's 32 channels or more is a multiple of this, or a half, a quarter, ... of
            it where it is less than that: dead ones stay where the odd width would cost more time than they do.
    """
    model = onnx.load(path)
    graph = _Graph(model)
    removed = graph.eliminate(align)
    if removed:
        del model.graph.value_info[:]  # shapes of before
        onnx.checker.check_model(model, full_check=True)
        with replacing(path) as partial:
            onnx.save(model, partial)
    return removed


def nonzero_numbers(path: Path) -> int:
    """Floating-point numbers that the operators of an ONNX file of ours read and that are not zero.

    What is equal, as of untrained BatchNorms, is stored once and counts for each that reads it.
    """
    graph = onnx.load(path).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    counts = {name: int(np.count_nonzero(array)) for name, array in arrays.items() if array.dtype.kind == "f"}
    return sum(counts.get(name, 0) for node in graph.node for name in node.input)


class _Graph:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._use_weights_directly()
        self._readers: dict[str, int] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers[name] = self._readers.get(name, 0) + 1
        # of zeros alone, which the exporter keeps once for all layers of a shape, nothing is lost
        self._shared = {
            name
            for name, count in self._readers.items()
            if count > 1 and name in self._weights and numpy_helper.to_array(self._weights[name]).any()
        }
        inferred = shape_inference.infer_shapes(model).graph
        self._sizes = {
            info.name: [dimension.dim_value for dimension in info.type.tensor_type.shape.dim]
            for info in (*inferred.input, *inferred.output, *inferred.value_info)
        }
        self._channels: dict[str, _Channels] = {}

    def _use_weights_directly(self) -> None:
        """The exporter keeps equal weights, such as zeros, once and hands them on by Identity."""
        copies = {
            node.output[0]: node.input[0]
            for node in self._graph.node
            if node.op_type == "Identity" and node.input[0] in self._weights
        }
        for node in [node for node in self._graph.node if node.output[0] in copies]:
            self._graph.node.remove(node)
        for node in self._graph.node:
            for index, name in enumerate(node.input):
                node.input[index] = copies.get(name, name)

    def eliminate(self, align: int) -> int:
        for name in (info.name for info in self._graph.input):
            if any(self._sizes[name][1:2]):
                self._channels[name] = self._all_vary(name)
                self._channels[name].needed[:] = True
        nodes = list(self._graph.node)
        for node in nodes:
            self._spread(node)
        for info in self._graph.output:
            self._need(info.name, None)
        for node in reversed(nodes):
            self._ask(node)
        products = [node for node in nodes if self._is_product(node) and node.output[0] in self._channels]
        for node in products:
            channels = self._channels[node.output[0]]
            step = 1 if _is_gemm(node) else align
            dead = np.flatnonzero(~channels.needed)
            channels.needed[dead[: _spared(len(channels.needed), len(dead), step)]] = True
        # what one tensor keeps for lack of others, the tensors that it is made of or that are made of it keep too
        while sum(self._agree(node) for node in nodes):  # of all, not up to the first
            pass
        removed = sum(int((~self._channels[node.output[0]].needed).sum()) for node in products)
        if removed:
            for node in nodes:
                self._narrow(node)
        return removed

    # Forwards: what is constant

    def _spread(self, node: NodeProto) -> None:
        output = node.output[0]
        sources = [self._channels.get(name) for name in node.input]
        first = sources[0] if sources else None
        if self._is_product(node) and first is not None:
            weight, bias = self._product(node)
            reads = np.abs(weight).sum(tuple(range(2, weight.ndim))) > 0
            foldable = self._foldable(node, first)
            values = bias + weight.sum(tuple(range(2, weight.ndim))) @ np.where(foldable, first.values, 0)
            self._channels[output] = _Channels((reads & ~foldable).any(1), values)
        elif node.op_type == "BatchNormalization" and first is not None and self._own(node.input[1:5]):
            scale, shift = self._affine(node)
            self._channels[output] = _Channels(
                first.varies & (scale != 0), np.where(first.varies, 0, first.values) * scale + shift
            )
        elif node.op_type in _SAME and first is not None:
            values = np.maximum(first.values, 0) if node.op_type == "Relu" else first.values
            self._channels[output] = _Channels(first.varies.copy(), values.copy())
            if _pads(node) and node.op_type == "AveragePool":  # zeros come in at the borders
                self._channels[output].varies |= first.values != 0
        elif node.op_type == "Concat" and attribute(node, "axis") == 1 and self._all_told(node):
            known = [source for source in sources if source is not None]
            self._channels[output] = _Channels(
                np.concatenate([source.varies for source in known]), np.concatenate([source.values for source in known])
            )
        elif (
            node.op_type == "Flatten"
            and first is not None
            and attribute(node, "axis", 1) == 1
            and (places := self._places(node))
        ):
            self._channels[output] = _Channels(np.repeat(first.varies, places), np.repeat(first.values, places))
        elif any(self._sizes.get(output, [])[1:2]):  # a size that is not known is 0
            self._channels[output] = self._all_vary(output)
            self._channels[output].needed[:] = True  # nothing here could make it narrower

    def _all_vary(self, name: str) -> _Channels:
        count = self._sizes[name][1]
        return _Channels(np.ones(count, bool), np.zeros(count))

    def _foldable(self, node: NodeProto, channels: _Channels) -> np.ndarray:
        """Which inputs of a product its bias can take over; at the borders of one that pads, zeros come in."""
        return ~channels.varies & ((channels.values == 0) | (not _pads(node)))

    # Backwards: what is needed

    def _ask(self, node: NodeProto) -> None:
        output = self._channels.get(node.output[0])
        first = self._channels.get(node.input[0]) if node.input else None
        if output is None or first is None or not self._is_known(node) or not self._all_told(node):
            for name in node.input:
                self._need(name, None)
        elif self._is_product(node):
            weight, _ = self._product(node)
            reads = (np.abs(weight).sum(tuple(range(2, weight.ndim))) > 0) & output.needed[:, None]
            self._need(node.input[0], reads.any(0) & ~self._foldable(node, first))
        elif node.op_type == "Concat":
            start = 0
            for name in node.input:
                count = len(self._channels[name].varies)
                self._need(name, output.needed[start : start + count])
                start += count
        elif node.op_type == "Flatten":
            self._need(node.input[0], output.needed.reshape(len(first.varies), -1).any(1))
        else:
            self._need(node.input[0], output.needed)

    def _all_told(self, node: NodeProto) -> bool:
        """Whether the channels of all parts of a concatenation are known."""
        return node.op_type != "Concat" or all(name in self._channels for name in node.input)

    def _need(self, name: str, which: Any) -> None:
        if name in self._channels:
            self._channels[name].needed |= np.True_ if which is None else which

    def _agree(self, node: NodeProto) -> bool:
        """Makes inputs and outputs of an operator that keeps its channels need the same; whether something changed."""
        if self._is_product(node) or not self._is_known(node) or not self._all_told(node):
            return False
        if node.output[0] not in self._channels or node.input[0] not in self._channels:  # as where it reads a constant
            return False
        output = self._channels[node.output[0]]
        sources = [self._channels[name] for name in node.input if name in self._channels]
        places = self._places(node) if node.op_type == "Flatten" else 1
        joined = np.concatenate([np.repeat(source.needed, places) for source in sources])
        both = joined | output.needed
        if places > 1:
            both = np.repeat(both.reshape(-1, places).any(1), places)
        changed = bool((both != output.needed).any() or (both != joined).any())
        output.needed[:] = both
        start = 0
        for source in sources:
            source.needed[:] = both[start : start + len(source.needed) * places : places]
            start += len(source.needed) * places
        return changed

    # Rewriting

    def _narrow(self, node: NodeProto) -> None:
        output, first = self._channels.get(node.output[0]), self._channels.get(node.input[0]) if node.input else None
        if output is None or first is None:
            return
        if self._is_product(node):
            weight, bias = self._product(node)
            folded = self._foldable(node, first) & ~first.needed
            bias = bias + weight.sum(tuple(range(2, weight.ndim))) @ np.where(folded, first.values, 0)
            weight, bias = weight[output.needed][:, first.needed], bias[output.needed]
            self._replace(node, 1, weight.T if _is_gemm(node) and not attribute(node, "transB", 0) else weight)
            if len(node.input) > 2 or bias.any():
                self._replace(node, 2, bias)
        elif node.op_type == "BatchNormalization" and self._own(node.input[1:5]):
            for index in range(1, 5):
                values = numpy_helper.to_array(self._weights[node.input[index]])
                self._replace(node, index, values[output.needed])

    def _replace(self, node: NodeProto, index: int, values: np.ndarray) -> None:
        """Gives an operator a weight of its own: others may read the one it has."""
        name = node.input[index] if len(node.input) > index else f"{node.output[0]}_bias"
        tensor = numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name)
        if len(node.input) <= index:
            node.input.append(name)
        elif self._readers[name] > 1:
            self._readers[name] -= 1
            tensor.name = node.input[index] = f"{node.output[0]}_{index}"
        else:
            self._weights[name].CopyFrom(tensor)
            return
        self._graph.initializer.append(tensor)

    # What operators are

    def _own(self, names: Iterable[str]) -> bool:
        return all(name in self._weights for name in names)

    def _is_product(self, node: NodeProto) -> bool:
        if node.op_type in ("Conv", "Gemm") and node.input[1] in self._shared:
            return False
        if node.op_type == "Conv":
            return attribute(node, "group", 1) == 1 and self._own(node.input[1:])
        plain = not attribute(node, "transA", 0) and all(attribute(node, name, 1.0) == 1 for name in ("alpha", "beta"))
        return _is_gemm(node) and plain and self._own(node.input[1:])

    def _is_known(self, node: NodeProto) -> bool:
        return (
            self._is_product(node)
            or node.op_type in _SAME
            or (node.op_type == "BatchNormalization" and self._own(node.input[1:5]))
            or (node.op_type == "Concat" and attribute(node, "axis") == 1)
            or (node.op_type == "Flatten" and attribute(node, "axis", 1) == 1)
        )

    def _product(self, node: NodeProto) -> tuple[np.ndarray, np.ndarray]:
        """Weight (outputs, inputs, ...) and bias (outputs,), in float64."""
        weight = numpy_helper.to_array(self._weights[node.input[1]]).astype(np.float64)
        if _is_gemm(node) and not attribute(node, "transB", 0):
            weight = weight.T
        if len(node.input) < 3:
            return weight, np.zeros(len(weight))
        bias = numpy_helper.to_array(self._weights[node.input[2]]).astype(np.float64)
        return weight, np.broadcast_to(bias.reshape(-1), (len(weight),))

    def _affine(self, node: NodeProto) -> tuple[np.ndarray, np.ndarray]:
        """What a BatchNorm multiplies by and adds (C,)."""
        gamma, beta, mean, variance = (
            numpy_helper.to_array(self._weights[name]).astype(np.float64) for name in node.input[1:5]
        )
        scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return scale, beta - mean * scale

    def _places(self, node: NodeProto) -> int:
        """What a flattened tensor has of each channel; 0 where its size is not known."""
        return (
            len(self._channels[node.output[0]].varies) // len(self._channels[node.input[0]].varies)
            if (node.output[0] in self._channels)
            else int(np.prod(self._sizes[node.input[0]][2:]))
        )


def _spared(units: int, dead: int, step: int) -> int:
    """How many of the dead units stay all the same."""
    left = units - dead
    return max(0, 1 - left) if not left else least_width(units, left, step) - left


def _is_gemm(node: NodeProto) -> bool:
    return node.op_type == "Gemm"


def _pads(node: NodeProto) -> bool:
    return any(attribute(node, "pads", ())) or attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
