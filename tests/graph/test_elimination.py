"""Dead structure elimination: the file computes what it did, with less."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import build
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from onnxprune.bridge.export import export
from onnxprune.graph.counting import count
from onnxprune.graph.elimination import eliminate_dead_units, nonzero_numbers
from onnxprune.models.densenet import removable_layers, remove_layers

NETWORKS = ["slp", "cnn", "cnn+norm", "dense", "densenet121"]
# 120 layers take seconds each time
SMALL = [pytest.param(name, marks=pytest.mark.slow if name == "densenet121" else ()) for name in NETWORKS]


def shape_of(name: str) -> tuple[int, int, int]:
    return (3, 32, 32) if name.startswith("dense") else (1, 8, 8)


def network_of(name: str) -> nn.Module:
    """The network; "dense" is a DenseNet-121 of two layers a block."""
    if name != "dense":
        return build(name, shape=shape_of(name))
    network = build("densenet121", shape=shape_of(name))
    first = ("denselayer1", "denselayer2")
    remove_layers(network, {layer for layer in removable_layers(network) if not layer.endswith(first)})
    return network


def answers(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    images = np.random.default_rng(0).normal(size=(8, *shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    return np.asarray(found)


def thinned(name: str, share: float) -> nn.Module:
    """The network with a share of its weights at zero, the smallest of all, as pruning leaves it."""
    network = network_of(name)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in layers:
            # some units much smaller than others, as training leaves them
            layer.weight.mul_(torch.rand(len(layer.weight), *[1] * (layer.weight.dim() - 1), generator=generator) ** 4)
            flat = layer.weight.flatten()
            flat[flat.abs().argsort()[: round(share * flat.numel())]] = 0
            layer.weight.copy_(flat.view_as(layer.weight))
    return network


def exported(network: nn.Module, path: Path, shape: tuple[int, int, int]) -> Path:
    export(network, path, shape)
    return path


@pytest.mark.parametrize(
    ("name", "share"),
    [pytest.param(*name.values, share, marks=name.marks) for name in SMALL for share in (0.9, 0.99, 1.0)],
)
def test_the_answers_stay_and_the_file_shrinks(name: str, share: float, tmp_path: Path) -> None:
    path = exported(thinned(name, share), tmp_path / "model.onnx", shape_of(name))
    before, dense = answers(path, shape_of(name)), count(path)
    removed = eliminate_dead_units(path)
    assert removed > 0
    after, now = answers(path, shape_of(name)), count(path)
    assert np.abs(after - before).max() <= 1e-5 * max(1, np.abs(before).max())
    assert now.macs < dense.macs
    assert now.file_bytes < dense.file_bytes
    assert now.complete
    assert eliminate_dead_units(path) == 0, "a second time finds more"


@pytest.mark.parametrize("name", SMALL)
def test_of_nothing_but_zeros_the_constant_is_left(name: str, tmp_path: Path) -> None:
    path = exported(thinned(name, 1.0), tmp_path / "model.onnx", shape_of(name))
    eliminate_dead_units(path)
    after = answers(path, shape_of(name))
    assert (after == after[0]).all()
    for tensor in onnx.load(path).graph.initializer:
        if tensor.name.endswith("weight") and len(tensor.dims) > 1:
            assert tensor.dims[0] == (4 if tensor.name.startswith("classifier") else 1), tensor.name


@pytest.mark.parametrize("name", SMALL)
def test_a_file_without_dead_units_is_not_touched(name: str, tmp_path: Path) -> None:
    path = exported(network_of(name), tmp_path / "model.onnx", shape_of(name))
    before = path.read_bytes()
    assert eliminate_dead_units(path) == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize(("alive", "align", "kept"), [(33, 16, 48), (33, 1, 33), (5, 16, 8), (3, 16, 4), (9, 16, 16)])
def test_what_is_left_of_a_convolution_is_aligned(alive: int, align: int, kept: int, tmp_path: Path) -> None:
    network = build("cnn", shape=(1, 8, 8))
    with torch.no_grad():
        network.conv2.weight[alive:] = 0
    path = exported(network, tmp_path / "model.onnx", (1, 8, 8))
    before = answers(path, (1, 8, 8))
    assert eliminate_dead_units(path, align) == 64 - kept
    np.testing.assert_allclose(answers(path, (1, 8, 8)), before, atol=1e-6)
    weights = {tensor.name: tensor.dims for tensor in onnx.load(path).graph.initializer}
    assert tuple(weights["conv2.weight"]) == (kept, 32, 3, 3)


def test_what_is_left_of_a_matrix_product_has_any_width(tmp_path: Path) -> None:
    network = build("slp", shape=(1, 8, 8), hidden=64)
    with torch.no_grad():
        network.hidden.weight[33:] = 0
    path = exported(network, tmp_path / "model.onnx", (1, 8, 8))
    assert eliminate_dead_units(path, 16) == 64 - 33


def test_a_constant_goes_into_the_bias_of_what_reads_it(tmp_path: Path) -> None:
    """By hand: two units, one without weights and with bias 3, which the classifier reads with weights 2 and -1."""
    network = build("slp", shape=(1, 1, 1), hidden=2)
    with torch.no_grad():
        network.hidden.weight.copy_(torch.tensor([[1.0], [0.0]]))
        network.hidden.bias.copy_(torch.tensor([0.5, 3.0]))
        network.classifier.weight.zero_()
        network.classifier.weight[0] = torch.tensor([1.0, 2.0])
        network.classifier.weight[1] = torch.tensor([1.0, -1.0])
        network.classifier.bias.fill_(0.25)
    path = exported(network, tmp_path / "model.onnx", (1, 1, 1))
    assert eliminate_dead_units(path) == 1
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    np.testing.assert_array_equal(found["hidden.weight"], [[1.0]])
    np.testing.assert_array_equal(found["classifier.bias"], [6.25, -2.75, 0.25, 0.25])
    np.testing.assert_array_equal(found["classifier.weight"], [[1.0], [1.0], [0.0], [0.0]])


def test_a_unit_that_nothing_reads_goes_though_it_has_weights(tmp_path: Path) -> None:
    network = build("cnn", shape=(1, 8, 8))
    with torch.no_grad():
        network.conv2.weight[:, :5] = 0
    path = exported(network, tmp_path / "model.onnx", (1, 8, 8))
    before = answers(path, (1, 8, 8))
    assert eliminate_dead_units(path) == 5
    np.testing.assert_allclose(answers(path, (1, 8, 8)), before, atol=1e-5)


def test_a_constant_before_zero_padding_stays(tmp_path: Path) -> None:
    """At the border the convolution sees zeros and not the constant: no bias can stand for both."""
    network = build("cnn", shape=(1, 8, 8))
    with torch.no_grad():
        network.conv1.weight[:4] = 0
        network.conv1.bias[:2] = 1.0
        network.conv1.bias[2:4] = -1.0  # zero after the rectifier
    path = exported(network, tmp_path / "model.onnx", (1, 8, 8))
    before = answers(path, (1, 8, 8))
    assert eliminate_dead_units(path) == 2
    np.testing.assert_allclose(answers(path, (1, 8, 8)), before, atol=1e-5)


def test_what_an_unknown_operator_reads_stays(tmp_path: Path) -> None:
    weight = np.array([[1.0, 2.0], [0.0, 0.0]], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["input", "weight", "bias"], ["units"], transB=1),
            helper.make_node("Softmax", ["units"], ["logits"], axis=1),
        ],
        "softmax",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.ones(2, np.float32), "bias")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    assert eliminate_dead_units(path) == 0


def test_weights_that_are_shared_are_not_stored_several_times(tmp_path: Path) -> None:
    """The first operator's second unit is not read, the second one's is the network's."""
    shared = np.array([[1.0, 0.0], [0.5, 0.0]], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["input", "weight"], ["first"], transB=1),
            helper.make_node("Relu", ["first"], ["rectified"]),
            helper.make_node("Gemm", ["rectified", "weight"], ["logits"], transB=1),
        ],
        "shared",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(shared, "weight")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    assert eliminate_dead_units(path) == 0


@pytest.mark.filterwarnings("ignore:Constant folding")
def test_a_picture_of_unknown_size_can_be_flattened(tmp_path: Path) -> None:
    """Reflected borders have no size that ONNX infers: what is behind the flattening stays."""
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same", padding_mode="reflect"), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)
    )
    with torch.no_grad():
        network[0].weight[1] = 0
    path = exported(network, tmp_path / "model.onnx", (1, 8, 8))
    before = answers(path, (1, 8, 8))
    eliminate_dead_units(path)
    np.testing.assert_allclose(answers(path, (1, 8, 8)), before, atol=1e-5)


class OfParameters(nn.Module):
    """What operators that keep channels make of parameters has channels, and they have none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.more = nn.Conv2d(1, 8, 3), nn.Parameter(torch.ones(1, 8, 1, 1)), nn.Linear(8, 4)
        self.shift = nn.Parameter(torch.ones(1, 2, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = (self.conv(images) * torch.relu(self.gate)).mean((2, 3))
        shifted: torch.Tensor = self.more(found) + torch.flatten(torch.neg(self.shift), 1) + self.shift.flatten(1)
        return shifted


def test_parameters_that_operators_of_channels_read_are_no_channels(tmp_path: Path) -> None:
    network = OfParameters()
    with torch.no_grad():
        network.more.weight[:, 3] = 0
    path = exported(network, tmp_path / "model.onnx", (1, 8, 8))
    before = answers(path, (1, 8, 8))
    assert eliminate_dead_units(path) == 0, "the gate reads all"
    np.testing.assert_array_equal(answers(path, (1, 8, 8)), before)


def test_equal_numbers_are_not_more_when_each_operator_has_its_own(tmp_path: Path) -> None:
    """The exporter stores what untrained BatchNorms share once; without one's dead unit they are two."""
    layers = [nn.Conv2d(1, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(256, 4))
    with torch.no_grad():
        network[0].weight[1] = network[0].bias[1] = 0
    path = exported(network, tmp_path / "model.onnx", (1, 8, 8))
    before = nonzero_numbers(path)
    assert eliminate_dead_units(path) == 1
    # its scale and variance, and the four weights that read it; its mean and shift are zero
    assert before - nonzero_numbers(path) == 2 + 4
