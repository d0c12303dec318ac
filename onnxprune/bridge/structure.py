"""What decides which operators a network is exported to, so that one export serves all networks that have it alike."""

import io
import pickle
from collections.abc import Hashable
from types import FunctionType
from typing import Any
from weakref import ReferenceType

from torch import Tensor, nn

from onnxprune.bridge.graph_network import GraphNetwork

# attributes of a module: the first are looked at by their full names, and exports are all in evaluation mode
_LEFT_OUT = {"_parameters", "_buffers", "_modules", "training"}
_BATCHES = "num_batches_tracked"  # of a BatchNorm: how long it has been trained
_HOOKS = {name for name, value in vars(nn.Module()).items() if "_hooks" in name and isinstance(value, dict)}


def structure_of(network: nn.Module) -> Hashable:
    """Equal for copies of a network, whatever their weights: its modules with all of their attributes, and the shapes
    and ties of its tensors.

    None where an attribute cannot be written down.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(_BATCHES)}
    if isinstance(network, GraphNetwork):  # which says of its graph what distinguishes it
        return str(network), tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items())
    modules = [(name, type(module), _attributes(module)) for name, module in network.named_modules()]
    text = io.BytesIO()
    pickler = _Pickler(text)
    try:
        pickler.dump((modules, tensors, [tensor.shape for tensor in tensors.values()]))
    except Exception:  # attributes may be anything
        return None
    return text.getvalue(), tuple(pickler.code)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Its own, hooks without their numbers, which PyTorch counts through all modules."""
    return {
        key: list(value.values()) if key in _HOOKS else value
        for key, value in vars(module).items()
        if key not in _LEFT_OUT
    }


class _Pickler(pickle.Pickler):
    """Writes tensors as what ties them, classes and functions as places in `code`: their names may be others' too."""

    def __init__(self, text: io.BytesIO) -> None:
        super().__init__(text)
        self.code: dict[Any, int] = {}  # kept, so that no other gets its place in memory
        self._tensors: dict[int, tuple[int, Tensor]] = {}

    def persistent_id(self, value: Any) -> Hashable:
        if isinstance(value, type | FunctionType):
            return self.code.setdefault(value, len(self.code))
        if isinstance(value, Tensor):
            place, _ = self._tensors.setdefault(id(value), (len(self._tensors), value))
            # as numbers of channels are written into a graph
            whole = not value.is_floating_point() and not value.is_complex()
            return place, str(value.dtype), value.tolist() if whole else None
        return "another's" if isinstance(value, ReferenceType) else None
