"""Small graphs as text, pruned, and shown to compute what they would if nothing read the removed units."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import ModelProto, helper, numpy_helper

from onnxprune.graph import folding, surgery
from onnxprune.graph.channels import ChannelGraph
from onnxprune.graph.follow import follow as follow_channels
from onnxprune.graph.network import Network, read
from onnxprune.runtime.execution import open_network, run, trace

_TYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64}

Weights = Mapping[str, "tuple[int, ...] | list[int] | np.ndarray"]
Feed = dict[str, np.ndarray]

KINDS: dict[str, tuple[str, Weights]] = {  # name -> text and weights of a small network
    "residual": (
        """(float[n,3,6,6] x) => (float[n,4] y) {
        a = Conv <pads = [1,1,1,1]> (x, wa)
        b = BatchNormalization (a, s, o, m, v) r = Relu (b)
        c = Conv <pads = [1,1,1,1], group = 8> (r, wc) t = Add (c, r) u, k = Split <axis = 1> (t, sizes)
        q = Concat <axis = 1> (k, u) g = GlobalAveragePool (q) f = Flatten (g) y = Gemm <transB = 1> (f, wy) }""",
        {
            "wa": (8, 3, 3, 3), "s": (8,), "o": (8,), "m": (8,), "v": np.ones(8, np.float32), "wc":
        (8, 1, 3, 3), "sizes": [4, 4],
            "wy": (4, 8),
        },
    ),
    "attention": (
        """(float[n,5,8] x) => (float[n,5,8] y) {
        q0 = MatMul (x, wq) k0 = MatMul (x, wk) v0 = MatMul (x, wv) q1 = Reshape (q0, heads) k1 = Reshape (k0, heads)
        v1 = Reshape (v0, heads) q = Transpose <perm = [0,2,1,3]> (q1) k = Transpose <perm = [0,2,3,1]> (k1)
        v = Transpose <perm = [0,2,1,3]> (v1) s = MatMul (q, k) p = Softmax (s) o0 = MatMul (p, v)
        o1 = Transpose <perm = [0,2,1,3]> (o0) o = Reshape (o1, flat) z = MatMul (o, wo) y = Add (z, x) }""",
        {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "wo": (8, 8), "heads": [0, 5, 2, 4], "flat": [0, 5, 8]},
    ),
    "recurrent": (
        """(float[4,2,6] x) => (float[2,3] y) {
        h = MatMul (x, wi) r = Relu (h) a, b = LSTM <hidden_size = 5> (r, w, u) s = Squeeze (b, zero)
        y = MatMul (s, wy) }""",
        {"wi": (6, 8), "w": (1, 20, 8), "u": (1, 20, 5), "zero": [0], "wy": (5, 3)},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Pruned:
    """
    Attributes:
        graph: of the folded network.
        free: names of the nodes that make a group, joined by "+", and its units; in the order of the graph.
        frozen: likewise, with the reason and the node that gives it.
        small: the network without the removed units.
    """

    graph: ChannelGraph
    free: list[tuple[str, int]]
    frozen: list[tuple[str, int, str]]
    small: Network

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a constant of the small network."""
        return self.small.weights[name].shape

    def why(self, producers: str) -> str:
        """Why the only group of these nodes is frozen."""
        (reason,) = [reason for names, _, reason in self.frozen if names == producers]
        return reason

    @property
    def nodes(self) -> dict[str, onnx.NodeProto]:
        """First output -> node, of the small network."""
        return {node.output[0]: node for node in self.small.nodes}


def random(*shape: int, dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    """Numbers that differ, of either sign, and not small."""
    generator = np.random.default_rng([seed, *shape])
    return np.asarray(generator.uniform(0.3, 1.0, shape) * generator.choice([-1, 1], shape)).astype(dtype)


def model(text: str, weights: Weights, opset: int = 17, domains: Sequence[str] = ("com.microsoft",)) -> ModelProto:
    """A model of the nodes in `text`, written as onnx.parser wants them: "(float[N,3] x) => (float y) { ... }".

    Args:
        weights: name -> shape of random numbers, list of integers, or value.
    """
    graph = onnx.parser.parse_graph(f"graph {text}")
    for seed, (name, given) in enumerate(weights.items()):
        if isinstance(given, tuple):
            value = random(*given, seed=seed)
        else:
            value = np.asarray(given, np.int64) if isinstance(given, list) else given
        graph.initializer.append(numpy_helper.from_array(value, name))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    built = helper.make_model(graph, opset_imports=imports, ir_version=8)
    for value in built.graph.output:
        if not value.type.tensor_type.shape.dim:
            value.type.tensor_type.ClearField("shape")
    for value, known in zip(built.graph.output, onnx.shape_inference.infer_shapes(built).graph.output, strict=True):
        value.CopyFrom(known)
    return built


def network(built: ModelProto) -> Network:
    """The model as it is read from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(built, path)
        return read(path)


def follow(source: Network) -> tuple[ChannelGraph, list[Feed]]:
    """Its channels once folded, and inputs of one or, where sizes are free, two sizes."""
    feeds = [_feed(source, 2, 4)]
    if any(dim.dim_value <= 0 for value in source.model.graph.input for dim in value.type.tensor_type.shape.dim):
        feeds.append(_feed(source, 3, 8))
    static = folding.static_names(source)
    runs = [trace(source, feed, static | set(source.outputs)) for feed in feeds]
    values = [{**found.values, **source.weights} for found in runs]
    folded = folding.fold(source, static, values, [found.shapes for found in runs])
    again = [trace(folded, feed, folded.outputs) for feed in feeds]
    for before, after in zip(runs, again, strict=True):
        for name in source.outputs:
            _assert_equal(before.values[name], after.values[name], f"{name} of the folded network")
    sizes = [found.shapes for found in again]
    return follow_channels(folded, sizes[0], sizes[1:]), feeds


def prune(
    text: str,
    weights: Weights,
    opset: int = 17,
    lose: Mapping[str, Sequence[int]] | None = None,
    share: float = 0.5,
) -> Pruned:
    """Removes this share of the units of every group that can go, and checks what is left.

    Args:
        lose: tensor -> channels, in place of that share.
    """
    return prune_network(network(model(text, weights, opset)), lose, share)


def prune_network(source: Network, lose: Mapping[str, Sequence[int]] | None = None, share: float = 0.5) -> Pruned:
    """Likewise, of a network."""
    graph, feeds = follow(source)
    free = [(place, group) for place, group in enumerate(graph.groups) if group.frozen is None]
    generator = np.random.default_rng(1)
    removed = {
        place: generator.permutation(len(group.units))[: int(len(group.units) * share)].tolist()
        for place, group in free
    }
    if lose is not None:
        labels = {int(graph.channels[name].labels[index]) for name, lost in lose.items() for index in lost}
        removed = {
            place: [number for number, unit in enumerate(group.units) if labels & set(unit.tolist())]
            for place, group in free
        }
        assert labels <= {
            label
            for place, lost in removed.items()
            for unit in lost
            for label in graph.groups[place].units[unit].tolist()
        }
    keep = graph.keep(removed)
    small = surgery.shrink(graph, keep)
    check(graph, keep, small, feeds)
    return Pruned(
        graph,
        [("+".join(group.producers), len(group.units)) for _, group in free],
        [
            ("+".join(group.producers), len(group.units), f"{group.frozen.reason} ({group.frozen.node})")
            for group in graph.groups
            if group.frozen is not None
        ],
        small,
    )


def check(
    graph: ChannelGraph, keep: np.ndarray, small: Network, feeds: Sequence[Feed], always_matters: bool = True
) -> None:
    """The small network is valid, and equals the whole one in which nothing reads what was removed.

    That nothing does is seen by other numbers for the weights that make the removed units, and that something did by
    the outputs of the whole network.

    Args:
        always_matters: False where what is removed may be nothing to the outputs.
    """
    onnx.checker.check_model(small.proto(), full_check=True)
    masked = surgery.mask(graph, keep)
    other = _scrambled(graph, keep, masked)
    for feed in feeds:
        expected = _run(masked, feed)
        for name, found in _run(small, feed).items():
            _assert_equal(expected[name], found, f"{name} of the shrunk network")
        for name, found in _run(other, feed).items():
            _assert_equal(expected[name], found, f"{name} of the masked network with other numbers in what is masked")
    if always_matters and not keep.all():
        whole = _run(graph.network, feeds[0])
        assert any(not np.allclose(whole[name], value, 1e-4, 1e-4) for name, value in _run(masked, feeds[0]).items()), (
            "what was removed did not matter"
        )


def _scrambled(graph: ChannelGraph, keep: np.ndarray, masked: Network) -> Network:
    """A masked network in which the removed units are made by other numbers."""
    changed = masked.copy()
    by_name = {label: node for node in changed.nodes for label in node.output}
    for cut in graph.cuts:
        if cut.role != "producer":
            continue
        made = graph.network.nodes[cut.node]
        node = by_name[next(name for name in made.output if name)]
        value = changed.weights[node.input[cut.position]]
        shape = [1] * value.ndim
        shape[cut.axis] = len(cut.labels)
        gone = ~keep[cut.labels].reshape(shape)
        name = changed.fresh(f"{node.input[cut.position]}_other")
        changed.weights[name] = np.where(gone, -0.5 * value, value).astype(value.dtype)
        node.input[cut.position] = name
    return changed


def _run(found: Network, feed: Feed) -> dict[str, np.ndarray]:
    with open_network(found, threads=1) as session:
        return run(session, feed)


def _assert_equal(expected: np.ndarray, found: np.ndarray, what: str) -> None:
    assert expected.shape == found.shape, what
    if expected.dtype.kind == "f":
        assert np.isfinite(expected).all(), what
        tolerance = 1e-4 if expected.dtype != np.float16 else 1e-2
        scale = max(float(np.abs(expected).max(initial=0)), 1e-9)
        error = float(np.abs(expected.astype(np.float64) - found).max(initial=0)) / scale
        assert error < tolerance, f"{what}: {error}"
    else:
        assert (expected == found).all(), what


def _feed(source: Network, batch: int, size: int) -> Feed:
    feed = {}
    for number, value in enumerate(source.model.graph.input):
        tensor = value.type.tensor_type
        shape = [
            dim.dim_value if dim.dim_value > 0 else (batch if dim.dim_param in ("N", "") else size)
            for dim in tensor.shape.dim
        ]
        dtype = np.dtype(_TYPES[tensor.elem_type])
        numbers = random(*shape, seed=100 + number)
        feed[value.name] = np.asarray(numbers if dtype.kind == "f" else numbers > 0).astype(dtype)
    return feed
