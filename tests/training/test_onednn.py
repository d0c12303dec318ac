"""Networks in oneDNN's layout: the same answers and gradients as in PyTorch's own, and who is computed so."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode

from onnxprune.training.onednn import answers

CHAINS: dict[str, Callable[[], nn.Sequential]] = {
    "as the CNN": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 20), nn.ReLU(),
        nn.Linear(20, 4),
    ),
    "with BatchNorm": lambda: nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Flatten(),
        nn.Linear(245, 4),
    ),
    "strides, in a chain of chains": lambda: nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 1, (1, 2), (2, 2), (0, 1)), nn.ReLU()), nn.Conv2d(1, 17, (3, 1), dilation=2),
        nn.Flatten(), nn.Linear(17 * 4 * 9, 4),
    ),
    "frozen": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3).requires_grad_(False), nn.ReLU(), nn.Flatten(), nn.Linear(14 * 14 * 8, 4)
    ),
    "linear alone": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 4)),
}  # fmt: skip
IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class _Seen(TorchDispatchMode):
    """Whether anything was computed in oneDNN's layout."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.found |= "to_mkldnn" in str(function)
        return function(*args, **(kwargs or {}))


def found_by(network: nn.Module, images: Tensor, call: Callable[[nn.Module, Tensor], Tensor]) -> list[Tensor]:
    """Answers, gradients and statistics; the network is left as it was."""
    network = copy.deepcopy(network)
    given = call(network, images)
    weights = torch.linspace(-1, 2, given.numel(), dtype=given.dtype).view_as(given)
    (given * weights).sum().backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return [given.detach(), *gradients, *network.buffers()]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("chain", CHAINS)
def test_answers_and_gradients_are_those_of_the_network(chain: str, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    network = CHAINS[chain]().to(memory_format=layout)  # type: ignore[call-overload]
    images = IMAGES.contiguous(memory_format=layout)
    with _Seen() as seen:
        found = found_by(network, images, answers)
    assert seen.found
    expected = found_by(copy.deepcopy(network).double(), images.double(), lambda net, given: net(given))
    assert len(found) == len(expected)
    for mine, right in zip(found, expected, strict=True):
        assert mine.layout == torch.strided
        torch.testing.assert_close(mine.to(right.dtype), right, rtol=1e-4, atol=1e-4)


class _Derived(nn.Conv2d):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * 2)


def _hooked() -> nn.Module:
    layer = nn.Conv2d(3, 4, 1, stride=2)
    layer.register_forward_pre_hook(lambda _, given: (given[0].abs(),))
    return layer


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "a class of its own": lambda: _Derived(3, 4, 1),
    "a hook": _hooked,
    "a computed weight": lambda: weight_norm(nn.Conv2d(3, 4, 1)),
    "a stride of which oneDNN computes wrong gradients": lambda: nn.Conv2d(3, 4, 1, stride=2),
    "groups": lambda: nn.Conv2d(3, 6, 3, groups=3),
    "mirrored borders": lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    "borders by a word": lambda: nn.Conv2d(3, 4, 3, padding="same"),
    "a BatchNorm that is frozen": lambda: nn.BatchNorm2d(3).eval(),
    "a BatchNorm without weights": lambda: nn.BatchNorm2d(3, affine=False),
    "pooling with gaps": lambda: nn.MaxPool2d(2, dilation=2),
    "another activation": nn.Sigmoid,
    "in place": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)),
    "another flatten": lambda: nn.Flatten(2),
    "double precision": nn.ReLU,
}


@pytest.mark.parametrize("other", OTHERS)
def test_any_other_network_is_computed_as_it_is(other: str) -> None:
    torch.manual_seed(0)
    network, images = nn.Sequential(nn.Conv2d(3, 3, 1), OTHERS[other]()), IMAGES
    if other == "double precision":
        network, images = network.double(), images.double()
    with _Seen() as seen:
        found = found_by(network, images, answers)
    assert not seen.found
    for mine, right in zip(found, found_by(network, images, lambda net, given: net(given)), strict=True):
        assert torch.equal(mine, right)


def test_bfloat16_is_computed_as_it_is() -> None:
    with torch.autocast("cpu", torch.bfloat16), _Seen() as seen:
        answers(CHAINS["as the CNN"](), IMAGES)
    assert not seen.found
