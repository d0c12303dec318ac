"""Pruning: what is removed, by which ranking, and what the network computes afterwards.

Every ranking is checked against scores computed here, without NNI; every network that shrank against the network of
full size in which the removed units are masked out.
"""

import copy
import hashlib
import itertools
import os
import random
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
from networks import CLASSES, SHAPE, build, logits, pruned, random_batches, request
from one_call import prune
from torch import Tensor, nn
from torch.nn import functional as F

from onnxprune.common.errors import InputError
from onnxprune.common.output import logged
from onnxprune.models import MODELS
from onnxprune.pruning.decide import check, decide
from onnxprune.pruning.layers import normalised_layers, prunable_layers
from onnxprune.settings.vocabulary import CRITERIA, LAYER_CRITERIA, SCHEDULES, TECHNIQUES, resolve_criterion
from onnxprune.training.batches import Batches
from onnxprune.training.device import seeded_generator
from onnxprune.training.loop import train
from onnxprune.training.recipe import Recipe

SIZES = ["slp", "cnn", "cnn+norm"]
WEIGHT_TECHNIQUES = [name for name, technique in TECHNIQUES.items() if technique.unit == "weight"]
CHANNEL_TECHNIQUES = [name for name, technique in TECHNIQUES.items() if technique.unit == "channel"]


def suits(network: str, technique: str, criterion: str) -> bool:
    if criterion == "obs" and technique in WEIGHT_TECHNIQUES:
        return False  # of files alone: study/test_file_study.py
    return criterion != "slim" or network in ("cnn+norm", "densenet121")


COMBINATIONS = [
    pytest.param(network, technique, criterion, id=f"{network}-{technique}-{criterion}")
    for technique, entry in TECHNIQUES.items()
    for criterion in entry.criteria
    for network in SIZES
    if suits(network, technique, criterion)
]
# where nothing or nearly all goes, ranking decides little: every criterion on one network, one criterion on the others
EDGES = [
    combination
    for combination in COMBINATIONS
    for network, technique, criterion in [combination.values]
    if network == "cnn+norm" or criterion == TECHNIQUES[technique].criteria[0]
]
SHARES = [
    pytest.param(*combination.values, share, id=f"{share}-{combination.id}")
    for share, combinations in ((50, COMBINATIONS), (90, EDGES))
    for combination in combinations
]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def weighted(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}


def same_masks(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def check_lowest_go(scores: Tensor, mask: Tensor) -> None:
    """Nothing removed scores higher than anything kept, up to rounding."""
    gone, kept = scores[mask == 0], scores[mask == 1]
    assert len(gone) and len(kept)
    assert len(gone) + len(kept) == scores.numel()
    assert gone.max() <= kept.min() * (1 + 1e-4)


def zero_removed(network: nn.Module, masks: dict[str, Tensor], norms: dict[str, str]) -> nn.Module:
    """A copy of full size in which removed units put out 0: in the BatchNorm that follows, else in the layer."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for layer, mask in masks.items():
            module = network.get_submodule(norms.get(layer, layer))
            module.weight[mask == 0] = 0
            if module.bias is not None:
                module.bias[mask == 0] = 0
    return network


NORMS = {"slp": {}, "cnn": {}, "cnn+norm": {"conv1": "norm1", "conv2": "norm2"}}


# The shares


@pytest.mark.parametrize(("network", "technique", "criterion"), EDGES)
def test_0_percent_gives_the_base_exactly(network: str, technique: str, criterion: str) -> None:
    base = build(network)
    result = pruned(base, technique, criterion, 0, channel_align=8)
    assert torch.equal(logits(result.network), logits(base))
    assert result.network is not base
    assert result.removed[0] == 0
    assert result.empty_layers == []
    assert all(mask.all() for mask in [*result.unit_masks.values(), *result.held.values()])
    assert parameters(result.network) == parameters(base)


@pytest.mark.parametrize(("network", "technique", "criterion", "sparsity"), SHARES)
def test_what_was_asked_for_is_removed(network: str, technique: str, criterion: str, sparsity: float) -> None:
    base = build(network)
    base.train()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    result = pruned(base, technique, criterion, sparsity)

    # the original is as it was
    after = base.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(module.training for module in base.modules())
    assert all(parameter.grad is None for parameter in base.parameters())
    base.eval()

    share = sparsity / 100
    masks = result.unit_masks
    gone = {layer: int((mask == 0).sum()) for layer, mask in masks.items()}
    units = {layer: mask.numel() for layer, mask in masks.items()}
    assert all(((mask == 0) | (mask == 1)).all() for mask in masks.values())
    assert result.removed == (sum(gone.values()), sum(units.values()))
    assert result.empty_layers == [layer for layer in masks if gone[layer] == units[layer]]
    assert all(not module.training for module in result.network.modules())
    assert logits(result.network).isfinite().all()
    assert not torch.equal(logits(result.network), logits(base))

    layers = weighted(base)
    new_layers = weighted(result.network)
    if TECHNIQUES[technique].unit == "weight":
        assert list(masks) == list(layers)
        assert {name: mask.shape for name, mask in masks.items()} == {
            name: layer.weight.shape for name, layer in layers.items()
        }
        if criterion == "threshold":
            assert all(gone[name] == pytest.approx(share * units[name], rel=0.3) for name in layers)
        elif TECHNIQUES[technique].scope == "layer":
            assert gone == {name: round(units[name] * share) for name in layers}
        else:
            assert sum(gone.values()) == round(sum(units.values()) * share)
        assert same_masks(result.held, {f"{name}.weight": mask for name, mask in masks.items()})
        for name, layer in layers.items():
            assert torch.equal(new_layers[name].weight, layer.weight * masks[name])
            assert layer.bias is None or torch.equal(new_layers[name].bias, layer.bias)
    else:
        expected = [name for name in layers if name != "classifier"]
        assert list(masks) == (["conv1", "conv2"] if criterion == "slim" else expected)
        assert sum(gone.values()) == sum(units.values()) - round(sum(units.values()) * (1 - share))
        for name, mask in masks.items():
            assert mask.shape == (len(layers[name].weight),)
            assert abs(gone[name] - units[name] * share) < 1
            assert len(new_layers[name].weight) == units[name] - gone[name]
            kept = mask.nonzero().squeeze(1)
            assert new_layers[name].bias is None or torch.equal(new_layers[name].bias, layers[name].bias[kept])
        assert parameters(result.network) < parameters(base)
        assert new_layers["classifier"].out_features == CLASSES
        assert torch.equal(new_layers["classifier"].bias, layers["classifier"].bias)
        assert result.held == {}
        reference = zero_removed(base, masks, NORMS[network])
        torch.testing.assert_close(logits(result.network), logits(reference), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("network", "technique", "criterion"), EDGES)
def test_100_percent_is_a_constant_and_stays_one(network: str, technique: str, criterion: str) -> None:
    base = build(network)
    result = pruned(base, technique, criterion, 100, channel_align=8)
    removed, units = result.removed
    assert removed == units > 0
    assert result.empty_layers == list(result.unit_masks)
    assert not any(mask.any() for mask in result.unit_masks.values())
    shapes = {name: parameter.shape for name, parameter in result.network.named_parameters()}
    assert {name: mask.shape for name, mask in result.held.items()}.items() <= shapes.items()
    assert result.network.classifier.out_features == CLASSES

    def spread() -> float:
        outputs = logits(result.network)
        assert outputs.isfinite().all()
        return (outputs - outputs[0]).abs().max().item()

    assert spread() == 0
    before = logits(result.network)
    recipe = Recipe(2, batch_size=16, learning_rate=0.1, augmentation=frozenset(), micro_batch=16, seed=0)
    train(result.network, random_batches(), recipe, masks=result.held)
    assert spread() == 0
    assert not torch.equal(logits(result.network), before)  # the fine-tuning did train what is free


def test_a_little_is_not_nothing_and_nearly_all_is_not_all() -> None:
    base = build("slp")
    for sparsity in (0.1, 99.9):
        result = pruned(base, "weight", "l1", sparsity)
        sizes = {name: layer.weight.numel() for name, layer in weighted(base).items()}
        assert {name: int((mask == 0).sum()) for name, mask in result.unit_masks.items()} == {
            name: round(size * sparsity / 100) for name, size in sizes.items()
        }


def test_shares_that_floating_point_cannot_hold_are_exact() -> None:
    """27 / 49 * 49 is less than 27, and NNI truncates."""
    assert int(49 * (27 / 49)) < 27
    base = build("slp", hidden=49)
    assert pruned(base, "structured", "l1", 100 * 27 / 49).removed == (27, 49)


@pytest.mark.parametrize("technique", CHANNEL_TECHNIQUES)
def test_channels_are_aligned_in_the_network(technique: str) -> None:
    result = pruned(build("cnn"), technique, None, 90, channel_align=8)
    assert {name: int(mask.sum()) for name, mask in result.unit_masks.items()} == {"conv1": 4, "conv2": 4, "fc": 14}
    shapes = [tuple(layer.weight.shape) for layer in weighted(result.network).values()]
    assert shapes == [(4, 1, 3, 3), (4, 4, 3, 3), (14, 4 * 4), (CLASSES, 14)]


@pytest.mark.parametrize("technique", CHANNEL_TECHNIQUES)
def test_13_percentages_are_13_networks(technique: str) -> None:
    found = {}
    for sparsity in (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 97, 98, 99):
        result = pruned(build("cnn"), technique, "random", sparsity, channel_align=8)
        removed, units = result.removed
        assert 100 * removed / units == pytest.approx(sparsity, abs=0.4)
        found[sparsity] = tuple(int(mask.sum()) for mask in result.unit_masks.values())
    assert len(set(found.values())) == len(found)


# The rankings


@pytest.mark.parametrize("network", SIZES)
@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_weight_removes_the_smallest_of_each_layer(network: str, criterion: str) -> None:
    base = build(network)
    masks = pruned(base, "weight", criterion, 70).unit_masks
    for name, layer in weighted(base).items():
        magnitudes = np.abs(layer.weight.detach().numpy()).ravel()
        expected = np.ones(magnitudes.size)
        expected[np.argsort(magnitudes, kind="stable")[: round(0.7 * magnitudes.size)]] = 0
        assert np.array_equal(masks[name].numpy().ravel(), expected)


@pytest.mark.parametrize("network", SIZES)
def test_unstructured_removes_the_smallest_of_all(network: str) -> None:
    base = build(network)
    masks = pruned(base, "unstructured", "l1", 70).unit_masks
    magnitudes = np.concatenate([np.abs(layer.weight.detach().numpy()).ravel() for layer in weighted(base).values()])
    flat = np.concatenate([mask.numpy().ravel() for mask in masks.values()])
    gone = np.sort(magnitudes)[: round(0.7 * magnitudes.size)]
    assert np.array_equal(np.sort(magnitudes[flat == 0]), gone)
    shares = {name: (mask == 0).float().mean().item() for name, mask in masks.items()}
    assert max(shares.values()) - min(shares.values()) > 0.1  # the layers do not lose alike


def test_equal_magnitudes_still_give_exactly_the_share() -> None:
    base = build("slp")
    for parameter in base.parameters():
        parameter.data.fill_(0.5)
    for technique in WEIGHT_TECHNIQUES:
        removed, units = pruned(base, technique, "l1", 30).removed
        assert removed == pytest.approx(0.3 * units, abs=1)


def test_threshold_is_a_quantile_of_the_standard_deviation() -> None:
    base = build("cnn")
    for name, layer in weighted(base).items():  # neither normal nor of equal spread
        layer.weight.data.mul_(layer.weight.data.abs().sqrt() * (3 if name == "conv2" else 1))
    for sparsity in (20, 70):
        masks = pruned(base, "weight", "threshold", sparsity).unit_masks
        multiple = statistics.NormalDist().inv_cdf(0.5 + sparsity / 200)
        for name, layer in weighted(base).items():
            weights = layer.weight.detach().numpy()
            expected = np.abs(weights) >= multiple * weights.std(ddof=1)
            assert (masks[name].numpy() != expected).mean() < 1e-3
            assert 0 < expected.mean() < 1


def test_threshold_achieves_the_share_on_normal_weights() -> None:
    base = build("slp", hidden=128)
    generator = torch.Generator().manual_seed(0)
    base.hidden.weight.data.copy_(torch.randn(base.hidden.weight.shape, generator=generator) * 0.03)
    for sparsity in (10, 50, 90):
        mask = pruned(base, "weight", "threshold", sparsity).unit_masks["hidden"]
        assert (mask == 0).float().mean().item() == pytest.approx(sparsity / 100, abs=0.02)


@pytest.mark.parametrize("network", SIZES)
@pytest.mark.parametrize("technique", WEIGHT_TECHNIQUES)
def test_masks_are_nested(network: str, technique: str) -> None:
    base = build(network)
    steps = [pruned(base, technique, "l1", sparsity).unit_masks for sparsity in range(0, 101, 20)]
    for larger, smaller in itertools.pairwise(steps):
        assert all((smaller[name] <= larger[name]).all() for name in larger)
        assert sum(mask.sum() for mask in smaller.values()) < sum(mask.sum() for mask in larger.values())


def group_scores(weight: Tensor, criterion: str) -> Tensor:
    rows = weight.detach().double().flatten(1)
    if criterion == "l1":
        return rows.abs().sum(1)
    if criterion == "l2":
        return rows.square().sum(1).sqrt()
    return torch.tensor([sum((row - other).norm() for other in rows) for row in rows])  # fpgm


@pytest.mark.parametrize("network", SIZES)
@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm"])
def test_structured_removes_the_groups_of_lowest_score(network: str, criterion: str) -> None:
    base = build(network)
    masks = pruned(base, "structured", criterion, 60).unit_masks
    for name, mask in masks.items():
        check_lowest_go(group_scores(weighted(base)[name].weight, criterion), mask)


def test_group_criteria_differ() -> None:
    """A group of small, equal weights, one with a single large weight, and a twin: each criterion has its victim."""
    base = build("slp", hidden=4)
    with torch.no_grad():
        weight = base.hidden.weight
        weight.zero_()
        weight[0] = 0.05  # l1: 3.2, l2: 0.4
        weight[1, 0] = 2.0  # l1: 2.0, l2: 2.0
        weight[2, 1:33] = 3.0
        weight[3, 1:33] = 3.1  # far from the first two, near each other
    victims = {}
    for criterion in ("l1", "l2", "fpgm"):
        mask = pruned(base, "structured", criterion, 25).unit_masks["hidden"]
        victims[criterion] = (mask == 0).nonzero().flatten().tolist()
    assert victims["l1"] == [1]
    assert victims["l2"] == [0]
    assert victims["fpgm"] == [int(group_scores(base.hidden.weight, "fpgm").argmin())]


def taylor_scores(network: nn.Module, batches: Batches, seed: int) -> dict[str, Tensor]:
    """Mean over ten calibration batches of (gradient * weight)^2, in evaluation mode."""
    order = torch.randperm(len(batches), generator=seeded_generator(seed, "pruning criterion"))
    size = min(256, len(batches))
    layers = weighted(network)
    scores = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    for step in range(10):
        start = step * size % (len(batches) - size + 1)
        images, labels = batches.take(order[start : start + size])
        loss = F.cross_entropy(network(images), labels)
        gradients = torch.autograd.grad(loss, [layer.weight for layer in layers.values()])
        for (name, layer), gradient in zip(layers.items(), gradients, strict=True):
            scores[name] += (gradient * layer.weight.detach()).square() / 10
    return scores


@pytest.mark.parametrize("images", [40, 300])
@pytest.mark.parametrize("network", SIZES)
def test_neuron_removes_the_units_that_the_loss_feels_least(network: str, images: int) -> None:
    base, batches = build(network), random_batches(images)
    masks = pruned(base, "neuron", "taylor", 60, seed=3, batches=batches).unit_masks
    scores = taylor_scores(base, batches, seed=3)
    for name, mask in masks.items():
        check_lowest_go(scores[name].flatten(1).sum(1), mask)


@pytest.mark.parametrize("network", SIZES)
def test_unstructured_taylor_removes_the_weights_that_the_loss_feels_least(network: str) -> None:
    base, batches = build(network), random_batches()
    masks = pruned(base, "unstructured", "taylor", 60, batches=batches).unit_masks
    scores = taylor_scores(base, batches, seed=0)
    check_lowest_go(
        torch.cat([scores[name].flatten() for name in masks]), torch.cat([mask.flatten() for mask in masks.values()])
    )


def test_slim_removes_the_channels_of_smallest_scale() -> None:
    base = build("cnn+norm")
    generator = torch.Generator().manual_seed(2)
    small = {}
    for name, norm in NORMS["cnn+norm"].items():
        module = base.get_submodule(norm)
        scale = torch.ones(module.num_features)
        scale[1::2] = -1  # a negative scale counts as much
        order = torch.randperm(module.num_features, generator=generator)
        small[name] = order[: module.num_features // 2]
        scale[small[name]] *= 0.01
        module.weight.data.copy_(scale)
        base.get_submodule(name).weight.data[small[name]] *= 5  # the filters' own norm says the opposite
    masks = pruned(base, "structured", "slim", 50).unit_masks
    for name, mask in masks.items():
        assert sorted((mask == 0).nonzero().flatten().tolist()) == sorted(small[name].tolist())


class Repeated(nn.Module):
    """The second convolution is read by two BatchNorms; layers are given what they take by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2, self.norm3 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.classifier = nn.Linear(4, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        found = F.relu(self.norm1(input=self.conv1(input=images)))
        found = F.relu(self.norm2(input=self.conv2(input=found)))
        found = F.relu(self.norm3(input=self.conv2(input=found)))
        return self.classifier(input=found.mean((2, 3)))


def test_a_layer_is_followed_by_a_batch_norm_where_that_is_so_in_all_of_its_calls() -> None:
    assert normalised_layers(Repeated()) == {"conv1": "norm1"}


class Residual(nn.Module):
    """Two convolutions with BatchNorm meet in a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        first = F.relu(self.norm1(self.conv1(images)))
        return self.classifier(F.relu(self.norm2(self.conv2(first)) + first).mean((2, 3)))


def test_slim_removes_channels_that_meet_in_a_sum_by_the_sum_of_their_scales() -> None:
    base = Residual().eval()
    base.norm1.weight.data = torch.tensor([1, -1, 0.01, 0.01, 0.5, 0.01, 0.3, 0.4])
    base.norm2.weight.data = torch.tensor([1, 0.01, 1, 0.01, 0.01, 0.01, 0.3, 1.0])
    masks = pruned(base, "structured", "slim", 50).unit_masks  # of the sums, each relative to its mean
    assert [mask.tolist() for mask in masks.values()] == [[1, 1, 1, 0, 0, 0, 0, 1]] * 2


@pytest.mark.parametrize("network", SIZES)
def test_lamp_removes_the_lowest_adaptive_magnitudes(network: str) -> None:
    dense = build(network)
    found = pruned(dense, "unstructured", "lamp", 70)
    scores = {}
    for name, layer in weighted(dense).items():
        squares = layer.weight.detach().double().flatten() ** 2
        ordered = squares.sort().values
        no_smaller = ordered.flip(0).cumsum(0).flip(0)  # at a place, the sum of it and what comes after
        scores[name] = squares / no_smaller[torch.searchsorted(ordered, squares)]
    everything = torch.cat([scores[name] for name in found.unit_masks])
    check_lowest_go(everything, torch.cat([mask.flatten() for mask in found.unit_masks.values()]))
    assert all(mask.any() for mask in found.unit_masks.values()), "the largest weight of a layer scores 1"


@pytest.mark.parametrize("network", SIZES)
@pytest.mark.parametrize("criterion", ["apoz", "activation"])
def test_activations_decide_which_units_go(network: str, criterion: str) -> None:
    dense, batches = build(network), random_batches()
    found = pruned(dense, "neuron", criterion, 50, batches=batches)
    values = batches.take(torch.arange(len(batches)))[0]
    outputs: dict[str, Tensor] = {}
    if network == "slp":
        outputs["hidden"] = dense.hidden(values.flatten(1))
    else:
        for name, module in dense.named_children():
            values = module(values)
            if name in ("conv1", "conv2", "fc", "norm1", "norm2"):
                outputs[name.replace("norm", "conv")] = values
    for name, mask in found.unit_masks.items():
        rectified = outputs[name].detach().clamp_min(0)
        scores = (rectified > 0).float() if criterion == "apoz" else rectified
        check_lowest_go(scores.transpose(0, 1).flatten(1).mean(1), mask)


def test_criteria_of_a_technique_do_not_all_agree() -> None:
    base = build("cnn+norm")
    for technique, entry in TECHNIQUES.items():
        criteria = [criterion for criterion in entry.criteria if suits("cnn+norm", technique, criterion)]
        found = {criterion: pruned(base, technique, criterion).unit_masks for criterion in criteria}
        default = found[criteria[0]]
        for criterion in criteria[1:]:
            if (technique, criterion) != ("weight", "l2"):  # of a single weight, l2 is l1
                assert not same_masks(default, found[criterion]), (technique, criterion)
    assert same_masks(pruned(base, "weight", "l1").unit_masks, pruned(base, "weight", "l2").unit_masks)


# Chance


@pytest.mark.parametrize("technique", [name for name, entry in TECHNIQUES.items() if "random" in entry.criteria])
def test_random_is_decided_by_the_seed(technique: str) -> None:
    base = build("cnn")
    first = pruned(base, technique, "random", seed=1).unit_masks
    torch.rand(5)
    assert same_masks(first, pruned(base, technique, "random", seed=1).unit_masks)
    other = pruned(base, technique, "random", seed=2).unit_masks
    assert all(not torch.equal(first[name], other[name]) for name in first)
    # and by nothing else: not by the weights
    assert same_masks(first, pruned(build("cnn", seed=9), technique, "random", seed=1).unit_masks)


@pytest.mark.parametrize("technique", ["neuron", "unstructured"])
def test_taylor_repeats_by_seed_and_looks_at_other_images_by_another(technique: str) -> None:
    base, batches = build("slp"), random_batches(300)
    masks = [pruned(base, technique, "taylor", seed=seed, batches=batches).unit_masks for seed in (1, 1, 2)]
    assert same_masks(masks[0], masks[1])
    assert not same_masks(masks[0], masks[2])


def digest(masks: dict[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name, mask in masks.items():
        content.update(name.encode() + mask.to(torch.uint8).contiguous().numpy().tobytes())
    return content.hexdigest()


HASHED = [
    (technique, criterion)
    for technique, entry in TECHNIQUES.items()
    for criterion in entry.criteria
    if criterion in ("random", "taylor")
]


def digests() -> list[str]:
    return [digest(pruned(build("cnn"), *pair).unit_masks) for pair in HASHED]


SCRIPT = """
import contextlib, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from onnxprune.common.output import logged
log, folder = sys.argv[1:]
sys.path.insert(0, folder)
with logged(Path(log)):
    import test_pruning as tests
    tests.torch.set_num_threads(1)
    found = tests.digests()
with contextlib.redirect_stdout(None):
    tests.pruned(tests.build("cnn"), "structured")  # no error: the log that was closed is not written to
print(hash("a set of strings"), *found)
"""


def test_masks_do_not_depend_on_the_hash_seed_and_nothing_is_printed(tmp_path: Path) -> None:
    """Python orders sets of strings by a seed of its own; two processes that differ in it must prune alike. That of
    the server that processes are forked from is another one."""
    script, log = tmp_path / "script.py", tmp_path / "log.txt"
    script.write_text(SCRIPT)
    run = warm.run(warm.script, [str(script), str(log), str(Path(__file__).parent)], tmp_path, os.environ)
    warned = "both dim0 and dim1 masks found."  # NNI's warning after the block, by Python's last resort
    assert set(run.stderr.splitlines()) <= {warned}
    assert run.returncode == 0
    order, *found = run.stdout.split()
    assert int(order) != hash("a set of strings")
    assert found == digests()
    assert len(set(found)) > 1
    assert all(len(digest) == 64 for digest in found) and len(found) == len(HASHED)
    assert log.stat().st_size > 0  # the chatter went here


@pytest.mark.parametrize("technique", list(TECHNIQUES))
def test_pruning_prints_nothing_where_it_is_logged(
    technique: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.txt"
    capfd.readouterr()
    with logged(log):
        pruned(build("cnn"), technique)
    assert capfd.readouterr() == ("", "")
    if TECHNIQUES[technique].unit == "channel":
        text = log.read_text(encoding="utf-8")
        assert "Start to speedup" in text  # logged
        assert "Filter" in text  # printed


# What cannot be pruned


@pytest.mark.parametrize("technique", CHANNEL_TECHNIQUES)
def test_a_classifier_alone_has_no_units_to_remove(technique: str) -> None:
    with pytest.raises(InputError, match=f"'{technique}' has nothing to prune: .* because they are the model's output"):
        pruned(build("slp", hidden=0), technique)


@pytest.mark.parametrize("technique", WEIGHT_TECHNIQUES)
def test_a_classifier_alone_has_weights_to_remove(technique: str) -> None:
    result = pruned(build("slp", hidden=0), technique, None, 50)
    assert result.removed == (64 * CLASSES // 2, 64 * CLASSES)


@pytest.mark.parametrize("network", ["slp", "cnn"])
def test_slim_needs_batch_norm(network: str) -> None:
    with pytest.raises(InputError, match=r"'slim' needs BatchNorm layers .*--batch-norm"):
        pruned(build(network), "structured", "slim")


class Shortcut(nn.Module):
    """The first convolution is read by its BatchNorm and, past it, by a sum; the second by its BatchNorm alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.classifier = nn.Linear(4 * 64, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        read = self.conv1(images)
        return self.classifier(F.relu(self.norm2(self.conv2(self.norm1(read) + read))).flatten(1))


def test_slim_judges_a_layer_only_if_nothing_passes_its_batch_norm() -> None:
    assert prunable_layers(Shortcut(), request("structured", "slim"), SHAPE) == ["conv2"]
    assert prunable_layers(Shortcut(), request("structured", "l1"), SHAPE) == ["conv1", "conv2"]


@pytest.mark.parametrize("network", ["slp", "cnn"])
@pytest.mark.parametrize("criterion", LAYER_CRITERIA)
def test_only_some_architectures_can_lose_layers(network: str, criterion: str) -> None:
    with pytest.raises(InputError, match="'layer' needs an architecture whose layers can be left out: densenet121"):
        pruned(build(network), "structured", criterion, granularity="layer")


def test_the_classifier_is_pruned_by_weight_only() -> None:
    for technique, entry in TECHNIQUES.items():
        layers = prunable_layers(build("cnn"), request(technique), SHAPE)
        assert ("classifier" in layers) == (entry.unit == "weight")
        assert [name for name in layers if name != "classifier"] == ["conv1", "conv2", "fc"]


# Criteria by name


@pytest.mark.parametrize("technique", list(TECHNIQUES))
def test_each_technique_has_its_criteria(technique: str) -> None:
    accepted = TECHNIQUES[technique].criteria
    assert resolve_criterion(technique, None, "unit") == accepted[0]
    assert set(accepted) <= set(CRITERIA)
    for criterion in CRITERIA:
        if criterion in accepted:
            assert resolve_criterion(technique, criterion.upper(), "unit") == criterion
        else:
            with pytest.raises(InputError) as caught:
                resolve_criterion(technique, criterion, "unit")
            message = str(caught.value)
            assert f"'{technique}' does not accept criterion '{criterion}'" in message
            assert message.endswith(", ".join(accepted))


def test_every_criterion_serves_a_technique() -> None:
    accepted = {criterion for _, entry in (*TECHNIQUES.items(), *SCHEDULES.items()) for criterion in entry.criteria}
    assert set(CRITERIA) == accepted


def test_criteria_of_whole_layers() -> None:
    assert resolve_criterion("structured", None, "layer") == "l1"
    assert resolve_criterion("structured", "magnitude", "layer") == "l1"
    with pytest.raises(InputError, match="of whole layers does not accept criterion 'fpgm': it accepts l1, l2, random"):
        resolve_criterion("structured", "fpgm", "layer")


# DenseNet-121

DENSE_SHAPE = (3, 32, 32)
BLOCKS = (6, 12, 24, 16)


@pytest.fixture(scope="module")
def densenet() -> nn.Module:
    return build("densenet121", shape=DENSE_SHAPE)


@pytest.fixture(scope="module")
def dense_batches() -> Batches:
    return random_batches(8, DENSE_SHAPE)


def dense_reference(network: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """A copy of full size in which no BatchNorm lets anything of a removed channel past."""
    network = copy.deepcopy(network)
    features = network.features

    def silence(norm: nn.BatchNorm2d, keep: Tensor) -> None:
        norm.weight.data[keep == 0] = 0
        norm.bias.data[keep == 0] = 0

    def mask(name: str) -> Tensor:
        whole = torch.ones(network.get_submodule(name).out_channels)
        return masks.get(name, whole)

    start = mask("features.conv0")
    silence(features.norm0, start)
    for number, layers in enumerate(BLOCKS, start=1):
        fed = [start]
        for layer in range(1, layers + 1):
            name = f"features.denseblock{number}.denselayer{layer}"
            dense = network.get_submodule(name)
            silence(dense.norm1, torch.cat(fed))
            silence(dense.norm2, mask(f"{name}.conv1"))
            fed.append(mask(f"{name}.conv2"))
        if number < 4:
            silence(getattr(features, f"transition{number}").norm, torch.cat(fed))
            start = mask(f"features.transition{number}.conv")
        else:
            silence(features.norm5, torch.cat(fed))
    return network


@pytest.mark.slow  # 120 layers; the cnn's are looked at above
@pytest.mark.parametrize(("technique", "criterion"), [("structured", "l1"), ("structured", "slim")])
def test_densenet_shrinks_to_what_is_left_of_it(
    densenet: nn.Module, dense_batches: Batches, technique: str, criterion: str
) -> None:
    result = prune(densenet, request(technique, criterion, 75, channel_align=8), dense_batches, DENSE_SHAPE)
    masks = result.unit_masks
    for name, mask in masks.items():
        units = densenet.get_submodule(name).out_channels
        assert mask.sum() % 8 == 0
        assert abs(int(mask.sum()) - units / 4) < 8
        assert result.network.get_submodule(name).out_channels == mask.sum()
    assert len(masks) == (119 + 1 if criterion == "l1" else 59)
    reference = dense_reference(densenet, masks)
    outputs = logits(result.network, dense_batches)
    torch.testing.assert_close(outputs, logits(reference, dense_batches), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(outputs, logits(densenet, dense_batches), rtol=0.01, atol=0.01)
    assert parameters(result.network) < 0.5 * parameters(densenet)
    assert result.network.classifier.out_features == CLASSES


@pytest.mark.slow
def test_densenet_without_any_unit_is_a_constant(densenet: nn.Module, dense_batches: Batches) -> None:
    result = prune(densenet, request("structured", "l1", 100), dense_batches, DENSE_SHAPE)
    outputs = logits(result.network, dense_batches)
    assert outputs.isfinite().all()
    assert (outputs == outputs[0]).all()
    assert result.removed[0] == result.removed[1] > 10_000


def layer_scores(network: nn.Module, criterion: str) -> dict[str, float]:
    power = {"l1": 1, "l2": 2}[criterion]
    found = {}
    for number, layers in enumerate(BLOCKS, start=1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{number}.denselayer{layer}"
            weights = [network.get_submodule(f"{name}.conv{which}").weight.detach().numpy() for which in (1, 2)]
            found[name] = sum((np.abs(w) ** power).sum() for w in weights) / sum(w.size for w in weights)
    return found


@pytest.mark.parametrize("criterion", ["l1", "l2"])
@pytest.mark.parametrize("sparsity", [0, 30, 75, 100])
def test_layer_granularity_removes_the_weakest_layers(
    densenet: nn.Module, dense_batches: Batches, criterion: str, sparsity: float
) -> None:
    whole = request("structured", criterion, sparsity, granularity="layer")
    result = prune(densenet, whole, dense_batches, DENSE_SHAPE)
    count = round(58 * sparsity / 100)
    assert result.removed == (count, 58)
    scores = layer_scores(densenet, criterion)
    gone = {name for name, mask in result.unit_masks.items() if not mask.any()}
    assert list(result.unit_masks) == list(scores)
    assert len(gone) == count
    assert result.empty_layers == []  # a layer left out blocks nothing
    kept = set(scores) - gone
    if gone and kept:
        assert max(scores[name] for name in gone) <= min(scores[name] for name in kept) * (1 + 1e-5)
    modules = dict(result.network.named_modules())
    assert all((name in modules) == (name in kept) for name in scores)
    silent = {name: torch.zeros(32) for name in (f"{layer}.conv2" for layer in gone)}
    outputs = logits(result.network, dense_batches)
    expected = logits(dense_reference(densenet, silent), dense_batches)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    assert not result.network.training
    if sparsity == 0:
        assert torch.equal(outputs, logits(densenet, dense_batches))


def test_random_layers_are_decided_by_the_seed(densenet: nn.Module, dense_batches: Batches) -> None:
    gone = []
    for seed in (1, 1, 2):
        chance = request("structured", "random", 50, granularity="layer", seed=seed)
        masks = prune(densenet, chance, dense_batches, DENSE_SHAPE).unit_masks
        gone.append([name for name, mask in masks.items() if not mask.any()])
    assert gone[0] == gone[1] != gone[2]
    assert [len(names) for names in gone] == [29, 29, 29]


# Every model of the registry


@pytest.mark.parametrize("technique", list(TECHNIQUES))
@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if not entry.removable_layers])
def test_every_model_can_be_pruned_by_every_technique(name: str, technique: str) -> None:
    """Those that can lose layers have tests of their own above."""
    side = max(8, MODELS[name].minimum_size)
    shape = (3, side, side)
    base, batches = build(name, shape=shape), random_batches(16, shape)
    result = prune(base, request(technique, None, 50, channel_align=8), batches, shape)
    removed, units = result.removed
    assert removed == pytest.approx(units / 2, rel=0.1)
    assert logits(result.network, batches).shape == (16, CLASSES)
    assert not torch.equal(logits(result.network, batches), logits(base, batches))


class Auxiliary(nn.Module):
    """Two layers that no file has: of one only training asks, and nothing of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.unused = nn.Linear(64, 8), nn.Linear(64, 64)
        self.auxiliary, self.last = nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        found = torch.relu(self.first(images.flatten(1)))
        answers: Tensor = self.last(found)
        return answers + self.auxiliary(found) if self.training else answers


@pytest.mark.parametrize("technique", ["weight", "unstructured"])
def test_weights_that_the_file_does_not_have_neither_go_nor_count(technique: str) -> None:
    network, batches = Auxiliary().eval(), random_batches()
    masks = decide(network, request(technique), batches)
    assert {name: mask.numel() for name, mask in masks.items()} == {"first": 64 * 8, "last": 8 * CLASSES}
    assert sum(int((mask == 0).sum()) for mask in masks.values()) == (64 * 8 + 8 * CLASSES) // 2
    with pytest.raises(InputError, match=r"no layer 'unused' to prune: there are first, last"):
        check(network, request(technique, keep=("unused",)), batches)


def test_gradients_are_of_layers_that_are_called() -> None:
    """The projection of an attention of PyTorch's own is not: its weights are read past it."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.last = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            rows = images.flatten(1, 2)
            return self.last(self.attention(rows, rows, rows)[0].mean(1))

    network, batches = Attention().eval(), random_batches()
    with pytest.raises(InputError, match=r"'attention\.out_proj' is not: use another criterion, or --keep"):
        check(network, request("unstructured", "taylor"), batches)
    check(network, request("unstructured", "taylor", keep=("attention.out_proj",)), batches)
    check(network, request("unstructured"), batches)
    masks = decide(network, request("unstructured"), batches)
    assert sum(int((mask == 0).sum()) for mask in masks.values()) == (8 * 8 + 8 * CLASSES) // 2


def test_activations_are_of_layers_that_are_called() -> None:
    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(64, 8), nn.Linear(8, 6), nn.Linear(6, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            found = torch.relu(self.first(images.flatten(1)))
            return self.last(torch.relu(nn.functional.linear(found, self.second.weight, self.second.bias)))

    network, batches = Past().eval(), random_batches()
    for criterion in ("activation", "apoz", "taylor"):
        with pytest.raises(InputError, match=rf"'{criterion}' looks at layers that are called, and 'second' is not"):
            check(network, request("neuron", criterion), batches)
        kept = decide(network, request("neuron", criterion, keep=("second",)), batches)
        assert {name: int(mask.sum()) for name, mask in kept.items()} == {"first": 4}
    for criterion in ("l1", "l2", "fpgm", "random", "obs"):
        check(network, request("structured", criterion), batches)
        masks = decide(network, request("structured", criterion), batches)
        assert {name: int(mask.sum()) for name, mask in masks.items()} == {"first": 4, "second": 3}


def test_units_that_random_images_leave_silent_stay() -> None:
    """NNI looks for dead units with random images; one that only real images rouse is none."""
    base = build("slp")
    with torch.no_grad():
        base.hidden.weight[5] = 1
        base.hidden.bias[5] = -60  # of 64 pixels' sum
    result = pruned(base, "structured", "l1", 50)
    assert result.unit_masks["hidden"][5] == 1
    white = torch.full((2, *SHAPE), 2.0)
    with torch.no_grad():
        expected = zero_removed(base, result.unit_masks, {})(white)
        torch.testing.assert_close(result.network(white), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("technique", list(TECHNIQUES))
def test_a_trained_network_is_pruned_as_its_copy_in_plain_memory_layout(technique: str) -> None:
    """Training leaves weights channels last, of which NNI cannot take the views it needs."""
    base = build("cnn")
    train(base, random_batches(), Recipe(1, 16, 0.05, frozenset(), 16, 0))
    assert base.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    plain = copy.deepcopy(base).to(memory_format=torch.contiguous_format)
    results = [pruned(network, technique) for network in (base, plain)]
    assert same_masks(results[0].unit_masks, results[1].unit_masks)
    torch.testing.assert_close(logits(results[0].network), logits(results[1].network))
    assert base.conv2.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("technique", list(TECHNIQUES))
def test_a_pruned_network_can_be_fine_tuned_and_keeps_its_masks(technique: str) -> None:
    result = pruned(build("cnn+norm"), technique)
    before = {name: tensor.clone() for name, tensor in result.network.named_parameters()}
    cost = train(result.network, random_batches(), Recipe(12, 16, 0.02, frozenset(), 16, 0), masks=result.held)
    assert cost.epoch_losses[-1] < 0.8 * cost.epoch_losses[0]
    after = dict(result.network.named_parameters())
    assert all(not torch.equal(after[name], before[name]) for name in before)
    assert all((after[name][mask == 0] == 0).all() for name, mask in result.held.items())


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_lack_of_memory_is_not_taken_for_a_network_that_cannot_be_shrunk(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be shrunk in another way then, and give another row."""

    def fail(*arguments: object, **how: object) -> None:
        raise error

    monkeypatch.setattr("onnxprune.pruning.remove.ModelSpeedup", fail)
    with pytest.raises(type(error)):
        pruned(build("cnn"), "structured")


class _Skipping(nn.Module):
    """Skips a block by chance while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(SHAPE[1] * SHAPE[2], 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        found = self.first(images.flatten(1))
        return self.last(found if self.training and random.random() < 0.5 else found + self.block(found))


def test_what_is_left_to_chance_in_training_is_left_to_it_still() -> None:
    """A trace of one way would be the way of all training; whether it is taken was decided by chance itself."""
    network = _Skipping()
    for seed in range(4):
        random.seed(seed)
        result = pruned(network, "structured")
        assert result.in_file
        assert len({logits(result.network.train()).sum().item() for _ in range(20)}) == 2
