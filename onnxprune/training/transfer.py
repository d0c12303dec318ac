"""Transfer learning: weights from elsewhere for a network that is built here."""

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from onnxprune.common.errors import InputError, RunError, one_line
from onnxprune.common.limits import memory_limited
from onnxprune.common.sent_files import sent_or_here
from onnxprune.common.torchvision import torchvision_module
from onnxprune.settings.training_words import IMAGENET

CLASSES = "classes"  # of a checkpoint's metadata: their names, as JSON
_SHOWN = 3  # names of parameters in a message
_UNDER = ("state_dict", "model_state_dict", "model")  # what training scripts call it in a checkpoint of more
_PARALLEL = "module."  # what a DataParallel puts before the names of its network's parameters


def load_weights(network: nn.Module, source: str, classes: Sequence[str], heads: Callable[[], Sequence[str]]) -> None:
    """Puts weights from elsewhere into `network`, in place.

    The head keeps its random weights where the file's is for other classes: another number of them or, where the
    file tells, as a base's checkpoint does, others of the same number. The first convolution takes those for
    colours on grey images too, added up, which is what it would answer to grey in three channels.

    Args:
        source: a file of safetensors or of a PyTorch state dict, or "imagenet" for torchvision's.
        classes: names of those that the network is to tell apart.
        heads: finds the layers whose outputs are the network's; it is called where the file's do not fit.

    Raises:
        InputError: no such file, or weights of another network.
        RunError: torchvision's weights cannot be downloaded.
    """
    path = sent_or_here(source)
    own = network.state_dict()
    given = {
        name if name in own else name.removeprefix(_PARALLEL): value
        for name, value in (_imagenet() if source == IMAGENET else _read(path)).items()
    }
    fitting: dict[str, Tensor] = {}
    wrong = [f"{name} is missing" for name in own if name not in given]
    wrong += [f"{name} is unknown" for name in given if name not in own]
    misfits = {}
    for name in own.keys() & given.keys():
        value = given[name]
        if value.dim() == 4 and own[name].shape[1] == 1 and value.shape[1] == 3:
            value = value.sum(1, keepdim=True)
        if value.shape == own[name].shape:
            fitting[name] = value
        else:
            misfits[name] = f"{name} is {tuple(value.shape)}, expected {tuple(own[name].shape)}"
    others = source != IMAGENET and _classes(path) not in (None, list(classes))
    replaced = heads() if not wrong and (misfits or others) else ()
    wrong += [text for name, text in misfits.items() if name.rpartition(".")[0] not in replaced]
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise InputError(f"{source}: not the weights of this network: {'; '.join(sorted(wrong)[:_SHOWN])}{more}")
    # all of the head, or nothing
    fitting = {name: value for name, value in fitting.items() if name.rpartition(".")[0] not in replaced}
    network.load_state_dict(with_versions(fitting, network), strict=False)


def with_versions(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a file as a state that tells the versions of the network's modules, which may ask for them."""
    state = network.state_dict()
    state.clear()  # all but the versions
    state.update(tensors)
    return state


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        with memory_limited():
            if path.suffix == ".safetensors":
                return safetensors.torch.load_file(path)
            given = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"cannot read the weights {path}: {error.strerror or error}") from None
    except Exception as error:  # damaged files raise whatever their reader trips over; safetensors its own
        raise InputError(
            f"{path} is neither safetensors nor a PyTorch state dict of plain tensors{_fault(error)}"
        ) from None
    if isinstance(given, Mapping):
        given = next((given[name] for name in _UNDER if isinstance(given.get(name), Mapping)), given)
    if not isinstance(given, Mapping) or not all(isinstance(value, Tensor) for value in given.values()):
        raise InputError(
            f"{path}: expected a state dict, parameter names with tensors, or a checkpoint that has one as "
            f"{', '.join(_UNDER)}"
        )
    return {str(name): value for name, value in given.items()}


def _fault(error: Exception) -> str:
    """What is wrong with a file that cannot be read. PyTorch's advice, to unpickle whatever is in it, is not passed on:
    that would run code."""
    if isinstance(error, pickle.UnpicklingError):
        return ": save network.state_dict(), or convert it to safetensors"
    return f": {one_line(error)}"


def _classes(path: Path) -> Any:
    """The classes that the metadata of a safetensors file name; None where there are none."""
    if path.suffix != ".safetensors":
        return None
    with safetensors.safe_open(path, "pt") as file:
        try:
            return json.loads((file.metadata() or {}).get(CLASSES, "null"))
        except ValueError:
            return None


def _imagenet() -> Mapping[str, Tensor]:
    models = torchvision_module().models
    try:
        network: nn.Module = models.densenet121(weights=models.DenseNet121_Weights.IMAGENET1K_V1, progress=False)
    except OSError as error:  # urllib's errors are of this kind
        raise RunError(
            f"torchvision's ImageNet weights cannot be downloaded ({error}): without a network, give a file with "
            "--weights"
        ) from None
    return network.state_dict()
