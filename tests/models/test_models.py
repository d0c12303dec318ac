"""The networks: shapes, sizes, reproducible weights, and dense layers left out."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace
from torch.utils.flop_counter import FlopCounterMode

from onnxprune.common.torchvision import torchvision_module
from onnxprune.models import MODELS
from onnxprune.models.densenet import removable_layers, remove_layers

IMAGENET_BLOCKS = (6, 12, 24, 16)


def size_of(name: str) -> int:
    """The least height and width that suits the model, and pooling."""
    return max(8, MODELS[name].minimum_size)


def build(name: str, channels: int = 1, classes: int = 10, seed: int = 0, **options: object) -> nn.Module:
    return MODELS[name].build((channels, size_of(name), size_of(name)), classes, seed, **options).eval()


def images(name: str, channels: int = 1, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, channels, size_of(name), size_of(name), generator=generator)


def macs(network: nn.Module, shape: tuple[int, int, int]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, *shape))
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    return flops // 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(MODELS))
def test_maps_images_to_logits_through_a_last_layer_named_classifier(name: str, channels: int) -> None:
    network = build(name, channels, classes=7)
    batch = images(name, channels)
    with torch.no_grad():
        logits = network(batch)
        other = network(torch.zeros_like(batch))
    assert logits.shape == (2, 7)
    assert not torch.equal(logits[0], logits[1])
    assert not torch.equal(logits, other)
    weighted = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert weighted[-1] == "classifier"
    assert isinstance(network.classifier, nn.Linear)
    assert network.classifier.out_features == 7


@pytest.mark.parametrize("name", list(MODELS))
def test_torch_fx_traces_it_to_the_same_function(name: str) -> None:
    network = build(name)
    traced = symbolic_trace(network)
    assert any(node.op == "call_module" and node.target == "classifier" for node in traced.graph.nodes)
    batch = images(name)
    with torch.no_grad():
        assert torch.equal(traced(batch), network(batch))


@pytest.mark.parametrize("name", list(MODELS))
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    first = build(name, seed=3).state_dict()
    torch.rand(17)  # the state of the global generator must not matter
    again = build(name, seed=3).state_dict()
    other = build(name, seed=4).state_dict()
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    weights = [key for key, tensor in first.items() if key.endswith("weight") and tensor.dim() > 1]
    assert weights
    for key in weights:
        assert not torch.equal(first[key], other[key]), key


@pytest.mark.parametrize("name", list(MODELS))
def test_what_the_registry_says_without_torch_is_true(name: str) -> None:
    network = build(name)
    normalised = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert normalised == MODELS[name].batch_norm
    assert bool(removable_layers(network)) == MODELS[name].removable_layers
    assert MODELS[name].micro_batch >= 1


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("slp", (1, 28, 28), 784 * 128 + 128 * 10),
        ("cnn", (1, 28, 28), 4_241_152),
        ("densenet121", (3, 32, 32), 57_829_376),
    ],
)
def test_multiply_accumulates(name: str, shape: tuple[int, int, int], expected: int) -> None:
    assert macs(MODELS[name].build(shape, 10, 0), shape) == expected


def test_slp_hidden_units_are_an_option() -> None:
    layers = [module for module in build("slp", hidden=17).modules() if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(64, 17), (17, 10)]


def test_slp_without_hidden_units_is_one_linear_layer() -> None:
    network = build("slp", hidden=0)
    assert [name for name, _ in network.named_parameters()] == ["classifier.weight", "classifier.bias"]
    batch = images("slp")
    expected = batch.reshape(2, 64) @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(batch), expected)


def test_slp_rectifies_its_hidden_units() -> None:
    network = build("slp")
    batch = images("slp")
    hidden = (batch.reshape(2, 64) @ network.hidden.weight.T + network.hidden.bias).clamp(min=0)
    expected = hidden @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(batch), expected)


def test_cnn_batch_norm_follows_each_convolution_and_replaces_its_bias() -> None:
    plain, normalised = build("cnn"), build("cnn", batch_norm=True)
    kinds = [type(module).__name__ for module in normalised]
    assert kinds[:2] == ["Conv2d", "BatchNorm2d"]
    assert kinds.count("BatchNorm2d") == kinds.count("Conv2d") == 2
    assert [type(module).__name__ for module in plain] == [kind for kind in kinds if kind != "BatchNorm2d"]
    for name in ("conv1", "conv2"):
        assert normalised.get_submodule(name).bias is None
        assert plain.get_submodule(name).bias is not None
        index = list(dict(normalised.named_children())).index(name)
        assert normalised[index + 1].num_features == normalised[index].out_channels


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 8), ("small", 32)])
def test_densenet_stem_decides_the_size_of_the_first_block(stem: str, side: int) -> None:
    network = build("densenet121", 3, stem=stem)
    seen = []
    network.features.denseblock1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    with torch.no_grad():
        logits = network(images("densenet121", 3))
    assert seen == [(2, 64, side, side)]
    assert logits.shape == (2, 10)
    assert hasattr(network.features, "pool0") == (stem == "imagenet")


def test_densenet_is_the_published_one() -> None:
    """At 3 channels and 1000 classes its parameters are those of torchvision's network."""
    ours = MODELS["densenet121"].build((3, 32, 32), 1000, 0)
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    with torch.device("meta"):
        reference = torchvision_module().models.densenet121()
    assert shapes == {name: tensor.shape for name, tensor in reference.state_dict().items()}
    assert sum(parameter.numel() for parameter in ours.parameters()) == 7_978_856


def test_torchvision_is_whole_and_the_same_each_time() -> None:
    library = torchvision_module()
    assert callable(library.models.densenet121)
    assert issubclass(library.datasets.FashionMNIST, torch.utils.data.Dataset)
    assert torchvision_module() is library


@pytest.fixture(scope="module")
def densenet() -> nn.Module:
    """With BatchNorms as after training: no scale is 1 and no shift, mean or variance is a default."""
    network = build("densenet121", 3)
    generator = torch.Generator().manual_seed(11)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network


def masked_out(network: nn.Module, removed: set[str]) -> nn.Module:
    """A copy of full size in which nothing of the removed layers' outputs gets past the BatchNorms that read it."""
    network = copy.deepcopy(network)
    features = network.features
    with torch.no_grad():
        for number, layers in enumerate(IMAGENET_BLOCKS, start=1):
            block = getattr(features, f"denseblock{number}")
            start = block.denselayer1.norm1.num_features
            last = getattr(features, f"transition{number}").norm if number < 4 else features.norm5
            for layer in range(1, layers + 1):
                if f"features.denseblock{number}.denselayer{layer}" not in removed:
                    continue
                block[f"denselayer{layer}"].conv2.weight.zero_()
                fed = slice(start + 32 * (layer - 1), start + 32 * layer)
                readers = [block[f"denselayer{later}"].norm1 for later in range(layer + 1, layers + 1)]
                for norm in [*readers, last]:
                    norm.weight[fed] = 0
                    norm.bias[fed] = 0
    return network


def test_densenet_has_58_removable_layers(densenet: nn.Module) -> None:
    expected = [
        f"features.denseblock{number}.denselayer{layer}"
        for number, layers in enumerate(IMAGENET_BLOCKS, start=1)
        for layer in range(1, layers + 1)
    ]
    assert len(expected) == 58
    assert removable_layers(densenet) == expected


def test_removing_no_layer_changes_nothing(densenet: nn.Module) -> None:
    network = copy.deepcopy(densenet)
    remove_layers(network, set())
    batch = images("densenet121", 3)
    with torch.no_grad():
        assert torch.equal(network(batch), densenet(batch))
    assert len(removable_layers(network)) == 58


REMOVALS = {
    "first": {"features.denseblock1.denselayer1"},
    "last": {"features.denseblock4.denselayer16"},
    "whole block": {f"features.denseblock2.denselayer{layer}" for layer in range(1, 13)},
    "here and there": {
        f"features.denseblock{block}.denselayer{layer}"
        for block, layer in [(1, 2), (1, 6), (2, 1), (2, 12), (3, 5), (3, 6), (3, 24), (4, 1), (4, 9)]
    },
}


@pytest.mark.parametrize("removed", REMOVALS.values(), ids=REMOVALS.keys())
def test_removing_layers_is_masking_their_outputs(densenet: nn.Module, removed: set[str]) -> None:
    network = copy.deepcopy(densenet)
    remove_layers(network, removed)
    batch = images("densenet121", 3)
    with torch.no_grad():
        expected = masked_out(densenet, removed)(batch)
        torch.testing.assert_close(network(batch), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(expected, densenet(batch), rtol=1e-3, atol=1e-3)  # the layers mattered
    assert set(removable_layers(network)) == set(removable_layers(densenet)) - removed
    sizes = [sum(parameter.numel() for parameter in net.parameters()) for net in (network, densenet)]
    assert sizes[0] < sizes[1]


def test_removing_all_layers_leaves_a_network_that_trains(densenet: nn.Module) -> None:
    network = copy.deepcopy(densenet)
    remove_layers(network, set(removable_layers(network)))
    assert removable_layers(network) == []
    network.train()(images("densenet121", 3)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
