"""An ONNX graph as a network of PyTorch: the same answers, weights that come back, layers under their names."""

import re
from pathlib import Path

import graphs
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxprune.bridge.coupling import coupling, cut
from onnxprune.bridge.graph_builder import build, read_network, remade
from onnxprune.bridge.graph_input import image_input
from onnxprune.bridge.graph_network import GraphNetwork
from onnxprune.bridge.operators import OPERATORS, Call
from onnxprune.common.errors import InputError
from onnxprune.graph.network import read

SHAPE = (3, 8, 8)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype("f")


def residual(path: Path) -> Path:
    """Channels last, a residual sum, BatchNorm, a MatMul with an Add, a softmax and a label."""
    body = """g (float[batch, 8, 8, 3] image) => (int64[batch] label, float[batch, 5] scores) {
        x = Transpose <perm = [0, 3, 1, 2]> (image)
        a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
        n = BatchNormalization (a, scale, shift, mean, variance)
        r = Relu (n)
        c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
        s = Add (c, r)
        t = Relu (s)
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (t)
        p = GlobalAveragePool (m)
        f = Flatten (p)
        h = MatMul (f, w3)
        k = Add (h, b3)
        scores = Softmax <axis = 1> (k)
        label = ArgMax <axis = 1, keepdims = 0> (scores) }"""
    return graphs.write(
        path,
        body,
        w1=random(12, 3, 3, 3),
        b1=random(12, 1).ravel(),
        scale=1 + random(12, 1, seed=1).ravel(),
        shift=random(12, 1, seed=2).ravel(),
        mean=random(12, 1, seed=3).ravel(),
        variance=np.abs(random(12, 1, seed=4)).ravel() + 0.5,
        w2=random(12, 12, 3, 3),
        b2=random(12, 1, seed=5).ravel(),
        w3=3 * random(12, 5),
        b3=random(5, 1).ravel(),
    )


def images(count: int = 6, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def by_onnxruntime(path: Path, network: GraphNetwork, pictures: torch.Tensor, name: str = "scores") -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = np.ascontiguousarray(network.plan.layout.apply(pictures.numpy()))
    return session.run([name], {network.plan.image.name: feed})[0]


def answers(network: GraphNetwork, pictures: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return network(pictures).numpy()


def test_it_answers_as_the_file_does(tmp_path: Path) -> None:
    path = residual(tmp_path / "m.onnx")
    network = read_network(path, SHAPE, 5)
    expected = np.log(by_onnxruntime(path, network, images()))
    np.testing.assert_allclose(answers(network, images()), expected, atol=2e-5)


def test_what_is_not_trained_is_written_as_it_was(tmp_path: Path) -> None:
    path = residual(tmp_path / "m.onnx")
    network = read_network(path, SHAPE, 5)
    network.save(tmp_path / "again.onnx")
    old, new = onnx.load(path), onnx.load(tmp_path / "again.onnx")
    assert [node.op_type for node in new.graph.node] == [node.op_type for node in old.graph.node]
    arrays = [{item.name: numpy_helper.to_array(item) for item in model.graph.initializer} for model in (old, new)]
    assert arrays[0].keys() == arrays[1].keys()
    assert all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])


def test_trained_weights_go_back_into_the_graph(tmp_path: Path) -> None:
    path = residual(tmp_path / "m.onnx")
    network = read_network(path, SHAPE, 5)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    network.train()
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images()), torch.arange(6) % 5).backward()
        optimizer.step()
    missing = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not missing, "every one of them learns"
    network.eval()
    network.save(tmp_path / "trained.onnx")
    found = by_onnxruntime(tmp_path / "trained.onnx", network, images())
    np.testing.assert_allclose(np.log(found), answers(network, images()), atol=2e-5)
    assert np.abs(found - by_onnxruntime(path, network, images())).max() > 1e-3
    written = onnx.load(tmp_path / "trained.onnx")
    assert [value.name for value in written.graph.output] == ["label", "scores"]
    assert written.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_layers_are_those_of_the_channel_graph(tmp_path: Path) -> None:
    network = read_network(residual(tmp_path / "m.onnx"), SHAPE, 5)
    units = coupling(network, SHAPE)
    (group,) = units.groups
    assert len(group.units) == 12
    assert len(group.layers) == 2, "the sum couples both convolutions"
    assert len(units.heads) == 1


def test_files_that_differ_in_the_order_of_channels_alone_have_their_own_units(tmp_path: Path) -> None:
    def partners(order: list[int]) -> list[int]:
        """Unit of each output of the second convolution."""
        body = """g (float[batch, 3, 8, 8] image) => (float[batch, 4] scores) {
            c = Conv (image, u)
            a = Relu (c)
            d = Conv (a, v)
            b = Gather <axis = 1> (a, order)
            s = Add (b, d)
            p = GlobalAveragePool (s)
            f = Flatten (p)
            scores = MatMul (f, w) }"""
        weights = {"u": random(4, 3, 1, 1), "v": random(4, 4, 1, 1), "w": random(4, 4)}
        path = graphs.write(tmp_path / "m.onnx", body, order=np.array(order), **weights)
        _, second = coupling(read_network(path, SHAPE, 4), SHAPE).outputs.values()
        return second.tolist()

    assert partners([0, 1, 2, 3]) == [1, 2, 3, 4]
    assert partners([1, 0, 3, 2]) == [2, 1, 4, 3]


def test_a_smaller_one_computes_what_the_masked_one_does(tmp_path: Path) -> None:
    network = read_network(residual(tmp_path / "m.onnx"), SHAPE, 5)
    units = coupling(network, SHAPE)
    mask = torch.tensor([1.0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1, 1])
    masks = dict.fromkeys(units.groups[0].layers, mask)
    with torch.no_grad():
        for name, held in units.held(network, units.gone(masks)).items():
            network.get_parameter(name).mul_(held)
    smaller = remade(network, cut(network, SHAPE, masks).shrunk)
    assert {len(smaller.get_submodule(name).weight) for name in masks} == {8}
    np.testing.assert_allclose(answers(smaller, images()), answers(network, images()), atol=1e-5)


CASES = {
    "Clip": ("y = Clip (x, low, high)", {"low": np.float32(-0.5), "high": np.float32(0.5)}),
    "Elu": ("y = Elu <alpha = 0.7> (x)", {}),
    "LeakyRelu": ("y = LeakyRelu <alpha = 0.2> (x)", {}),
    "PRelu": ("y = PRelu (x, slope)", {"slope": np.full((3, 1, 1), 0.3, "f")}),
    "HardSwish": ("y = HardSwish (x)", {}),
    "HardSigmoid": ("y = HardSigmoid (x)", {}),
    "Gelu": ('y = Gelu <approximate = "tanh"> (x)', {}),
    "Softplus": ("y = Softplus (x)", {}),
    "Mish": ("y = Mish (x)", {}),
    "Erf": ("y = Erf (x)", {}),
    "Slice": ("y = Slice (x, starts, ends, axes, steps)", {"starts": [7], "ends": [-99], "axes": [3], "steps": [-2]}),
    "Split": ("y, z = Split <axis = 2, num_outputs = 2> (x)", {}),
    "Pad": ("y = Pad (x, pads)", {"pads": [0, 0, 1, 2, 0, 0, 0, 1]}),
    "Pad reflected": ('y = Pad <mode = "reflect"> (x, pads)', {"pads": [0, 0, 1, 2, 0, 0, 0, 1]}),
    "Gather": ("y = Gather <axis = 1> (x, places)", {"places": [2, 0, -2]}),
    "Tile": ("y = Tile (x, repeats)", {"repeats": [1, 2, 1, 1]}),
    "Squeeze": ("u = Unsqueeze (x, one) y = Squeeze (u, one)", {"one": [1]}),
    "Reshape": ("y = Reshape (x, target)", {"target": [0, -1, 4]}),
    "Transpose": ("y = Transpose <perm = [0, 2, 3, 1]> (x)", {}),
    "DepthToSpace": ("d = Concat <axis = 1> (x, x, x, x) y = DepthToSpace <blocksize = 2> (d)", {}),
    "DepthToSpace of columns": (
        'd = Concat <axis = 1> (x, x, x, x) y = DepthToSpace <blocksize = 2, mode = "CRD"> (d)',
        {},
    ),
    "SpaceToDepth": ("y = SpaceToDepth <blocksize = 2> (x)", {}),
    "ReduceMean": ("y = ReduceMean <keepdims = 0> (x, axes)", {"axes": [-1, 2]}),
    "ReduceMax": ("y = ReduceMax (x, axes)", {"axes": [1]}),
    "ReduceL2": ("y = ReduceL2 (x, axes)", {"axes": [2, 3]}),
    "AveragePool": ("y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 0, 0]> (x)", {}),
    "AveragePool same": ('y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER"> (x)', {}),
    "AveragePool with pads": (
        "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (x)",
        {},
    ),
    "MaxPool": ("y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1]> (x)", {}),
    "MaxPool ceil": ("y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)", {}),
    "Conv dilated": ("y = Conv <dilations = [2, 2], pads = [2, 2, 2, 2], group = 3> (x, k)", {"k": random(6, 1, 3, 3)}),
    "Conv same": ('y = Conv <strides = [2, 2], auto_pad = "SAME_LOWER"> (x, k)', {"k": random(4, 3, 3, 3)}),
    "Conv of uneven pads": ("y = Conv <pads = [0, 1, 2, 1]> (x, k)", {"k": random(4, 3, 3, 3)}),
    "ConvTranspose": ("y = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1]> (x, k)", {"k": random(3, 4, 3, 3)}),
    "InstanceNormalization": (
        "y = InstanceNormalization (x, scale, shift)",
        {"scale": random(3, 1).ravel(), "shift": random(3, 1, seed=1).ravel()},
    ),
    "LayerNormalization": (
        "y = LayerNormalization <axis = -1> (x, scale, shift)",
        {"scale": random(8, 1).ravel(), "shift": random(8, 1, seed=1).ravel()},
    ),
    "RMSNormalization of two axes": ("y = RMSNormalization <axis = 2> (x, scale)", {"scale": random(8, 1).ravel()}),
    "LRN": ("y = LRN <size = 3, alpha = 0.01> (x)", {}),
    "Resize": (
        'y = Resize <mode = "linear"> (x, roi, scales)',
        {"roi": np.zeros(0, "f"), "scales": np.array([1, 1, 2, 2], "f")},
    ),
    "Resize nearest": (
        'y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> '
        "(x, roi, scales)",
        {"roi": np.zeros(0, "f"), "scales": np.array([1, 1, 2, 2], "f")},
    ),
    "Resize by fractions": (
        'y = Resize <mode = "linear"> (x, , scales)',
        {"scales": np.array([1, 1, 1.3, 0.6], "f")},
    ),
    "Resize nearest by fractions": (
        'y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> '
        "(x, , scales)",
        {"scales": np.array([1, 1, 0.6, 1.3], "f")},
    ),
    "Resize of axes": ('y = Resize <mode = "linear", axes = [3, 2]> (x, , , sizes)', {"sizes": [5, 13]}),
    "Selu of its own": ("y = Selu <alpha = 1.0, gamma = 2.0> (x)", {}),
    "Einsum": ('y = Einsum <equation = "nchw,ncvw->nhv"> (x, x)', {}),
    "Where": ("g = Greater (x, zero) y = Where (g, x, zero)", {"zero": np.float32(0)}),
    "Max": ("y = Max (x, zero)", {"zero": np.float32(0.1)}),
    "Pow": ("a = Abs (x) y = Pow (a, three)", {"three": np.float32(3)}),
    "Expand by the batch": (
        "s = Shape (x) b = Slice (s, zero, one) t = Concat <axis = 0> (b, rest) e = Expand (token, t) "
        "f = Flatten (x) y = Concat <axis = 1> (f, e)",
        {"zero": [0], "one": [1], "rest": [7], "token": random(1, 7)},
    ),
    "Div of integers": (
        "s = Shape (x) h = Gather (s, three) g = Div (h, two) t = Concat <axis = 0> (zero, minus, g) "
        "y = Reshape (x, t)",
        {"three": [3], "two": [2], "zero": [0], "minus": [-1]},
    ),
    "Mod and Range of sizes": (
        "s = Shape (x) w = Gather (s, three) m = Mod (w, five) r = Range (zero, m, step) f = Cast <to = 1> (r) "
        "p = Slice (x, from, to, axes) y = Mul (p, f)",
        {
            "three": np.array(3),
            "five": np.array(5),
            "zero": np.array(0),
            "step": np.array(1),
            "from": [0],
            "to": [3],
            "axes": [3],
        },
    ),
    "ReduceSum of squares": ("y = ReduceSumSquare (x, axes)", {"axes": [1]}),
    "LSTM": (
        "s = Squeeze (c, one) t = Transpose <perm = [2, 0, 1]> (s) y, h, d = LSTM <hidden_size = 4, direction = "
        '"bidirectional"> (t, w, r, b)',
        {"one": [1], "w": random(2, 16, 8), "r": random(2, 16, 4), "b": random(2, 32)},
    ),
    "GRU": (
        "s = Squeeze (c, one) t = Transpose <perm = [2, 0, 1]> (s) y, h = GRU <hidden_size = 4, linear_before_reset = "
        "1> (t, w, r, b)",
        {"one": [1], "w": random(1, 12, 8), "r": random(1, 12, 4), "b": random(1, 24)},
    ),
}


OPSETS = {"Gelu": 20, "RMSNormalization of two axes": 23, "Resize of axes": 18}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_is_onnxs(name: str, tmp_path: Path) -> None:
    code, constants = CASES[name]
    arrays = {key: np.array(value, np.int64) if isinstance(value, list) else value for key, value in constants.items()}
    body = (
        "g (float[batch, 3, 8, 8] image) => (float[N] y) { x = Conv (image, one_to_one) "
        f"c = Slice (x, first, second, second) {code} }}"
    )
    identity = np.eye(3, dtype="f").reshape(3, 3, 1, 1)
    path = graphs.write(
        tmp_path / "m.onnx", body, one_to_one=identity, first=np.array([0]), second=np.array([1]), **arrays
    )
    model = onnx.load(path)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    model.opset_import[0].version = OPSETS.get(name, model.opset_import[0].version)
    onnx.save(model, path)
    graph = read(path)
    image = image_input(graph, "the file")
    network = build(graph, None, image, image.layout(SHAPE), {"y": 0}, False).eval()
    expected = by_onnxruntime(path, network, images(), "y")
    np.testing.assert_allclose(answers(network, images()), expected.reshape(len(images()), -1), atol=2e-5)


def test_an_upsample_of_old_has_its_scales_as_an_attribute() -> None:
    node = helper.make_node("Upsample", ["x"], ["y"], mode="nearest", scales=[1.0, 1.0, 2.0, 3.0])
    found = OPERATORS["Upsample"](Call.of(node, 7), images())
    assert torch.equal(found, images().repeat_interleave(2, 2).repeat_interleave(3, 3))


@pytest.mark.parametrize(
    "how",
    [{"antialias": 1}, {"keep_aspect_ratio_policy": "not_larger"}, {"axes": [1, 2]}],
    ids=lambda how: next(iter(how)),
)
def test_a_resize_of_other_ways_is_refused(how: dict[str, object]) -> None:
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", **{"axes": [2, 3], **how})
    with pytest.raises(InputError, match="cannot be run in PyTorch"):
        OPERATORS["Resize"](Call.of(node, 19), images(), None, None, np.array([4, 4]))


@pytest.mark.parametrize(
    ("body", "constants", "words"),
    [
        ("d = Det (image) r = Reshape (d, s) scores = Gemm (r, w)", {"s": [0, -1], "w": random(3, 4)}, "operator Det"),
        (
            "f = Flatten (image) d, m = Dropout (f) c = Cast <to = 1> (m) e = Mul (d, c) scores = Gemm (e, w)",
            {"w": random(192, 4)},
            "Dropout with outputs beside its first",
        ),
        (
            "f = Flatten (image) h = Gemm (f, w) scores, i, j = BatchNormalization <training_mode = 1> (h, v, v, v, v)",
            {"w": random(192, 4), "v": np.ones(4, "f")},
            "BatchNormalization with training_mode",
        ),
        ("f = Flatten (image) scores = Slice (f, a, b, b)", {"a": [0], "b": [1]}, "has no weights"),
        (
            "f = Flatten (image) h = Cast <to = 10> (f) g = Gemm (h, w) scores = Cast <to = 1> (g)",
            {"w": random(192, 4).astype(np.float16)},
            "its weights are float16",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_line(
    body: str, constants: dict[str, object], words: str, tmp_path: Path
) -> None:
    arrays = {key: np.array(value, np.int64) if isinstance(value, list) else value for key, value in constants.items()}
    source = f"g (float[batch, 3, 8, 8] image) => (float[batch, C] scores) {{ {body} }}"
    path = graphs.write(tmp_path / "m.onnx", source, **arrays)
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        answers(read_network(path, SHAPE), images())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "classes", "words"),
    [((3, 8, 9), 5, "do not fit"), ((3, 8, 8), 7, "an output of 7 scores")],
)
def test_other_images_or_classes_are_refused(
    shape: tuple[int, int, int], classes: int, words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        read_network(residual(tmp_path / "m.onnx"), shape, classes)


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    path = graphs.write(
        tmp_path / "m.onnx",
        "g (float[2, 192] image) => (float[2, 4] scores) { scores = Gemm (image, w) }",
        w=random(192, 4),
    )
    with pytest.raises(InputError, match="only takes batches of 2"):
        read_network(path, SHAPE, 4)


def test_constants_may_be_called_as_the_network_s_own_methods_are(tmp_path: Path) -> None:
    names = ["save", "normalised", "forward", "graph", "plan", "training"]
    code = "".join(f"h{place + 1} = Add (h{place}, {name}) " for place, name in enumerate(names))
    body = (
        f"g (float[batch, 192] image) => (float[batch, 4] scores) {{ h0 = Gemm (image, w) {code} scores = Relu (h6) }}"
    )
    constants = {name: random(4, 1, seed=place).ravel() for place, name in enumerate(names)}
    path = graphs.write(tmp_path / "m.onnx", body, w=random(192, 4), **constants)
    network = read_network(path, SHAPE, 4)
    np.testing.assert_allclose(answers(network, images()), by_onnxruntime(path, network, images()), atol=1e-5)


def test_what_a_file_answers_with_stays_what_it_is(tmp_path: Path) -> None:
    body = """g (float[batch, 3, 8, 8] image) => (float[batch, 4, 8, 8] features, float[batch, 2, 4, 4] scores) {
        c = Conv (image, w)
        features = Relu (c)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (features)
        scores = Conv (p, v) }"""
    path = graphs.write(tmp_path / "m.onnx", body, w=random(4, 3, 1, 1), v=random(2, 4, 1, 1))
    network = read_network(path, SHAPE, 0)
    found = answers(network, images())
    expected = [by_onnxruntime(path, network, images(), name).reshape(6, -1) for name in ("features", "scores")]
    assert found.shape == (6, 4 * 64 + 2 * 16)
    np.testing.assert_allclose(found, np.concatenate(expected, 1), atol=1e-5)


def test_a_batch_norm_does_not_stand_for_a_layer_that_the_file_answers_with(tmp_path: Path) -> None:
    def normalised(outputs: str) -> dict[str, str]:
        body = f"""g (float[batch, 3, 8, 8] image) => ({outputs}float[batch, 4, 8, 8] scores) {{
            c = Conv (image, w)
            scores = BatchNormalization (c, scale, shift, mean, variance) }}"""
        vectors = {name: np.ones(4, "f") for name in ("scale", "shift", "mean", "variance")}
        path = graphs.write(tmp_path / "m.onnx", body, w=random(4, 3, 1, 1), **vectors)
        return read_network(path, SHAPE, 0).normalised()

    assert len(normalised("")) == 1
    assert normalised("float[batch, 4, 8, 8] c, ") == {}
