"""Counting a training step against closed forms and PyTorch's own counter."""

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


def test_counting_twice_gives_the_same() -> None:
    network = MODELS["cnn"].build(SHAPE, 10, 0)
    assert count_training_ops(network, SHAPE) == count_training_ops(network, SHAPE)
