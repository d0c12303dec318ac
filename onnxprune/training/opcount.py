"""Counts what one training step computes, operator by operator, forward and backward."""

import contextlib
import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry

from onnxprune.common.errors import InputError
from onnxprune.training.cost import Spent
from onnxprune.training.device import clock_of, device_of, seeded_chance

_SAMPLES = 2  # BatchNorm in training mode needs more than one


@dataclass(frozen=True)
class TrainingOps:
    """Operators of one training step.

    Attributes:
        forward: operator (PyTorch's name, "aten.convolution") -> {"calls": kernel calls a step, "flops": per image}.
        backward: the same for the backward pass.

    FLOPs are those of convolutions and matrix products (1 MAC = 2 FLOPs), also within recurrent layers and attention;
    element-wise operators are counted in calls.
    """

    forward: dict[str, dict[str, int]]
    backward: dict[str, dict[str, int]]

    @property
    def flops_per_image(self) -> int:
        """FLOPs of one image, forward and backward."""
        return self.forward_flops_per_image + sum(entry["flops"] for entry in self.backward.values())

    @property
    def forward_flops_per_image(self) -> int:
        """FLOPs of one image's answer."""
        return sum(entry["flops"] for entry in self.forward.values())


def _of_gradients_of_convolution(
    gradient: Tensor, images: Tensor, weight: Tensor, *how: Any, out_val: Any = None
) -> int:
    """Each of them takes as many as the answer. PyTorch's own formula takes a grouped convolution for a whole one."""
    _, _, _, _, transposed, _, _, wanted = how
    one = conv_flop_count(list(images.shape), list(weight.shape), list(gradient.shape), transposed)
    return sum(wanted[:2]) * one


def _of_recurrence(steps: Tensor, weights: Sequence[Tensor]) -> int:
    """Every matrix of the weights is multiplied at each of the steps (..., features)."""
    return 2 * steps.numel() // steps.shape[-1] * sum(weight.numel() for weight in weights if weight.dim() == 2)


_aten = torch.ops.aten
# operator -> FLOPs of a call, of its arguments and what it gives as `out_val`
_FORMULAS = flop_registry | {
    _aten.convolution_backward: _of_gradients_of_convolution,
    # those that PyTorch has no formula for
    _aten.mkldnn_rnn_layer: lambda steps, *weights, **_: _of_recurrence(steps, weights[:2]),
    _aten.mkldnn_rnn_layer_backward: lambda steps, *weights, **_: 2 * _of_recurrence(steps, weights[:2]),
    _aten._cudnn_rnn: lambda steps, weights, *_, **__: _of_recurrence(steps, weights),
    _aten._cudnn_rnn_backward: lambda steps, weights, *_, **__: 2 * _of_recurrence(steps, weights),
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_aten._scaled_dot_product_flash_attention],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
    _aten.mv: lambda matrix, _, **__: 2 * matrix.numel(),
}


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func.is_view or func is torch.ops.aten.empty.memory_format:  # computes nothing
            return result
        packet = func.overloadpacket
        self.calls[str(packet)] += 1
        if packet in _FORMULAS:
            self.flops[str(packet)] += _FORMULAS[packet](*args, **kwargs, out_val=result)
        return result

    def table(self) -> dict[str, dict[str, int]]:
        return {
            name: {"calls": calls, "flops": self.flops[name] // _SAMPLES} for name, calls in sorted(self.calls.items())
        }


@contextlib.contextmanager
def metered(spent: Spent, device: torch.device) -> Iterator[None]:
    """Adds to `spent` what PyTorch computes within the block, as it computes it, and the time, as that of training."""
    clock = clock_of(device)
    started = clock()
    with _Counter() as counter:
        yield
    spent.add(Spent(counter.flops.total(), clock() - started))


def count_training_ops(network: nn.Module, input_shape: tuple[int, int, int]) -> TrainingOps:
    """Runs one training step of `network` on random images (C, H, W) and counts it; the network is left as it was.

    What the network leaves to chance, as whole blocks that a step may skip, is drawn as whenever it is counted.

    Raises:
        InputError: it gives something else than rows of numbers, or has nothing to train.
    """
    state = copy.deepcopy(network.state_dict())
    training = network.training
    device = device_of(network)
    images = torch.randn(_SAMPLES, *input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.zeros(_SAMPLES, dtype=torch.long, device=device)
    network.train()
    with seeded_chance(0, "counting", device), _Counter() as forward:
        answers = network(images)
        if not isinstance(answers, Tensor) or answers.dim() != 2:
            given = tuple(answers.shape) if isinstance(answers, Tensor) else f"a {type(answers).__name__}"
            raise InputError(
                f"while it trains the network gives {given} for {_SAMPLES} images, expected a tensor ({_SAMPLES}, "
                "classes): a logit a class"
            )
        loss = F.cross_entropy(answers, labels)
    if not loss.requires_grad:
        raise InputError("nothing of the network can be trained: no parameter that its answers depend on requires grad")
    with _Counter() as backward:
        loss.backward()
    network.zero_grad(set_to_none=True)
    network.load_state_dict(state)
    network.train(training)
    return TrainingOps(forward.table(), backward.table())
