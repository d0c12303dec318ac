"""One walk through a graph and its subgraphs, which counts on the way."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from onnxprune.graph.activations import Activations, activations
from onnxprune.graph.counts import NOT_COUNTED, NodeCount, in_rounds
from onnxprune.graph.inferred import Inferred
from onnxprune.graph.loops import scan_axis, scanned
from onnxprune.graph.macs import MICROSOFT, OPERATORS, Site, UnknownShapeError
from onnxprune.graph.nodes import label, operator_type, used_names
from onnxprune.graph.number_types import number_type
from onnxprune.graph.tensors import constants, stored_bytes, tensor_bytes, values

# A constant keeps its number of elements and of zeros through these.
_KEEPING = {
    "Cast", "DequantizeLinear", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze",
    f"{MICROSOFT}.DequantizeLinear",
}  # fmt: skip

_PIECE = 2**24

_FLOATING = frozenset(
    number for name, number in TensorProto.DataType.items() if name.startswith(("FLOAT", "BFLOAT", "DOUBLE"))
)

UNKNOWN_SHAPE = f"{NOT_COUNTED}the shape of "

_UNREAD = f"{NOT_COUNTED}nothing uses what it computes"


class _Scope:
    """The names that a graph's nodes see: their shapes, and which of them are constants.

    A constant's key is its name with the place of its graph, since branches may use the same names.
    """

    def __init__(self, graph: GraphProto, inferred: Inferred, place: str, outer: "_Scope | None") -> None:
        self.inferred = inferred
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

    def stored_type(self, name: str) -> int:
        """Element type of a tensor, before the DequantizeLinear that makes it; 0 where it is not known."""
        owner = self._owner(name)
        producer = owner._producers.get(name)
        if producer is not None and producer.op_type == "DequantizeLinear":
            return owner.stored_type(producer.input[0])
        return owner.own[name].data_type if name in owner.own else owner.types.get(name) or 0

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
        exact: whether no loop may end before the rounds that are counted.
        gaps: what makes them open, where that is a shape that is not known or a loop of unknown length.
        activations: what lives from node to node; None where a shape is not known.
    """

    def __init__(self, path: Path, inferred: Inferred, graph: GraphProto) -> None:
        self._path = path
        self.nodes: list[NodeCount] = []
        self.positions: list[int | None] = []
        self.complete = True
        self.exact = True
        self.gaps: list[str] = []
        self._arrays: dict[str, np.ndarray] = {}
        self._bytes: dict[str, int] = {}
        self._nonzero: dict[str, int] = {}
        self._unpacked: dict[str, int] = {}  # elements of those that are packed
        self._parameters: set[str] = set()
        self._attributed: set[str] = set()
        self.activations = self._graph(graph, inferred, "", None, 1, None)

    @property
    def params(self) -> int:
        """Elements of the parameters."""
        return sum(map(self._size, self._parameters))

    @property
    def nonzero_params(self) -> int:
        """Those that are not zero."""
        return sum(self._nonzero_of(key) for key in self._parameters)

    @property
    def weight_bytes(self) -> int:
        """Of all constants, as stored."""
        return sum(self._bytes.values())

    def _graph(
        self, graph: GraphProto, inferred: Inferred, place: str, outer: _Scope | None, times: int, note: str | None
    ) -> Activations | None:
        """Counts a graph that runs `times` times (0: not at all), and gives what lives meanwhile."""
        scope = _Scope(graph, inferred, place, outer)
        for name, tensor in scope.own.items():
            key = place + name
            if tensor.data_type != TensorProto.STRING:
                self._arrays[key] = values(self._path, tensor)
            self._bytes[key] = stored_bytes(tensor)
        self._parameters.update(place + name for name, tensor in scope.own.items() if tensor.data_type in _FLOATING)
        within: list[Activations | None] = []
        spans: dict[int, slice] = {}
        live = _live(graph, inferred)
        for index, node in enumerate(graph.node):
            first = len(self.nodes)
            runs = times if index in live else 0
            if not (operator_type(node) == "Constant" and node.output[0] in scope.own):
                unread = runs < times and operator_type(node) in OPERATORS
                self.nodes.append(self._node(node, scope, place, runs, _UNREAD if unread else note))
                self.positions.append(index if outer is None else None)
            within.append(self._bodies(index, node, scope, place, runs))
            spans[index] = slice(first, len(self.nodes))
        found = activations(graph, place, live, within, scope.results, lambda name: _living_bytes(name, scope))
        self._note_living(found, within, spans)
        return found

    def _note_living(
        self, found: Activations | None, within: Sequence[Activations | None], spans: Mapping[int, slice]
    ) -> None:
        """Tells each node, and those within its subgraphs, what lives while it runs."""
        for index, span in spans.items():
            alive = None if found is None else found.alive.get(index)
            inside = within[index]
            for place in range(span.start, span.stop):
                if alive is None or inside is None:
                    live = None
                elif place == span.start:
                    live = alive + inside.peak
                else:
                    inner = self.nodes[place].live_bytes
                    live = None if inner is None else alive + inner
                self.nodes[place] = replace(self.nodes[place], live_bytes=live)

    def _bodies(self, index: int, node: NodeProto, scope: _Scope, place: str, times: int) -> Activations | None:
        """Counts the subgraphs of a node, and gives what lives in the one that takes most."""
        graphs = {attribute.name: attribute.g for attribute in node.attribute if attribute.HasField("g")}
        if not graphs:
            return Activations()
        place = f"{place}{label(node)}/"
        bodies = scope.inferred.bodies.get(index, {})
        if node.op_type == "If":
            return self._branches(graphs, bodies, scope, place, times)
        if index in scope.inferred.followed:
            return self._followed(scope.inferred.followed[index], graphs["body"], f"{place}body/", scope, times)
        repeats = self._repeats(index, node, scope, times)
        peaks = [
            self._graph(graph, bodies.get(name, Inferred()), f"{place}{name}/", scope, times * repeats, None)
            for name, graph in graphs.items()
        ]
        return _most(peaks)

    def _followed(
        self, rounds: Sequence[Inferred], body: GraphProto, place: str, scope: _Scope, times: int
    ) -> Activations | None:
        """Counts the rounds of a Loop, each with the sizes of its own; its nodes are listed once."""
        first = len(self.nodes)
        peaks = [self._graph(body, inferred, place, scope, times, None) for inferred in rounds]
        length = (len(self.nodes) - first) // len(rounds)
        same = [self.nodes[first + number :: length] for number in range(length)]
        self.nodes[first:] = [in_rounds(counts) for counts in same]
        del self.positions[first + length :]
        return _most(peaks)

    def _branches(
        self,
        graphs: Mapping[str, GraphProto],
        bodies: Mapping[str, Inferred],
        scope: _Scope,
        place: str,
        times: int,
    ) -> Activations | None:
        """Counts the branch that is taken, or else that of more MACs; the nodes of the other are listed without any."""
        spans, peaks = [], []
        owner = len(self.nodes) - 1
        for name, graph in graphs.items():
            first = len(self.nodes)
            taken = name in bodies
            peak = self._graph(
                graph, bodies.get(name, Inferred()), f"{place}{name}/", scope, times if taken else 0, None
            )
            if taken:
                peaks.append(peak)
                spans.append((name, slice(first, len(self.nodes))))
        totals = {name: sum(entry.macs for entry in self.nodes[span]) for name, span in spans}
        chosen = max(totals, key=lambda name: totals[name], default=None)
        for name, span in spans:
            if name != chosen:
                self.nodes[span] = [
                    replace(entry, macs=0, effective_macs=0, repeats=0, note=None) for entry in self.nodes[span]
                ]
        if len(set(totals.values())) > 1:
            self.nodes[owner] = replace(self.nodes[owner], note=f"counted as {chosen}, which has more MACs")
        return _most(peaks)

    def _repeats(self, index: int, node: NodeProto, scope: _Scope, times: int) -> int:
        """Rounds of a Loop or Scan; what is open about them is noted at the node."""
        if node.op_type == "Scan":
            first = len(node.input) - scanned(node)
            shape = scope.shapes.get(node.input[first]) if scanned(node) else None
            if shape:
                return shape[scan_axis(node, 0)]
        rounds = scope.inferred.rounds.get(index)
        if rounds is not None and rounds.number is not None:
            if not rounds.exact:
                self.exact = self.exact and not times
                self._note(f"counted for {rounds.number} rounds, its condition may end it before")
            return rounds.number
        if times:
            self.complete = False
            self._note("a loop of unknown length: one round is counted")
            if rounds is not None:
                self._gap(f"{node.op_type} {label(node)!r}: how often it runs depends on {rounds.why}")
        return 1

    def _note(self, note: str) -> None:
        """Notes what is open at the node that was counted last."""
        self.nodes[-1] = replace(self.nodes[-1], note=note)

    def _gap(self, text: str | None) -> None:
        """Notes what makes the count open, once."""
        self.complete = False
        if text is not None and text not in self.gaps:
            self.gaps.append(text)

    def _node(self, node: NodeProto, scope: _Scope, place: str, times: int, note: str | None) -> NodeCount:
        kind = operator_type(node)
        operator = OPERATORS.get(kind)
        origins = [scope.constant(name) if name else None for name in node.input]
        macs = effective = 0
        weight: str | None = None
        if operator is not None:
            self._parameters.update(
                key
                for position in (*operator.weights, *operator.biases)
                if (key := _at(origins, position)) is not None and key in self._arrays
            )
            site = Site(node, *([scope.shapes.get(name) for name in names] for names in (node.input, node.output)))
            axis = 0 if site.attribute("transB", 0) else operator.channel_axis
            for position, zero in operator.zero_points:
                self._set_zero_point(_at(origins, position), _at(origins, zero), axis)
            weight = next(
                (key for position in operator.weights if (key := _at(origins, position)) in self._arrays), None
            )
            if operator.unpacked is not None and weight is not None:
                self._unpacked[weight] = self._nonzero[weight] = operator.unpacked(site)
            try:
                for product in operator.products(site) if times else ():
                    macs += product.macs
                    effective += self._effective(product.macs, [_at(origins, place) for place in product.operands])
                note = (operator.note(site) if times else None) or note
            except UnknownShapeError as error:
                macs, effective, note = 0, 0, f"{UNKNOWN_SHAPE}{str(error)!r} is not known"
                self._gap(scope.inferred.gaps.get(str(error)))
            except (ValueError, IndexError, ZeroDivisionError):
                macs, effective, note = 0, 0, f"{NOT_COUNTED}its shapes are not those of its definition"
                self.complete = False
        elif node.op_type == "DequantizeLinear":
            self._set_zero_point(_at(origins, 0), _at(origins, 2), Site(node, [], []).attribute("axis", 1))
        return NodeCount(
            name=place + label(node),
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
            live_bytes=None,
            repeats=times,
            onnx_tool_ops=None,
            note=note,
            type=None if operator is None else number_type(node, operator.weights, scope.stored_type),
            groups=Site(node, [], []).attribute("group", 1),
        )

    def _first_used(self, origins: Sequence[str | None]) -> int:
        """Elements of the parameters among them that no node has used yet."""
        new = {key for key in origins if key is not None and key in self._parameters} - self._attributed
        self._attributed |= new
        return sum(map(self._size, new))

    def _size(self, key: str) -> int:
        return self._unpacked.get(key, self._arrays[key].size)

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


def _tensor_bytes(name: str, scope: _Scope) -> int | None:
    shape, kind = scope.shapes.get(name), scope.types.get(name)
    return None if shape is None or not kind else tensor_bytes(kind, shape)


def _living_bytes(name: str, scope: _Scope) -> int | None:
    """Of a tensor, 0 of a constant."""
    return _tensor_bytes(name, scope) if scope.key(name) is None else 0


def _sum(sizes: Iterable[int | None]) -> int | None:
    total = 0
    for size in sizes:
        if size is None:
            return None
        total += size
    return total


def _most(peaks: Iterable[Activations | None]) -> Activations | None:
    """What takes most, or None where one is not known."""
    largest = Activations()
    for found in peaks:
        if found is None:
            return None
        largest = max(largest, found, key=lambda activations: activations.peak)
    return largest


def _live(graph: GraphProto, inferred: Inferred) -> set[int]:
    """Positions of the nodes that the graph's outputs need; a branch that is never taken needs none."""
    needed = {value.name for value in graph.output}
    live = set()
    for index in reversed(range(len(graph.node))):
        node = graph.node[index]
        if needed.isdisjoint(node.output):
            continue
        live.add(index)
        needed.update(node.input)
        bodies = inferred.bodies.get(index, {})
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.name in bodies else attribute.graphs:
                needed |= used_names(inner)
    return live
