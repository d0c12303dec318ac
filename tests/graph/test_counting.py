import cProfile
import subprocess
import sys
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.common.errors import InputError
from onnxprune.graph.counting import count
from onnxprune.graph.counts import OpCount


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def half_zero(*shape: int) -> np.ndarray:
    """Every other element is zero."""
    return (np.arange(np.prod(shape)) % 2).astype(np.float32).reshape(shape)


def conv(path: Path, weight: np.ndarray, attributes: str = "", size: str = "batch, 6, 11, 9") -> Path:
    body = f"g (float[{size}] x) => (float[n, c, h, w] y) {{ y = Conv {attributes} (x, weight) }}"
    return graphs.write(path, body, weight=weight)


def test_a_perceptron(path):
    body = """g (float[batch, 1, 28, 28] x) => (float[batch, 10] y) {
        flat = Flatten (x)
        h = Gemm <transB = 1> (flat, w1, b1)
        r = Relu (h)
        y = Gemm <transB = 1> (r, w2, b2)
    }"""
    ones = graphs.ones
    graphs.write(path, body, w1=ones(128, 784), b1=ones(128), w2=ones(10, 128), b2=ones(10))
    counts = count(path)
    assert counts.macs == counts.effective_macs == 784 * 128 + 128 * 10 == 101_632
    assert counts.flops == 2 * 101_632
    assert counts.params == counts.nonzero_params == 784 * 128 + 128 + 128 * 10 + 10
    assert counts.sparsity == 0
    assert counts.file_bytes == path.stat().st_size > 4 * counts.params
    assert counts.operators == {
        "Gemm": OpCount(2, 101_632, counts.params),
        "Flatten": OpCount(1, 0, 0),
        "Relu": OpCount(1, 0, 0),
    }
    assert next(iter(counts.operators)) == "Gemm"  # most MACs first
    assert counts.onnx_tool_ops == 101_632 + 128 + 10 + 128  # onnx-tool adds biases and activations
    assert counts.onnx_tool_note is None
    assert counts.uncounted == {}


@pytest.mark.parametrize(
    ("attributes", "weight", "outputs"),
    [
        ("", (4, 6, 3, 3), (4, 9, 7)),
        ("<pads = [1, 1, 1, 1]>", (4, 6, 3, 3), (4, 11, 9)),
        ("<strides = [2, 2]>", (4, 6, 3, 3), (4, 5, 4)),
        ("<dilations = [2, 2]>", (4, 6, 3, 3), (4, 7, 5)),
        ("<group = 3>", (9, 2, 3, 3), (9, 9, 7)),
        ("<group = 6>", (6, 1, 1, 5), (6, 11, 5)),
    ],
)
def test_a_convolution_is_outputs_times_kernel_times_inputs_of_its_group(path, attributes, weight, outputs):
    conv(path, half_zero(*weight), attributes)
    macs = int(np.prod(outputs)) * int(np.prod(weight[1:]))
    counts = count(path)
    assert counts.macs == macs
    assert counts.effective_macs * 2 == macs
    assert counts.nonzero_params * 2 == counts.params == np.prod(weight)
    assert counts.sparsity == 50
    assert count(path, batch=5).macs == 5 * macs
    assert count(path, batch=5).effective_macs * 2 == 5 * macs


def test_zeros_count_where_they_are_stored(path):
    weight = graphs.ones(4, 6, 3, 3)
    weight[1] = 0  # a filter
    weight[:, 2] = 0  # an input channel
    weight[0, 0, 0, 0] = 0
    nonzero = 3 * 5 * 9 - 1
    counts = count(conv(path, weight))
    assert counts.effective_macs == nonzero * 9 * 7
    assert counts.nonzero_params == nonzero


def test_a_convolution_over_one_dimension(path):
    body = "g (float[batch, 3, 20] x) => (float[n, c, l] y) { y = Conv (x, weight) }"
    assert count(graphs.write(path, body, weight=graphs.ones(5, 3, 4))).macs == 5 * 17 * 3 * 4


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_inputs_times_kernel_times_outputs_of_its_group(path, groups):
    body = f"""g (float[batch, 6, 5, 4] x) => (float[n, c, h, w] y) {{
        y = ConvTranspose <strides = [2, 2], group = {groups}> (x, weight)
    }}"""
    counts = count(graphs.write(path, body, weight=half_zero(6, 8 // groups, 3, 3)))
    assert counts.macs == (6 * 5 * 4) * (8 // groups) * 9
    assert counts.effective_macs * 2 == counts.macs


@pytest.mark.parametrize(
    ("attributes", "a", "b"),
    [
        ("", "batch, 7", (7, 4)),
        ("<transB = 1>", "batch, 7", (4, 7)),
        ("<transA = 1>", "7, 3", (7, 4)),
        ("<transA = 1, transB = 1>", "7, 3", (4, 7)),
    ],
)
def test_gemm_is_rows_times_inner_times_columns(path, attributes, a, b):
    body = f"g (float[{a}] x) => (float[m, n] y) {{ y = Gemm {attributes} (x, weight) }}"
    graphs.write(path, body, weight=half_zero(*b))
    counts = count(path, batch=7 if a == "7, 3" else 3)
    assert counts.macs == 3 * 7 * 4
    assert counts.effective_macs == 3 * 7 * 4 // 2


@pytest.mark.parametrize(
    ("a", "b", "macs"),
    [
        ((2, 5, 7), (7, 4), 2 * 5 * 7 * 4),
        ((2, 5, 7), (3, 1, 7, 4), 3 * 2 * 5 * 7 * 4),  # both broadcast
        ((2, 7), (7,), 2 * 7),
        ((7,), (7, 4), 7 * 4),
    ],
)
def test_matmul_with_batches(path, a, b, macs):
    sizes = ", ".join(map(str, a))
    body = f"g (float[{sizes}] x) => (float y) {{ p = MatMul (x, weight) y = ReduceSum <keepdims = 0> (p) }}"
    counts = count(graphs.write(path, body, weight=half_zero(*b) if b != (7,) else graphs.ones(7)), batch=a[0])
    assert counts.macs == macs
    assert counts.effective_macs == (macs if b == (7,) else macs // 2)


def test_matmul_of_two_activations_has_no_zeros_to_leave_out(path):
    body = """g (float[batch, 5, 7] x) => (float[batch, 5, 5] y) {
        t = Transpose <perm = [0, 2, 1]> (x)
        y = MatMul (x, t)
    }"""
    counts = count(graphs.write(path, body), batch=2)
    assert counts.macs == counts.effective_macs == 2 * 5 * 7 * 5
    assert (counts.params, counts.sparsity) == (0, 0)


def test_the_weight_may_be_the_first_operand(path):
    body = "g (float[batch, 7, 3] x) => (float[batch, 4, 3] y) { y = MatMul (weight, x) }"
    counts = count(graphs.write(path, body, weight=half_zero(4, 7)), batch=2)
    assert counts.effective_macs * 2 == counts.macs == 2 * 4 * 7 * 3


def test_weights_are_found_behind_constants_and_transposes_and_shapes_are_no_parameters(path):
    body = """g (float[batch, 2, 2] x) => (float[batch, 3] y) {
        shape = Constant <value = int64[2] {-1, 4}> ()
        flat = Reshape (x, shape)
        stored = Constant <value = float[3, 4] {0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9}> ()
        weight = Transpose <perm = [1, 0]> (stored)
        same = Identity (weight)
        y = MatMul (flat, same)
    }"""
    counts = count(graphs.write(path, body))
    assert counts.macs == 12
    assert counts.effective_macs == counts.nonzero_params == 9
    assert counts.params == 12
    assert counts.operators["MatMul"] == OpCount(1, 12, 12)
    assert counts.operators["Transpose"] == OpCount(1, 0, 0)


def test_a_shared_weight_is_stored_once_and_used_twice(path):
    body = """g (float[batch, 4] x) => (float[batch, 4] y) {
        h = MatMul (x, weight)
        y = MatMul (h, weight)
    }"""
    counts = count(graphs.write(path, body, weight=half_zero(4, 4)))
    assert (counts.macs, counts.effective_macs) == (32, 16)
    assert (counts.params, counts.nonzero_params) == (16, 8)
    assert counts.operators["MatMul"].params == 16


def test_quantized_weights_are_parameters_and_zero_at_their_zero_point(path):
    body = """g (uint8[batch, 1, 4, 4] x) => (uint8[batch, 2, 2, 2] y)
        <float scale = {0.5}, uint8 zero = {0}> {
        y = QLinearConv (x, scale, zero, weight, scale, zero_points, scale, zero, bias)
    }"""
    weight = np.full((2, 1, 3, 3), 7, np.uint8)
    weight[0, 0, 0] = 3  # the zero point of channel 0
    weight[1, 0, 0] = 3  # not that of channel 1
    zero_points, bias = np.array([3, 8], np.uint8), np.array([1, 0], np.int32)
    counts = count(graphs.write(path, body, weight=weight, zero_points=zero_points, bias=bias))
    assert counts.macs == (2 * 2 * 2) * 9
    assert counts.effective_macs == (2 * 2) * 15
    assert counts.params == 18 + 2 + 1  # and the scale, which is a floating-point initializer
    assert counts.nonzero_params == 15 + 1 + 1


def test_conversions_of_onnxruntimes_own_domain_count_as_those_of_onnx(path):
    """Its quantiser writes them on request, and for 16 bits before opset 21."""
    body = """g (float[batch, 4] x) => (float[batch, 3] y) <float s = {0.5}, int8 z = {2}, uint16 h = {7}> {
        q = QuantizeLinear (x, s, h) d = DequantizeLinear (q, s, h) w = DequantizeLinear (weight, s, z)
        y = MatMul (d, w)
    }"""
    weight = np.full((4, 3), 2, np.int8)
    weight[0] = 0
    model = onnx.load(graphs.write(path, body, weight=weight))
    model.opset_import[0].version = 21
    found = []
    for domain in ("", "com.microsoft"):
        for node in model.graph.node[:3]:
            node.domain = domain
        if domain:
            model.opset_import[0].version = 18
            model.opset_import.append(helper.make_opsetid(domain, 1))
        onnx.save(model, path)
        found.append(count(path))
    own, other = found
    assert (own.macs, own.effective_macs, own.params, own.complete) == (12, 3, 12 + 1, True)
    assert (other.macs, other.effective_macs, other.params, other.complete) == (12, 3, 12 + 1, True)
    assert other.peak_activation_bytes == own.peak_activation_bytes
    assert [node.activation_bytes for node in other.nodes] == [node.activation_bytes for node in own.nodes]


@pytest.mark.parametrize(
    ("kind", "read", "told"), [("INT4", "x", "float32"), ("INT4", "d", "int16"), ("INT8", "d", "int16")]
)
def test_products_are_of_the_widest_type_of_4_8_and_16_bits(path, kind, read, told):
    body = f"""g (float[batch, 4] x) => (float[batch, 3] y) <float s = {{0.5}}, uint16 h = {{7}}> {{
        q = QuantizeLinear (x, s, h) d = DequantizeLinear (q, s, h) w = DequantizeLinear (weight, s)
        y = MatMul ({read}, w)
    }}"""
    model = onnx.load(graphs.write(path, body))
    model.opset_import[0].version = 21
    model.graph.initializer.append(helper.make_tensor("weight", getattr(TensorProto, kind), [4, 3], [1] * 12))
    onnx.save(model, path)
    assert count(path).macs_by_type == {told: 12}


def test_integer_matmul_and_dequantized_weights(path):
    body = """g (uint8[batch, 4] a, float[batch, 4] b) => (int32[batch, 3] c, float[batch, 3] d)
        <float scale = {0.5}, int8 two = {2}> {
        c = MatMulInteger (a, first)
        w = DequantizeLinear (second, scale, two)
        d = MatMul (b, w)
    }"""
    first, second = np.ones((4, 3), np.int8), np.full((4, 3), 2, np.int8)
    first[0] = 0
    second[0] = 0
    counts = count(graphs.write(path, body, first=first, second=second))
    assert counts.macs == 24
    assert counts.effective_macs == 9 + 3
    assert counts.params == 24 + 1
    assert counts.operators["MatMul"] == OpCount(1, 12, 12)


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initializers(path, flat):
    graphs.write(path, "g (float[batch, 4] x) => (float[batch, 3] y) { y = MatMul (x, weight) }")
    model = onnx.load(path)
    sparse = model.graph.sparse_initializer.add(dims=[4, 3])
    sparse.values.CopyFrom(helper.make_tensor("weight", TensorProto.FLOAT, [2], [1.0, 2.0]))
    where, sizes = ([1, 11], [2]) if flat else ([0, 1, 3, 2], [2, 2])
    sparse.indices.CopyFrom(helper.make_tensor("where", TensorProto.INT64, sizes, where))
    onnx.save(model, path)
    counts = count(path)
    assert (counts.macs, counts.effective_macs, counts.params, counts.nonzero_params) == (12, 2, 12, 2)


def test_a_network_pruned_to_nothing(path):
    body = """g (float[batch, 4] x) => (float[batch, 3] y) {
        h = MatMul (x, none_out)
        y = Gemm (h, none_in, bias)
    }"""
    empty = {"none_out": graphs.ones(4, 0), "none_in": graphs.ones(0, 3), "bias": np.zeros(3, np.float32)}
    counts = count(graphs.write(path, body, **empty))
    assert (counts.macs, counts.effective_macs) == (0, 0)
    assert (counts.params, counts.nonzero_params, counts.sparsity) == (3, 0, 100)


def test_operators_of_unknown_cost_are_listed(path):
    body = """g (float[batch, 4] x) => (float[batch, 4] y) {
        h = MatMul (x, weight)
        y = custom.Mystery (h)
    }"""
    counts = count(graphs.write(path, body, weight=graphs.ones(4, 4)))
    assert counts.macs == 16
    assert counts.uncounted == {"custom.Mystery": 1}
    assert not counts.complete
    assert counts.notes == ("custom.Mystery: not counted, as this operator is not known here (nodes: 1)",)
    assert counts.operators["custom.Mystery"] == OpCount(1, 0, 0)
    assert counts.onnx_tool_ops is None
    assert "\n" not in counts.onnx_tool_note


def test_onnx_tool_may_exit_and_print_without_a_trace(path, monkeypatch, capfd):
    import onnx_tool

    def model(proto):
        sys.stdout.write("table")
        sys.stderr.write("warning")
        sys.exit(-1)

    monkeypatch.setattr(onnx_tool, "Model", model)
    counts = count(conv(path, graphs.ones(4, 6, 3, 3)))
    assert counts.macs > 0
    assert counts.onnx_tool_ops is None
    assert counts.onnx_tool_note == "onnx-tool failed: -1"
    assert capfd.readouterr() == ("", "")


def test_onnx_tool_may_take_too_long(path, monkeypatch):
    import onnx_tool

    def model(proto):
        while True:
            try:
                sum(range(100))
            except Exception:  # as it does itself in places
                if stubborn.pop():
                    raise

    stubborn = [True, False]  # caught once, and then not
    monkeypatch.setattr(onnx_tool, "Model", model)
    monkeypatch.setattr("onnxprune.graph.onnx_tool_view._SECONDS", 0.2)
    counts = count(conv(path, graphs.ones(4, 6, 3, 3)))
    assert counts.macs > 0
    assert counts.onnx_tool_note == "onnx-tool failed: it takes over 0.2 s"
    profiler = cProfile.Profile()
    profiler.enable()
    assert sum(number for number in range(10**5)) > 0  # nothing comes later, and no flag stays up that hangs a profiler
    profiler.disable()


def test_counting_is_silent_and_leaves_the_file_alone(path, capfd):
    conv(path, graphs.ones(4, 6, 3, 3))
    before = path.read_bytes()
    assert count(path, batch=3).onnx_tool_ops == 3 * count(path).onnx_tool_ops == 3 * count(path).macs
    assert path.read_bytes() == before
    assert capfd.readouterr() == ("", "")


def test_nodes_behind_an_unknown_operator_are_named_and_the_rest_is_counted(path):
    body = """g (float[batch, 4] x) => (float[batch, 4] y) {
        a = MatMul (x, weight)
        h = custom.Mystery (a)
        [last] y = MatMul (h, weight)
    }"""
    counts = count(graphs.write(path, body, weight=graphs.ones(4, 4)))
    assert counts.macs == 16
    assert not counts.complete
    assert counts.peak_activation_bytes is None
    assert "MatMul 'last': not counted, the shape of 'h' is not known" in counts.notes


def test_sizes_recorded_for_another_batch_are_not_believed(path):
    graphs.write(
        path,
        "g (float[batch, 4] x) => (float[2, 4] y) { h = Relu (x) y = MatMul (h, weight) }",
        weight=graphs.ones(4, 4),
    )
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [2, 4]))
    onnx.save(model, path)
    assert count(path, batch=3).macs == 3 * 16


def test_functions_are_counted_where_they_are_called(path):
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 18, "local" : 1]>
        g (float[batch, 4] x) => (float[batch, 4] y) <float[4, 4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}> {
            h = local.Twice (x, w)
            y = local.Twice (h, w)
        }
        <domain: "local", opset_import: ["" : 18]>
        Twice (a, b) => (c) { m = MatMul (a, b) c = MatMul (m, b) }
    """)
    onnx.save(model, path)
    counts = count(path)
    assert counts.macs == 4 * 16
    assert counts.uncounted == {}


def test_external_data_belongs_to_the_file(path):
    conv(path, half_zero(4, 6, 3, 3))
    whole = count(path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    apart = count(path)
    assert apart.file_bytes == path.stat().st_size + path.with_name("weights.bin").stat().st_size
    assert (apart.effective_macs, apart.params) == (whole.effective_macs, whole.params)
    path.with_name("weights.bin").unlink()
    with pytest.raises(InputError, match=r"weights\.bin"):
        count(path)


@pytest.mark.slow  # writes and reads a sparse file of 2.3 GB
def test_weights_over_two_gigabytes_are_mapped_and_not_loaded(path):
    size = 24_000
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[size, size], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="weights.bin")
    with path.with_name("weights.bin").open("wb") as file:
        file.truncate(4 * size * size)
        file.seek(4 * 7)
        file.write(np.float32(1).tobytes())
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom onnxprune.graph.counting import count\n"
        "found = count(Path(sys.argv[1]))\n"
        "print(found.macs, found.effective_macs, found.nonzero_params, found.weight_bytes)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    figures, memory = done.stdout.splitlines()
    assert figures == f"{size * size} 1 1 {4 * size * size}"
    assert int(memory) < 3 * 2**20  # KiB: the mapped pages count, a copy would make it more


def test_an_open_input_shape_must_be_given(path):
    conv(path, graphs.ones(4, 6, 3, 3), size="batch, 6, h, w")
    with pytest.raises(InputError, match=r"'x' leaves sizes open, x \[batch, 6, h, w\]: give --input x:1x6x\?x\?"):
        count(path)
    assert count(path, shapes={"x": (1, 6, 11, 9)}).macs == (4 * 9 * 7) * (6 * 9)


@pytest.mark.parametrize(
    ("batch", "shapes"),
    [
        (None, {"x": (2, 6, 11, 9)}),
        (None, {"x": (1, 5, 11, 9)}),
        (None, {"x": (1, 6, 11)}),
        (None, {"z": (1, 6, 11, 9)}),
        (3, None),
    ],
)
def test_an_input_shape_that_does_not_fit(path, batch, shapes):
    conv(path, graphs.ones(4, 6, 3, 3), size="1, 6, 11, 9")
    with pytest.raises(InputError, match=r"x \[1, 6, 11, 9\]"):
        count(path, batch, shapes)


def test_a_batch_goes_to_the_inputs_that_leave_it_open(path):
    body = "g (float[batch, 4] x, float[4, 5] w) => (float[batch, 5] y) { y = MatMul (x, w) }"
    assert count(graphs.write(path, body), 3).macs == 3 * 4 * 5


def test_a_graph_whose_shapes_contradict_each_other(path):
    body = "g (float[batch, 5] x) => (float[batch, 4] y) { y = MatMul (x, weight) }"
    with pytest.raises(InputError, match="do not fit together") as raised:
        count(graphs.write(path, body, weight=graphs.ones(4, 4)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "half", "without its end"])
def test_what_is_no_onnx_file_is_one_line(path, capfd, kind):
    content = conv(path, graphs.ones(4, 6, 3, 3)).read_bytes()
    path.unlink()
    contents = {
        "empty": b"",
        "text": b"hello, world\n" * 9,
        "half": content[: len(content) // 2],
        "without its end": content[:-2],
    }
    if kind == "folder":
        path.mkdir()
    elif kind in contents:
        path.write_bytes(contents[kind])
    with pytest.raises(InputError, match=r"model\.onnx: (no such file|not an ONNX file|not a file)") as raised:
        count(path)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_counting_and_timing_need_no_torch():
    code = (
        "import sys, onnxprune.graph.counting, onnxprune.runtime.timing, onnxprune.analysis.evaluation\n"
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


@pytest.mark.slow
def test_densenet121_as_torch_counts_it(path):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from onnxprune.bridge.export import export
    from onnxprune.common.torchvision import torchvision_module

    torch.manual_seed(0)  # of seven million random weights, one may be exactly zero
    network = torchvision_module().models.densenet121(num_classes=10).eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, 32, 32))
    export(network, path, (3, 32, 32))
    counts = count(path)
    assert counts.macs == counts.effective_macs == 57_829_376 == counter.get_total_flops() / 2
    assert counts.operators["Conv"].count == 120
    assert counts.onnx_tool_ops == 64_984_074
