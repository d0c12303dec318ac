"""MACs of the operators that are more than one product, and of graphs within graphs, by hand."""

import graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.graph.counting import count
from onnxprune.graph.macs import is_uncounted


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def one_node(path, operator, inputs, outputs, domain="", opset=18, constants=None, **attributes):
    """A file of one node; `inputs` and `outputs`: name -> shape, an empty name is an absent input."""
    constants = constants or {}
    node = helper.make_node(operator, [*inputs], [*outputs], domain=domain, **attributes)
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in part.items() if name]
        for part in ({k: v for k, v in inputs.items() if k not in constants}, outputs)
    ]
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph([node], "g", *values, initializer=initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_layers_multiply_by_both_weights_at_every_step(path, operator, gates, directions):
    steps, batch, inputs, hidden = 7, 3, 5, 6
    weight, recurrence = (graphs.ones(directions, gates * hidden, size) for size in (inputs, hidden))
    weight[:, ::2] = 0
    counts = count(
        one_node(
            path,
            operator,
            {"x": (steps, batch, inputs), "w": weight.shape, "r": recurrence.shape},
            {"y": (steps, directions, batch, hidden)},
            constants={"w": weight, "r": recurrence},
            hidden_size=hidden,
            direction="bidirectional" if directions == 2 else "forward",
        )
    )
    per_step = directions * gates * hidden
    assert counts.macs == steps * batch * per_step * (inputs + hidden)
    assert counts.effective_macs == steps * batch * per_step * (inputs / 2 + hidden)
    assert counts.params == per_step * (inputs + hidden)
    assert counts.complete


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        ("...ij,...jk->...ik", [(7, 2, 3, 4), (7, 2, 4, 5)], 7 * 2 * 3 * 4 * 5),
        ("i,j->ij", [(3,), (4,)], 12),
        ("ij->ji", [(3, 4)], 0),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], 2 * (2 * 3 * 4 * 5)),
    ],
)
def test_einsum_multiplies_over_all_indices(path, equation, shapes, macs):
    inputs = {f"x{index}": shape for index, shape in enumerate(shapes)}
    output = np.einsum(equation, *(np.ones(shape) for shape in shapes)).shape
    counts = count(one_node(path, "Einsum", inputs, {"y": output}, equation=equation))
    assert counts.macs == macs
    assert bool(counts.notes) == (len(shapes) > 2)


@pytest.mark.parametrize(("equation", "skipped"), [("ij,jk->ik", 12), ("ij,jj->i", 0), ("ij,jj->ij", 0)])
def test_zeros_beside_the_diagonal_that_an_einsum_reads_are_none_that_it_multiplies_by(path, equation, skipped):
    eye = np.eye(3, dtype=np.float32)
    output = np.einsum(equation, np.ones((2, 3)), eye).shape
    counts = count(
        one_node(path, "Einsum", {"x": (2, 3), "w": (3, 3)}, {"y": output}, constants={"w": eye}, equation=equation)
    )
    assert counts.macs - counts.effective_macs == skipped


def test_attention_of_four_dimensions_with_fewer_heads_of_keys(path):
    batch, heads, queries, keys, size, width = 2, 8, 5, 7, 4, 6
    shapes = {"q": (batch, heads, queries, size), "k": (batch, 2, keys, size), "v": (batch, 2, keys, width)}
    counts = count(one_node(path, "Attention", shapes, {"y": (batch, heads, queries, width)}, opset=23))
    assert counts.macs == batch * heads * queries * keys * (size + width)


def test_attention_of_three_dimensions(path):
    batch, heads, queries, keys, size = 2, 8, 5, 7, 4
    shapes = {"q": (batch, queries, heads * size), "k": (batch, keys, 2 * size), "v": (batch, keys, 2 * size)}
    attributes = {"q_num_heads": heads, "kv_num_heads": 2}
    counts = count(one_node(path, "Attention", shapes, {"y": (batch, queries, heads * size)}, opset=23, **attributes))
    assert counts.macs == batch * heads * queries * keys * 2 * size


def test_fused_attention_projects_and_then_attends(path):
    batch, length, hidden = 2, 5, 12
    counts = count(
        one_node(
            path,
            "Attention",
            {"x": (batch, length, hidden), "w": (hidden, 3 * hidden)},
            {"y": (batch, length, hidden)},
            domain="com.microsoft",
            constants={"w": graphs.ones(hidden, 3 * hidden)},
            num_heads=3,
        )
    )
    assert counts.macs == batch * length * hidden * 3 * hidden + 2 * batch * length * length * hidden
    assert counts.complete


def test_multi_head_attention(path):
    shapes = {"q": (2, 5, 12), "k": (2, 7, 12), "v": (2, 7, 24)}
    counts = count(one_node(path, "MultiHeadAttention", shapes, {"y": (2, 5, 24)}, domain="com.microsoft", num_heads=3))
    assert counts.macs == 2 * 5 * 7 * (12 + 24)


def test_group_query_attention(path):
    shapes = {
        "q": (2, 5, 8 * 4),
        "k": (2, 5, 2 * 4),
        "v": (2, 5, 2 * 4),
        "past_k": (2, 2, 3, 4),
        "past_v": (2, 2, 3, 4),
    }
    attributes = {"num_heads": 8, "kv_num_heads": 2}
    file = one_node(path, "GroupQueryAttention", shapes, {"y": (2, 5, 32)}, domain="com.microsoft", **attributes)
    assert count(file).macs == 2 * 5 * (3 + 5) * 2 * 8 * 4


@pytest.mark.parametrize(
    ("rule", "updates"), [("linear", 1), ("gated", 1), ("delta", 2), ("gated_delta", 2), (None, 2)]
)
def test_linear_attention_by_its_recurrence(path, rule, updates):
    batch, length, heads, kv_heads, size, width = 2, 5, 6, 3, 4, 7
    shapes = {
        "q": (batch, length, heads * size),
        "k": (batch, length, kv_heads * size),
        "v": (batch, length, kv_heads * width),
    }
    by_rule = rule or "gated_delta"
    decay, beta = ("d" if "gated" in by_rule else "", "b" if "delta" in by_rule else "")
    if decay or beta:
        shapes |= {"past": (batch, kv_heads, size, width), decay: (batch, length, kv_heads)}
        shapes |= {beta: (batch, length, kv_heads)} if beta else {}
    attributes = {"q_num_heads": heads, "kv_num_heads": kv_heads} | ({"update_rule": rule} if rule else {})
    outputs = {"y": (batch, length, heads * width), "state": (batch, kv_heads, size, width)}
    counts = count(one_node(path, "LinearAttention", shapes, outputs, opset=27, **attributes))
    # each head of a key adds its product with the value, by the delta rule less what the state had for it
    assert counts.macs == batch * length * (kv_heads * updates + heads) * size * width
    assert counts.complete


def test_a_causal_convolution_with_a_state(path):
    weight = graphs.ones(6, 1, 4)
    weight[:3] = 0
    shapes = {"x": (2, 6, 9), "w": weight.shape}
    outputs = {"y": (2, 6, 9), "state": (2, 6, 3)}
    counts = count(one_node(path, "CausalConvWithState", shapes, outputs, opset=27, constants={"w": weight}))
    assert (counts.macs, counts.effective_macs, counts.params) == (2 * 6 * 9 * 4, 2 * 3 * 9 * 4, 6 * 4)


def test_an_operator_of_a_later_opset_is_said_not_to_be_counted(path, monkeypatch):
    file = one_node(path, "CumProd", {"x": (2, 3), "axis": ()}, {"y": (2, 3)}, opset=26)
    assert count(file).uncounted == {}
    monkeypatch.setattr("onnxprune.graph.macs._LATEST_OPSET", 25)
    assert count(file).uncounted == {"CumProd": 1}
    assert is_uncounted("NoSuchOperator")


def test_a_weight_packed_to_few_bits(path):
    file = one_node(
        path,
        "MatMulNBits",
        {"x": (3, 5, 64), "w": (32, 2, 16), "s": (64,)},
        {"y": (3, 5, 32)},
        domain="com.microsoft",
        constants={"w": np.zeros((32, 2, 16), np.uint8), "s": graphs.ones(64)},
        K=64,
        N=32,
        bits=4,
        block_size=32,
    )
    found = count(file)
    assert (found.macs, found.effective_macs) == (3 * 5 * 64 * 32,) * 2
    assert (found.params, found.nonzero_params) == (64 * 32 + 64,) * 2, "two in a byte, of which zero stands for -8"
    assert [node.params for node in found.nodes] == [found.params]


@pytest.mark.parametrize("name", ["FusedMatMul", "MatMul"])
def test_a_transposed_fused_product(path, name):
    fused = name == "FusedMatMul"
    counts = count(
        one_node(
            path,
            name,
            {"x": (2, 4, 3) if fused else (2, 3, 4), "w": (4, 5)},
            {"y": (2, 3, 5)},
            domain="com.microsoft" if fused else "",
            constants={"w": graphs.ones(4, 5)},
            **({"transA": 1} if fused else {}),
        )
    )
    assert counts.macs == 2 * 3 * 4 * 5


def test_a_fused_activation_is_no_product_and_does_not_make_the_count_incomplete(path):
    counts = count(one_node(path, "FastGelu", {"x": (3, 4)}, {"y": (3, 4)}, domain="com.microsoft"))
    assert (counts.macs, counts.complete, counts.uncounted) == (0, True, {})


LOOP = """g (float[2, 4] x, int64 n) => (float[a, b] y) {{
    trips = Constant <value = int64 {{5}}> ()
    on = Constant <value = bool {{1}}> ()
    [rounds] z = Loop ({trips}, on, x) <body = body (int64 i, bool c, float[p, q] h) => (bool d, float[r, s] o) {{
        {condition}
        w = Constant <value = float[4, 4] {{1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0}}> ()
        [inner] o = MatMul (h, w)
    }}>
    y = MatMul (z, v)
}}"""
ONE_ROUND = 2 * 4 * 4


def loop(path, trips="trips", condition="d = Identity (c)"):
    return count(graphs.write(path, LOOP.format(trips=trips, condition=condition), v=graphs.ones(4, 3)))


def test_a_loop_of_known_length_is_counted_round_by_round_and_what_follows_it_too(path):
    counts = loop(path)
    assert counts.macs == 5 * ONE_ROUND + 2 * 4 * 3
    assert counts.effective_macs == 5 * ONE_ROUND // 2 + 2 * 4 * 3
    assert counts.params == 16 + 12
    assert counts.complete
    assert not counts.notes
    inner = next(node for node in counts.nodes if node.operator == "MatMul")
    assert (inner.name, inner.repeats, inner.macs) == ("rounds/body/inner", 5, 5 * ONE_ROUND)
    assert counts.operators["MatMul"].count == 2


def test_a_loop_of_unknown_length_is_said_so(path):
    counts = loop(path, trips="n")
    assert counts.macs == ONE_ROUND + 2 * 4 * 3
    assert not counts.complete
    assert sorted(counts.notes) == [
        "Loop 'rounds': a loop of unknown length: one round is counted",
        "Loop 'rounds': how often it runs depends on the values of 'n'",
    ]


def test_a_loop_that_may_end_before_is_said_so(path):
    counts = loop(path, condition="s = ReduceSum <keepdims = 0> (h)  k = Cast <to = 9> (s)  d = Identity (k)")
    assert counts.macs == 5 * ONE_ROUND + 2 * 4 * 3
    assert "its condition may end it before" in counts.notes[0]
    assert counts.complete
    assert not counts.comparable
    assert counts.bound == "at most "


def test_a_scan_goes_through_its_input(path):
    body = """g (float[2, 4] state, float[7, 2, 4] xs) => (float[2, 4] last, float[7, 2, 4] ys) {
        last, ys = Scan <num_scan_inputs = 1, body = b (float[p, q] h, float[r, s] x)
                                                       => (float[t, u] o, float[v, w] y) {
            a = Add (h, x)
            o = MatMul (a, weight)
            y = Identity (o)
        }> (state, xs)
    }"""
    counts = count(graphs.write(path, body, weight=graphs.ones(4, 4)))
    assert counts.macs == 7 * ONE_ROUND
    assert counts.params == 16
    one, fed_and_given = 2 * 4 * 4, 2 * (1 + 7) * (2 * 4 * 4)
    live = [fed_and_given + tensors * one for tensors in (3, 3, 2, 2)]  # h, x, a; a, o; o, y
    assert [node.live_bytes for node in counts.nodes] == live
    assert counts.peak_activation_bytes == max(live)
    assert {"xs", "last/body/a"} <= {held.tensor for held in counts.peak_held}


def test_of_two_branches_the_one_of_more_macs_counts(path):
    body = """g (float[2, 4] x, bool c) => (float[2, 4] y) {
        [choice] y = If (c) <
            then_branch = t () => (float[a, b] o) { h = MatMul (x, w) o = MatMul (h, w) },
            else_branch = e () => (float[a, b] o) { o = MatMul (x, w) }>
    }"""
    counts = count(graphs.write(path, body, w=graphs.ones(4, 4)))
    assert counts.macs == 2 * ONE_ROUND
    assert counts.params == 16
    assert counts.notes == ("If 'choice': counted as then_branch, which has more MACs",)


def test_the_peak_of_activations_by_hand(path):
    body = """g (float[2, 4] x) => (float[2, 8] y) {
        a = Relu (x)
        b = MatMul (a, w)
        m = Relu (b)
        n = Relu (b)
        y = Add (m, n)
    }"""
    counts = count(graphs.write(path, body, w=graphs.ones(4, 8)))
    small, large = 2 * 4 * 4, 2 * 8 * 4
    assert counts.peak_activation_bytes == max(small + large, 3 * large)
    assert counts.weight_bytes == 4 * 8 * 4
    assert [node.live_bytes for node in counts.nodes] == [2 * small, small + large, 2 * large, 3 * large, 3 * large]
    assert counts.peak_node is not None and counts.peak_node.name == "n"
    assert [(held.tensor, held.bytes, held.node) for held in counts.peak_held] == [
        ("b", large, "b"),
        ("m", large, "m"),
        ("n", large, "n"),
    ]
    matmul = next(node for node in counts.nodes if node.operator == "MatMul")
    assert matmul.macs_per_byte == 2 * 4 * 8 / (small + large + 4 * 8 * 4)
    assert (matmul.activation_bytes, matmul.weight_bytes) == (small + large, 4 * 8 * 4)
    assert (matmul.output_shape, matmul.weight_shape) == ((2, 8), (4, 8))


def test_a_mask_that_nobody_reads_takes_no_room(path):
    body = "g (float[2, 4] x) => (float[2, 4] y) { y, mask = Dropout (x) }"
    assert count(graphs.write(path, body)).peak_activation_bytes == 2 * 2 * 4 * 4


def test_weights_of_half_precision(path):
    for kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        weight = helper.make_tensor("w", kind, (4, 4), [0, 1] * 8)
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        values = [helper.make_tensor_value_info(name, kind, (2, 4)) for name in ("x", "y")]
        graph = helper.make_graph([node], "g", values[:1], values[1:], initializer=[weight])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
        counts = count(path)
        assert (counts.macs, counts.effective_macs, counts.params, counts.nonzero_params) == (32, 16, 16, 8)
        assert counts.weight_bytes == 32


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("pool", ["GlobalAveragePool", "AveragePool <kernel_shape = [2, 2], strides = [2, 2]>"])
def test_pooling_and_gemm_in_eight_bits(path, pool, scaled, transposed):
    last = f"com.microsoft.QGemm <transB = {transposed}> (f, s, z, w, c, k, b" + (", s, z)" if scaled else ")")
    body = (
        '<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]>'
        f"g (float[N, 8, 2, 2] x) => ({'uint8' if scaled else 'float'}[N, 3] y) {{ q = QuantizeLinear (x, s, z)"
        f" p = com.microsoft.QLinear{pool} (q, s, z, s, z) f = Flatten (p) y = {last} }}"
    )
    weight = np.full((8, 3), [1, 2, 3], np.int8)
    weight[:3, 1:] = 0
    tensors = {
        "s": np.float32(0.1),
        "z": np.uint8(3),
        "w": weight.T.copy() if transposed else weight,
        "c": np.ones(3, np.float32),
        "k": np.array([1, 0, 0], np.int8),  # so that the first unit has zeros alone
        "b": np.ones(3, np.int32),
    }
    model = onnx.parser.parse_model(body)
    for name, value in tensors.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    onnx.save(model, path)
    counts = count(path, batch=2)
    assert (counts.macs, counts.effective_macs) == (2 * 8 * 3, 2 * (8 * 3 - 8 - 3 - 3))
    assert counts.nodes[-1].output_shape == (2, 3)


@pytest.mark.parametrize(
    ("join", "channels"),
    [("QLinearConcat <axis = 1> (s, z, q, s, z, q, s, z)", 4), ("QLinearWhere (which, q, s, z, q, s, z, s, z)", 2)],
)
def test_what_joins_tensors_of_eight_bits_gives_eight_bits(path, join, channels):
    body = (
        '<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]>'
        "g (float[N, 2, 5, 5] x, bool[1] which) => (uint8[N, 3, 3, 3] y) { q = QuantizeLinear (x, s, z)"
        f" j = com.microsoft.{join} y = QLinearConv (j, s, z, w, s, z, s, z) }}"
    )
    model = onnx.parser.parse_model(body)
    weight = np.ones((3, channels, 3, 3), np.uint8)
    for name, value in {"s": np.float32(0.1), "z": np.uint8(3), "w": weight}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    onnx.save(model, path)
    assert count(path, batch=2).macs == 2 * 3 * 9 * channels * 9


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 15, 18, 21])
def test_opsets_since_the_seventh(path, opset):
    body = (
        f'<ir_version: 4, opset_import: ["": {opset}]>'
        + """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
        c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)
        b = BatchNormalization (c, s, s, s, s)
        r = Relu (b)
        p = GlobalAveragePool (r)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, v, k)
    }"""
    )
    model = onnx.parser.parse_model(body)
    shapes = {"w": (4, 3, 3, 3), "s": (4,), "v": (5, 4), "k": (5,)}
    for name, shape in shapes.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(graphs.ones(*shape), name))
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    onnx.save(model, path)
    counts = count(path, batch=2)
    assert counts.macs == 2 * (64 * 4 * 27 + 20)
    assert counts.params == 4 * 27 + 4 + 20 + 5


@pytest.mark.parametrize(("opset", "scales"), [(18, 2), (20, 2), (21, 4)])
def test_what_follows_a_group_normalization_is_counted(path, opset, scales):
    body = """g (float[2, 3, 8, 8] x) => (float[2, 5, h, w] y) {
        c = Conv (x, w)
        n = GroupNormalization <num_groups = 2> (c, s, s)
        y = Conv (n, v)
    }"""
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": {opset}]> {body}')
    for name, shape in {"w": (4, 3, 3, 3), "s": (scales,), "v": (5, 4, 1, 1)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(graphs.ones(*shape), name))
    onnx.save(model, path)
    counts = count(path)
    assert counts.macs == 2 * 36 * (4 * 27 + 5 * 4)
    assert counts.complete
    assert counts.peak_activation_bytes == 2 * (3 * 64 + 4 * 36) * 4  # while the first convolution runs
    assert counts.notes == ()


def test_the_difference_to_onnx_tool_adds_up(path):
    body = """g (float[batch, 3, 8, 8] x) => (float[batch, 5] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w, k)
        b = BatchNormalization (c, s, s, s, s)
        r = Relu (b)
        p = GlobalAveragePool (r)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, v)
    }"""
    ones = graphs.ones
    counts = count(graphs.write(path, body, w=ones(4, 3, 3, 3), k=ones(4), s=ones(4), v=ones(5, 4)))
    difference = counts.onnx_tool_difference
    assert difference["BatchNormalization: 31 an element"] == 31 * 4 * 64
    assert difference["Conv: biases"] == 4 * 64
    assert sum(difference.values()) == counts.onnx_tool_ops - counts.macs
    assert list(difference.values()) == sorted(difference.values(), reverse=True)
    assert {node.operator: node.onnx_tool_ops for node in counts.nodes}["BatchNormalization"] == 31 * 4 * 64
