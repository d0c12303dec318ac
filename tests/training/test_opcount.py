"""Counting a training step against closed forms and PyTorch's own counter."""

import random

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from onnxprune.models import MODELS
from onnxprune.training.opcount import TrainingOps, count_training_ops

SHAPE = (1, 28, 28)


def flops(table: dict[str, dict[str, int]]) -> int:
    return sum(entry["flops"] for entry in table.values())


def shape_of(name: str) -> tuple[int, int, int]:
    side = max(28, MODELS[name].minimum_size)
    return (1, side, side)


def reference_flops(network: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Forward and backward FLOPs of one image by torch.utils.flop_counter, in evaluation mode."""
    network.eval()
    images = torch.zeros(1, *shape)
    with FlopCounterMode(display=False) as forward:
        loss = network(images).sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    network.zero_grad(set_to_none=True)
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("name", list(MODELS))
def test_flops_are_those_of_the_flop_counter(name: str) -> None:
    network = MODELS[name].build(shape_of(name), 10, 0)
    ops = count_training_ops(network, shape_of(name))
    forward, backward = reference_flops(network, shape_of(name))
    assert (flops(ops.forward), flops(ops.backward)) == (forward, backward)
    assert ops.flops_per_image == forward + backward


@pytest.mark.parametrize(
    ("name", "shape", "macs"),
    [("slp", SHAPE, 101_632), ("cnn", SHAPE, 4_241_152), ("densenet121", (3, 32, 32), 57_829_376)],
)
def test_forward_is_two_flops_a_multiply_accumulate(name: str, shape: tuple[int, int, int], macs: int) -> None:
    ops = count_training_ops(MODELS[name].build(shape, 10, 0), shape)
    assert flops(ops.forward) == 2 * macs


@pytest.mark.parametrize("hidden", [128, 30])
def test_slp_in_closed_form(hidden: int) -> None:
    """Backward: a gradient of the weights in both layers, one of the inputs in the second only."""
    ops = count_training_ops(MODELS["slp"].build(SHAPE, 10, 0, hidden=hidden), SHAPE)
    first, second = 784 * hidden, hidden * 10
    assert ops.forward["aten.addmm"] == {"calls": 2, "flops": 2 * (first + second)}
    assert ops.backward["aten.mm"] == {"calls": 3, "flops": 2 * (first + 2 * second)}
    assert ops.flops_per_image == 2 * (2 * first + 3 * second)


def test_cnn_backward_is_twice_forward_less_the_gradient_of_the_images() -> None:
    ops = count_training_ops(MODELS["cnn"].build(SHAPE, 10, 0), SHAPE)
    conv1 = 2 * 28 * 28 * 32 * 9
    assert flops(ops.backward) == 2 * flops(ops.forward) - conv1
    assert ops.forward["aten.convolution"]["calls"] == ops.backward["aten.convolution_backward"]["calls"] == 2


class _OfRows(nn.Module):
    """A layer over the rows of an image, between linear ones."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.rows = nn.Linear(28, 28)
        self.layer = layer
        self.last = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        given = self.layer(self.rows(images.squeeze(1)))
        return self.last((given[0] if isinstance(given, tuple) else given).mean(1))


@pytest.mark.parametrize("convolution", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 4, 8])
def test_gradients_of_a_grouped_convolution_take_as_many_as_its_answers(convolution: type, groups: int) -> None:
    grouped = convolution(8, 8, 3, stride=2, groups=groups)
    network = nn.Sequential(nn.Conv2d(1, 8, 1), grouped, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ops = count_training_ops(network, SHAPE)
    places = 13 * 13 if convolution is nn.Conv2d else 28 * 28
    first, second = 2 * 28 * 28 * 8, 2 * places * 9 * 8 * 8 // groups
    assert (flops(ops.forward), flops(ops.backward)) == (first + second, first + 2 * second)


def test_products_within_recurrent_layers_count() -> None:
    ops = count_training_ops(_OfRows(nn.LSTM(28, 16, 2, batch_first=True, bidirectional=True), 32), SHAPE)
    rows, last = 2 * 28 * 28 * 28, 2 * 32 * 10
    recurrent = 2 * 28 * 2 * 4 * 16 * ((28 + 16) + (32 + 16))
    assert (flops(ops.forward), flops(ops.backward)) == (rows + recurrent + last, rows + 2 * (recurrent + last))


def test_products_within_attention_count() -> None:
    """Backward: the scores are computed once more, and there are two gradients of each of the two products."""
    ops = count_training_ops(_OfRows(nn.TransformerEncoderLayer(28, 4, 8, dropout=0, batch_first=True), 28), SHAPE)
    weights, last = 2 * 28 * (3 * 28 * 28 + 28 * 28 + 2 * 28 * 8), 2 * 28 * 10
    rows = product = 2 * 28 * 28 * 28
    assert flops(ops.forward) == rows + weights + 2 * product + last
    assert flops(ops.backward) == rows + 2 * weights + 5 * product + 2 * last


def test_operators_without_flops_are_counted_in_calls() -> None:
    ops = count_training_ops(MODELS["cnn"].build(SHAPE, 10, 0, batch_norm=True), SHAPE)
    assert ops.forward["aten.relu"] == {"calls": 3, "flops": 0}
    assert ops.forward["aten.max_pool2d_with_indices"] == {"calls": 2, "flops": 0}
    assert ops.backward["aten.threshold_backward"] == {"calls": 3, "flops": 0}
    assert sum(entry["calls"] for name, entry in ops.forward.items() if "batch_norm" in name) == 2
    assert sum(entry["calls"] for name, entry in ops.backward.items() if "batch_norm" in name) == 2


def test_views_cost_nothing() -> None:
    ops = count_training_ops(MODELS["slp"].build(SHAPE, 10, 0), SHAPE)
    assert not {"aten.t", "aten.view", "aten.flatten"} & (ops.forward.keys() | ops.backward.keys())


def test_total_adds_forward_and_backward() -> None:
    ops = TrainingOps({"a": {"calls": 1, "flops": 10}, "b": {"calls": 2, "flops": 0}}, {"a": {"calls": 3, "flops": 5}})
    assert ops.flops_per_image == 15


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "options"), [("slp", {}), ("cnn", {"batch_norm": True})])
def test_the_network_is_left_as_it_was(name: str, options: dict, training: bool) -> None:
    network = MODELS[name].build(SHAPE, 10, 0, **options).train(training)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    count_training_ops(network, SHAPE)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(module.training == training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())


class _Skipping(nn.Module):
    """Skips each of its blocks by chance while it trains, by PyTorch's or by Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(784, 784) for _ in range(20))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.flatten(1)
        for number, block in enumerate(self.blocks):
            if (random.random() if number % 2 else torch.rand(())) < 0.5:
                images = block(images)
        return images


@pytest.mark.parametrize("network", [MODELS["cnn"].build(SHAPE, 10, 0), _Skipping()])
def test_counting_twice_gives_the_same(network: nn.Module) -> None:
    state = random.getstate(), torch.get_rng_state()
    counted = count_training_ops(network, SHAPE)
    assert (random.getstate(), torch.get_rng_state().tolist()) == (state[0], state[1].tolist())
    random.random(), torch.rand(())
    assert count_training_ops(network, SHAPE) == counted
