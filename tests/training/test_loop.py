"""Training: what is computed, what repeats, what the masks hold, and what is refused."""

import contextlib
import copy
import dataclasses
import math
import os
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

from onnxprune.common.errors import InputError, RunError
from onnxprune.data.dataset import Dataset, Split
from onnxprune.models import MODELS
from onnxprune.settings.sweep import Sweep
from onnxprune.training.batches import ACTIVATION_BYTES, CROP_PADDING, Batches, fitting_micro_batch
from onnxprune.training.device import seeded_generator, select_device
from onnxprune.training.loop import accumulate_gradients, pooling_first, train
from onnxprune.training.memory import PeakMemory
from onnxprune.training.recipe import Recipe, scaled_learning_rate, settling_share, sgd
from onnxprune.training.setup import base_recipe

CPU = torch.device("cpu")
MEAN, STD = (0.3, 0.6), (0.2, 0.4)
SHAPE = (2, 8, 8)
CLASSES = 4


def random_split(count: int = 24, shape: tuple[int, int, int] = SHAPE, classes: int = CLASSES) -> Split:
    generator = np.random.default_rng(7)
    images = generator.integers(0, 256, (count, *shape), dtype=np.uint8)
    return Split(images, generator.integers(0, classes, count))


def normalised(images: np.ndarray) -> Tensor:
    """The definition: pixels in [0, 1], less the mean, over the standard deviation."""
    mean, std = (np.reshape(values, (1, -1, 1, 1)) for values in (MEAN, STD))
    return torch.from_numpy(((images / 255 - mean) / std).astype(np.float32))


@pytest.fixture
def split() -> Split:
    return random_split()


@pytest.fixture
def batches(split: Split) -> Batches:
    return Batches(split, MEAN, STD, CPU)


def recipe(**changes: object) -> Recipe:
    settings = {
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 0.05,
        "augmentation": frozenset(),
        "micro_batch": 8,
        "seed": 0,
    }
    return Recipe(**{**settings, **changes})


def build(name: str, seed: int = 0, **options: object) -> nn.Module:
    return MODELS[name].build(SHAPE, CLASSES, seed, **options)


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Batches


def test_images_come_out_normalised_with_their_labels(split: Split, batches: Batches) -> None:
    index = torch.tensor([5, 0, 5, 23])
    images, labels = batches.take(index)
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, normalised(split.images[index.numpy()]), rtol=0, atol=1e-5)
    assert labels.tolist() == split.labels[index.numpy()].tolist()
    assert len(batches) == 24


def test_images_stay_bytes_in_memory(split: Split, batches: Batches) -> None:
    assert batches.images.dtype == torch.uint8
    assert batches.images.element_size() * batches.images.numel() == split.images.nbytes


# Gradients


def gradients(network: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("micro_batch", [1, 7, 24, 100])
@pytest.mark.parametrize("name", ["slp", "cnn"])
def test_accumulated_gradient_is_that_of_the_batch_in_one_piece(
    split: Split, batches: Batches, name: str, micro_batch: int
) -> None:
    network = build(name)
    loss = accumulate_gradients(network, batches, torch.arange(24), micro_batch)
    accumulated = gradients(network)
    network.zero_grad()
    expected = F.cross_entropy(network(normalised(split.images)), torch.from_numpy(split.labels))
    expected.backward()
    assert (accumulated - gradients(network)).norm() <= 1e-6 * gradients(network).norm()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert not loss.requires_grad


class Normed(nn.Sequential):
    """Its BatchNorm has one number of a channel for each image."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(128, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES))


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "together"),
    [(24, 24, [23, 2]), (24, 4, [4, 4, 4, 4, 4, 3, 2]), (25, 8, [8, 8, 7, 2]), (25, 25, [25])],
)
def test_batch_norm_never_gets_a_single_image(
    batch_size: int, micro_batch: int, together: list[int], devices: int
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (25, *SHAPE), dtype=np.uint8)
    batches = Batches(Split(images, np.arange(25) % CLASSES), MEAN, STD, CPU)
    network, seen = Normed(), []
    how = recipe(epochs=1, batch_size=batch_size, micro_batch=micro_batch, devices=devices)
    if devices == 1:
        network[2].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    cost = train(network, batches, how)
    assert (cost.images, cost.updates) == (25, -(-25 // batch_size))
    assert devices == 2 or seen == together


def test_gradients_add_to_those_already_there(batches: Batches) -> None:
    network = build("slp")
    accumulate_gradients(network, batches, torch.arange(24), 8)
    once = gradients(network).clone()
    accumulate_gradients(network, batches, torch.arange(24), 8)
    torch.testing.assert_close(gradients(network), 2 * once)


@pytest.mark.parametrize("micro_batch", [3, 8])
def test_a_step_of_many_micro_batches_updates_as_one_piece_does(batches: Batches, micro_batch: int) -> None:
    pieces, whole = build("cnn"), build("cnn")
    settings = {"epochs": 1, "batch_size": 24}
    costs = [
        train(pieces, batches, recipe(micro_batch=micro_batch, **settings)),
        train(whole, batches, recipe(micro_batch=24, **settings)),
    ]
    for one, other in zip(pieces.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert [cost.updates for cost in costs] == [1, 1]
    assert costs[0].epoch_losses == pytest.approx(costs[1].epoch_losses, rel=1e-5)


# Memory


def test_micro_batches_shrink_where_images_keep_much_for_the_backward_pass() -> None:
    class Keeper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, images: Tensor) -> Tensor:
            return (images.repeat(1, 1, 64, 64) * self.weight).exp()  # keeps its input and its output

    network = Keeper()
    bytes_an_image = 2 * 4 * 2 * 512 * 512
    assert fitting_micro_batch(network, SHAPE, 1_000_000) == ACTIVATION_BYTES // bytes_an_image
    assert fitting_micro_batch(network, SHAPE, 16) == 16
    assert network.training


def test_small_stem_keeps_sixteen_times_as_much() -> None:
    stems = {stem: MODELS["densenet121"].build((3, 32, 32), 10, 0, stem=stem) for stem in ("imagenet", "small")}
    found = {stem: fitting_micro_batch(network, (3, 32, 32), 10_000) for stem, network in stems.items()}
    assert 14 < found["imagenet"] / found["small"] < 18


# Learning rate


@pytest.mark.parametrize(
    ("batch_size", "images", "factor"),
    [
        (256, 60_000, 1),
        (64, 60_000, 0.5),
        (32, 60_000, 0.125**0.5),
        (4000, 60_000, 1),  # no further than at 256
        (60_000, 60_000, 1),
        (256, 64, 0.5),  # a batch is no larger than the set
    ],
)
def test_peak_rate_grows_with_the_root_of_the_batch(batch_size: int, images: int, factor: float) -> None:
    assert scaled_learning_rate(0.03, batch_size, images, 300) == pytest.approx(0.03 * factor)


@pytest.mark.parametrize(
    ("updates", "distilled", "share"),
    [(150, 0, 1), (1000, 0, 1), (45, 0, 0.3), (0, 0, 0), (150, 1, 1 / 3), (1000, 0.5, 0.5), (45, 1, 0.1)],
)
def test_few_updates_and_a_teacher_take_a_share_of_the_fine_tuning_rate(
    updates: int, distilled: float, share: float
) -> None:
    assert settling_share(updates, 150, distilled) == pytest.approx(share)


@pytest.mark.parametrize(
    ("batch_size", "images", "updates", "factor"),
    [
        (4000, 60_000, 16, 2),  # as at 1024
        (4000, 60_000, 9, 1.5),  # fewer updates take less
        (60_000, 60_000, 4, 1),
        (60_000, 60_000, 1, 1),  # but no less than at 256
        (4000, 4608, 16, 1.5),  # so do fewer images
        (4000, 1000, 16, 1),
        (64, 60_000, 1, 0.5),
    ],
)
def test_where_it_may_grow_beyond_256_it_does_with_updates_and_images_enough(
    batch_size: int, images: int, updates: int, factor: float
) -> None:
    assert scaled_learning_rate(0.03, batch_size, images, updates, 1024) == pytest.approx(0.03 * factor)


@pytest.mark.parametrize(
    ("model", "shape", "batch_size", "factor"),
    [
        ("slp", (1, 28, 28), 256, 1),
        ("slp", (1, 8, 8), 256, 1),  # no more than for the usual number
        ("slp", (3, 28, 28), 256, 1 / 3**0.5),
        ("cnn", (3, 28, 28), 256, 1),
        ("slp", (1, 8, 8), 4000, 2**0.5),
        ("cnn", (1, 8, 8), 4000, 1),
    ],
)
def test_a_perceptron_takes_smaller_steps_the_more_inputs_it_has_and_larger_ones_for_large_batches(
    model: str, shape: tuple[int, int, int], batch_size: int, factor: float
) -> None:
    settings = {"model": model, "technique": "weight", "learning_rate": 0.03, "batch_size": batch_size}
    (point,) = Sweep.one_point(settings).points
    split = random_split(4096, shape, 2)
    numbers = (0.5,) * shape[0]
    dataset = Dataset("random", split, split, split, ("a", "b"), numbers, numbers, "checksum", len(split))
    network = MODELS[model].build(shape, 2, 0)
    assert base_recipe(point, network, dataset).learning_rate == pytest.approx(0.03 * factor)


def test_rate_warms_up_over_half_of_few_updates_and_then_falls_to_zero(batches: Batches) -> None:
    rates = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        train(build("slp"), batches, recipe(epochs=20, batch_size=12, learning_rate=0.08))
    finally:
        hook.remove()
    assert len(rates) == 40
    assert rates[:20] == pytest.approx([0.004 * step for step in range(1, 21)])
    assert rates[20:] == pytest.approx([0.04 * (1 + math.cos(math.pi * step / 20)) for step in range(20)])


def test_a_single_update_has_the_peak_rate(batches: Batches) -> None:
    rates = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        train(build("slp"), batches, recipe(epochs=1, batch_size=24, learning_rate=0.08))
    finally:
        hook.remove()
    assert rates == [0.08]


# Repeatability


@pytest.mark.parametrize(("name", "options"), [("slp", {}), ("cnn", {}), ("cnn", {"batch_norm": True})])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(batches: Batches, name: str, options: dict) -> None:
    def trained(seed: int) -> dict[str, Tensor]:
        network = build(name, **options)
        train(network, batches, recipe(seed=seed, augmentation=frozenset({"crop", "flip"})))
        return state(network)

    first = trained(1)
    torch.rand(3)  # the state of the global generator must not matter
    assert equal(first, trained(1))
    other = trained(2)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_random_generators_differ_by_seed_and_purpose() -> None:
    def draw(seed: int, purpose: str) -> list[float]:
        return torch.rand(4, generator=seeded_generator(seed, purpose)).tolist()

    assert draw(0, "order") == draw(0, "order")
    assert draw(0, "order") != draw(1, "order")
    assert draw(0, "order") != draw(0, "crops")


# Masks


@pytest.mark.parametrize(("name", "options"), [("slp", {}), ("cnn", {}), ("cnn", {"batch_norm": True})])
def test_masked_weights_are_zero_throughout_and_the_others_learn(batches: Batches, name: str, options: dict) -> None:
    network = build(name, **options)
    before = state(network)
    generator = torch.Generator().manual_seed(3)
    masks = {
        f"{layer}.weight": (torch.rand(module.weight.shape, generator=generator) < 0.5).float()
        for layer, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    parameters = dict(network.named_parameters())
    largest_masked = []

    def look(done: int, updates: int, loss: Tensor) -> None:
        largest_masked.append(max(parameters[key][mask == 0].abs().max().item() for key, mask in masks.items()))

    train(network, batches, recipe(epochs=4), masks=masks, on_update=look)
    assert largest_masked == [0.0] * 12  # momentum and weight decay revived none, after any update
    for key, mask in masks.items():
        trained = network.get_parameter(key)
        assert (trained[mask == 0] == 0).all(), key
        free = trained[mask == 1] != before[key][mask == 1]
        assert free.float().mean() > 0.95, key


def test_masks_hold_before_the_first_update(batches: Batches) -> None:
    network = build("slp")
    before = state(network)
    mask = torch.zeros_like(network.hidden.weight)
    train(network, batches, recipe(epochs=0), masks={"hidden.weight": mask})
    assert (network.hidden.weight == 0).all()
    assert torch.equal(network.classifier.weight, before["classifier.weight"])


def test_a_mask_of_ones_changes_nothing(batches: Batches) -> None:
    free, held = build("slp"), build("slp")
    train(free, batches, recipe())
    train(held, batches, recipe(), masks={"hidden.weight": torch.ones_like(held.hidden.weight)})
    assert equal(state(free), state(held))


# Cost and progress


def test_masks_may_change_between_updates(batches: Batches) -> None:
    network = build("slp")
    first, second = torch.ones_like(network.classifier.weight), torch.ones_like(network.classifier.weight)
    first[:, ::2], second[:, 1::2] = 0, 0
    calls = []

    def remask(done: int, updates: int) -> dict[str, Tensor] | None:
        calls.append((done, bool(network.classifier.weight[:, ::2].any())))
        return {"classifier.weight": second} if done == updates // 2 else None

    train(network, batches, recipe(epochs=4), masks={"classifier.weight": first}, remask=remask)
    assert [done for done, _ in calls] == list(range(recipe(epochs=4).updates(len(batches))))
    assert not network.classifier.weight[:, 1::2].any()
    grown = network.classifier.weight[:, ::2]
    assert grown.count_nonzero() > 0.7 * grown.numel(), "what is no longer masked learns, but for units that are silent"
    assert not any(alive for done, alive in calls if done <= recipe(epochs=4).updates(len(batches)) // 2)


def test_a_weight_that_comes_back_has_no_momentum_of_before(batches: Batches) -> None:
    """Its first update is along its gradient alone."""
    network = build("slp")
    weight = network.classifier.weight
    masked = torch.ones_like(weight)
    masked[0] = 0
    gradients, rows = [], []

    def remask(done: int, updates: int) -> dict[str, Tensor] | None:
        rows.append(weight[0].detach().clone())
        return {"classifier.weight": torch.ones_like(weight)} if done == 2 else None

    def look(done: int, updates: int) -> None:
        gradients.append(weight.grad[0].clone())

    train(network, batches, recipe(epochs=4), masks={"classifier.weight": masked}, remask=remask, regrow=look)
    assert not rows[2].any()
    torch.testing.assert_close(F.cosine_similarity(rows[3], -gradients[2], dim=0), torch.tensor(1.0))


def test_an_update_is_of_the_network_as_its_masks_then_are(batches: Batches) -> None:
    """What goes before an update has no say in its gradients."""
    gradients = []
    for when in (0, None):  # the mask comes between updates, or was there from the start
        network = build("slp")
        mask = torch.ones_like(network.hidden.weight)
        mask[: len(mask) // 2] = 0
        train(
            network, batches, recipe(), stop_after=1,
            masks={} if when == 0 else {"hidden.weight": mask},
            remask=lambda done, _, when=when, mask=mask: {"hidden.weight": mask} if done == when else None,
            regrow=lambda *_, network=network: gradients.append(network.classifier.weight.grad.clone()),
        )  # fmt: skip
    assert torch.equal(*gradients)


def test_masks_that_are_chosen_by_gradients_take_the_place_of_the_step(batches: Batches) -> None:
    network = build("slp")
    weight = network.classifier.weight
    mask = torch.ones_like(weight)
    mask[0] = 0
    seen = []

    def regrow(done: int, updates: int) -> dict[str, Tensor] | None:
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"classifier.weight": mask} if done == 2 else None

    train(network, batches, recipe(epochs=4), regrow=regrow)
    before, after, following = seen[2], seen[3], seen[4]
    for name in before:
        assert torch.equal(after[name], before[name] * (mask if name == "classifier.weight" else 1)), name
        assert not torch.equal(following[name], after[name]), "it does not go on"


def test_training_goes_on_where_it_was(batches: Batches) -> None:
    """The learning rate and the images of every update are those of a training that began at the beginning."""
    how = dataclasses.replace(recipe(epochs=4), augmentation=frozenset({"crop"}))
    rates: dict[int, list[float]] = {}
    images: dict[int, list[Tensor]] = {}
    for begin in (0, 7):
        network = build("slp")
        optimizer = sgd(network, how.learning_rate)
        rates[begin], images[begin] = [], []
        handle = network.register_forward_pre_hook(lambda _, given, to=images[begin]: to.append(given[0].clone()))
        train(
            network, batches, how, start_at=begin, optimizer=optimizer,
            regrow=lambda *_, to=rates[begin], optimizer=optimizer: to.append(optimizer.param_groups[0]["lr"]),
        )  # fmt: skip
        handle.remove()
    assert rates[7] == pytest.approx(rates[0][7:])
    assert len(images[7]) == len(images[0]) - 7
    assert all(torch.equal(*pair) for pair in zip(images[7], images[0][7:], strict=True))


def test_training_stops_early_on_the_path_it_would_take(batches: Batches) -> None:
    whole, part = build("slp"), build("slp")
    seen = {}

    def look(done: int, updates: int) -> None:
        if done == 3:
            seen.update({name: tensor.clone() for name, tensor in whole.state_dict().items()})

    train(whole, batches, recipe(epochs=4), remask=look)
    cost = train(part, batches, recipe(epochs=4), stop_after=3)
    assert cost.updates == 3
    assert all(torch.equal(tensor, seen[name]) for name, tensor in part.state_dict().items())


def test_a_part_of_an_epoch(batches: Batches) -> None:
    half = dataclasses.replace(recipe(epochs=4), epochs=0.5)
    cost = train(build("slp"), batches, half)
    assert (
        cost.updates
        == half.updates(len(batches))
        == math.ceil(recipe(epochs=4).updates(len(batches)) / recipe(epochs=4).epochs / 2)
    )


@pytest.mark.parametrize(("batch_size", "updates_per_epoch"), [(8, 3), (9, 3), (24, 1), (25, 1), (60_000, 1), (1, 24)])
def test_updates_and_images_are_counted(batches: Batches, batch_size: int, updates_per_epoch: int) -> None:
    calls = []
    cost = train(
        build("slp"),
        batches,
        recipe(epochs=3, batch_size=batch_size),
        on_update=lambda done, updates, loss: calls.append((done, updates, float(loss) >= 0)),
    )
    total = 3 * updates_per_epoch
    assert cost.updates == total
    assert calls == [(done, total, True) for done in range(1, total + 1)]
    assert cost.images == 3 * 24
    assert len(cost.epoch_losses) == 3
    assert cost.seconds > 0
    assert cost.peak_memory_bytes > 10 * 2**20  # Python with PyTorch


def test_seconds_are_those_of_this_thread(batches: Batches) -> None:
    train(build("cnn"), batches, recipe(epochs=1))  # the first one imports
    started = time.thread_time()
    cost = train(build("cnn"), batches, recipe(epochs=4))
    taken = time.thread_time() - started
    assert 0.5 * taken < cost.seconds <= taken


def test_a_batch_larger_than_the_set_is_the_set(batches: Batches) -> None:
    exact, larger = build("slp"), build("slp")
    train(exact, batches, recipe(batch_size=24))
    train(larger, batches, recipe(batch_size=4000))
    assert equal(state(exact), state(larger))


def test_every_image_is_seen_once_an_epoch(split: Split, batches: Batches) -> None:
    seen = watch(build("slp"), batches, recipe(epochs=2, batch_size=10, micro_batch=4))
    assert [len(images) for images in seen] == [4, 4, 2, 4, 4, 2, 4] * 2
    order = torch.cat(seen)
    expected = sorted(normalised(split.images).flatten(1).sum(1).tolist())
    for epoch in order.split(24):
        assert sorted(epoch.flatten(1).sum(1).tolist()) == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert not torch.equal(order[:24], order[24:])  # and in another order each time


def test_no_epochs_change_nothing(batches: Batches) -> None:
    network = build("cnn", batch_norm=True)
    before = state(network)
    cost = train(network, batches, recipe(epochs=0))
    assert equal(state(network), before)
    assert (cost.images, cost.updates, cost.epoch_losses) == (0, 0, [])
    assert not network.training


def test_the_reported_loss_is_the_mean_over_the_images(split: Split, batches: Batches) -> None:
    network = build("slp")
    with torch.no_grad():
        expected = F.cross_entropy(network(normalised(split.images)), torch.from_numpy(split.labels)).item()
    cost = train(network, batches, recipe(epochs=1, batch_size=7, learning_rate=0.0))  # uneven: 7, 7, 7, 3
    assert cost.epoch_losses == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize(("name", "options"), [("slp", {}), ("cnn", {}), ("cnn", {"batch_norm": True})])
def test_it_learns(name: str, options: dict) -> None:
    """Each class lights a quadrant of its own: a set that any of the networks can learn by heart."""
    generator = np.random.default_rng(0)
    labels = np.arange(64) % 4
    images = generator.integers(0, 60, (64, *SHAPE), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        top, left = 4 * (label // 2), 4 * (label % 2)
        image[:, top : top + 4, left : left + 4] += 150
    batches = Batches(Split(images, labels), MEAN, STD, CPU)
    network = build(name, **options)
    cost = train(network, batches, recipe(epochs=10, batch_size=16, micro_batch=16))
    assert cost.epoch_losses[-1] < 0.2 * cost.epoch_losses[0]
    assert not network.training
    with torch.no_grad():
        assert (network(normalised(images)).argmax(1) == torch.from_numpy(labels)).float().mean() > 0.95


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cnn", {}),
        ("cnn", {"batch_norm": True}),
        pytest.param("densenet121", {}, marks=pytest.mark.slow),  # 120 layers; the pools are those of the cnn
    ],
)
def test_pooling_first_changes_no_bit(
    name: str, options: dict, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 many numbers of a pool are equal, and in any precision many are not positive."""
    network = MODELS[name].build((1, 32, 32), CLASSES, 0, **options).train()
    images = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    rectified, relu = [], F.relu
    monkeypatch.setattr(F, "relu", lambda numbers, **how: rectified.append(numbers.numel()) or relu(numbers, **how))
    found = []
    for context in (contextlib.nullcontext(), pooling_first(network), contextlib.nullcontext()):
        with context, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = network(images.contiguous(memory_format=torch.channels_last))
            F.cross_entropy(logits, torch.arange(8) % CLASSES).backward()
        found.append([logits, *(parameter.grad for parameter in network.parameters())])
        network.zero_grad(set_to_none=True)
    once = len(rectified) // 3
    assert sum(rectified[once:-once]) < sum(rectified[:once]) == sum(rectified[-once:])
    assert all(torch.equal(before, after) for before, after in zip(*found[:2], strict=True))


class Taps(nn.Module):
    """Its head reads what each ReLU gives, as detectors and losses on features do."""

    def __init__(self, kept: str) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.ReLU())
        self.head = nn.Linear(8, CLASSES)
        self.hooked = kept == "hooks"
        self.taps: list[Tensor] = []
        for layer in self.features:
            if self.hooked and isinstance(layer, nn.ReLU):
                layer.register_forward_hook(lambda _, inputs, output: self.taps.append(output.mean((2, 3))))

    def forward(self, images: Tensor) -> Tensor:
        self.taps = []
        if self.hooked:
            self.features(images)
        else:
            for layer in self.features:
                images = layer(images)
                self.taps += [images.mean((2, 3))] if isinstance(layer, nn.ReLU) else []
        return self.head(torch.cat(self.taps, 1))


@pytest.mark.parametrize("kept", ["hooks", "one by one"])
def test_pooling_first_leaves_networks_alone_that_look_at_single_layers(kept: str) -> None:
    network, images = Taps(kept), torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = network(images)
    with pooling_first(network):
        assert torch.equal(network(images), expected)


@pytest.mark.parametrize("half", ["bf16", "fp16"])
@pytest.mark.parametrize("micro_batch", [8, 24])
def test_half_gradients_are_those_of_fp32_but_for_rounding(batches: Batches, micro_batch: int, half: str) -> None:
    gradients = {}
    for precision in ("fp32", half):
        network = build("cnn")
        accumulate_gradients(network, batches, torch.arange(len(batches)), micro_batch, precision=precision)
        gradients[precision] = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    assert gradients[half].dtype == torch.float32
    assert not torch.equal(gradients[half], gradients["fp32"]), "nothing was rounded"
    assert F.cosine_similarity(gradients[half], gradients["fp32"], dim=0) > 0.99
    assert gradients[half].norm().item() == pytest.approx(gradients["fp32"].norm().item(), rel=0.05)


@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_half_trains_weights_of_single_precision_and_learns_as_well(batches: Batches, half: str) -> None:
    losses = {}
    for precision in ("fp32", half):
        network = build("cnn")
        losses[precision] = train(network, batches, recipe(epochs=8, precision=precision)).epoch_losses
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert losses[half] != losses["fp32"]
    assert losses[half] == pytest.approx(losses["fp32"], abs=0.05)
    assert losses[half][-1] < losses[half][0]


def test_batch_norm_statistics_follow_the_training_images(batches: Batches) -> None:
    network = build("cnn", batch_norm=True)
    before = copy.deepcopy(network.norm1)
    train(network, batches, recipe(epochs=1))
    assert network.norm1.num_batches_tracked == 3
    assert not torch.equal(network.norm1.running_mean, before.running_mean)


@pytest.mark.parametrize("rate", [1e30, float("nan")])
def test_divergence_is_an_error_that_names_the_learning_rate(batches: Batches, rate: float) -> None:
    with pytest.raises(RunError) as caught:
        train(build("slp"), batches, recipe(epochs=3, learning_rate=rate))
    message = str(caught.value)
    assert "diverged" in message
    assert f"rate {rate:g}" in message
    assert "--learning-rate" in message
    assert "\n" not in message


def test_divergence_in_the_last_update_is_noticed(batches: Batches) -> None:
    """The loss of the only update is that of the weights before it."""
    with pytest.raises(RunError, match="diverged"):
        train(build("slp"), batches, recipe(epochs=1, batch_size=len(batches), learning_rate=math.nan))


# Augmentation


class Watcher(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        return self.network(images)


def watch(network: nn.Module, batches: Batches, settings: Recipe) -> list[Tensor]:
    """The images that training really gave to the network, a micro-batch each."""
    watcher = Watcher(network)
    train(watcher, batches, settings)
    return watcher.seen


def variants(images: np.ndarray, augmentation: set[str]) -> dict[bytes, tuple[int, int, int, bool]]:
    """Every image that may come out -> (image, rows down, columns right, mirrored), written with plain loops."""
    _, _, height, width = images.shape
    steps = range(-CROP_PADDING, CROP_PADDING + 1) if "crop" in augmentation else [0]
    found = {}
    for number, image in enumerate(images):
        for down in steps:
            for right in steps:
                moved = np.zeros_like(image)
                for row in range(height):
                    for column in range(width):
                        if 0 <= row - down < height and 0 <= column - right < width:
                            moved[:, row, column] = image[:, row - down, column - right]
                found[moved.tobytes()] = (number, down, right, False)
                if "flip" in augmentation:
                    found[moved[:, :, ::-1].tobytes()] = (number, down, right, True)
    return found


@pytest.mark.parametrize(
    "augmentation", [set(), {"crop"}, {"flip"}, {"crop", "flip"}], ids=lambda names: "+".join(sorted(names))
)
def test_augmentation_shifts_and_mirrors_and_nothing_else(augmentation: set[str]) -> None:
    split = random_split(count=8, shape=(2, 6, 7))
    batches = Batches(split, (0.0, 0.0), (1 / 255, 1 / 255), CPU)  # so that the network sees the pixels themselves
    epochs = 60
    network = MODELS["slp"].build((2, 6, 7), CLASSES, 0, hidden=0)
    seen = watch(network, batches, recipe(epochs=epochs, learning_rate=1e-9, augmentation=frozenset(augmentation)))
    pixels = torch.cat(seen).round().to(torch.uint8).contiguous().numpy()
    assert len(pixels) == epochs * 8
    possible = variants(split.images, augmentation)
    assert len(possible) == 8 * (25 if "crop" in augmentation else 1) * (2 if "flip" in augmentation else 1)
    found = [possible.get(image.tobytes()) for image in pixels]
    assert None not in found
    shows = Counter(number for number, *_ in found)
    assert shows == dict.fromkeys(range(8), epochs)
    shifts = Counter((down, right) for _, down, right, _ in found)
    assert len(shifts) == (25 if "crop" in augmentation else 1)
    mirrored = sum(mirror for *_, mirror in found) / len(found)
    assert 0.4 < mirrored < 0.6 if "flip" in augmentation else mirrored == 0


def test_augmentation_draws_for_each_image(batches: Batches) -> None:
    """Not one shift for the whole batch: with 24 images the shares of empty first columns must vary."""
    settings = recipe(epochs=1, batch_size=24, micro_batch=24, augmentation=frozenset({"crop"}))
    (images,) = watch(build("slp"), batches, settings)
    black = (torch.zeros(2) - torch.tensor(MEAN)) / torch.tensor(STD)
    empty = (images[:, :, :, 0] - black.view(1, 2, 1)).abs().amax((1, 2)) < 1e-5
    assert 0 < empty.sum() < 24


# Devices and memory


def test_cuda_where_there_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"--device cuda: .*--device cpu") as caught:
        select_device("cuda")
    assert "\n" not in str(caught.value)
    assert select_device("cpu") == CPU


def test_a_gpu_repeats_itself_in_single_precision() -> None:
    """Of the settings alone, which are there without one."""
    code = (
        "import os, torch\n"
        "from onnxprune.training.device import select_device\n"
        "torch.cuda.is_available = lambda: True\n"
        "for name in ('cpu', 'cuda'):\n"
        "    device = select_device(name)\n"
        "    print(device, torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32,\n"
        "          os.environ.get('CUBLAS_WORKSPACE_CONFIG'))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["cpu False True None", "cuda True False :4096:8"], done.stderr


@pytest.mark.gpu
def test_cuda_trains_the_same_again_bit_for_bit(split: Split) -> None:
    device = select_device("cuda")
    states = []
    for _ in range(2):
        network = build("cnn").to(device)
        train(network, Batches(split, MEAN, STD, device), recipe(epochs=4))
        states.append(state(network))
    assert equal(*states)


def test_peak_memory_sees_what_was_held_and_freed_within() -> None:
    size = 128 * 2**20
    before = psutil.Process().memory_info().rss
    with PeakMemory() as memory:
        block = np.ones(size, dtype=np.uint8)
        del block
    assert memory.peak_bytes > before + 0.9 * size
