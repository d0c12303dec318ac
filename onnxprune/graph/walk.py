"""One walk through a graph and its subgraphs, which counts on the way."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from onnxprune.graph.counts import NodeCount
from onnxprune.graph.macs import OPERATORS, Site, UnknownShapeError
from onnxprune.graph.nodes import operator_type, subgraphs, used_names
from onnxprune.graph.shapes import Inferred, scan_axis, scanned
from onnxprune.graph.tensors import constants, stored_bytes, tensor_bytes, values

# A constant keeps its number of elements and of zeros through these.
_KEEPING = {"Cast", "DequantizeLinear", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}

_PIECE = 2**24


class _Scope:
    """The names that a graph's nodes see: their shapes, and which of them are constants.

    A constant's key is its name with the place of its graph, since branches may use the same names.
    """

    def __init__(self, graph: GraphProto, inferred: Inferred, place: str, outer: "_Scope | None") -> None:
        self.shapes, self.types = inferred.shapes, inferred.types
        self.own = {tensor.name: tensor for tensor in constants(graph)}
        self.used = used_names(graph)
        self._outer = outer
        self._producers = {name: node for node in graph.node for name in node.output}
        self._keys: dict[str, str | None] = dict.fromkeys(value.name for value in graph.input)
        self._keys |= dict.fromkeys(self._producers)
        self._keys |= {name: place + name for name in self.own}

    def key(self, name: str) -> str | None:
        """Key of the constant that has this name, or None; an inner name hides an outer one."""
        return self._owner(name)._keys.get(name)

    def results(self, node: NodeProto) -> list[str]:
        """The node's outputs that are read, as the mask of a Dropout usually is not."""
        return [name for name in node.output if name in self.used]

    def constant(self, name: str) -> str | None:
        """Key of the constant that `name` is, or comes from changed in no more than its form, or None."""
        for _ in range(1000):
            owner = self._owner(name)
            producer = owner._producers.get(name)
            if owner._keys.get(name) is not None or producer is None or operator_type(producer) not in _KEEPING:
                return owner._keys.get(name)
            name = producer.input[0] if producer.input else ""
        return None

    def _owner(self, name: str) -> "_Scope":
        scope = self
        while name not in scope._keys and scope._outer is not None:
            scope = scope._outer
        return scope


class Walk:
    """Goes once through a graph and its subgraphs.

    Attributes:
        nodes: their counts; `positions` are their places in the main graph, None within subgraphs.
        complete: whether all MACs could be told.
        peak_bytes: of activations; None where a shape is not known.
    """

    def __init__(self, path: Path, inferred: Inferred, graph: GraphProto) -> None:
        self._path = path
        self.nodes: list[NodeCount] = []
        self.positions: list[int | None] = []
        self.complete = True
        self._arrays: dict[str, np.ndarray] = {}
        self._bytes: dict[str, int] = {}
        self._nonzero: dict[str, int] = {}
        self._parameters: set[str] = set()
        self._attributed: set[str] = set()
        self.peak_bytes = self._graph(graph, inferred, "", None, times=1)

    @property
    def params(self) -> int:
        """Elements of the parameters."""
        return sum(self._arrays[key].size for key in self._parameters)

    @property
    def nonzero_params(self) -> int:
        """Those that are not zero."""
        return sum(self._nonzero_of(key) for key in self._parameters)

    @property
    def weight_bytes(self) -> int:
        """Of all constants, as stored."""
        return sum(self._bytes.values())

    def _graph(
        self, graph: GraphProto, inferred: Inferred, place: str, outer: _Scope | None, *, times: int
    ) -> int | None:
        """Counts a graph that runs `times` times (0: not at all), and gives its peak of activations in bytes."""
        scope = _Scope(graph, inferred, place, outer)
        for name, tensor in scope.own.items():
            key = place + name
            if tensor.data_type != TensorProto.STRING:
                self._arrays[key] = values(self._path, tensor)
            self._bytes[key] = stored_bytes(tensor)
        self._parameters.update(place + tensor.name for tensor in graph.initializer if _is_floating(tensor))
        within: list[int | None] = []
        for index, node in enumerate(graph.node):
            if not (operator_type(node) == "Constant" and node.output[0] in scope.own):
                self.nodes.append(self._node(node, scope, place, times))
                self.positions.append(index if outer is None else None)
            bodies = inferred.bodies.get(index, {})
            within.append(self._bodies(node, bodies, scope, place, times) if bodies else 0)
        return _peak_bytes(graph, scope, within)

    def _bodies(
        self, node: NodeProto, bodies: Mapping[str, Inferred], scope: _Scope, place: str, times: int
    ) -> int | None:
        """Counts the subgraphs of a node, and gives the most that one of them takes at once."""
        graphs = {attribute.name: attribute.g for attribute in node.attribute if attribute.name in bodies}
        place = f"{place}{_label(node)}/"
        if node.op_type == "If":
            return self._branches(node, graphs, bodies, scope, place, times=times)
        repeats, note = self._repeats(node, scope)
        if note:
            self._note(note)
        peaks = [
            self._graph(graph, bodies[name], f"{place}{name}/", scope, times=times * repeats)
            for name, graph in graphs.items()
        ]
        return None if None in peaks else max((peak for peak in peaks if peak is not None), default=0)

    def _branches(
        self,
        node: NodeProto,
        graphs: Mapping[str, GraphProto],
        bodies: Mapping[str, Inferred],
        scope: _Scope,
        place: str,
        *,
        times: int,
    ) -> int | None:
        """Counts the branch of more MACs; the nodes of the other are listed without any."""
        spans, peaks = [], []
        for name, graph in graphs.items():
            first = len(self.nodes)
            peaks.append(self._graph(graph, bodies[name], f"{place}{name}/", scope, times=times))
            spans.append(slice(first, len(self.nodes)))
        totals = [sum(entry.macs for entry in self.nodes[span]) for span in spans]
        taken = totals.index(max(totals))
        for number, span in enumerate(spans):
            if number != taken:
                self.nodes[span] = [replace(entry, macs=0, effective_macs=0) for entry in self.nodes[span]]
        if len(set(totals)) > 1:
            owner = spans[0].start - 1
            self.nodes[owner] = replace(
                self.nodes[owner], note=f"counted as {list(graphs)[taken]}, which has more MACs"
            )
        return None if None in peaks else max((peak for peak in peaks if peak is not None), default=0)

    def _note(self, note: str) -> None:
        """Notes what is open at the node that was counted last."""
        self.nodes[-1] = replace(self.nodes[-1], note=note)

    def _repeats(self, node: NodeProto, scope: _Scope) -> tuple[int, str | None]:
        """Rounds of a Loop or Scan, and what is open about them."""
        if node.op_type == "Scan":
            first = len(node.input) - scanned(node)
            shape = scope.shapes.get(node.input[first]) if scanned(node) else None
            if shape:
                return shape[scan_axis(node, 0)], None
        elif node.op_type == "Loop":
            trips = self._scalar(node.input[0], scope) if node.input[0] else None
            if trips is not None:
                endless = not node.input[1] or self._scalar(node.input[1], scope) == 1
                kept = endless and _keeps_condition(node, self._scalar)
                return max(0, trips), None if kept else f"counted for {trips} rounds, its condition may end it before"
        self.complete = False
        return 1, "a loop of unknown length: one round is counted"

    def _scalar(self, name: str, scope: _Scope) -> int | None:
        key = scope.constant(name)
        array = self._arrays.get(key) if key is not None else None
        return int(array.item()) if array is not None and array.size == 1 else None

    def _node(self, node: NodeProto, scope: _Scope, place: str, times: int) -> NodeCount:
        kind = operator_type(node)
        operator = OPERATORS.get(kind)
        origins = [scope.constant(name) if name else None for name in node.input]
        macs = effective = 0
        note: str | None = None
        weight: str | None = None
        if operator is not None:
            self._parameters.update(
                key
                for position in (*operator.weights, *operator.biases)
                if (key := _at(origins, position)) is not None and key in self._arrays
            )
            for position, zero in operator.zero_points:
                self._set_zero_point(_at(origins, position), _at(origins, zero), operator.channel_axis)
            site = Site(node, *([scope.shapes.get(name) for name in names] for names in (node.input, node.output)))
            weight = next(
                (key for position in operator.weights if (key := _at(origins, position)) in self._arrays), None
            )
            try:
                for product in operator.products(site):
                    macs += product.macs
                    effective += self._effective(product.macs, [_at(origins, place) for place in product.operands])
                note = operator.note(site)
            except UnknownShapeError as error:
                macs, effective, note = 0, 0, f"not counted, the shape of {str(error)!r} is not known"
                self.complete = False
            except (ValueError, IndexError, ZeroDivisionError):
                macs, effective, note = 0, 0, "not counted, its shapes are not those of its definition"
                self.complete = False
        elif kind == "DequantizeLinear":
            self._set_zero_point(_at(origins, 0), _at(origins, 2), Site(node, [], []).attribute("axis", 1))
        return NodeCount(
            name=place + _label(node),
            operator=kind,
            macs=macs * times,
            effective_macs=effective * times,
            params=self._first_used(origins[1:] if kind in _KEEPING else origins),
            output_shape=scope.shapes.get(node.output[0]) if node.output else None,
            weight_shape=None if weight is None else tuple(self._arrays[weight].shape),
            activation_bytes=_sum(
                _tensor_bytes(name, scope)
                for name in dict.fromkeys([*node.input, *scope.results(node)])
                if name and scope.key(name) is None
            ),
            weight_bytes=sum(self._bytes[key] for key in {scope.key(name) for name in node.input} if key is not None),
            repeats=times,
            onnx_tool_ops=None,
            note=note,
        )

    def _first_used(self, origins: Sequence[str | None]) -> int:
        """Elements of the parameters among them that no node has used yet."""
        new = {key for key in origins if key is not None and key in self._parameters} - self._attributed
        self._attributed |= new
        return sum(self._arrays[key].size for key in new)

    def _nonzero_of(self, key: str) -> int:
        if key not in self._nonzero:
            self._nonzero[key] = _count_different(self._arrays[key], np.zeros((), self._arrays[key].dtype))
        return self._nonzero[key]

    def _effective(self, macs: int, operands: Sequence[str | None]) -> int:
        """MACs without those by stored zeros: each element of a weight takes part in equally many."""
        for key in operands:
            if key in self._arrays and self._arrays[key].size:
                return macs * self._nonzero_of(key) // self._arrays[key].size
        return macs

    def _set_zero_point(self, key: str | None, zero_key: str | None, axis: int) -> None:
        """Counts a weight's elements against the zero point that a node reads them with."""
        if key not in self._arrays or zero_key not in self._arrays:
            return
        array, zero = self._arrays[key], self._arrays[zero_key]
        if zero.size > 1 and array.ndim:
            axis %= array.ndim
            if zero.ndim == 1:
                zero = np.expand_dims(zero, [other for other in range(array.ndim) if other != axis])
            else:  # blocks along the axis
                zero = np.repeat(zero, -(-array.shape[axis] // zero.shape[axis]), axis)
                zero = zero.take(range(array.shape[axis]), axis)
        self._nonzero[key] = _count_different(array, zero) if zero.size == 1 else int(np.count_nonzero(array != zero))


def _count_different(array: np.ndarray, value: np.ndarray) -> int:
    """Elements that are not `value`, in pieces: `array` may be a file larger than memory."""
    flat = array.reshape(-1)
    pieces = (flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE))
    return sum(int(np.count_nonzero(piece != value)) for piece in pieces)


def _at(origins: Sequence[str | None], position: int) -> str | None:
    return origins[position] if position < len(origins) else None


def _label(node: NodeProto) -> str:
    return node.name or next(iter(node.output), "") or node.op_type


def _is_floating(tensor: TensorProto) -> bool:
    return TensorProto.DataType.Name(tensor.data_type).startswith(("FLOAT", "BFLOAT", "DOUBLE"))


def _keeps_condition(node: NodeProto, scalar: Callable[[str, _Scope], int | None]) -> bool:
    """Whether a Loop's body hands on the condition that it was handed, or a constant true one."""
    body = next(attribute.g for attribute in node.attribute if attribute.name == "body")
    producers = {name: inner for inner in body.node for name in inner.output}
    name = body.output[0].name
    while name in producers and operator_type(producers[name]) == "Identity":
        name = producers[name].input[0]
    scope = _Scope(body, Inferred({}, {}, {}), "", None)
    if len(body.input) > 1 and name == body.input[1].name:
        return True
    tensor = scope.own.get(name)
    return tensor is not None and bool(numpy_helper.to_array(tensor).all())


def _tensor_bytes(name: str, scope: _Scope) -> int | None:
    shape, kind = scope.shapes.get(name), scope.types.get(name)
    return None if shape is None or not kind else tensor_bytes(kind, shape)


def _sum(sizes: Iterable[int | None]) -> int | None:
    total = 0
    for size in sizes:
        if size is None:
            return None
        total += size
    return total


def _peak_bytes(graph: GraphProto, scope: _Scope, within: Sequence[int | None]) -> int | None:
    """The most bytes of activations that live at once; `within` is what each node's subgraphs take beside them."""
    last: dict[str, int] = {value.name: len(graph.node) for value in graph.output}
    for index, node in enumerate(graph.node):
        for name in [*node.input, *(name for inner in subgraphs(node) for name in used_names(inner))]:
            last[name] = max(index, last.get(name, 0))
    sizes: dict[str, int] = {}

    def come_to_life(names: Iterable[str]) -> int | None:
        new = [name for name in names if scope.key(name) is None]
        found = {name: _tensor_bytes(name, scope) for name in new}
        sizes.update({name: size for name, size in found.items() if size is not None})
        return _sum(found.values())

    live = come_to_life(value.name for value in graph.input)
    if live is None:
        return None
    ends: dict[int, list[str]] = defaultdict(list)
    for name, index in last.items():
        ends[index].append(name)
    peak = live
    for index, node in enumerate(graph.node):
        new, inside = come_to_life(scope.results(node)), within[index]
        if new is None or inside is None:
            return None
        live += new
        peak = max(peak, live + inside)
        live -= sum(sizes.get(name, 0) for name in ends[index])
    return peak
