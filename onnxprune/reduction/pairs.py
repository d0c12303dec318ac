"""Fits two operators with a ReLU between them together: what the first one gives can still be chosen.

Fitted alone, the second operator makes the best of the units that are left; here those units change too, so that the
second gives what it gave in the original. It is a least squares problem of two layers, solved by L-BFGS (Liu and
Nocedal 1989) from where the fits of each left off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime
import scipy.optimize
from onnx import NodeProto, TensorProto, helper

from onnxprune.graph.network import Network, attribute, readers_of
from onnxprune.graph.nodes import operator_type
from onnxprune.reduction.sites import Site, explicit_pads, positions
from onnxprune.runtime.execution import open_network, run
from onnxprune.runtime.random_inputs import Inputs
from onnxprune.runtime.stages import Stages

_MATRIX = ("Gemm", "MatMul")
_OPSET = 17
_MEMORY = 10  # steps that L-BFGS remembers
_MOST_WORK = 3e12  # multiplications for all pairs of a network: about a minute of two cores, and
_MOST_EACH = 5e11  # for one of them
_FEWEST = 5  # steps: fewer are not worth it
_MOST_BYTES = 6e8  # of what is read and wanted


@dataclass(frozen=True)
class Sample:
    """A batch of what the first operator reads, what the second should give, and what is added to that before a ReLU;
    None where no ReLU follows."""

    x: np.ndarray
    wanted: np.ndarray
    beside: np.ndarray | None


class Wanted(Protocol):
    """What the second operator should give, and what is added to it, batch by batch."""

    rectified: bool

    def __call__(self, batch: int) -> tuple[np.ndarray, np.ndarray | None]: ...


@dataclass
class Pair:
    """Two operators with a ReLU between them, and the samples they are fitted to.

    Attributes:
        first, second: the operators.
        now: the pruned network, at the second one; what the first one reads is live.
        wanted: of the second one.
        count: pairs of the network.
        changed: whether both were given other weights.
    """

    first: Site
    second: Site
    now: Stages
    wanted: Wanted
    count: int
    changed: bool = False

    @property
    def between(self) -> set[int]:
        """Nodes from the first operator to what the second one reads."""
        nodes = self.now.network.nodes
        relu = next(index for index, node in enumerate(nodes) if self.second.data in node.output)
        return {self.first.node, self.first.end, relu}

    def fit(self, held_out: int, steps: int) -> float | None:
        """See `fit`; None too where it would take too long."""
        count, sample = len(self.now), self._sample(0)
        size = count * (sample.x.nbytes + 2 * sample.wanted.nbytes)
        network = self.now.network
        most = min(_MOST_WORK / self.count, _MOST_EACH)
        steps = min(steps, int(most / (count * _work(network, self.first, self.second, sample))))
        if steps < _FEWEST or size > _MOST_BYTES or not 0 < held_out < count or sample.x.dtype != np.float32:
            return None
        samples = [self._sample(batch) for batch in range(count)]
        found = fit(network, self.first, self.second, samples, held_out, steps)
        self.changed = found is not None
        return found

    def _sample(self, batch: int) -> Sample:
        wanted, beside = self.wanted(batch)
        if not self.wanted.rectified:
            beside = None
        elif beside is None:
            beside = np.zeros((1,) * wanted.ndim, wanted.dtype)
        return Sample(self.now.value(batch, self.first.data), wanted, beside)


def firsts(network: Network, sites: Iterable[Site]) -> dict[int, Site]:
    """Node of the second operator of each pair -> the first; between them is a ReLU that nothing else reads."""
    nodes, by_result = network.nodes, {site.result: site for site in sites if _takes_part(network, site)}
    readers = readers_of(nodes)
    makers = {name: node for node in nodes for name in node.output}
    found = {}
    for site in by_result.values():
        relu = makers.get(site.data)
        if relu is None or operator_type(relu) != "Relu":
            continue
        if any(name in network.outputs or len(readers[name]) > 1 for name in (site.data, relu.input[0])):
            continue
        first = by_result.get(relu.input[0])
        if first is not None and (first.kind in _MATRIX) == (site.kind in _MATRIX):
            found[site.node] = first
    return found


def _takes_part(network: Network, site: Site) -> bool:
    if not site.has_bias or site.shared or site.fixed:
        return False
    return site.kind in _MATRIX or (site.kind == "Conv" and attribute(network.nodes[site.node], "group", 1) == 1)


def _work(network: Network, first: Site, second: Site, sample: Sample) -> float:
    """Multiplications, about, that one step takes for a sample."""
    total = 0.0
    for site, value in ((first, sample.x), (second, sample.wanted)):
        _, outputs, features = site.matrix(network).shape
        channels = features // int(np.prod(site.kernel)) if site is first else outputs
        total += 3 * value.size / channels * outputs * features
    return total


def fit(
    network: Network, first: Site, second: Site, samples: Sequence[Sample], held_out: int, steps: int
) -> float | None:
    """Gives both operators weights, in place, where that helps on the last `held_out` samples.

    Returns:
        Squared error of what the second then gives on those, relative to its variance; None where it does not help.
    """
    places = (_geometry(network, first), _geometry(network, second))
    x, wanted = (_laid_out(places[0], value) for value in (samples[0].x, samples[0].wanted))
    with open_network(_computing(places, x.shape, wanted.shape, rectified=samples[0].beside is not None)) as session:
        problem = _Problem(session, places)
        start = [value for site in (first, second) for value in (site.matrix(network), site.offset(network))]
        end, after = _solved(problem, start, [problem.given(sample) for sample in samples], held_out, steps)
    if after is None:
        return None
    for site, weights, bias in zip((first, second), end[::2], end[1::2], strict=True):
        site.write(network, network.nodes, weights, bias.reshape(weights.shape[:2]))
    return after


def _solved(
    problem: _Problem, start: Sequence[np.ndarray], given: Sequence[Inputs], held_out: int, steps: int
) -> tuple[list[np.ndarray], float | None]:
    """Weights and biases, and the relative error with them on held-out samples; None where they do not help."""
    fitting, checking = given[: len(given) - held_out], given[len(given) - held_out :]
    shapes = [value.shape for value in start]
    sizes = np.cumsum([value.size for value in start])[:-1]
    scale, checked_scale = (max(_variance(part), np.finfo(np.float64).tiny) for part in (fitting, checking))

    def values(vector: np.ndarray) -> list[np.ndarray]:
        return [part.reshape(shape) for part, shape in zip(np.split(vector, sizes), shapes, strict=True)]

    def loss(vector: np.ndarray) -> tuple[float, np.ndarray]:
        total, slope = 0.0, np.zeros_like(vector)
        for sample in fitting:
            error, slopes = problem.slopes(values(vector), sample)
            total += error
            slope += np.concatenate([value.ravel() for value in slopes])
        return total / scale, slope / scale

    def checked(vector: np.ndarray) -> float:
        return sum(problem.slopes(values(vector), sample)[0] for sample in checking) / checked_scale

    begin = np.concatenate([value.ravel() for value in start])
    end = scipy.optimize.minimize(
        loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": steps, "maxcor": _MEMORY}
    ).x
    after = checked(end)
    return values(end), after if after < checked(begin) else None


@dataclass(frozen=True)
class _Problem:
    """The squared error of a pair, and its slopes by the weights and biases, as onnxruntime computes them."""

    session: onnxruntime.InferenceSession
    places: Sequence[_Geometry]

    def given(self, sample: Sample) -> Inputs:
        """What is the same in every step."""
        x, goal = _laid_out(self.places[0], sample.x), _laid_out(self.places[0], sample.wanted)
        found = {"x": x, "goal": goal}
        if sample.beside is not None:
            found["beside"] = np.broadcast_to(_laid_out(self.places[0], sample.beside), goal.shape)
            found["goal"] = np.maximum(goal + found["beside"], 0)
        return {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}

    def slopes(self, values: Sequence[np.ndarray], given: Inputs) -> tuple[float, list[np.ndarray]]:
        """The error of a sample, and its slopes.

        Args:
            values: weights (1, outputs, features) and bias (outputs,) of the first operator and of the second.
        """
        feed = dict(given)
        for number, place in enumerate(self.places):
            weights, bias = values[2 * number : 2 * number + 2]
            feed[f"w{number}"] = weights.reshape(weights.shape[1], -1, *place.kernel).astype(np.float32)
            feed[f"b{number}"] = bias.astype(np.float32)
        error, *slopes = run(self.session, feed).values()
        shaped = [slope.reshape(value.shape) for slope, value in zip(slopes, values, strict=True)]
        return float(error), [slope.astype(np.float64) for slope in shaped]


def _variance(part: Sequence[Inputs]) -> float:
    """Of what the second operator should give, after the ReLU where there is one, times the number of rows."""
    axes = (0, *range(2, part[0]["goal"].ndim))
    rows = sum(given["goal"].size // given["goal"].shape[1] for given in part)
    total = sum(given["goal"].sum(axes, dtype=np.float64) for given in part)
    squares = sum(float(np.square(given["goal"], dtype=np.float64).sum()) for given in part)
    return squares - float(np.square(total).sum()) / rows


def _laid_out(place: _Geometry, value: np.ndarray) -> np.ndarray:
    """Rows of numbers, as matrix products take them, as images of one place."""
    return value.reshape(-1, value.shape[-1], 1) if place.node is None else value


@dataclass(frozen=True)
class _Geometry:
    """Of a convolution; a matrix product is one of images of one place.

    Attributes:
        node: None of a matrix product.
    """

    kernel: tuple[int, ...]
    strides: list[int]
    dilations: list[int]
    node: NodeProto | None

    def pads(self, sizes: Sequence[int]) -> list[int]:
        """Of images of these sizes."""
        if self.node is None:
            return [0] * 2 * len(self.kernel)
        begin, end = explicit_pads(self.node, tuple(sizes), self.kernel, self.strides, self.dilations)
        return [*begin, *end]


def _geometry(network: Network, site: Site) -> _Geometry:
    if site.kind in _MATRIX:
        return _Geometry((1,), [1], [1], None)
    node, ones = network.nodes[site.node], [1] * len(site.kernel)
    strides, dilations = (list(attribute(node, name, ones)) for name in ("strides", "dilations"))
    return _Geometry(site.kernel, strides, dilations, node)


def _computing(
    places: tuple[_Geometry, _Geometry], given: tuple[int, ...], wanted: tuple[int, ...], *, rectified: bool
) -> Network:
    """Computes the error and its slopes.

    Args:
        given, wanted: shapes of what the first operator reads and the second gives; the first axis may be another.
    """
    graph = _SlopeGraph(places, given[2:], wanted[2:])
    graph.add_answer(rectified)
    graph.add_slopes(rectified)
    names = ["x", "goal", *(["beside"] if rectified else []), "w0", "b0", "w1", "b1"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("error", "gw0", "gb0", "gw1", "gb1")
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "pair", inputs, outputs),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=8,
    )
    return Network(model, graph.constants)


class _SlopeGraph:
    """Nodes that compute what a pair answers, and then, backwards, the slopes of its squared error.

    Args:
        places: of the first operator and the second.
        sizes, wanted: of the images that the first one reads, and that the second one gives.
    """

    def __init__(self, places: tuple[_Geometry, _Geometry], sizes: Sequence[int], wanted: Sequence[int]) -> None:
        first, second = self._places = places
        rank = len(sizes)
        pads = first.pads(sizes)
        bordered = [size + pads[axis] + pads[axis + rank] for axis, size in enumerate(sizes)]
        self._middle = positions(bordered, first.kernel, first.strides, first.dilations)
        self._pads = (pads, second.pads(self._middle))
        self._wanted = wanted
        self._turned = [1, 0, *range(2, rank + 2)]
        self.nodes: list[NodeProto] = []
        self.constants = {
            "axes": np.array([0, *range(2, rank + 2)]),
            "two": np.array(2, np.float32),
            "starts": np.zeros(rank, np.int64),
            "spatial": np.arange(2, rank + 2),
        }

    def _add(self, kind: str, inputs: str, output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(kind, inputs.split(), [output], **attributes))

    def add_answer(self, rectified: bool) -> None:
        """What the pair answers, and its error."""
        for number, (data, result) in enumerate((("x", "before"), ("between", "given"))):
            place = self._places[number]
            self._add(
                "Conv", f"{data} w{number} b{number}", result,
                strides=place.strides, dilations=place.dilations, pads=self._pads[number],
            )  # fmt: skip
            if number == 0:
                self._add("Relu", result, "between")
        if rectified:
            self._add("Add", "given beside", "sum")
            self._add("Relu", "sum", "answer")
        else:
            self._add("Identity", "given", "answer")
        self._add("Sub", "answer goal", "gap")
        self._add("ReduceSumSquare", "gap", "error", keepdims=0)

    def add_slopes(self, rectified: bool) -> None:
        """The slopes of the error by weights and biases."""
        self._add("Mul", "gap two", "slope")
        last = "slope"
        if rectified:
            self._add("Sign", "answer", "passes")  # 1 where the ReLU lets through, else 0
            self._add("Mul", "slope passes", "passed")
            last = "passed"
        self._add_weight_slope(1, "between", last)
        second, pads = self._places[1], self._pads[1]
        rank = len(second.kernel)
        reached = [
            (size - 1) * stride + dilation * (k - 1) + 1 - begin - end
            for size, stride, dilation, k, begin, end in zip(
                self._wanted, second.strides, second.dilations, second.kernel, pads[:rank], pads[rank:], strict=True
            )
        ]
        self._add(
            "ConvTranspose", f"{last} w1", "back", strides=second.strides, dilations=second.dilations, pads=pads,
            output_padding=[size - other for size, other in zip(self._middle, reached, strict=True)],
        )  # fmt: skip
        self._add("Sign", "between", "open")
        self._add("Mul", "back open", "through")
        self._add_weight_slope(0, "x", "through")

    def _add_weight_slope(self, number: int, data: str, slope: str) -> None:
        """A convolution of what was read with the slopes of what was given, images for channels."""
        place = self._places[number]
        self._add("Transpose", data, f"data{number}", perm=self._turned)
        self._add("Transpose", slope, f"turned{number}", perm=self._turned)
        self._add(
            "Conv", f"data{number} turned{number}", f"taps{number}",
            strides=place.dilations, dilations=place.strides, pads=self._pads[number],
        )  # fmt: skip
        # strides may leave a border
        self._add("Slice", f"taps{number} starts kernel{number} spatial", f"cut{number}")
        self._add("Transpose", f"cut{number}", f"gw{number}", perm=self._turned)
        self._add("ReduceSum", f"{slope} axes", f"gb{number}", keepdims=0)
        self.constants[f"kernel{number}"] = np.array(place.kernel)
