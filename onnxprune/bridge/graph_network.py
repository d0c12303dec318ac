"""An ONNX graph as a network of PyTorch: it is trained on its own nodes, and its weights go back into them."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import helper
from torch import Tensor, nn

from onnxprune.bridge.operators import NUMBERS, OPERATORS, Call
from onnxprune.graph.evaluation import evaluated
from onnxprune.graph.images import ImageInput, Layout
from onnxprune.graph.network import Network
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.tensors import Shape

_LEAST = float(np.log(np.finfo(np.float32).tiny))  # of a log-probability: what is less is no float32 number


@dataclass(frozen=True)
class Parameter:
    """A parameter or a statistic of the network, and the constant of the graph that it is.

    Attributes:
        constant: its name in the graph.
        transposed: whether PyTorch has its two axes the other way round.
    """

    constant: str
    transposed: bool = False


@dataclass(frozen=True)
class Plan:
    """What the network runs, shared by its copies: none of it changes.

    Attributes:
        network: the graph, its weights as they were when it was read.
        source: the file as it is, which is written where no weight has changed; None for a graph that was made.
        image, layout: its input, and how images are laid out for it.
        answers: the tensors that it answers with, of a classifier the scores alone -> how many numbers an image has.
        log: whether it answers with log-probabilities, where a softmax would follow.
        calls: the nodes that the answers need, in order.
        modules: place of a node among them -> module that does it.
        origins: parameter or buffer -> the constant that it is.
        names: constant -> parameter or buffer.
        last: place of a node -> tensors that nothing reads after it.
    """

    network: Network
    source: Network | None
    image: ImageInput
    layout: Layout
    answers: Mapping[str, int]
    log: bool
    calls: tuple[Call, ...]
    modules: Mapping[int, str]
    origins: Mapping[str, Parameter]
    names: Mapping[str, str]
    last: Mapping[int, tuple[str, ...]]

    def __deepcopy__(self, memo: object) -> "Plan":
        return self


class GraphNetwork(nn.Module):
    """Runs an ONNX graph on images (N, C, H, W), normalised, and gives logits (N, classes); or, of a file that is no
    classifier, all that it answers with side by side (N, numbers).

    Convolutions and matrix products with constant weights are modules of PyTorch, named after these weights or nodes;
    other constants that training may change are parameters. Answers of a file that ends in a softmax are log-
    probabilities. A Dropout that is left in a file does nothing, as under onnxruntime.
    """

    def __init__(self, plan: Plan, modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.plan = plan
        for name, module in modules.items():
            self.add_module(name, module)
        for name, tensor in tensors.items():
            if name in plan.origins:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes), their log-probabilities, or other answers (N, numbers), of images (N, C, H, W)."""
        plan = self.plan
        laid_out = images.permute(plan.layout.axes).reshape(-1, *plan.layout.sizes)
        values: dict[str, Any] = {plan.image.name: laid_out}
        for place, call in enumerate(plan.calls):
            inputs = self._inputs(call, values)
            if place in plan.modules:
                found: Any = self._modules[plan.modules[place]](inputs[0])  # type: ignore[misc]
            elif any(isinstance(value, Tensor) for value in inputs):
                found = OPERATORS[operator_type(call.node)](call, *inputs)
            else:
                found = self._static(call, inputs)
            outputs = found if isinstance(found, list) else [found]
            values.update(zip(call.node.output, outputs, strict=False))
            for name in plan.last.get(place, ()):
                values.pop(name, None)
        rows = [values[name].reshape(len(images), -1) for name in plan.answers]
        found = rows[0] if len(rows) == 1 else torch.cat(rows, 1)
        return found.log_softmax(-1).clamp_min(_LEAST) if plan.log else found

    def _inputs(self, call: Call, values: Mapping[str, Any]) -> list[Any]:
        """What a node reads: constants as tensors where it computes with tensors, else as they are."""
        names = call.node.input
        own = {name: getattr(self, self.plan.names[name]) for name in names if name in self.plan.names}
        if not any(isinstance(found, nn.Parameter) for found in own.values()) and not any(
            isinstance(values.get(name), Tensor) for name in names
        ):
            own = {}
        known, numbers = self.plan.network.weights, NUMBERS.get(operator_type(call.node), ())
        return [
            values[name] if name in values else known.get(name) if place in numbers else own.get(name, known.get(name))
            for place, name in enumerate(names)
        ]

    def _static(self, call: Call, inputs: list[Any]) -> list[Any]:
        """What follows from constants and sizes: computed as ONNX defines it."""
        feed = {name: value for name, value in zip(call.node.input, inputs, strict=True) if name}
        return evaluated(call.node, self.plan.network.model.opset_import, feed)

    def extra_repr(self) -> str:
        """What distinguishes it from another graph with the same layers."""
        digest = hashlib.sha256()
        for call in self.plan.calls:
            digest.update(call.node.SerializeToString(deterministic=True))
            for name in call.node.input:
                value = self.plan.network.weights.get(name)
                if value is not None and value.dtype.kind in "biu":  # as numbers of channels, which are no layer's
                    digest.update(str(value.tolist()).encode())
        for name in list(self.plan.answers)[1:]:
            digest.update(name.encode())
        return f"graph={digest.hexdigest()[:16]}"

    @property
    def shapes(self) -> dict[str, Shape] | None:
        """Its input's shape for a batch of two, where its file leaves sizes of an image open."""
        return self.plan.image.shapes(self.plan.layout)

    def normalised(self) -> dict[str, str]:
        """Layer -> the BatchNorm that alone reads its output."""
        makers = {
            call.node.output[0]: self.plan.modules[place]
            for place, call in enumerate(self.plan.calls)
            if place in self.plan.modules
        }
        uses = Counter(name for call in self.plan.calls for name in call.node.input)
        uses.update(self.plan.answers)
        return {
            makers[call.node.input[0]]: self.plan.modules[place]
            for place, call in enumerate(self.plan.calls)
            if operator_type(call.node) == "BatchNormalization"
            and place in self.plan.modules
            and uses[call.node.input[0]] == 1
            and call.node.input[0] in makers
        }

    def graph(self, *, named: bool = False) -> Network:
        """The graph with the weights as they are now; as its file has it where none has changed.

        Args:
            named: constants are called as the parameters are and lie as they do in PyTorch.
        """
        state = {name: tensor.detach().cpu().numpy() for name, tensor in self.state_dict().items()}
        values = {
            origin.constant: np.ascontiguousarray(state[name].T if origin.transposed else state[name])
            for name, origin in self.plan.origins.items()
        }
        before = self.plan.network.weights
        same = all(np.array_equal(value.ravel(), before[name].ravel()) for name, value in values.items())
        if same and self.plan.source is not None and not named:
            return self.plan.source
        network = self.plan.network.copy()
        network.weights.update({name: value.reshape(before[name].shape) for name, value in values.items()})
        return _renamed(network, self.plan.origins, state) if named else network

    def save(self, path: Path, *, named: bool = False) -> None:
        """Writes the graph, see there.

        Raises:
            StorageError: the system does not let us.
        """
        self.graph(named=named).save(path)


def _renamed(network: Network, origins: Mapping[str, Parameter], state: Mapping[str, np.ndarray]) -> Network:
    """With constants under the names of parameters, and a Transpose where PyTorch has them the other way round."""
    nodes = network.nodes
    turned = []
    replaced = {}
    for name, origin in origins.items():
        value = network.weights.pop(origin.constant)
        network.weights[name] = state[name] if origin.transposed else value
        replaced[origin.constant] = name
        if origin.transposed:
            replaced[origin.constant] = network.fresh(f"{name}.transposed")
            turned.append(helper.make_node("Transpose", [name], [replaced[origin.constant]], perm=[1, 0]))
    for node in nodes:
        for position, name in enumerate(node.input):
            node.input[position] = replaced.get(name, name)
    network.replace_nodes([*turned, *nodes])
    return network
