"""Which output units of a network of PyTorch must go together: told by the channel graph of its own export.

Where layers meet in a sum or a depthwise convolution, an index of one goes with the same index of the other. The graph
of the exported file knows that (`onnxprune.graph.channels`); here its labels are led back to modules and parameters by
the names of the weights.
"""

import copy
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnxprune.bridge.export import export
from onnxprune.bridge.graph_network import GraphNetwork
from onnxprune.bridge.structure import structure_of
from onnxprune.common.errors import InputError, StorageError, one_line
from onnxprune.common.temporary import temporary_folder
from onnxprune.graph.channels import ChannelGraph
from onnxprune.graph.network import Network, attribute, read, reads
from onnxprune.graph.nodes import operator_type
from onnxprune.graph.surgery import shrink
from onnxprune.reduction.preparation import Prepared, prepare

Units = np.ndarray  # numbers of units, int64; 0: what stays


@dataclass(frozen=True)
class Group:
    """Units that are ranked against each other.

    Attributes:
        units: their numbers, in the order of the first layer's outputs.
        layers: those that make them, in the network's order; the first one stands for the group.
        width: outputs of the first layer that a unit takes: several where heads or the parts of a grouped convolution
            go together.
        dense: whether all of the layers are matrix products, and none a convolution.
    """

    units: Units
    layers: tuple[str, ...]
    width: int
    dense: bool


@dataclass(frozen=True)
class Coupling:
    """Units of a network, numbered from 1, each of which goes as a whole.

    Attributes:
        count: of the units.
        outputs: convolution or linear layer -> unit of each of its outputs (outputs,); without layers whose outputs
            all stay.
        groups: in the order of their first layers.
        along: parameter -> the axis along which it has units, and these: what makes them, shifts or scales them.
        inputs: convolution or linear layer -> unit that each of its inputs reads (inputs,); of a grouped one, that the
            inputs of that place in all groups read (inputs of a group,).
        read: parameter -> the axis along which it reads units, and these.
        frozen: layer whose outputs all stay -> why.
        heads: of these, the layers whose outputs are those of the network: of a classifier, the classes.
    """

    count: int
    outputs: dict[str, Units]
    groups: tuple[Group, ...]
    along: dict[str, tuple[int, Units]]
    inputs: dict[str, Units]
    read: dict[str, tuple[int, Units]]
    frozen: dict[str, str]
    heads: tuple[str, ...]

    def gone(self, masks: Mapping[str, Tensor]) -> np.ndarray:
        """Whether each unit (count + 1,) is removed by masks of layers (outputs,)."""
        gone = np.zeros(self.count + 1, bool)
        for name, mask in masks.items():
            gone[self.outputs[name][mask.cpu().numpy() == 0]] = True
        gone[0] = False
        return gone

    def emptied(self, gone: np.ndarray) -> np.ndarray:
        """Whether each unit (count + 1,) is of a group that is removed as a whole."""
        emptied = np.zeros_like(gone)
        for group in self.groups:
            emptied[group.units] = gone[group.units].all()
        return emptied

    def stand_ins(self, gone: np.ndarray) -> np.ndarray:
        """The first unit of every group that is removed as a whole (count + 1,): it stays, at zero, as nothing can be
        empty."""
        first = np.zeros_like(gone)
        first[[group.units[0] for group in self.groups]] = True
        return first & self.emptied(gone)

    def masks(self, gone: np.ndarray, layers: Iterable[str], device: torch.device) -> dict[str, Tensor]:
        """Layer -> 0/1 mask of its outputs (outputs,) without these units (count + 1,)."""
        return {name: torch.from_numpy(~gone[self.outputs[name]]).float().to(device) for name in layers}

    def held(self, network: nn.Module, zero: np.ndarray, gone: np.ndarray | None = None) -> dict[str, Tensor]:
        """Parameter -> 0/1 mask that keeps units at zero, of its own shape; of parameters that have such units.

        Args:
            network: of full size, or without the units that are `gone` (count + 1,).
            zero: the units (count + 1,).
        """
        left = {
            name: (axis, units if gone is None else units[~gone[units]]) for name, (axis, units) in self.along.items()
        }
        return _zeros(network, left, zero)

    def unread(self, network: nn.Module, gone: np.ndarray) -> dict[str, Tensor]:
        """Parameter -> 0/1 mask, of its own shape, that keeps it from reading units that are `gone` (count + 1,): what
        is held at zero may be something else by then, as after a sigmoid."""
        return _zeros(network, self.read, gone)


def _zeros(network: nn.Module, places: Mapping[str, tuple[int, Units]], zero: np.ndarray) -> dict[str, Tensor]:
    parameters = dict(network.named_parameters())
    masks = {}
    for name, (axis, units) in places.items():
        if zero[units].any():
            parameter = parameters[name]
            shape = [1] * parameter.dim()
            shape[axis] = -1
            mask = torch.from_numpy(~zero[units]).to(parameter)
            masks[name] = mask.view(shape).expand_as(parameter).clone()
    return masks


_known: dict[Hashable, dict[str, Any]] = {}  # network -> what is told of it, by name
_MOST_KNOWN = 64
_LAYOUTS = ("Identity", "Transpose", "Unsqueeze", "Reshape")  # operators that leave the numbers of a constant


def coupling(network: nn.Module, input_shape: tuple[int, ...]) -> Coupling:
    """The units of a network; it is exported once for each structure that can be written down.

    Args:
        input_shape: (C, H, W) of one image.

    Raises:
        InputError: it cannot be exported, or its channels cannot be followed.
    """

    def found() -> dict[str, Any]:
        prepared = _exported(network, input_shape)
        units, _ = _Names(network, prepared).coupling()
        return {"coupling": units, "parameters": _parameters_in(prepared.source, network)}

    return _once(found, "coupling", network, input_shape)


def exported_parameters(network: nn.Module, input_shape: tuple[int, ...]) -> frozenset[str]:
    """Names of the parameters that the exported file of a network has: of those that only training takes, none.

    Args:
        input_shape: (C, H, W) of one image.

    Raises:
        InputError: it cannot be exported.
    """

    def found() -> dict[str, Any]:
        with temporary_folder() as folder:
            path = Path(folder) / "network.onnx"
            _export_named(network, path, input_shape)
            return {"parameters": _parameters_in(read(path), network)}

    return _once(found, "parameters", network, input_shape)


def _parameters_in(file: Network, network: nn.Module) -> frozenset[str]:
    return frozenset(name for name, _ in network.named_parameters() if name in file.weights)


def _once(find: Callable[[], dict[str, Any]], what: str, network: nn.Module, input_shape: tuple[int, ...]) -> Any:
    """What is found of a network, with all that is found at the same time, once for each structure that can be written
    down."""
    structure = structure_of(network)
    if structure is None:
        return find()[what]
    key = structure, tuple(input_shape)
    if what not in _known.get(key, ()):
        found = find()
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = _known.get(key, {}) | found
    return _known[key][what]


def heads(network: nn.Module, input_shape: tuple[int, ...]) -> tuple[str, ...]:
    """The layers whose outputs are the network's: of a classifier, the one of the classes.

    Raises:
        InputError: there is none, or the network's channels cannot be followed.
    """
    found = coupling(network, input_shape).heads
    if not found:
        raise InputError(
            "no layer gives the outputs of the network: its head cannot be found, which --freeze-features and weights "
            "for other classes need"
        )
    return found


@dataclass(frozen=True)
class Cutting:
    """
    Attributes:
        graph: of the whole network, its weights under the names of the network's parameters.
        keep: labels (count,) of it that stay.
        shrunk: the graph without the others.
    """

    graph: ChannelGraph
    keep: np.ndarray
    shrunk: Network


def cut(network: nn.Module, input_shape: tuple[int, ...], masks: Mapping[str, Tensor]) -> Cutting:
    """The graph of `network` without the units that `masks` (layer -> (outputs,)) remove.

    A group that is removed as a whole keeps one unit.
    """
    graph, found, labels = followed(network, input_shape)
    gone = found.gone(masks)
    gone &= ~found.stand_ins(gone)
    keep = ~gone[labels]
    return Cutting(graph, keep, shrink(graph, keep))


def followed(network: nn.Module, input_shape: tuple[int, ...]) -> tuple[ChannelGraph, Coupling, Units]:
    """The channel graph of a network's export, with weights under the names of its parameters; its units; and the unit
    of each label of the graph (labels,).

    Raises:
        InputError: it cannot be exported, or its channels cannot be followed.
    """
    prepared = _exported(network, input_shape)
    return prepared.graph, *_Names(network, prepared).coupling()


def _exported(network: nn.Module, input_shape: tuple[int, ...]) -> Prepared:
    with temporary_folder() as folder:
        path = Path(folder) / "network.onnx"
        _export_named(network, path, input_shape)
        return _followed(path, network)


def _export_named(network: nn.Module, path: Path, input_shape: tuple[int, ...]) -> None:
    """Writes `network` so that weights keep the names of its parameters.

    The exporter takes weights that are equal for one; so it gets different ones, and the real ones are put in after.
    """
    if isinstance(network, GraphNetwork):
        network.save(path, named=True)
        return
    different = copy.deepcopy(network).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in different.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    try:
        export(different, path, input_shape, named=True)
    except (OSError, StorageError):  # a full disk says nothing of the network
        raise
    except Exception as error:  # the exporter's own, of many kinds
        raise InputError(f"the network cannot be exported: {one_line(error)}") from error
    written: Network = read(path)
    for name, parameter in network.named_parameters():
        if name in written.weights:
            written.weights[name] = parameter.detach().cpu().numpy()
    written.save(path)


def _followed(path: Path, network: nn.Module) -> Prepared:
    try:
        return prepare(path, network.shapes if isinstance(network, GraphNetwork) else None)
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(f"the network's channels cannot be followed: {reason}") from error


def _place(labels: np.ndarray, unit: np.ndarray) -> int:
    """The first index of a layer's outputs that belongs to a unit, both as labels of the graph."""
    places = np.flatnonzero(np.isin(labels, unit))
    return int(places[0]) if len(places) else len(labels)


class _Names:
    """Leads what a channel graph says of constants back to the parameters of the network that was exported."""

    def __init__(self, network: nn.Module, prepared: Prepared) -> None:
        self._graph: ChannelGraph = prepared.graph
        self._nodes = prepared.graph.network.nodes
        self._source = prepared.source
        self._makers = {name: node for node in prepared.source.nodes for name in node.output}
        self._shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
        modules = dict(network.named_modules())
        self._layers = [name for name, module in modules.items() if isinstance(module, nn.Conv2d | nn.Linear)]
        self._grouped = {name for name in self._layers if getattr(modules[name], "groups", 1) > 1}

    def coupling(self) -> tuple[Coupling, Units]:
        """The units, and the unit of each label of the graph (labels,)."""
        along, read, stuck = self._cuts()
        held = np.isin(np.arange(self._graph.count), list(stuck))
        made = {}  # layer -> labels of its outputs
        for name in self._layers:
            axis, labels = along.get(f"{name}.weight", (1, np.zeros(0, np.int64)))
            if axis == 0:
                made[name] = labels
        reasons: dict[int, str] = {}
        found = []
        for group in self._graph.groups:
            everything = np.concatenate(group.units)
            layers = tuple(name for name, labels in made.items() if np.isin(labels, everything).any())
            if group.frozen or held[everything].any():
                reason = group.frozen.reason if group.frozen else stuck[int(everything[held[everything]][0])]
                reasons.update(dict.fromkeys(everything.tolist(), reason))
            elif layers:
                found.append((layers, sorted(group.units, key=lambda unit: _place(made[layers[0]], unit))))
        found.sort(key=lambda item: (self._layers.index(item[0][0]), _place(made[item[0][0]], item[1][0])))
        number = np.zeros(self._graph.count, np.int64)
        groups, count = [], 0
        for layers, units in found:
            for place, unit in enumerate(units, start=count + 1):
                number[unit] = place
            width = int(np.isin(made[layers[0]], units[0]).sum())
            dense = all(len(self._shapes[f"{name}.weight"]) == 2 for name in layers)
            groups.append(Group(np.arange(count + 1, count + 1 + len(units)), layers, width, dense))
            count += len(units)
        outputs = {name: number[labels] for name, labels in made.items() if number[labels].any()}
        channels = self._graph.channels
        ends = [channels[name].labels for name in self._ends() if name in channels]
        final = np.setdiff1d(np.concatenate([np.zeros(1, np.int64), *ends]), [0])
        frozen = {
            name: next(
                (reasons[label] for label in made.get(name, np.zeros(0)).tolist() if label in reasons),
                self._otherwise(name),
            )
            for name in self._layers
            if name not in outputs
        }
        return Coupling(
            count,
            outputs,
            tuple(groups),
            {name: (axis, number[labels]) for name, (axis, labels) in along.items() if number[labels].any()},
            {
                name.removesuffix(".weight"): number[labels]
                for name, (axis, labels) in read.items()
                if axis == 1 and name.endswith(".weight")
            },
            {name: (axis, number[labels]) for name, (axis, labels) in read.items() if number[labels].any()},
            frozen,
            tuple(name for name, labels in made.items() if np.isin(labels, final).any()),
        ), number

    def _ends(self) -> list[str]:
        """The network's outputs, and what a softmax makes them of."""
        makers = {name: node for node in self._nodes for name in node.output}
        ends = [*self._graph.network.outputs]
        for name in ends:  # it grows meanwhile
            if name in makers and operator_type(makers[name]) in ("Identity", "LogSoftmax", "Softmax"):
                ends.append(makers[name].input[0])
        return ends

    def _otherwise(self, layer: str) -> str:
        """Why the outputs of a layer stay that the graph gives no reason for."""
        weight = f"{layer}.weight"
        if weight not in self._shapes:
            return "its weights are those of another layer, or computed"
        if weight not in self._source.weights:
            return "the exported file does not have them"
        if self._shapes[weight][0] == 1:
            return "a single unit has to stay"
        if layer in self._grouped:
            return "each goes with an input channel, and those stay"
        return f"they are not followed through {self._reader(weight)}"

    def _reader(self, name: str) -> str:
        """The operator that computes with a constant, which may be laid out in another way before."""
        node = next(node for node in self._source.nodes if name in reads(node))
        kind = operator_type(node)
        return self._reader(node.output[0]) if kind in _LAYOUTS else kind

    def _cuts(self) -> tuple[dict[str, tuple[int, np.ndarray]], dict[str, tuple[int, np.ndarray]], dict[int, str]]:
        """Parameters with labels along an axis, those with labels that they read, and labels that cannot be held, with
        the reason; labels that go together are one."""
        along: dict[str, tuple[int, np.ndarray]] = {}
        read: dict[str, tuple[int, np.ndarray]] = {}
        stuck: dict[int, str] = {}
        one = np.arange(self._graph.count)
        for group in self._graph.groups:
            for unit in group.units:
                one[unit] = unit.min()
        for cut in self._graph.cuts:
            node, labels = self._nodes[cut.node], one[cut.labels]
            origin = self._origin(node.input[cut.position], cut.axis)
            known = read if cut.role == "consumer" else along
            if origin is not None and origin[0] in known:
                axis, before = known[origin[0]]
                if axis != origin[1] or not np.array_equal(before, labels):
                    stuck |= dict.fromkeys([*before.tolist(), *labels.tolist()], "a layer is used for several of them")
            elif origin is not None:
                known[origin[0]] = origin[1], labels
            elif cut.role != "consumer" and not (
                operator_type(node) == "BatchNormalization" and cut.position > 2
            ):  # of what is 0, the statistics
                stuck |= dict.fromkeys(labels.tolist(), "they are combined with a constant that is not a parameter")
        stuck.pop(0, None)
        return along, read, stuck

    def _origin(self, name: str, axis: int) -> tuple[str, int] | None:
        """The parameter that a constant is, and the axis of it; None where it is another, or made in another way."""
        moved = False
        while name not in self._shapes:
            node = self._makers.get(name)
            kind = "" if node is None else operator_type(node)
            if node is None or kind not in _LAYOUTS:
                return None
            if kind == "Transpose":
                axis = attribute(node, "perm")[axis]
            moved |= kind in ("Unsqueeze", "Reshape")
            name = node.input[0]
        if not moved:
            return name, axis
        return (name, 0) if len(self._shapes[name]) == 1 else None
