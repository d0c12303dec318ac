"""Layers that are coupled: what is asked for, what the masks say, and what the exported file lacks are one.

The reference is the network of full size, in which the masked units are zeroed by hand, with everything that would make
them something else than zero again; it shares no code with the package.
"""

import copy
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import CLASSES, SHAPE, build, logits, random_batches, request
from one_call import prune
from structures import STRUCTURES
from torch import Tensor, nn

from onnxprune.bridge import coupling as coupling_module
from onnxprune.bridge.coupling import coupling, cut, exported_parameters
from onnxprune.bridge.export import export
from onnxprune.common.errors import InputError
from onnxprune.graph.elimination import eliminate_dead_units
from onnxprune.models import MODELS
from onnxprune.pruning.decide import shuffled
from onnxprune.pruning.layers import prunable_layers
from onnxprune.pruning.remove import Pruned, zeroed
from onnxprune.settings.sweep import Sweep
from onnxprune.settings.vocabulary import TECHNIQUES
from onnxprune.study.feasibility import check_prunable
from onnxprune.study.jobs import Materials

CHANNEL_TECHNIQUES = [name for name, technique in TECHNIQUES.items() if technique.unit == "channel"]

# layers whose outputs go together, index by index; written down by hand
SUMS = {
    "residual": [
        ["stem", "stage1.0.conv2", "stage1.1.conv2"],
        ["stage1.0.conv1"],
        ["stage1.1.conv1"],
        ["stage2.0.conv1"],
        ["stage2.0.conv2", "stage2.0.shortcut", "stage2.1.conv2"],
        ["stage2.1.conv1"],
        ["fc"],
    ],
    "separable": [["features.0", "features.3"], ["features.6", "features.9"], ["features.12"]],
    "mixer": [[f"blocks.{block}.{part}.0"] for block in (0, 1) for part in ("tokens", "channels")],
    "transformer": [
        [f"blocks.{block}.{name}" for name in names]
        for block in (0, 1)
        for names in (("query", "key"), ("value",), ("expand",))
    ],
    "twice": [["stem", "outer"], ["inner"]],
    "gated": [["first", "second"]],
}
NORMS = {  # BatchNorm -> the layer that it normalises
    "residual": {
        **{
            f"stage{stage}.{block}.norm{number}": f"stage{stage}.{block}.conv{number}"
            for stage in (1, 2)
            for block in (0, 1)
            for number in (1, 2)
        },
        "norm": "fc",
    },
    "separable": {f"features.{place + 1}": f"features.{place}" for place in (0, 3, 6, 9, 12)},
}


def network_of(name: str) -> nn.Module:
    """With BatchNorms as after training."""
    if name in MODELS:
        return build(name, shape=shape_of(name))
    torch.manual_seed(3)
    network = STRUCTURES[name](SHAPE, CLASSES).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return network


def shape_of(name: str) -> tuple[int, int, int]:
    size = max(8, MODELS[name].minimum_size) if name in MODELS else 8
    return (1, size, size)


def masked(network: nn.Module, masks: dict[str, Tensor], norms: dict[str, str]) -> nn.Module:
    """A copy of full size in which the removed outputs are 0, after their BatchNorms too."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for name, layer in [*((name, name) for name in masks), *norms.items()]:
            for parameter in network.get_submodule(name).parameters():
                parameter[masks[layer] == 0] = 0
    return network


def without_weights(network: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """A copy in which the removed weights are 0."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for layer, mask in masks.items():
            network.get_submodule(layer).weight.mul_(mask)
    return network


def file_of(result: Pruned, path: Path, shape: tuple[int, int, int]) -> Path:
    if result.in_file:
        cut(result.network, shape, result.unit_masks).shrunk.save(path)
    else:
        export(result.network, path, shape)
    return path


def run(path: Path, images: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images.numpy()})[0]


def parameters(path: Path) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in onnx.load(path).graph.initializer)


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_units_that_meet_are_one_group(name: str) -> None:
    found = coupling(network_of(name), SHAPE)
    assert [list(group.layers) for group in found.groups] == SUMS[name]
    head = "logits" if name == "separable" else "head"
    assert "model's output" in found.frozen[head]


def in_all_ways(names: Iterable[str]) -> list[Any]:
    """Each network by each technique, at 0, 50, 90 and 100 %."""
    quick = {("unstructured", 0), ("unstructured", 50), ("unstructured", 100)}
    quick |= {("structured", 0), ("structured", 50), ("structured", 100), ("neuron", 50)}
    return [
        # seconds for all: 90 % tells what 50 % does, and techniques of the same unit differ in their rankings alone
        pytest.param(*way, marks=() if way[1:] in quick and way[0] != "densenet121" else pytest.mark.slow)
        for way in itertools.product(names, TECHNIQUES, (0, 50, 90, 100))
    ]


@pytest.mark.parametrize(("name", "technique", "sparsity"), in_all_ways(STRUCTURES))
def test_asked_recorded_and_removed_are_one(name: str, technique: str, sparsity: float, tmp_path: Path) -> None:
    network, batches = network_of(name), random_batches(16)
    result = prune(network, request(technique, None, sparsity, channel_align=8), batches, SHAPE)
    images = batches.take(torch.arange(16))[0]
    path = file_of(result, tmp_path / "model.onnx", SHAPE)
    masks = result.unit_masks
    if TECHNIQUES[technique].unit == "weight":
        removed, units = result.removed
        assert removed == pytest.approx(units * sparsity / 100, abs=len(masks))
        reference = without_weights(network, masks)
    else:
        assert set(masks) == {layer for layers in SUMS[name] for layer in layers}
        for first, *others in SUMS[name]:
            heads = 4 if first.endswith(("query", "value")) else 1
            assert int(masks[first].sum()) % heads == 0
            assert all(torch.equal(masks[other], masks[first]) for other in others)
        removed, units = result.removed
        assert 100 * removed / units == pytest.approx(sparsity, abs=0 if sparsity in (0, 100) else 6)
        reference = masked(network, masks, NORMS.get(name, {}))
    expected = logits(reference, batches).numpy()
    np.testing.assert_allclose(run(path, images), expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))
    before = run(path, images)
    eliminate_dead_units(path, 8)  # as files are written
    np.testing.assert_allclose(run(path, images), before, rtol=1e-5, atol=1e-5 * max(1, np.abs(before).max()))
    if TECHNIQUES[technique].unit == "channel" and sparsity:
        export(network, tmp_path / "whole.onnx", SHAPE)
        assert parameters(path) < parameters(tmp_path / "whole.onnx")


@pytest.mark.parametrize(("name", "technique", "sparsity"), in_all_ways(MODELS))
def test_every_registered_model_loses_what_its_masks_say(
    name: str, technique: str, sparsity: float, tmp_path: Path
) -> None:
    network, shape = network_of(name), shape_of(name)
    batches, wanted = random_batches(8, shape), request(technique, None, sparsity, channel_align=8)
    result = prune(network, wanted, batches, shape)
    masks = result.unit_masks
    if TECHNIQUES[technique].unit == "weight":
        removed, units = result.removed
        assert removed == pytest.approx(units * sparsity / 100, abs=len(masks))
        reference = without_weights(network, masks)
    else:
        removed, units = result.removed
        assert 100 * removed / units == pytest.approx(sparsity, abs=0.5)
        for layer, mask in masks.items():
            dense = isinstance(network.get_submodule(layer), nn.Linear)
            assert dense or int(mask.sum()) % 8 == 0 or int(mask.sum()) in (1, 2, 4) or len(mask) < 32, layer
        reference = zeroed(network, wanted, masks, shape)
    path = file_of(result, tmp_path / "model.onnx", shape)
    expected = logits(reference, batches).numpy()
    found = run(path, batches.take(torch.arange(8))[0])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("name", ["residual", "separable"])
def test_zeroed_in_place_is_what_the_file_computes(name: str, tmp_path: Path) -> None:
    network, batches = network_of(name), random_batches(16)
    wanted = request("structured", None, 50)
    result = prune(network, wanted, batches, SHAPE)
    path = file_of(result, tmp_path / "model.onnx", SHAPE)
    whole = zeroed(network, wanted, result.unit_masks, SHAPE)
    expected = logits(whole, batches).numpy()
    np.testing.assert_allclose(expected, logits(masked(network, result.unit_masks, NORMS[name]), batches), atol=1e-6)
    found = run(path, batches.take(torch.arange(16))[0])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("criterion", ["l1", "l2"])
def test_the_lowest_sum_of_scores_goes(criterion: str) -> None:
    network = network_of("residual")
    masks = prune(network, request("structured", criterion, 50), random_batches(8), SHAPE).unit_masks
    for layers in SUMS["residual"]:
        total = torch.zeros(len(masks[layers[0]]))
        for layer in layers:
            rows = network.get_submodule(layer).weight.detach().flatten(1)
            scores = rows.abs().sum(1) if criterion == "l1" else rows.square().sum(1).sqrt()
            total += scores / scores.mean()
        kept = masks[layers[0]].bool()
        assert total[~kept].max() <= total[kept].min() + 1e-5


class Normed(nn.Module):
    """All units meet in LayerNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(64, 16), nn.LayerNorm(16), nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.norm(self.first(images.flatten(1))))


@pytest.mark.parametrize("technique", CHANNEL_TECHNIQUES)
def test_a_network_without_removable_units_is_refused_in_one_line(technique: str) -> None:
    with pytest.raises(InputError, match=r"nothing to prune: all units have to stay.*LayerNormalization") as caught:
        prune(Normed(), request(technique), random_batches(8), SHAPE)
    assert "\n" not in str(caught.value)


class ReadByOthers(nn.Module):
    """One linear layer, which a recurrent one reads: the classes are the units of that."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.GRU(16, CLASSES, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        answers: Tensor = self.last(torch.relu(self.first(images[:, 0])))[0]
        return answers[:, -1]


@pytest.mark.parametrize("technique", CHANNEL_TECHNIQUES)
def test_a_layer_that_is_alone_is_pruned_where_its_units_are_not_the_classes(technique: str) -> None:
    found = prune(ReadByOthers(), request(technique), random_batches(8), SHAPE)
    assert found.removed == (8, 16)


class Alike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(8, 16), nn.BatchNorm1d(8)
        self.next, self.last = nn.LSTM(16, 8, batch_first=True), nn.Linear(8, CLASSES)
        self.register_forward_hook(unchanged)

    def forward(self, images: Tensor) -> Tensor:
        found = self.next(torch.relu(self.norm(self.first(images[:, 0]))))[0][:, -1]
        answers: Tensor = self.last(found)
        return answers


def unchanged(_: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output


class Ordered(nn.Module):
    """Two layers whose sum, order of channels and function are attributes that nothing shows."""

    def __init__(
        self, residual: bool = False, order: tuple[int, ...] = (0, 1, 2, 3), function: Any = torch.relu
    ) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)
        self.last = nn.Linear(4, CLASSES)
        self.residual, self.function = residual, function
        self.register_buffer("order", torch.tensor(order))

    def forward(self, images: Tensor) -> Tensor:
        first = torch.relu(self.first(images))
        second = self.function(self.second(first))
        answers: Tensor = self.last((first[:, self.order] + second if self.residual else second).mean((2, 3)))
        return answers


def test_networks_that_look_alike_have_their_own_units() -> None:
    def units(network: nn.Module) -> dict[str, list[int]]:
        return {name: found.tolist() for name, found in coupling(network, SHAPE).outputs.items()}

    assert units(Ordered()) == {"first": [1, 2, 3, 4], "second": [5, 6, 7, 8]}
    assert units(Ordered(True)) == {"first": [1, 2, 3, 4], "second": [1, 2, 3, 4]}
    assert units(Ordered(True, (1, 0, 3, 2))) == {"first": [1, 2, 3, 4], "second": [2, 1, 4, 3]}
    scaled = Ordered(function=lambda values: values * torch.arange(4.0).view(-1, 1, 1))
    assert units(scaled) == {"first": [1, 2, 3, 4]}  # a constant that is no parameter would bring the others back
    assert coupling(copy.deepcopy(scaled).train(), SHAPE) is coupling(scaled, SHAPE)


def test_networks_that_are_alike_are_exported_once() -> None:
    """With other weights and numbers of hooks, statistics after training, and a recurrent layer too."""
    first, second = Alike(), Alike()
    with torch.no_grad():
        second.train()(torch.rand(4, *SHAPE))
    assert coupling(second, SHAPE) is coupling(first, SHAPE)
    assert exported_parameters(second, SHAPE) is exported_parameters(first, SHAPE)


def test_one_export_tells_units_and_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the default plan, whose first technique takes single weights, too."""
    exports = []
    real = coupling_module._export_named

    def counted(network: nn.Module, *how: Any) -> None:
        exports.append(type(network).__name__)
        real(network, *how)

    monkeypatch.setattr(coupling_module, "_export_named", counted)
    monkeypatch.setattr(coupling_module, "_known", {})
    network = Ordered()
    prunable_layers(network, request("structured", sparsity=50), SHAPE)
    assert exports == ["Ordered"]
    assert exported_parameters(network, SHAPE) == {name for name, _ in network.named_parameters()}
    exports.clear()
    plan = Sweep.parse({"model": "slp", "dataset": "digits", "sparsity": 50})
    assert {point.technique for point in plan.points} == {"weight", "neuron", "structured", "unstructured"}
    check_prunable(plan.points, Materials(None, stand_ins=True))
    assert len(exports) == 1


class Stays(nn.Module):
    """Layers that keep their units, each for a reason of its own, before classes that are followed by a log-softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.first, self.norm = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 8, 1), nn.GroupNorm(1, 8)
        self.depthwise, self.product = nn.Conv2d(8, 8, 1, groups=8), nn.Linear(8, 6)
        self.last, self.training_only = nn.Linear(6, CLASSES), nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        places = torch.relu(self.depthwise(self.norm(self.first(self.one(images))))).mean((2, 3))
        found = torch.relu(torch.einsum("nc,kc->nk", places, self.product.weight))
        answers = self.last(found) + self.training_only(found) if self.training else self.last(found)
        return answers.log_softmax(1)


def test_why_layers_keep_their_units_and_which_of_them_gives_the_classes() -> None:
    found = coupling(Stays().eval(), SHAPE)
    assert found.frozen == {
        "one": "a single unit has to stay",
        "first": "its channels are on an axis that the operator mixes",
        "depthwise": "each goes with an input channel, and those stay",
        "product": "they are not followed through Einsum",
        "last": "LogSoftmax looks across them",
        "training_only": "the exported file does not have them",
    }
    assert found.heads == ("last",)


class Joined(nn.Module):
    """A BatchNorm that reads two layers, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1)
        self.norm, self.last = nn.BatchNorm2d(8), nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.norm(torch.cat([self.first(images), self.second(images)], 1)).mean((2, 3)))


def test_a_layer_that_loses_everything_leaves_its_neighbours_batch_norm_alone() -> None:
    network = Joined().eval()
    network.norm.weight.data = torch.arange(8) + 2.0
    result = prune(network, request("structured", None, 0, shares={"first": 1.0}), random_batches(8), SHAPE)
    assert result.network.norm.weight.tolist() == [0, 6, 7, 8, 9]


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_chance_takes_as_many_of_each_group_and_keeps_what_is_coupled_together(name: str) -> None:
    network = network_of(name)
    masks = prune(network, request("structured", None, 50), random_batches(8), SHAPE).unit_masks
    other = shuffled(network, masks, SHAPE, torch.Generator().manual_seed(1))
    assert list(other) == list(masks)
    assert any(not torch.equal(other[layer], masks[layer]) for layer in masks)
    for first, *others in SUMS[name]:
        assert other[first].sum() == masks[first].sum()
        assert all(torch.equal(other[layer], other[first]) for layer in others)
