"""Makes networks of the user's own code such that they can be copied, before they have run and after it."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_leaves, tree_map

from onnxprune.common.errors import InputError

_INTERNAL = vars(nn.Module()).keys()


def make_copyable(network: nn.Module) -> None:
    """Changes a network, in place, so that copies of it can be made: it no longer keeps how the tensors that it keeps
    were computed, once it has run.

    Raises:
        InputError: it is compiled, scripted or quantised, or a part of it is; or it keeps tensors that were computed
            from its parameters when it was built: what it does by them, a copy cannot.
    """
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or "_orig_mod" in module._modules:
            way = "torch.jit" if isinstance(module, torch.jit.ScriptModule) else "torch.compile"
            raise InputError(f"{name or 'the network'} is made by {way}: give the module that it was made from")
    for key, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"its state has '{key}', a {type(value).__name__}: expected nothing but tensors; of quantised layers "
                "give those that they were made from"
            )
    for layer in network.modules():
        for hook in list(layer._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                _parametrize(layer, hook)
            elif isinstance(hook, SpectralNorm):
                layer.register_forward_hook(_let_go)  # of its own, as networks that shrank have these layers alone
    for name, module in network.named_modules():
        for key in _computed(module):
            raise InputError(
                f"attribute '{_full(name, key)}' is computed from parameters when the network is built, and "
                "would not follow them in a copy: compute it in `forward`"
            )
    network.register_forward_hook(_let_go)


def check_copied(network: nn.Module) -> None:
    """Looks whether all that a network keeps can be copied.

    Raises:
        InputError: it cannot, with the attribute that prevents it.
    """
    for name, module in network.named_modules():
        for key, value in vars(module).items():
            try:
                if key != "_modules":
                    copy.deepcopy(value)
            except Exception as error:  # objects of other packages raise anything
                raise InputError(
                    f"attribute '{_full(name, key)}', a {type(value).__name__}, cannot be copied with the network: "
                    "keep numbers, texts and tensors, and lists or dicts of them"
                ) from error


def _full(module: str, attribute: str) -> str:
    return f"{module}.{attribute}" if module else attribute


def _let_go(network: nn.Module, _: Any, output: Any) -> None:
    """PyTorch copies no tensor that knows how it was computed."""
    for module in network.modules():
        for key, value in _computed(module).items():
            setattr(module, key, tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, value))


def _computed(module: nn.Module) -> dict[str, Any]:
    """Attributes and buffers that are tensors, or lists and mappings of such, that know how they were computed."""
    kept = {key: value for key, value in vars(module).items() if key not in _INTERNAL} | module._buffers
    return {
        key: value
        for key, value in kept.items()
        if isinstance(value, Tensor | list | tuple | dict)  # quick, as it is done after each pass
        and any(isinstance(leaf, Tensor) and not leaf.is_leaf for leaf in tree_leaves(value))
    }


def _parametrize(layer: nn.Module, hook: WeightNorm) -> None:
    """Gives a layer the present form of weight normalisation in place of the former, `torch.nn.utils.weight_norm`,
    whose weight is computed when it is built."""
    former = [getattr(layer, f"{hook.name}_{part}") for part in "gv"]
    remove_weight_norm(layer, hook.name)
    parametrizations.weight_norm(layer, hook.name, hook.dim)
    present = getattr(layer.parametrizations, hook.name)
    for parameter, before in zip((present.original0, present.original1), former, strict=True):
        parameter.data = before.data
        parameter.requires_grad_(before.requires_grad)
