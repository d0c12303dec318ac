"""The shapes of a graph's tensors, subgraphs included, once its inputs have theirs.

onnx's own inference comes first. Where it stops because sizes are computed by nodes, they are evaluated, node by node,
and what a loop's body and a branch tell is handed on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, helper, numpy_helper

from onnxprune.common.errors import InputError
from onnxprune.graph import loops
from onnxprune.graph.evaluation import MAX_ELEMENTS, Evaluator
from onnxprune.graph.inferred import Inferred, results_of_subgraphs
from onnxprune.graph.light import is_large, without_weights
from onnxprune.graph.node_inference import NodeInference, contradiction, declared_types
from onnxprune.graph.nodes import label, operator_type, subgraphs, used_names
from onnxprune.graph.sequences import Sequence, sequence_made, tensor_taken
from onnxprune.graph.tensors import Shape, constants
from onnxprune.graph.value_types import check_elements, forget_shapes, is_of_maps, set_shape, shape_of

_MAX_PASSES = 20  # of shape inference over a graph

_MAX_INFERENCES = 1000  # of all graphs and subgraphs: loops within loops multiply

_MAX_ROUNDS = 1000

_PASSES_A_ROUND = 3  # inferences of them, as a rule


def infer_shapes(
    path: Path,
    model: ModelProto,
    inputs: Mapping[str, Shape],
    values: Mapping[str, np.ndarray] | None = None,
    rounds: int = _MAX_ROUNDS,
) -> Inferred:
    """Infers the shapes of the model's tensors, subgraphs included.

    Args:
        values: of inputs, where they are given.
        rounds: of all loops that are followed round by round.

    Raises:
        InputError: shapes contradict each other, or are absurd.
    """
    for name, shape in inputs.items():
        check_elements(path, name, shape)
    sized = without_weights(model)
    sized.ir_version = max(sized.ir_version, 4)  # before, onnx wants each initializer to be an input
    graph = sized.graph
    declared = declared_types(graph, inputs)
    del graph.value_info[:]  # may hold the sizes of another batch
    forget_shapes(graph.output)
    for value in graph.input:
        if value.name in inputs:
            set_shape(value.type, inputs[value.name])
    known = {name: value for name, value in (values or {}).items() if value.size <= MAX_ELEMENTS}
    return _infer(path, sized, _Budget(rounds), _Outer(known), declared)


@dataclass
class _Budget:
    """What may still be done for a file: they are strangers'."""

    rounds: int
    inferences: int = _MAX_INFERENCES

    def infer(self, path: Path) -> None:
        """
        Raises:
            InputError: it is used up.
        """
        if self.inferences == 0:
            raise InputError(f"{path}: its loops are nested too deeply to infer shapes")
        self.inferences -= 1

    def follow(self) -> None:
        """A round more of a loop, which is allowed some inferences of its own."""
        self.rounds -= 1
        self.inferences += _PASSES_A_ROUND


@dataclass(frozen=True)
class _Outer:
    """What a graph is told of the names that it takes from outside."""

    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    sequences: Mapping[str, Sequence] = field(default_factory=dict)
    gaps: Mapping[str, str] = field(default_factory=dict)


def _infer(
    path: Path, model: ModelProto, budget: _Budget, outer: _Outer, declared: Mapping[str, TypeProto]
) -> Inferred:
    """Infers a model whose inputs have shapes.

    Args:
        declared: what is taken for the outputs of operators that ONNX does not know.
    """
    for _ in range(_MAX_PASSES):
        budget.infer(path)
        try:  # not strictly: a node whose shapes do not fit may be in a branch that is never taken
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception as error:  # onnx's errors share no base class
            raise contradiction(path, error) from error
        pass_over = _Pass(path, inferred, budget, outer, declared)
        news = pass_over.walk()
        if not news or not pass_over.found.gaps:
            break
        kept = [value for value in model.graph.value_info if value.name not in news]
        del model.graph.value_info[:]
        model.graph.value_info.extend([*kept, *(ValueInfoProto(name=name, type=news[name]) for name in news)])
        for value in model.graph.output:
            if value.name in news:
                value.type.CopyFrom(news[value.name])
    pass_over.found.values = pass_over.values(value.name for value in model.graph.output)
    return pass_over.found


class _Pass:
    """One walk through the nodes of a graph after onnx's inference, each told what those before it made known."""

    def __init__(
        self,
        path: Path,
        model: ModelProto,
        budget: _Budget,
        outer: _Outer,
        declared: Mapping[str, TypeProto],
    ) -> None:
        self._path, self._model, self._budget = path, model, budget
        self._graph = model.graph
        self.found = Inferred(sequences=dict(outer.sequences), gaps=dict(outer.gaps))
        self._types: dict[str, TypeProto] = {}
        self._news: dict[str, TypeProto] = {}
        known = {}
        for tensor in constants(self._graph):
            self._take(tensor.name, helper.make_tensor_type_proto(tensor.data_type, tensor.dims))
            if prod(tensor.dims) <= MAX_ELEMENTS and tensor.data_location != tensor.EXTERNAL:
                known[tensor.name] = numpy_helper.to_array(tensor)
        for value in [*self._graph.input, *self._graph.value_info, *self._graph.output]:
            self._take(value.name, value.type)
        for value in self._graph.input:
            if not self._is_known(value.name):
                kind = (value.type.WhichOneof("value") or "value").removesuffix("_type")
                self.found.gaps.setdefault(value.name, f"the input {value.name!r}, a {kind}, may be of any length")
        self._evaluator = Evaluator(self._graph.node, model.opset_import, {**known, **outer.values}, self.found.shapes)
        self._nodes = NodeInference(path, model, declared, self.found, self._types, self._evaluator)

    def walk(self) -> dict[str, TypeProto]:
        """Goes through all nodes; the types of tensors that onnx's inference alone had not found."""
        for index, node in enumerate(self._graph.node):
            if any(subgraphs(node)):
                self._nested(index, node)
            else:
                self._sequence(node)
                # a product has a size before that of what it reads is known, which then has to fit
                if self._news.keys() & set(node.input) or not all(map(self._is_known, filter(None, node.output))):
                    self._single(node)
                self._nodes.check(node)
            unknown = [name for name in node.output if name and not self._is_known(name)]
            for name in unknown:
                self.found.gaps.setdefault(name, self._gap(node))
        return self._news

    def _take(self, name: str, kind: TypeProto, *, new: bool = False) -> None:
        """Notes a type, unless a better one is there."""
        shape = shape_of(kind)
        if name in self.found.shapes or (shape is None and new and name in self._types):
            return
        self._types[name] = kind
        if kind.HasField("tensor_type") and kind.tensor_type.elem_type:
            self.found.types[name] = kind.tensor_type.elem_type
        if shape is not None:
            check_elements(self._path, name, shape)
            self.found.shapes[name] = shape
            self.found.gaps.pop(name, None)
        if new:
            self._news[name] = kind

    def _is_known(self, name: str) -> bool:
        """Whether nothing of it is open that a shape could depend on; of maps nothing is."""
        kind = self._types.get(name, TypeProto())
        return (
            name in self.found.shapes or name in self.found.sequences or kind.HasField("map_type") or is_of_maps(kind)
        )

    def _sequence(self, node: NodeProto) -> None:
        """Finds what a node makes of sequences."""
        held = self.found.sequences
        made = sequence_made(node, self.found.shapes, held, self._evaluator.value)
        if made is not None:
            held[node.output[0]] = made
        elif operator_type(node) == "SequenceLength" and node.input[0] in held:
            self._evaluator.learn(node.output[0], np.asarray(len(held[node.input[0]]), np.int64))

    def _single(self, node: NodeProto) -> None:
        """Finds the outputs of a node without subgraphs."""
        taken = tensor_taken(node, self.found.sequences, self._evaluator.value)
        found = self._nodes.types(node)
        for name in filter(None, node.output):
            if name in found:
                self._take(name, found[name], new=True)
            kind = self._types.get(name)
            shape = taken
            if shape is None and not self._is_known(name):
                value = self._evaluator.value(name)
                shape = None if value is None else value.shape
            if shape is not None and kind is not None and kind.HasField("tensor_type"):
                self._take(name, helper.make_tensor_type_proto(kind.tensor_type.elem_type, shape), new=True)

    def _gap(self, node: NodeProto) -> str:
        """Why the outputs of a node are not known, as far back as that can be told."""
        for name in node.input:
            if name and name in self.found.gaps and not self._is_known(name):
                return self.found.gaps[name]
        kind = operator_type(node)
        if "." in kind and not onnx.defs.has(node.op_type, node.domain):
            return f"{kind} {label(node)!r}: the size of its output is not known here"
        unknown = [name for name in node.input[1:] if name and self._evaluator.value(name) is None]
        return f"{kind} {label(node)!r}: the size of its output depends on {self._decider(unknown)}"

    def _decider(self, unknown: Iterable[str]) -> str:
        """What the value of the first of these names that is not known comes from."""
        for name in unknown:
            origin, maker = self._evaluator.origin(name)
            if maker is not None:
                return f"what {operator_type(maker)} {label(maker)!r} computes from data"
            if origin in {value.name for value in self._graph.input}:
                return f"the values of {origin!r}"
        return "data"

    def _nested(self, index: int, node: NodeProto) -> None:
        """Finds the subgraphs of a node, and its outputs by them."""
        graphs = {attribute.name: attribute.g for attribute in node.attribute if attribute.HasField("g")}
        if node.op_type == "If" and len(graphs) == 2:
            bodies = self._branches(index, node, graphs)
        else:
            bodies = {name: self._body(index, node, graph) for name, graph in graphs.items()}
        self.found.bodies[index] = bodies
        length = None
        if node.op_type == "Loop" and "body" in bodies:
            if index in self.found.followed:
                rounds = loops.Rounds(len(self.found.followed[index]), True)
            else:
                rounds = self._rounds(node, graphs["body"], bodies["body"])
            self.found.rounds[index] = rounds
            length = rounds.number if rounds.exact else None
        elif node.op_type == "Scan" and loops.scanned(node):
            shape = self.found.shapes.get(node.input[-loops.scanned(node)])
            length = shape[loops.scan_axis(node, 0)] if shape else None
        for name, results in results_of_subgraphs(node, graphs, bodies, length).items():
            first = results[0]
            if all(result.sequence == first.sequence for result in results) and first.sequence is not None:
                self.found.sequences[name] = first.sequence
            shape = first.shape if all(result.shape == first.shape for result in results) else None
            if first.kind is not None:
                self._take(name, helper.make_tensor_type_proto(first.kind, shape), new=True)
            gaps = [result.gap for result in results if result.gap is not None]
            if gaps and not self._is_known(name):
                self.found.gaps[name] = gaps[0]

    def _branches(self, index: int, node: NodeProto, graphs: Mapping[str, GraphProto]) -> dict[str, Inferred]:
        """Those of an If that may be taken: one, where its condition is known or the other's shapes do not fit."""
        condition = self._evaluator.value(node.input[0])
        if condition is not None and condition.size == 1:
            name = "then_branch" if condition.item() else "else_branch"
            return {name: self._body(index, node, graphs[name])}
        bodies = {}
        problem = None
        for name, graph in graphs.items():
            try:
                bodies[name] = self._body(index, node, graph)
            except InputError as error:
                problem = problem or error
        if problem is not None and not bodies:
            raise problem
        return bodies

    def _body(self, index: int, node: NodeProto, body: GraphProto) -> Inferred:
        """The tensors of a subgraph of `node`, whose inputs have the shapes that the node hands in."""
        handed = loops.handed_in(node, len(body.input), self.found.shapes)
        gaps = {
            value.name: self.found.gaps[name]
            for value, name in zip(body.input, loops.handed_names(node), strict=False)
            if name in self.found.gaps and not self._is_known(name)
        }
        found = self._inner(body, handed, {}, gaps)
        carried = loops.carried(node, len(body.input))
        handed_on = zip(body.input[carried], body.output[loops.outputs_of(node, carried)], strict=False)
        changing = {
            value.name for value, output in handed_on if found.shapes.get(value.name) != found.shapes.get(output.name)
        }
        why = f"{node.op_type} {label(node)!r}: what it passes on changes its size from round to round"
        if node.op_type == "Loop" and (changing or found.gaps):
            rounds, reason = self._followed(node, body)
            if rounds:
                self.found.followed[index] = rounds
                return rounds[-1]
            why += f", and {reason}"
        if changing:  # what changes its shape from one round to the next has none that can be told
            names = [value.name for value in body.input]
            fixed = [None if name in changing else shape for name, shape in zip(names, handed, strict=True)]
            found = self._inner(body, fixed, {}, {**gaps, **dict.fromkeys(changing, why)})
        return found

    def _inner(
        self,
        body: GraphProto,
        shapes: Iterable[Shape | None],
        values: Mapping[str, np.ndarray],
        gaps: Mapping[str, str],
    ) -> Inferred:
        """The tensors of a subgraph.

        Args:
            shapes: of its inputs.
            values: of its inputs, where they are known.
            gaps: why shapes of its inputs are not known.
        """
        model = ModelProto(ir_version=self._model.ir_version, opset_import=self._model.opset_import)
        model.graph.CopyFrom(body)
        graph = model.graph
        del graph.value_info[:]
        forget_shapes(graph.output)
        for value, shape in zip(graph.input, shapes, strict=True):
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
                if shape is not None:
                    set_shape(value.type, shape)
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        taken = sorted((used_names(graph) - own) & self._types.keys())
        graph.input.extend(ValueInfoProto(name=name, type=self._types[name]) for name in taken)
        outer = self.values(taken)
        tensors = [numpy_helper.from_array(value, name) for name, value in outer.items()]
        graph.initializer.extend(tensor for tensor in tensors if not is_large(tensor))
        sequences = {name: self.found.sequences[name] for name in taken if name in self.found.sequences}
        without = {name: self.found.gaps[name] for name in taken if name in self.found.gaps}
        told = _Outer({**outer, **values}, sequences, {**without, **gaps})
        return _infer(self._path, model, self._budget, told, {})

    def _followed(self, node: NodeProto, body: GraphProto) -> tuple[list[Inferred], str]:
        """A Loop's body in each of its rounds; none, and why, where they depend on data or are too many."""
        unknown = [name for name in node.input[:2] if name and self._evaluator.value(name) is None]
        if unknown:
            return [], f"how often it runs depends on {self._decider(unknown)}"
        trips, condition = (self._evaluator.value(name) if name else None for name in node.input[:2])
        if (trips is not None and trips.size != 1) or (condition is not None and not condition.all()):
            return [], "it never runs"
        if trips is not None and trips.item() > self._budget.rounds:
            return [], "it runs too often to follow"
        names = [value.name for value in body.input]
        shapes = loops.handed_in(node, len(names), self.found.shapes)
        state = self.values(filter(None, node.input[2:]))
        values = {
            inner: state[outer] for inner, outer in zip(names[2:], node.input[2:], strict=False) if outer in state
        }
        handed_on = [output.name for output in body.output[1 : len(names) - 1]]
        rounds: list[Inferred] = []
        while trips is None or len(rounds) < trips.item():
            if not self._budget.rounds:
                return [], "it runs too often to follow"
            self._budget.follow()
            values |= {names[0]: np.asarray(len(rounds), np.int64), names[1]: np.asarray(True)}
            found = self._inner(body, shapes, values, {})
            going_on = found.values.get(body.output[0].name)
            if found.gaps or going_on is None:
                return [], next(iter(found.gaps.values()), "its condition depends on data")
            rounds.append(found)
            if not going_on.all():
                break
            shapes = [(), (), *map(found.shapes.get, handed_on)]
            told = zip(names[2:], handed_on, strict=True)
            values = {inner: found.values[name] for inner, name in told if name in found.values}
        return rounds, "it never runs"

    def values(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Of those that depend on no data."""
        found = {name: self._evaluator.value(name) for name in names}
        return {name: value for name, value in found.items() if value is not None}

    def _rounds(self, node: NodeProto, body: GraphProto, inferred: Inferred) -> loops.Rounds:
        trips, condition, *state = [self._evaluator.value(name) if name else None for name in (*node.input, "", "")]
        if len(node.input) < 2 or not node.input[1]:
            condition = np.asarray(True)
        if (trips is None and node.input[0]) or (trips is not None and trips.size != 1):
            trips = None
        own = {value.name for value in body.input} | {name for inner in body.node for name in inner.output}
        known = self.values((used_names(body) - own) & self._types.keys())
        known |= {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in constants(body)
            if prod(tensor.dims) <= MAX_ELEMENTS and tensor.data_location != tensor.EXTERNAL
        }
        found = loops.rounds(body, self._model.opset_import, trips, condition, state, known, inferred.shapes)
        if found.exact:
            return found
        unknown = [name for name in node.input[:2] if name and self._evaluator.value(name) is None]
        return found._replace(why=self._decider(unknown) if unknown else "its condition")
