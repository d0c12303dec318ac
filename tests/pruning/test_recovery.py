"""What makes up for removed units: statistics, biases, and a teacher."""

import copy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from networks import CLASSES, SHAPE, build, logits, pruned, random_batches, request
from one_call import prune
from torch import Tensor, nn
from torch.nn import functional as F

import onnxprune
from onnxprune.pruning.decide import decide
from onnxprune.pruning.recovery import compensate, recalibrate
from onnxprune.pruning.remove import zeroed
from onnxprune.pruning.request import Request
from onnxprune.training.distillation import Teacher
from onnxprune.training.loop import accumulate_gradients, train
from onnxprune.training.recipe import Recipe

HOW = Recipe(epochs=2, batch_size=16, learning_rate=0.05, augmentation=frozenset(), micro_batch=16, seed=0)


def test_recalibrated_statistics_are_those_of_the_training_images() -> None:
    network, batches = build("cnn+norm"), random_batches(64)
    recalibrate(network, batches, seed=0)
    norm = network.norm1
    with torch.no_grad():
        inputs = network.conv1(batches.take(torch.arange(64))[0])
    torch.testing.assert_close(norm.running_mean, inputs.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, inputs.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1
    assert not network.training


def test_recalibration_is_the_mean_of_batches_and_touches_no_weight() -> None:
    network, batches = build("cnn+norm"), random_batches(200)
    weights = {name: parameter.clone() for name, parameter in network.named_parameters()}
    recalibrate(network, batches, seed=0)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in network.named_parameters())
    assert network.norm1.num_batches_tracked == 3  # of 64; the rest of the images is less than a batch


def test_statistics_of_volumes_are_recalibrated_too() -> None:
    """Of pictures that are taken for volumes, here of one layer."""
    network, batches = nn.Sequential(nn.Unflatten(1, (1, 1)), nn.BatchNorm3d(1)).eval(), random_batches(64)
    recalibrate(network, batches, seed=0)
    images = batches.take(torch.arange(64))[0]
    torch.testing.assert_close(network[1].running_mean, images.mean()[None])
    torch.testing.assert_close(network[1].running_var, images.var()[None])


def test_recalibration_of_a_network_without_batch_norm_is_none() -> None:
    network = build("cnn")
    before = copy.deepcopy(network.state_dict())
    recalibrate(network, random_batches(), seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def silenced(network: nn.Module, masks: dict[str, torch.Tensor]) -> nn.Module:
    """The network of full size in which the layers' removed units put out zero; their BatchNorms make it a constant."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for name, mask in masks.items():
            for parameter in network.get_submodule(name).parameters():
                parameter.mul_(mask.view(-1, *[1] * (parameter.dim() - 1)))
    return network


def test_compensated_shrinking_does_not_change_the_function() -> None:
    network, batches = build("cnn+norm"), random_batches()
    # of a layer that feeds no convolution: at the borders of one that pads, zeros come in
    alone = Request("structured", "l1", "unit", 0, 1, 0, shares={"conv2": 0.5})
    found = prune(network, alone, batches, SHAPE)
    expected = logits(silenced(network, found.unit_masks), batches)
    plain = (logits(found.network, batches) - expected).abs().max()
    assert plain > 0.01, "nothing to make up for"
    compensate(found, network, SHAPE)
    torch.testing.assert_close(logits(found.network, batches), expected, rtol=1e-4, atol=1e-4)
    assert found.network.fc.in_features == 32 * 4


class ByName(nn.Module):
    """Its layers are given what they take by name."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm, self.classifier = nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES)
        nn.init.normal_(self.norm.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(input=self.norm(input=self.hidden(input=images.flatten(1))))


def test_layers_that_are_called_by_name_are_compensated_too() -> None:
    network, batches = ByName().eval(), random_batches()
    found = pruned(network, "structured", sparsity=50)
    expected = logits(silenced(network, found.unit_masks), batches)
    compensate(found, network, SHAPE)
    torch.testing.assert_close(logits(found.network, batches), expected, rtol=1e-4, atol=1e-4)


def test_compensation_before_padded_convolutions_is_exact_but_for_the_borders() -> None:
    network, batches = build("cnn+norm"), random_batches()
    found = pruned(network, "structured", sparsity=50)
    expected = logits(silenced(network, found.unit_masks), batches)
    before = (logits(found.network, batches) - expected).abs().mean()
    compensate(found, network, SHAPE)
    assert found.network.conv2.bias is not None
    assert (logits(found.network, batches) - expected).abs().mean() < 0.7 * before


@pytest.mark.parametrize("name", ["slp", "cnn"])
def test_without_batch_norm_there_is_nothing_to_compensate(name: str) -> None:
    network = build(name)
    found = pruned(network, "structured", sparsity=50)
    before = logits(found.network)
    compensate(found, network, SHAPE)
    assert torch.equal(logits(found.network), before)


class Concatenated(nn.Module):
    """As a DenseNet's: the second convolution's BatchNorm reads what two layers give, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1, self.conv1 = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.norm2, self.conv2, self.last = nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1), nn.Linear(8, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.stem(images)
        both = torch.cat([first, self.conv1(self.norm1(first).relu())], 1)
        return self.last(self.conv2(self.norm2(both).relu()).mean((2, 3)))


def test_compensation_where_layers_are_read_one_after_the_other() -> None:
    torch.manual_seed(0)
    network, batches = Concatenated(), random_batches()
    recalibrate(network, batches, seed=0)
    for norm in (network.norm1, network.norm2):
        nn.init.uniform_(norm.bias, 0.5, 1)
    found = prune(network, request("structured", sparsity=50), batches, SHAPE)
    expected = logits(silenced(network, found.unit_masks), batches)
    assert (logits(found.network, batches) - expected).abs().max() > 0.01, "nothing to make up for"
    compensate(found, network, SHAPE)
    torch.testing.assert_close(logits(found.network, batches), expected, rtol=1e-4, atol=1e-4)


class Grouped(nn.Module):
    """Its last convolution is grouped, and its linear layers read rows of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 1), nn.BatchNorm2d(16)
        self.conv, self.inner, self.outer = nn.Conv2d(16, 8, 1, groups=2), nn.Linear(8, 12), nn.Linear(12, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.conv(self.norm(self.stem(images)).relu()).flatten(2).transpose(1, 2)
        return self.outer(self.inner(tokens).sigmoid()).mean(1)


def test_compensation_in_groups_and_tokens() -> None:
    torch.manual_seed(0)
    network, batches = Grouped(), random_batches()
    recalibrate(network, batches, seed=0)
    nn.init.uniform_(network.norm.bias, 0.5, 1)
    found = prune(network, request("structured", sparsity=50), batches, SHAPE)
    assert found.network.conv.in_channels == 8
    assert found.network.outer.in_features == 6
    expected = logits(silenced(network, found.unit_masks), batches)
    assert (logits(found.network, batches) - expected).abs().max() > 0.01, "nothing to make up for"
    compensate(found, network, SHAPE)
    torch.testing.assert_close(logits(found.network, batches), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # 120 layers; the test above has two that are concatenated likewise
def test_compensation_of_a_densenet() -> None:
    shape = (3, 32, 32)
    network, batches = build("densenet121", shape=shape), random_batches(16, shape)
    found = prune(network, request("structured", sparsity=30), batches, shape)
    expected = logits(silenced(network, found.unit_masks), batches)
    before = (logits(found.network, batches) - expected).abs().mean()
    compensate(found, network, shape)
    assert (logits(found.network, batches) - expected).abs().mean() < before


def test_what_is_held_at_full_size_computes_what_shrinking_does() -> None:
    for name in ("slp", "cnn", "cnn+norm"):
        network = build(name)
        asked = request("structured", sparsity=50)
        masks = decide(network, asked, random_batches())
        small = prune(network, asked, random_batches(), SHAPE).network
        torch.testing.assert_close(logits(zeroed(network, asked, masks, SHAPE)), logits(small), rtol=1e-4, atol=1e-4)


# Distillation


def test_the_loss_is_that_of_labels_and_teacher() -> None:
    batches, index = random_batches(), torch.arange(12)
    student, teacher = build("slp", seed=1), build("slp", seed=2)
    images, labels = batches.take(index)
    own, other = student(images).detach(), teacher(images).detach()
    soft = (F.softmax(other / 4, 1) * (F.log_softmax(other / 4, 1) - F.log_softmax(own / 4, 1))).sum(1).mean()
    entropy = -(F.softmax(other / 4, 1) * F.log_softmax(other / 4, 1)).sum(1).mean()
    expected = 0.3 * F.cross_entropy(own, labels) + 0.7 * 16 * (soft + entropy)
    loss = accumulate_gradients(student, batches, index, 5, teacher=Teacher(teacher, 0.7))
    torch.testing.assert_close(loss, expected)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_labels_alone_are_as_without_a_teacher_and_answers_alone_draw_to_them() -> None:
    batches, teacher = random_batches(), build("slp", seed=2)
    plain, zero, taught = build("slp", seed=1), build("slp", seed=1), build("slp", seed=1)
    far = (logits(taught) - logits(teacher)).norm()
    train(plain, batches, HOW)
    train(zero, batches, HOW, teacher=Teacher(teacher, 0.0))
    train(taught, batches, HOW, teacher=Teacher(teacher, 1.0))
    torch.testing.assert_close(logits(zero), logits(plain), rtol=1e-4, atol=1e-5)
    assert (logits(taught) - logits(teacher)).norm() < 0.7 * far


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        "model": "cnn", "batch_norm": True, "dataset": "digits", "train_limit": 128, "epochs": 2, "finetune_epochs": 1,
        "technique": "structured", "sparsity": 50, "latency_seconds": 0, "out": tmp_path_factory.mktemp("recovery"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def plain(settings: dict[str, Any]) -> pd.Series:
    return onnxprune.run_experiment(**settings).iloc[0]


@pytest.mark.parametrize("option", [{"distill": 0.5}, {"recalibrate": True}, {"compensate": True}])
def test_options_of_recovery_change_the_result(
    option: dict[str, Any], settings: dict[str, Any], plain: pd.Series
) -> None:
    changed = onnxprune.run_experiment(**settings, **option).iloc[0]
    assert changed["base_id"] == plain["base_id"]
    assert changed["cross_entropy"] != plain["cross_entropy"]
    before = "before_finetuning_cross_entropy"
    assert (changed[before] == plain[before]) == ("distill" in option)
    assert np.isfinite(changed["cross_entropy"])
