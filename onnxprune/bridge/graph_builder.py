"""Makes networks of PyTorch of ONNX graphs: which constants are layers, which are parameters, and under which names."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from onnx import NodeProto
from torch import Tensor, nn

from onnxprune.bridge.graph_input import image_input, image_layout, read_tried
from onnxprune.bridge.graph_network import GraphNetwork, Parameter, Plan
from onnxprune.bridge.operators import NUMBERS, OPERATORS, SEVERAL, Call
from onnxprune.common.errors import InputError
from onnxprune.graph.folding import static_names
from onnxprune.graph.images import ImageInput, Layout
from onnxprune.graph.network import Network, attribute, label_of, live_nodes, opset, reads
from onnxprune.graph.nodes import operator_type
from onnxprune.models.onnx_file import digest
from onnxprune.reduction.preparation import Prepared
from onnxprune.runtime.long_work import work_in_helper
from onnxprune.runtime.probe import probe
from onnxprune.runtime.sizes import SECONDS_TO_OPEN
from onnxprune.training.device import device_of

_MASK = 50.0  # a constant of an attention score that is as large as this is a mask
_WEIGHT = re.compile(r"(.+)\.weight(?:\.transposed)?(?:_\d+)?")
# operator -> positions of the inputs that are its parameters where they are constant
_PARAMETERS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "GRU": (1, 2, 3),
    "Gemm": (0, 1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
}
# likewise of what comes after one of these: shifts, scales, tokens and embeddings of positions. Before them, constants
# of the same operators normalise the input.
_SHIFTS = {"Add", "Concat", "Expand", "Mul", "Sub"}

_OWN_NAMES = {"plan", *dir(GraphNetwork), *vars(nn.Module())}  # of a network's attributes and methods


class _BatchNorm(nn.BatchNorm2d):
    """BatchNorm of tensors (N, C, places...) of any rank, as ONNX has it."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def read_network(path: Path, shape: tuple[int, int, int], classes: int | None = None) -> GraphNetwork:
    """The network of an ONNX file, in evaluation mode.

    Args:
        shape: (C, H, W) of the images that it will get.
        classes: how many it is to answer with; None: any number; 0: it is no classifier, and answers with all of its
            outputs that are floating-point numbers.

    Raises:
        InputError: the file cannot be read, followed or run in PyTorch, or takes or gives something else.
    """
    try:
        prepared = _prepared(path, digest(str(path)), shape)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    image = image_input(prepared.source, str(path))
    source, network = prepared.source, prepared.graph.network
    if source.fixed_batch is not None:
        raise InputError(
            f"{path}: it only takes batches of {source.fixed_batch}: export it with a free batch dimension to study it"
        )
    answers, log = (_all_answers(prepared, path), False) if classes == 0 else _scores(prepared, path, classes)
    try:
        return build(network, source, image, image.layout(shape), answers, log).eval()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


@functools.lru_cache(maxsize=2)
def _prepared(path: Path, _content: str, shape: tuple[int, int, int]) -> Prepared:
    """A file's graph, followed once, in the helper process."""
    image = image_input(read_tried(path), str(path))
    shapes = image.shapes(image_layout(image, shape, str(path)))
    probe(path, seconds=SECONDS_TO_OPEN, counted=shapes, fresh=False)
    prepared: Prepared = work_in_helper("onnxprune.reduction.preparation:prepare", path, shapes)
    return prepared


def _all_answers(prepared: Prepared, path: Path) -> dict[str, int]:
    """The outputs that are floating-point numbers, each with an entry for each image."""
    found = {name: value for name, value in prepared.outputs.items() if value.dtype.kind == "f"}
    if not found:
        raise InputError(f"{path}: none of its outputs is of floating-point numbers: there is nothing to compare by")
    for name, value in found.items():
        if value.shape[:1] != (prepared.batch,):
            raise InputError(
                f"{path}: for a batch of {prepared.batch} its output {name} is {list(value.shape)}: expected an entry "
                "for each image; outputs whose number depends on the image, as after non-maximum suppression, cannot "
                "be compared: export the network without that"
            )
    return {name: value.size // prepared.batch for name, value in found.items()}


def _scores(prepared: Prepared, path: Path, classes: int | None) -> tuple[dict[str, int], bool]:
    """The tensor that has the scores of the classes, and whether a softmax would follow."""
    outputs = prepared.outputs
    rows = {name: value for name, value in outputs.items() if value.dtype.kind == "f" and value.ndim == 2}
    found = next((name for name, value in rows.items() if classes in (None, value.shape[1])), None)
    if found is None:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
        raise InputError(
            f"{path}: expected an output of {classes} scores a sample, one for each class of the data; for a batch of "
            f"{prepared.batch} its outputs are {shapes}"
        )
    makers = {name: node for node in prepared.graph.network.nodes for name in node.output}
    name = found
    while name in makers and operator_type(makers[name]) == "Identity":
        name = makers[name].input[0]
    node = makers.get(name)
    if node is not None and operator_type(node) == "Softmax" and attribute(node, "axis", -1) in (-1, 1):
        return {node.input[0]: outputs[found].shape[1]}, True
    return {found: outputs[found].shape[1]}, False


def layer_of(constant: str) -> str | None:
    """The layer whose weight a constant is by its name, in a graph that is named after parameters."""
    named = _WEIGHT.fullmatch(constant)
    return named[1] if named else None


def remade(network: GraphNetwork, graph: Network) -> GraphNetwork:
    """A network of another graph, with the same input and answers, in evaluation mode."""
    plan = network.plan
    device = device_of(network)
    return build(graph, None, plan.image, plan.layout, plan.answers, plan.log).eval().to(device)


class _Builder:
    """Gives constants and layers their names."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.modules: dict[str, nn.Module] = {}
        self.tensors: dict[str, Tensor] = {}
        self.origins: dict[str, Parameter] = {}
        self.names: dict[str, str] = {}
        self._uses = Counter(name for node in network.nodes for name in reads(node))
        self._uses.update(network.outputs)

    def own(self, node: NodeProto, position: int, rank: int | None = None) -> np.ndarray | None:
        """A constant of floats that this node alone reads."""
        if position >= len(node.input) or self._uses[node.input[position]] != 1:
            return None
        value = self.network.weights.get(node.input[position])
        if value is None or value.dtype.kind != "f" or (rank is not None and value.ndim != rank):
            return None
        return value

    def layer_name(self, node: NodeProto) -> str:
        """By its weight or, where exporters number these, by its node."""
        return self._fresh(layer_of(node.input[1]) or label_of(node))

    def _fresh(self, text: str) -> str:
        """The text as a name that Python and PyTorch take, and that nothing has yet."""
        text = re.sub(r"\W+", "_", text).strip("_") or "tensor"
        text = f"_{text}" if text[0].isdigit() else text
        taken = {*self.modules, *self.tensors, *_OWN_NAMES}
        candidate, number = text, 1
        while candidate in taken:
            number += 1
            candidate = f"{text}_{number}"
        return candidate

    def layer(self, call: Call) -> str | None:
        """A module for a node, under its name; None where it is none of PyTorch's, or shares its weights."""
        node, kind = call.node, operator_type(call.node)
        if kind == "Conv":
            module, parts = self._convolution(call)
        elif kind in ("Gemm", "MatMul"):
            module, parts = self._linear(call)
        elif kind == "BatchNormalization" and len(node.output) == 1 and not call.attribute("training_mode", 0):
            module, parts = self._batch_norm(call)
        else:
            return None
        if module is None:
            return None
        name = self.layer_name(node)
        for part, (position, transposed) in parts.items():
            value = self.network.weights[node.input[position]]
            tensor = getattr(module, part)
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(np.array(value.T if transposed else value)).view(tensor.shape))
            self.origins[f"{name}.{part}"] = Parameter(node.input[position], transposed)
        self.modules[name] = module
        return name

    def _convolution(self, call: Call) -> tuple[nn.Module | None, dict[str, tuple[int, bool]]]:
        weight, bias = self.own(call.node, 1, 4), self.own(call.node, 2, 1)
        half = call.attribute("pads", [0] * 4)
        if (
            weight is None
            or (bias is None and any(call.node.input[2:]))
            or call.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
            or list(half[:2]) != list(half[2:])
        ):
            return None, {}
        groups = call.attribute("group", 1)
        module = nn.Conv2d(
            weight.shape[1] * groups,
            weight.shape[0],
            weight.shape[2:],
            stride=tuple(call.attribute("strides", (1, 1))),
            padding=tuple(half[:2]),
            dilation=tuple(call.attribute("dilations", (1, 1))),
            groups=groups,
            bias=bias is not None,
        )
        return module, {"weight": (1, False), **({} if bias is None else {"bias": (2, False)})}

    def _linear(self, call: Call) -> tuple[nn.Module | None, dict[str, tuple[int, bool]]]:
        weight = self.own(call.node, 1, 2)
        given = any(call.node.input[2:])
        bias = self.own(call.node, 2) if given else None
        if weight is None or call.attribute("transA", 0) or call.attribute("alpha", 1.0) != 1:
            return None, {}
        turned = not call.attribute("transB", 0)
        outputs = weight.shape[1] if turned else weight.shape[0]
        if given and (bias is None or bias.size != outputs or call.attribute("beta", 1.0) != 1):
            return None, {}
        module = nn.Linear(weight.size // outputs, outputs, bias=given)
        return module, {"weight": (1, turned), **({"bias": (2, False)} if given else {})}

    def _batch_norm(self, call: Call) -> tuple[nn.Module | None, dict[str, tuple[int, bool]]]:
        values = [self.own(call.node, position, 1) for position in (1, 2, 3, 4)]
        if any(value is None for value in values):
            return None, {}
        module = _BatchNorm(len(values[0]), eps=call.attribute("epsilon", 1e-5))  # type: ignore[arg-type]
        return module, {
            part: (position, False)
            for position, part in enumerate(("weight", "bias", "running_mean", "running_var"), start=1)
        }

    def constants(self, node: NodeProto, behind: bool) -> None:
        """Tensors for what a node reads beside its data: parameters, and what stays as it is."""
        kind = operator_type(node)
        trained = _PARAMETERS.get(kind, ()) if kind not in _SHIFTS else range(len(node.input))
        for position, name in enumerate(node.input):
            value = self.network.weights.get(name)
            if value is None or name in self.names or position in NUMBERS.get(kind, ()):
                continue
            if value.dtype.kind not in "fiub":
                raise InputError(f"node '{label_of(node)}' reads a constant of {value.dtype}")
            learns = position in trained and value.dtype.kind == "f" and value.size > 1
            if kind in _SHIFTS:  # constants that are this large are masks
                learns &= behind and bool(np.isfinite(value).all() and np.abs(value).max() < _MASK)
            own = self._fresh(name)
            self.tensors[own] = torch.from_numpy(np.array(value))
            self.names[name] = own
            if learns:
                self.origins[own] = Parameter(name)


def build(
    network: Network, source: Network | None, image: ImageInput, layout: Layout, answers: Mapping[str, int], log: bool
) -> GraphNetwork:
    """A network of a graph.

    Args:
        source: the file that the graph is from, see `GraphNetwork.graph`.
        answers, log: see `onnxprune.bridge.graph_network.Plan`.

    Raises:
        InputError: the graph has an operator that is not known here, weights of other types, or none.
    """
    version = opset(network.model)
    calls = tuple(_pooled_first([Call.of(node, version) for node in live_nodes(network.nodes, answers)], answers))
    static = static_names(network)  # what follows from sizes is computed as ONNX defines it
    in_torch = {operator_type(call.node) for call in calls if not static.issuperset(filter(None, call.node.output))}
    if strange := sorted(in_torch - set(OPERATORS)):
        raise InputError(
            f"operator {strange[0]} cannot be trained in PyTorch here; 'onnxprune prune' needs no training"
        )
    wanted = {*answers, *(name for call in calls for name in call.node.input)}
    for call in calls:
        if operator_type(call.node) not in SEVERAL and wanted & {name for name in call.node.output[1:] if name}:
            raise call.refused("outputs beside its first")
    builder = _Builder(network)
    modules: dict[int, str] = {}
    behind: set[str] = set()  # tensors that depend on a layer with weights
    for place, call in enumerate(calls):
        node, kind = call.node, operator_type(call.node)
        after = any(name in behind for name in node.input)
        layer = builder.layer(call)
        if layer is not None:
            modules[place] = layer
        else:
            builder.constants(node, after or kind == "Expand")
        if after or layer is not None or kind in _PARAMETERS:
            behind.update(node.output)
    if kinds := {str(network.weights[origin.constant].dtype) for origin in builder.origins.values()} - {"float32"}:
        raise InputError(f"its weights are {', '.join(sorted(kinds))}: a study needs float32 weights")
    if not builder.origins:
        raise InputError("it has no weights to train")
    plan = Plan(
        network,
        source,
        image,
        layout,
        answers,
        log,
        calls,
        modules,
        builder.origins,
        builder.names,
        _last_uses(calls, answers),
    )
    return GraphNetwork(plan, builder.modules, builder.tensors)


def _pooled_first(calls: list[Call], answers: Iterable[str]) -> list[Call]:
    """With max pooling before the ReLU that it alone reads, which then has a quarter to do: the same to the bit."""
    readers = Counter(name for call in calls for name in call.node.input)
    readers.update(answers)
    makers = {call.node.output[0]: place for place, call in enumerate(calls)}
    calls = list(calls)
    for place, call in enumerate(calls):
        source = makers.get(call.node.input[0]) if call.node.input else None
        if operator_type(call.node) != "MaxPool" or len(call.node.output) > 1 or source is None:
            continue
        relu = calls[source].node
        if operator_type(relu) == "Relu" and readers[relu.output[0]] == 1:
            pool, rectified = NodeProto(), NodeProto()
            pool.CopyFrom(call.node)
            rectified.CopyFrom(relu)
            pool.input[0], pool.output[0] = relu.input[0], relu.output[0]
            rectified.input[0], rectified.output[0] = relu.output[0], call.node.output[0]
            calls[source], calls[place] = Call.of(pool, call.opset), Call.of(rectified, call.opset)
    return calls


def _last_uses(calls: tuple[Call, ...], answers: Iterable[str]) -> dict[int, tuple[str, ...]]:
    """Place of a call -> tensors that none after it reads, so that they can be let go."""
    last: dict[str, int] = {}
    for place, call in enumerate(calls):
        last.update(dict.fromkeys(filter(None, call.node.input), place))
    for name in answers:
        last.pop(name, None)
    found: dict[int, tuple[str, ...]] = {}
    for name, place in last.items():
        found[place] = (*found.get(place, ()), name)
    return found
