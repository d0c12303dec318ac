"""Channels of any graph: which can go, which go together, and that what is left computes what it should."""

from collections.abc import Sequence
from typing import Any

import hypothesis
import numpy as np
import onnx
import pytest
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from pruned import Pruned, check, follow, model, network, prune, prune_network, random

from onnxprune.graph import folding, surgery

IMAGE = "(float[N,3,8,8] x) => (float y)"


def ones(size: int) -> np.ndarray:
    return np.linspace(0.5, 1.5, size).astype(np.float32)


def normalisation(size: int, prefix: str) -> dict[str, np.ndarray]:
    """Scale, bias, mean and variance."""
    return {
        f"{prefix}s": random(size, seed=1),
        f"{prefix}b": random(size, seed=2),
        f"{prefix}m": random(size, seed=3),
        f"{prefix}v": ones(size),
    }


def operators(pruned: Pruned) -> list[str]:
    return [node.op_type for node in pruned.small.nodes]


# sums, products and the constants that meet channels


def test_a_residual_sum_ties_what_it_adds() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1, b1)  b = Conv<pads=[1,1,1,1]>(a, w2)  c = Add(a, b)  d = Relu(c)"
        f" y = Conv(d, w3) }}",
        {"w1": (8, 3, 1, 1), "b1": (8,), "w2": (8, 8, 3, 3), "w3": (5, 8, 1, 1)},
    )
    assert found.free == [("a+b", 8)]
    assert found.frozen == [("y", 5, "they are the model's output 'y' ()")]
    assert found.shape("w1") == (4, 3, 1, 1)
    assert found.shape("b1") == (4,)
    assert found.shape("w2") == (4, 4, 3, 3)
    assert found.shape("w3") == (5, 4, 1, 1)


def test_channels_that_meet_an_input_stay() -> None:
    found = prune(
        "(float[N,4,8,8] x) => (float y) { a = Conv(x, w1)  b = Add(a, x)  c = Conv(b, w2)  y = Conv(c, w3) }",
        {"w1": (4, 4, 1, 1), "w2": (6, 4, 1, 1), "w3": (2, 6, 1, 1)},
    )
    assert found.free == [("c", 6)]
    assert found.why("a") == "they meet 'x', whose channels stay (b)"


def test_channels_that_meet_constants_cut_them() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Add(a, bias)  c = Mul(scale, b)  d = Sub(c, number)  e = Div(d, row)"
        " f = Max(e, floor)  y = Conv(f, w2) }",
        {
            "w1": (6, 3, 1, 1),
            "bias": (1, 6, 1, 1),
            "scale": (6, 1, 1),
            "number": np.float32(0.3),
            "row": (8,),
            "floor": (6, 8, 8),
            "w2": (2, 6, 1, 1),
        },
    )
    assert found.free == [("a", 6)]
    assert [found.shape(name) for name in ("bias", "scale", "number", "row", "floor")] == [
        (1, 3, 1, 1),
        (3, 1, 1),
        (),
        (8,),
        (3, 8, 8),
    ]


def test_a_choice_between_tensors_ties_them() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Conv(x, w2)  c = Greater(a, b)  d = Where(c, a, zero)  y = Conv(d, w3) }}",
        {"w1": (6, 3, 1, 1), "w2": (6, 3, 1, 1), "zero": (1, 6, 1, 1), "w3": (2, 6, 1, 1)},
    )
    assert found.free == [("a+b", 6)]
    assert found.shape("zero") == (1, 3, 1, 1)


def test_channels_on_different_axes_do_not_mix() -> None:
    found = prune(
        "(float[N,5] x) => (float y) { a = MatMul(x, w1)  b = MatMul(x, w2)  c = Unsqueeze(a, two)"
        " d = Unsqueeze(b, one)"
        " e = Add(c, d)  f = ReduceMean<axes=[2], keepdims=0>(e)  y = MatMul(f, w3) }",
        {"w1": (5, 6), "w2": (5, 6), "w3": (6, 2), "one": [1], "two": [2]},
    )
    assert found.free == [("a", 6)]
    assert found.why("b") == "they meet channels of another axis (e)"


def test_a_prelu_is_cut_with_its_channels() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = PRelu(a, slope)  c = PRelu(b, one)  y = Conv(c, w2) }}",
        {"w1": (6, 3, 1, 1), "slope": (6, 1, 1), "one": (1,), "w2": (2, 6, 1, 1)},
    )
    assert found.free == [("a", 6)]
    assert found.shape("slope") == (3, 1, 1)
    assert found.shape("one") == (1,)


def test_a_squeeze_and_excitation_gate_goes_with_what_it_scales() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  p = GlobalAveragePool(a)  s = Conv(p, w2, b2)  r = Relu(s)  e = Conv(r, w3, b3)"
        " g = Sigmoid(e)  m = Mul(a, g)  y = Conv(m, w4) }",
        {"w1": (8, 3, 3, 3), "w2": (4, 8, 1, 1), "b2": (4,), "w3": (8, 4, 1, 1), "b3": (8,), "w4": (2, 8, 1, 1)},
    )
    assert found.free == [("a+e", 8), ("s", 4)]
    assert found.shape("w2") == (2, 4, 1, 1)
    assert found.shape("w3") == (4, 2, 1, 1)


@pytest.mark.parametrize("operator", ["FastGelu", "BiasGelu"])
def test_the_bias_of_a_fused_activation_is_cut(operator: str) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w1"], ["a"]),
            helper.make_node(operator, ["a", "bias"], ["b"], domain="com.microsoft"),
            helper.make_node("MatMul", ["b", "w2"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(value, name)
            for name, value in (("w1", random(5, 8)), ("bias", random(8)), ("w2", random(8, 3)))
        ],
    )
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    found = prune_network(network(helper.make_model(graph, opset_imports=domains, ir_version=8)))
    assert found.free == [("a", 8)]
    assert found.shape("bias") == (4,)


# taken apart and put together


def test_a_concatenation_keeps_the_channels_of_its_inputs_apart() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Conv(x, w2)  c = Concat<axis=1>(a, x, b)  y = Conv(c, w3) }}",
        {"w1": (4, 3, 1, 1), "w2": (6, 3, 1, 1), "w3": (2, 13, 1, 1)},
    )
    assert found.free == [("a", 4), ("b", 6)]
    assert found.shape("w3") == (2, 2 + 3 + 3, 1, 1)


def test_a_concatenation_of_concatenations_is_followed() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Conv(a, w2)  c = Concat<axis=1>(a, b)  d = Conv(c, w3)"
        f" e = Concat<axis=-3>(c, d, a)"
        " y = Conv(e, w4) }",
        {"w1": (4, 3, 1, 1), "w2": (6, 4, 1, 1), "w3": (8, 10, 1, 1), "w4": (2, 22, 1, 1)},
    )
    assert found.free == [("a", 4), ("b", 6), ("d", 8)]
    assert found.shape("w3") == (4, 5, 1, 1)
    assert found.shape("w4") == (2, 2 + 3 + 4 + 2, 1, 1)


def test_a_concatenation_of_places_ties_channels_and_cuts_constants() -> None:
    found = prune(
        "(float[2,3,5] x) => (float y) { a = Conv(x, w1)  b = Conv(x, w2)  c = Concat<axis=2>(a, token, b)"
        " y = Conv(c, w3) }",
        {"w1": (4, 3, 1), "w2": (4, 3, 1), "token": (2, 4, 1), "w3": (2, 4, 1)},
    )
    assert found.free == [("a+b", 4)]
    assert found.shape("token") == (2, 2, 1)


@pytest.mark.parametrize(
    ("opset", "split"),
    [
        (11, "b, c = Split<axis=1, split=[3, 5]>(a)"),
        (13, "b, c = Split<axis=1>(a, sizes)"),
        (13, "b, c = Split<axis=-3>(a, sizes)"),
    ],
)
def test_a_split_is_given_the_sizes_that_are_left(opset: int, split: str) -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  {split}  d = Relu(b)  e = Conv(d, w2)  f = Conv(c, w3)  y = Add(e, f) }}",
        {"w1": (8, 3, 1, 1), "sizes": [3, 5], "w2": (2, 3, 1, 1), "w3": (2, 5, 1, 1)},
        opset,
        {"a": [1, 3, 5, 6]},
    )
    assert found.free == [("a", 3), ("a", 5)]
    assert found.shape("w1") == (4, 3, 1, 1)
    assert found.shape("w2") == (2, 2, 1, 1)
    assert found.shape("w3") == (2, 2, 1, 1)


@pytest.mark.parametrize(
    ("opset", "split"), [(11, "Split<axis=1>(a)"), (13, "Split<axis=1>(a)"), (18, "Split<axis=1, num_outputs=2>(a)")]
)
def test_a_split_into_equal_parts_is_given_their_sizes(opset: int, split: str) -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b, c = {split}  d = Conv(b, w2)  e = Conv(c, w3)  y = Add(d, e) }}",
        {"w1": (8, 3, 1, 1), "w2": (2, 4, 1, 1), "w3": (2, 4, 1, 1)},
        opset,
        {"a": [1, 2, 3, 4]},
    )
    assert found.free == [("a", 4), ("a", 4)]
    assert found.shape("w2") == (2, 1, 1, 1)
    assert found.shape("w3") == (2, 3, 1, 1)


def test_a_split_of_places_hands_on_all_channels_to_each_part() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b, c = Split<axis=2>(a, sizes)  d = Conv(b, w2)  e = Conv(c, w3)"
        f" y = Concat<axis=2>(d, e) }}",
        {"w1": (8, 3, 1, 1), "sizes": [3, 5], "w2": (2, 8, 1, 1), "w3": (2, 8, 1, 1)},
    )
    assert found.free == [("a", 8)]
    assert found.shape("w2") == found.shape("w3") == (2, 4, 1, 1)
    assert found.shape("sizes") == (2,)


def test_no_part_of_a_tensor_loses_all_of_its_channels() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b, c, d = Split<axis=1>(a, sizes)  e = Conv(b, w2)  f = Conv(c, w3)"
        f" g = Conv(d, w4)"
        " y = Sum(e, f, g) }",
        {"w1": (8, 3, 1, 1), "sizes": [1, 2, 5], "w2": (2, 1, 1, 1), "w3": (2, 2, 1, 1), "w4": (2, 5, 1, 1)},
        share=1 - 1e-9,
    )
    assert found.free == [("a", 2), ("a", 5)]
    assert found.frozen[0] == ("a", 1, "a single channel is taken out of them (b)")
    assert [found.shape(name)[1] for name in ("w2", "w3", "w4")] == [1, 1, 1]


def test_overlapping_parts_keep_a_channel_each() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Slice(a, s0, e0, axis)  c = Slice(a, s1, e1, axis)"
        f" d = Slice(a, s2, e2, axis)"
        " f = Conv(b, w2)  g = Conv(c, w3)  h = Conv(d, w4)  y = Sum(f, g, h) }",
        {
            "w1": (6, 3, 1, 1), "w2": (2, 3, 1, 1), "w3": (2, 2, 1, 1), "w4": (2, 3, 1, 1), "axis": [1],
            "s0": [0], "e0": [3], "s1": [2], "e1": [4], "s2": [3], "e2": [6],
        },
        share=1 - 1e-9,
    )  # fmt: skip
    assert found.free == [("a", 2), ("a", 3)]
    assert found.why("a") == "one of those that are taken out together stays (c)"
    assert found.shape("w1")[0] == 3


@pytest.mark.parametrize(
    ("start", "end", "left"), [(2, 6, 3), (-6, -2, 3), (-100, 4, 3), (3, 1000, 2), (-4, 2**63 - 1, 1)]
)
def test_the_bounds_of_a_slice_move_with_what_is_before_and_in_it(start: int, end: int, left: int) -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Slice(a, start, end, axis, step)  c = Conv(b, w2)  d = Conv(a, w3)"
        f" y = Add(c, d) }}",
        {
            "w1": (8, 3, 1, 1),
            "start": [0, start],
            "end": [8, end],
            "axis": [-1, 1],
            "step": [1, 1],
            "w2": (2, len(range(8)[start:end]), 1, 1),
            "w3": (2, 8, 1, 1),
        },
        lose={"a": [0, 4, 6, 7]},
    )
    assert sum(units for _, units in found.free) == 8
    assert found.shape("w1") == (4, 3, 1, 1)
    assert found.shape("w2")[1] == left


def test_negative_bounds_of_a_slice_move_with_what_is_after_it() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Slice(a, start, end, axis)  c = Conv(b, w2)  d = Conv(a, w3)"
        f" y = Add(c, d) }}",
        {"w1": (8, 3, 1, 1), "start": [-6], "end": [-2], "axis": [1], "w2": (2, 4, 1, 1), "w3": (2, 8, 1, 1)},
        lose={"a": [7]},
    )
    assert [found.small.weights[name].tolist() for name in ("start", "end")] == [[2], [6]]
    assert found.shape("w2") == (2, 4, 1, 1)


def test_a_slice_of_an_old_opset_keeps_its_bounds_as_attributes() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Slice<axes=[1], starts=[-6], ends=[-2]>(a)  c = Conv(b, w2)  d = Conv(a, w3)"
        " y = Add(c, d) }",
        {"w1": (8, 3, 1, 1), "w2": (2, 4, 1, 1), "w3": (2, 8, 1, 1)},
        9,
        {"a": [0, 4, 6, 7]},
    )
    assert found.shape("w2")[1] == 3
    assert [list(item.ints) for item in found.nodes["b"].attribute] == [[1], [1], [4]]


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (2, "a slice takes one of every 2 of them (b)"),
        (-3, "a slice takes one of every 3 of them (b)"),
        (-1, "a slice reverses them (b)"),
    ],
)
def test_a_slice_with_steps_freezes_its_channels(step: int, why: str) -> None:
    start, end = (0, 8) if step > 0 else (-1, -(2**31))
    left = len(range(0, 8, abs(step)))
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Slice(a, start, end, axis, step)  y = Conv(b, w2) }}",
        {"w1": (8, 3, 1, 1), "start": [start], "end": [end], "axis": [1], "step": [step], "w2": (2, left, 1, 1)},
    )
    assert found.why("a") == why


def test_gathered_channels_are_renumbered() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Gather<axis=1>(a, order)  c = Conv(b, w2)  d = Gather<axis=1>(a, one)"
        " e = ReduceMean<axes=[1, 2], keepdims=0>(d)  f = ReduceSum<keepdims=0>(c, all)  g = Gather<axis=2>(a, row)"
        " h = ReduceMax<axes=[2], keepdims=0>(g)  i = MatMul(h, w3)  j = Unsqueeze(e, last)  k = Unsqueeze(f, last)"
        " y = Sum(i, j, k) }",
        {
            "w1": (8, 3, 1, 1),
            "order": [6, -1, 1, 1, 0, 3],
            "w2": (2, 6, 1, 1),
            "one": np.asarray(-6, np.int64),
            "row": np.asarray(3, np.int64),
            "w3": (8, 2),
            "last": [1],
            "all": [1, 2, 3],
        },
        lose={"a": [1, 4, 7]},
    )
    assert sum(units for _, units in found.free) == 7
    assert ("a", 1, "a single channel is taken out of them (d)") in found.frozen
    assert found.small.weights["order"].tolist() == [4, 0, 2]
    assert found.small.weights["one"] == 1
    assert found.shape("w2") == (2, 3, 1, 1)


@pytest.mark.parametrize("token", [(1, 1, 8), (8,)])
def test_a_constant_that_is_expanded_to_the_batch_is_cut_with_what_it_meets(token: tuple[int, ...]) -> None:
    found = prune(
        "(float[N,6,5] x) => (float y) { s = Shape(x)  n = Slice(s, zero, one)  t = Concat<axis=0>(n, rest)"
        " c = Expand(token, t)  a = MatMul(x, w1)  b = Concat<axis=1>(c, a)  d = Add(b, places)  y = MatMul(d, w2) }",
        {"token": token, "w1": (5, 8), "places": (1, 7, 8), "w2": (8, 2), "zero": [0], "one": [1], "rest": [1, 8]},
    )
    assert found.free == [("a", 8)]
    assert found.shape("token") == (*token[:-1], 4)


def test_a_constant_of_one_number_is_expanded_to_the_channels_that_are_left() -> None:
    found = prune(
        "(float[N,6,5] x) => (float y) { s = Shape(x)  n = Slice(s, zero, one)  t = Concat<axis=0>(n, rest)"
        " c = Expand(number, t)  a = MatMul(x, w1)  b = Concat<axis=1>(c, a)  y = MatMul(b, w2) }",
        {"number": (1,), "w1": (5, 8), "w2": (8, 2), "zero": [0], "one": [1], "rest": [1, 8]},
    )
    assert found.free == [("a", 8)]
    assert found.shape("number") == (1,)


def test_an_expanded_constant_that_is_also_read_as_a_whole_stays() -> None:
    found = prune(
        "(float[N,6,5] x) => (float y, float z) { s = Shape(x)  n = Slice(s, zero, one)  t = Concat<axis=0>(n, rest)"
        " c = Expand(token, t)  a = MatMul(x, w1)  b = Concat<axis=1>(c, a)  y = MatMul(b, w2)"
        " z = Softmax<axis=2>(c) }",
        {"token": (1, 1, 8), "w1": (5, 8), "w2": (8, 2), "zero": [0], "one": [1], "rest": [1, 8]},
    )
    assert found.why("a") == "'c' is also read as a whole (c)"


def test_a_table_of_places_that_is_sliced_to_a_free_length_is_cut() -> None:
    found = prune(
        "(float[N,L,5] x) => (float y) { s = Shape(x)  l = Slice(s, one, two)  p = Slice(places, zero, l, one)"
        " a = MatMul(x, w1)  b = Add(a, p)  y = MatMul(b, w2) }",
        {"w1": (5, 8), "places": (1, 9, 8), "w2": (8, 2), "zero": [0], "one": [1], "two": [2]},
    )
    assert found.free == [("a", 8)]
    assert found.shape("places") == (1, 9, 4)


@pytest.mark.parametrize("states", ["h, c", "h, h"])
def test_initial_states_that_are_expanded_to_the_batch_go_with_the_units(states: str) -> None:
    found = prune(
        f"(float[4,N,6] x) => (float y) {{ s = Shape(x)  n = Slice(s, one, two)  t = Concat<axis=0>(unit, n, rest)"
        f" h = Expand(h0, t)  c = Expand(c0, t)  a = LSTM<hidden_size=8>(x, w, r, , , {states})"
        f" b = Squeeze(a, one)  y = MatMul(b, w2) }}",
        {
            "h0": (1, 1, 8), "c0": (1, 1, 8), "w": (1, 32, 6), "r": (1, 32, 8), "w2": (8, 2), "one": [1], "two": [2],
            "unit": [1], "rest": [8],
        },
    )  # fmt: skip
    assert found.free == [("a", 8)]
    assert found.shape("h0") == (1, 1, 4)


def test_an_embedding_makes_units() -> None:
    found = prune(
        "(int64[N,5] x) => (float y) { a = Gather(table, x)  b = MatMul(a, w1)  y = ReduceMean<axes=[1]>(b) }",
        {"table": (4, 8), "w1": (8, 3)},
    )
    assert found.free == [("a", 8)]
    assert found.shape("table") == (4, 4)


def test_channels_that_are_parameters_of_others_stay() -> None:
    found = prune(
        "(float[N,4] x) => (float y) { a = MatMul(x, w1)  b = Cast<to=7>(a)  c = Clip(b, zero, one)"
        " d = Gather(table, c)"
        " e = MatMul(d, w2)  y = ReduceMean<axes=[1]>(e) }",
        {"w1": (4, 6), "zero": np.asarray(0, np.int64), "one": np.asarray(1, np.int64), "table": (2, 8), "w2": (8, 3)},
    )
    assert found.free == [("d", 8)]
    assert found.why("a") == "Gather takes them as its parameters (d)"


# reshapes


def test_a_flatten_into_a_gemm_takes_all_places_of_a_channel() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)  c = Flatten(b)"
        f" y = Gemm(c, w2, b2) }}",
        {"w1": (6, 3, 1, 1), "w2": (96, 5), "b2": (5,)},
    )
    assert found.free == [("a", 6)]
    assert found.shape("w2") == (48, 5)


@pytest.mark.parametrize("target", [[-1, 384], [0, -1], [0, 384], [2, -1]])
def test_a_reshape_with_constant_sizes_flattens(target: list[int]) -> None:
    batch = "2" if target[0] == 2 else "N"
    found = prune(
        f"(float[{batch},3,8,8] x) => (float y) {{ a = Conv(x, w1)  b = Reshape(a, target)  y = MatMul(b, w2) }}",
        {"w1": (6, 3, 1, 1), "target": target, "w2": (384, 5)},
    )
    assert found.free == [("a", 6)]
    assert found.shape("w2") == (192, 5)
    assert found.small.weights["target"].tolist() == [192 if size == 384 else size for size in target]


def test_a_reshape_with_computed_sizes_flattens_at_every_batch() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  s = Shape(a)  n = Gather(s, zero)  u = Unsqueeze(n, first)"
        f" t = Concat<axis=0>(u, rest)"
        " b = Reshape(a, t)  y = MatMul(b, w2) }",
        {"w1": (6, 3, 1, 1), "zero": np.asarray(0, np.int64), "first": [0], "rest": [-1], "w2": (384, 5)},
    )
    assert found.free == [("a", 6)]
    assert "Shape" not in operators(found)


def test_the_sizes_of_attention_may_be_computed_at_a_free_batch_and_length() -> None:
    # as PyTorch writes it: 0 is no "as it was", and for keys the batch is merged with the heads
    found = prune(
        """(float[N,L,8] x) => (float y) {
            s = Shape(x)  n = Slice(s, zero, one)  l = Slice(s, one, two)  m = Mul(n, two)
            split = Concat<axis=0>(n, l, two, four)  flat = Concat<axis=0>(m, l, four)
            again = Concat<axis=0>(n, two, four, l)  whole = Concat<axis=0>(n, l, eight)
            q0 = MatMul(x, wq)  q1 = Reshape<allowzero=1>(q0, split)  q = Transpose<perm=[0,2,1,3]>(q1)
            k0 = MatMul(x, wk)  k1 = Reshape<allowzero=1>(k0, split)  k2 = Transpose<perm=[0,2,1,3]>(k1)
            k3 = Reshape<allowzero=1>(k2, flat)  k4 = Transpose<perm=[0,2,1]>(k3)  k = Reshape<allowzero=1>(k4, again)
            v0 = MatMul(x, wv)  v1 = Reshape<allowzero=1>(v0, split)  v = Transpose<perm=[0,2,1,3]>(v1)
            d = MatMul(q, k)  p = Softmax(d)  o1 = MatMul(p, v)  o2 = Transpose<perm=[0,2,1,3]>(o1)
            o = Reshape<allowzero=1>(o2, whole)  y = MatMul(o, wo) }""",
        {
            "zero": [0], "one": [1], "two": [2], "four": [4], "eight": [8],
            "wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "wo": (8, 5),
        },
    )  # fmt: skip
    assert found.free == [("q0+k0", 4), ("v0", 4)]
    assert found.shape("wq") == found.shape("wk") == found.shape("wv") == (8, 4)


@pytest.mark.parametrize("size", ["8,8", "H,W"])
@pytest.mark.parametrize(("groups", "channels"), [(4, 16), (2, 8), (4, 8), (2, 16)])
def test_a_group_normalization_of_reshapes_loses_whole_groups(groups: int, channels: int, size: str) -> None:
    found = prune(
        f"(float[N,3,{size}] x) => (float y) {{ a = Conv(x, w1)  b = Reshape(a, split)"
        f" c = InstanceNormalization(b, ones, noughts)  s = Shape(a)  d = Reshape(c, s)  e = Mul(d, scale)"
        f" y = Conv(e, w2) }}",
        {
            "w1": (channels, 3, 1, 1), "split": [0, groups, -1], "ones": np.ones(groups, np.float32),
            "noughts": np.zeros(groups, np.float32), "scale": (channels, 1, 1), "w2": (2, channels, 1, 1),
        },
    )  # fmt: skip
    assert found.free == [("a", groups)]
    assert found.shape("w2") == (2, channels // 2, 1, 1)
    assert found.shape("ones") == (groups // 2,)


@pytest.mark.parametrize("axis", [1, 2])
def test_channels_go_along_the_axis_of_a_reshape_that_nothing_looks_across(axis: int) -> None:
    found = prune(
        f"(float[N,5] x) => (float y) {{ a = MatMul(x, w1)  b = Reshape(a, square)"
        f" c = ReduceMax<axes=[{axis}], keepdims=0>(b)  y = MatMul(c, w2) }}",
        {"w1": (5, 16), "square": [0, 4, 4], "w2": (4, 2)},
    )
    assert found.free == [("a", 4)]
    assert (found.shape("w1"), found.shape("w2")) == ((5, 8), (2, 2))


def test_an_image_may_be_resized_to_the_size_of_another_at_a_free_batch() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)  c = Conv(b, w2)"
        f" s = Shape(c)  n = Slice(s, zero, two)  t = Shape(a)  l = Slice(t, two, four)"
        f" sizes = Concat<axis=0>(n, l)  d = Resize(c, , , sizes)  e = Add(a, d)  y = Conv(e, w3) }}",
        {"w1": (6, 3, 1, 1), "w2": (6, 6, 1, 1), "w3": (2, 6, 1, 1), "zero": [0], "two": [2], "four": [4]},
    )
    assert found.free == [("a+c", 6)]


def test_computed_bounds_of_a_slice_let_channels_of_another_axis_pass() -> None:
    found = prune(
        "(float[N,3,L] x) => (float y) { a = Conv(x, w1)  s = Shape(x)  l = Slice(s, two, three)  h = Div(l, two)"
        " b = Slice(a, zero, h, two)  y = Conv(b, w2) }",
        {"w1": (6, 3, 1), "w2": (2, 6, 1), "zero": [0], "two": [2], "three": [3]},
    )
    assert found.free == [("a", 6)]


def test_channels_merged_with_a_free_axis_stay() -> None:
    found = prune(
        "(float[N,3,L] x) => (float y) { a = Conv(x, w1)  b = Reshape(a, target)  y = ReduceMax<axes=[1]>(b) }",
        {"w1": (6, 3, 1), "target": [0, -1]},
    )
    assert found.why("a") == "they are merged with an axis of free size (b)"


def test_a_reshape_that_keeps_channels_by_chance_freezes_them() -> None:
    found = prune(
        "(float[N,5] x) => (float y) { a = MatMul(x, w1)  b = Reshape(a, target)  y = ReduceMax<axes=[1]>(b) }",
        {"w1": (5, 6), "target": [2, -1]},
    )
    assert found.why("a") == "they are merged with an axis of free size (b)"


def test_a_size_that_is_copied_from_another_axis_is_not_rewritten() -> None:
    found = prune(
        "(float[2,5,8] x) => (float y) { a = Conv(x, w1)  b = Reshape(a, target)  y = ReduceMax<axes=[1]>(b) }",
        {"w1": (4, 5, 1), "target": [8, 0, 2]},
    )
    assert found.why("a") == "their number is copied by a reshape (b)"


def test_channels_that_go_together_may_meet_a_reshape() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Conv<group=4>(a, w2)  c = Slice(b, zero, two, axis)  d = Flatten(c)"
        f" e = MatMul(d, w3)"
        " f = Conv(b, w4)  g = Flatten(f)  h = MatMul(g, w5)  y = Add(e, h) }",
        {
            "w1": (4, 3, 1, 1),
            "w2": (8, 1, 1, 1),
            "zero": [0],
            "two": [2],
            "axis": [1],
            "w3": (128, 3),
            "w4": (2, 8, 1, 1),
            "w5": (128, 3),
        },
    )
    assert found.free == [("a", 3), ("f", 2)]
    assert found.why("a") == "they go together, and a reshape needs them (d)"


def test_a_transpose_takes_the_channels_along() -> None:
    found = prune(
        "(float[N,8,8,3] x) => (float y) { t = Transpose<perm=[0,3,1,2]>(x)  a = Conv(t, w1)"
        " b = Transpose<perm=[0,2,3,1]>(a)"
        " c = Add(b, bias)  d = MatMul(c, w2)  e = Transpose(d)  y = ReduceMean<axes=[0], keepdims=0>(e) }",
        {"w1": (6, 3, 1, 1), "bias": (6,), "w2": (6, 5)},
    )
    assert found.free == [("a", 6)]
    assert found.why("d") == "ReduceMean looks across them (y)"
    assert found.shape("bias") == (3,)
    assert found.shape("w2") == (3, 5)


@pytest.mark.parametrize("batch", ["N", "2"])
def test_a_channel_shuffle_becomes_a_gather_that_ties_nothing(batch: str) -> None:
    found = prune(
        f"(float[{batch},3,4,4] x) => (float y) {{ a = Conv(x, w1)  b = Reshape(a, split)"
        f" c = Transpose<perm=[0,2,1,3,4]>(b)"
        " d = Reshape(c, whole)  e = Conv<group=2>(d, w2)  y = Conv(e, w3) }",
        {
            "w1": (8, 3, 1, 1),
            "split": [-1, 2, 4, 4, 4],
            "whole": [-1, 8, 4, 4],
            "w2": (8, 4, 1, 1),
            "w3": (2, 8, 1, 1),
        },
    )
    assert found.free == [("a", 4), ("e", 4)]
    assert operators(found) == ["Conv", "Gather", "Conv", "Conv"]
    assert found.shape("w2") == (4, 2, 1, 1)


def test_a_shuffle_of_an_axis_of_free_size_is_left_as_it_is() -> None:
    found = prune(
        "(float[N,6,L] x) => (float y) { a = Reshape(x, split)  b = Transpose<perm=[0,1,3,2]>(a)  s = Shape(x)"
        " c = Reshape(b, s)"
        " d = Conv(c, w1)  y = Conv(d, w2) }",
        {"split": [0, 6, 2, -1], "w1": (8, 6, 1), "w2": (2, 8, 1)},
    )
    assert found.free == [("d", 8)]
    assert "Gather" not in operators(found)


def test_squeezed_and_unsqueezed_axes_move_the_channels() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = GlobalMaxPool(a)  c = Squeeze(b, places)  d = Unsqueeze(c, one)"
        f" e = MatMul(d, w2)"
        " y = Squeeze(e, one) }",
        {"w1": (6, 3, 1, 1), "places": [2, 3], "one": [1], "w2": (6, 5)},
    )
    assert found.free == [("a", 6)]
    assert found.shape("w2") == (3, 5)


# convolutions


@pytest.mark.parametrize("multiplier", [1, 2])
def test_a_depthwise_convolution_goes_with_its_input(multiplier: int) -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Conv<group=6>(a, w2, b2)  y = Conv(b, w3) }}",
        {"w1": (6, 3, 1, 1), "w2": (6 * multiplier, 1, 3, 3), "b2": (6 * multiplier,), "w3": (2, 6 * multiplier, 1, 1)},
    )
    assert found.free == [("a", 6)]
    assert found.shape("w2") == (3 * multiplier, 1, 3, 3)
    assert found.shape("b2") == (3 * multiplier,)
    assert next(item.i for item in found.nodes["b"].attribute) == 3


def test_a_grouped_convolution_loses_the_same_places_of_every_group() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Conv<group=2>(a, w2, b2)  y = Conv(b, w3) }}",
        {"w1": (8, 3, 1, 1), "w2": (12, 4, 3, 3), "b2": (12,), "w3": (2, 12, 1, 1)},
        lose={"a": [1], "b": [0, 3, 4]},
    )
    assert found.free == [("a", 4), ("b", 6)]
    assert [group.width for group in found.graph.groups] == [2, 2, 1]
    assert found.shape("w1") == (6, 3, 1, 1)
    assert found.shape("w2") == (6, 3, 3, 3)
    assert found.shape("w3") == (2, 6, 1, 1)
    assert next(item.i for item in found.nodes["b"].attribute) == 2


@pytest.mark.parametrize(
    ("groups", "weight", "left", "free"),
    [
        (1, (8, 6, 3, 3), (4, 3, 3, 3), [("a", 8), ("b", 6)]),
        (2, (8, 6, 3, 3), (4, 3, 3, 3), [("a", 4), ("b", 6)]),
        (8, (8, 2, 3, 3), (4, 2, 3, 3), [("a", 8)]),
    ],
)
def test_a_transposed_convolution_is_cut(
    groups: int, weight: tuple[int, ...], left: tuple[int, ...], free: list
) -> None:
    outputs = weight[1] * groups
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = ConvTranspose<group={groups}, strides=[2,2]>(a, w2, b2)  y = Conv(b, w3) }}",
        {"w1": (8, 3, 1, 1), "w2": weight, "b2": (outputs,), "w3": (2, outputs, 1, 1)},
    )
    assert found.free == free
    assert found.shape("w2") == left
    assert found.shape("w1") == (4, 3, 1, 1)
    assert found.shape("b2") == (outputs // 2,)


def test_a_computed_weight_freezes_what_it_meets() -> None:
    found = prune(
        "(float[1,4,6] x, float[5,6,1] k) => (float y) { a = Conv(x, w1)  b = Conv(a, k)  y = Conv(b, w2) }",
        {"w1": (6, 4, 1), "w2": (2, 5, 1)},
    )
    assert found.free == []
    assert found.why("a") == "the weights are computed (b)"


def test_a_computed_bias_freezes_both_sides() -> None:
    found = prune(
        "(float[1,4,6] x, float[3] v) => (float y) { r = Unsqueeze(v, zero)  m = MatMul(r, w0)  bias = Squeeze(m, zero)"
        " a = Conv(x, w1, bias)  y = Conv(a, w2) }",
        {"zero": [0], "w0": (3, 6), "w1": (6, 4, 1), "w2": (2, 6, 1)},
    )
    assert found.free == []
    assert found.why("a") == "its input 'bias' is computed (a)"
    assert found.why("m") == "a constant is expected in their place (a)"


# Gemm and MatMul


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [None, (8,), (1, 8), (1,), ()])
def test_a_gemm_is_cut_whatever_its_bias(transposed: int, bias: tuple[int, ...] | None) -> None:
    name = "" if bias is None else ", bias"
    found = prune(
        f"(float[N,5] x) => (float y) {{ a = Gemm<alpha=0.5, beta=2.0, transB={transposed}>(x, w1{name})"
        f" b = Relu(a)  y = Gemm<alpha=0.5, transB={transposed}>(b, w2) }}",
        {
            "w1": (8, 5) if transposed else (5, 8),
            "w2": (3, 8) if transposed else (8, 3),
            "bias": np.full(bias or (), 0.4, np.float32),
        },
    )
    assert found.free == [("a", 8)]
    assert found.shape("w1") == ((4, 5) if transposed else (5, 4))
    assert found.shape("w2") == ((3, 4) if transposed else (4, 3))
    if bias:
        assert found.shape("bias") == tuple(4 if size == 8 else size for size in bias)


def test_gemms_that_are_not_understood_freeze() -> None:
    found = prune(
        "(float[4,5] x) => (float y) { a = MatMul(x, w1)  b = Gemm<transA=1>(a, w2)  c = Gemm(b, w3, b)"
        " y = MatMul(c, w4) }",
        {"w1": (5, 6), "w2": (4, 6), "w3": (6, 6), "w4": (6, 2)},
    )
    assert found.free == []
    assert found.why("a") == "Gemm is supported with constant weights on its right only (b)"
    assert found.why("c") == "a bias that is computed (c)"


def test_weights_on_the_left_of_a_matmul_make_rows() -> None:
    found = prune(
        "(float[N,5,7] x) => (float y) { a = MatMul(w1, x)  b = Add(a, bias)  c = Relu(b)  y = MatMul(w2, c) }",
        {"w1": (8, 5), "bias": (8, 1), "w2": (3, 8)},
    )
    assert found.free == [("a", 8)]
    assert found.shape("w1") == (4, 5)
    assert found.shape("bias") == (4, 1)
    assert found.shape("w2") == (3, 4)


def test_a_stack_of_matrices_freezes() -> None:
    found = prune(
        "(float[2,4,5] x) => (float y) { a = MatMul(x, w1)  y = MatMul(a, w2) }", {"w1": (5, 6), "w2": (2, 6, 3)}
    )
    assert found.why("a") == "a MatMul with a constant that is no matrix (y)"


# normalisation


def test_a_batch_normalisation_left_alone_is_cut_where_the_channels_are() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = BatchNormalization(a, ps, pb, pm, pv)  c = Relu(b)"
        f" d = Conv<pads=[1,1,1,1]>(c, w2)"
        " e = Concat<axis=1>(a, d)  f = BatchNormalization(e, qs, qb, qm, qv)  g = Relu(f)  y = Conv(g, w3) }",
        {
            "w1": (6, 3, 1, 1),
            **normalisation(6, "p"),
            "w2": (4, 6, 3, 3),
            **normalisation(10, "q"),
            "w3": (2, 10, 1, 1),
        },
    )
    assert found.free == [("a", 6), ("d", 4)]
    assert {found.shape(f"p{name}") for name in "sbmv"} == {(3,)}
    assert {found.shape(f"q{name}") for name in "sbmv"} == {(5,)}


def test_an_instance_normalisation_is_cut() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = InstanceNormalization(a, s, t)  y = Conv(b, w2) }}",
        {"w1": (6, 3, 1, 1), "s": (6,), "t": (6,), "w2": (2, 6, 1, 1)},
    )
    assert found.free == [("a", 6)]
    assert found.shape("s") == found.shape("t") == (3,)


def test_a_group_normalisation_loses_whole_groups() -> None:
    found = prune(
        "(float[N,3,8,8] x) => (float[N,2,8,8] y)"
        " { a = Conv(x, w1)  b = GroupNormalization<num_groups=4>(a, s, t)  y = Conv(b, w2) }",
        {"w1": (8, 3, 1, 1), "s": (8,), "t": (8,), "w2": (2, 8, 1, 1)},
        21,
    )
    assert found.free == [("a", 4)]
    assert found.shape("w1") == (4, 3, 1, 1)
    assert found.shape("s") == found.shape("t") == (4,)
    assert next(item.i for item in found.nodes["b"].attribute if item.name == "num_groups") == 2


def test_a_group_normalisation_written_out_by_an_exporter_loses_whole_groups() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Reshape(a, groups)  c = InstanceNormalization(b, s, t)  u = Shape(a)"
        f" d = Reshape(c, u)"
        " e = Mul(d, scale)  y = Conv(e, w2) }",
        {"w1": (16, 3, 1, 1), "groups": [0, 8, -1], "s": (8,), "t": (8,), "scale": (16, 1, 1), "w2": (2, 16, 1, 1)},
    )
    assert found.free == [("a", 8)]
    assert found.shape("s") == (4,)
    assert found.shape("scale") == (8, 1, 1)


def test_a_layer_normalisation_freezes_the_stream_while_the_mlp_shrinks() -> None:
    found = prune(
        "(float[N,4,6] x) => (float y) { a = MatMul(x, w1)  n = LayerNormalization(a, s, t)  b = MatMul(n, w2)"
        " c = Add(b, b2)"
        " g = Sigmoid(c)  d = MatMul(g, w3)  e = Add(a, d)  y = ReduceMean<axes=[1]>(e) }",
        {"w1": (6, 8), "s": (8,), "t": (8,), "w2": (8, 12), "b2": (12,), "w3": (12, 8)},
    )
    assert found.free == [("b", 12)]
    assert found.why("a+d") == "LayerNormalization looks across them (n)"
    assert found.shape("b2") == (6,)
    assert found.shape("w3") == (6, 8)


@pytest.mark.parametrize(
    ("opset", "softmax", "passes"),
    [
        (17, "Softmax<axis=1>(b)", False),
        (17, "Softmax<axis=-1>(b)", True),
        (17, "Softmax(b)", True),
        (11, "Softmax(b)", False),
        (11, "Softmax<axis=2>(b)", True),
        (11, "LogSoftmax<axis=0>(b)", False),
    ],
)
def test_a_softmax_freezes_the_channels_that_it_looks_across(opset: int, softmax: str, passes: bool) -> None:
    found = prune(
        f"(float[N,3,8] x) => (float y) {{ a = Conv(x, w1)  b = Sin(a)  c = {softmax}  y = Conv(c, w2) }}",
        {"w1": (6, 3, 1), "w2": (2, 6, 1)},
        opset,
    )
    assert found.free == ([("a", 6)] if passes else [])
    if not passes:
        assert "Softmax looks across them (c)" in found.why("a")


def test_other_normalisations_freeze_only_their_own_axes() -> None:
    found = prune(
        "(float[N,3,8] x) => (float y) { a = Conv(x, w1)  b = LpNormalization<axis=2>(a)"
        " c = MeanVarianceNormalization<axes=[0,2]>(b)"
        " d = Conv(c, w2)  e = LpNormalization<axis=1>(d)  f = Conv(e, w3)  h = Unsqueeze(f, last)"
        " g = LRN<size=3>(h)  y = Conv(g, w4) }",
        {"w1": (6, 3, 1), "w2": (4, 6, 1), "w3": (4, 4, 1), "last": [3], "w4": (2, 4, 1, 1)},
    )
    assert found.free == [("a", 6)]
    assert found.why("d") == "LpNormalization looks across them (e)"
    assert found.why("f") == "LRN is not supported (g)"


# attention


QKV = {"split": [0, 4, 2, 5], "merge": [0, 4, 10], "scale": np.float32(0.4)}


def test_attention_heads_lose_the_same_width() -> None:
    found = prune(
        "(float[N,4,6] x) => (float y) { q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3)"
        " q1 = Reshape(q, split)"
        " k1 = Reshape(k, split)  v1 = Reshape(v, split)  q2 = Transpose<perm=[0,2,1,3]>(q1)"
        " k2 = Transpose<perm=[0,2,3,1]>(k1)"
        " v2 = Transpose<perm=[0,2,1,3]>(v1)  s = MatMul(q2, k2)  t = Mul(s, scale)  p = Softmax<axis=-1>(t)"
        " o = MatMul(p, v2)"
        " o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, merge)  y = MatMul(o2, w4) }",
        {"w1": (6, 10), "w2": (6, 10), "w3": (6, 10), "w4": (10, 6), **QKV},
        lose={"q2": [1, 4], "v2": [0, 2, 3]},
    )
    assert found.free == [("q+k", 5), ("v", 5)]
    assert [group.width for group in found.graph.groups[:2]] == [2, 2]
    assert found.shape("w1") == found.shape("w2") == (6, 6)
    assert found.shape("w3") == (6, 4)
    assert found.shape("w4") == (4, 6)


ONE_OPERATOR = {  # and the width of all keys and values
    "of three dimensions": ("o = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v)", 10),
    "of two heads of queries to one of keys": ("o = Attention<q_num_heads=2, kv_num_heads=1>(q, k, v)", 5),
    "scaled": ("o = Attention<q_num_heads=2, kv_num_heads=2, scale=0.3>(q, k, v)", 10),
    "masked": ("o = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, v, , , looked)", 10),
    "of four dimensions": (
        "q1 = Reshape(q, split)  k1 = Reshape(k, split)  v1 = Reshape(v, split)  q2 = Transpose<perm=[0,2,1,3]>(q1)"
        " k2 = Transpose<perm=[0,2,1,3]>(k1)  v2 = Transpose<perm=[0,2,1,3]>(v1)  o0 = Attention(q2, k2, v2)"
        " o1 = Transpose<perm=[0,2,1,3]>(o0)  o = Reshape(o1, merge)",
        10,
    ),
}


@pytest.mark.parametrize("case", ONE_OPERATOR)
def test_heads_of_attention_as_one_operator_lose_the_same_width(case: str) -> None:
    """They are scaled by the width that they had."""
    node, width = ONE_OPERATOR[case]
    found = prune(
        f"(float[N,4,6] x) => (float[N,4,6] y) {{ q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3) {node}"
        " y = MatMul(o, w4) }",
        {"w1": (6, 10), "w2": (6, width), "w3": (6, width), "w4": (10, 6), "looked": (1, 1, 4, 4), **QKV},
        23,
        lose={"q": [1, 4], "v": [0, 2, 3]},
    )
    assert found.free == [("q+k", 5), ("v", 5)]
    assert (found.shape("w1"), found.shape("w3")) == ((6, 6), (6, 2 * width // 5))
    graph = found.graph
    places = 2 * 4
    keep = graph.keep({0: [0, 1], 1: [2]})
    products = places * (6 * 10 + 2 * 6 * width + 10 * 6) + places * 4 * (10 + 10)
    assert graph.macs(graph.keep({})) == products
    left = places * 6 * (6 + 3 * width // 5 + 4 * width // 5 + 8) + places * 4 * (6 + 8)
    assert graph.macs(keep) == pytest.approx(left)


@pytest.mark.parametrize(
    "node",
    [
        "o, k1, v1 = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v)",
        "o, k1, v1 = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, v)",
    ],
)
def test_attention_that_keeps_its_keys_stays(node: str) -> None:
    found = prune(
        f"(float[N,4,6] x) => (float[N,4,6] y) {{ q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3) {node}"
        " y = MatMul(o, w4) }",
        {"w1": (6, 10), "w2": (6, 10), "w3": (6, 10), "w4": (10, 6)},
        23,
    )
    assert found.free == []
    assert "attention that keeps its keys" in " ".join(why for _, _, why in found.frozen)


def test_fused_queries_keys_and_values_are_cut_apart() -> None:
    found = prune(
        "(float[N,4,6] x) => (float y) { f = MatMul(x, w1)  f1 = Add(f, b1)"
        " q, k, v = Split<axis=2>(f1, sizes)  q1 = Reshape(q, split)"
        " k1 = Reshape(k, split)  v1 = Reshape(v, split)  q2 = Transpose<perm=[0,2,1,3]>(q1)"
        " k2 = Transpose<perm=[0,2,3,1]>(k1)"
        " v2 = Transpose<perm=[0,2,1,3]>(v1)  s = MatMul(q2, k2)  t = Mul(s, scale)  p = Softmax<axis=-1>(t)"
        " o = MatMul(p, v2)"
        " o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, merge)  y = MatMul(o2, w4) }",
        {"w1": (6, 30), "b1": (30,), "sizes": [10, 10, 10], "w4": (10, 6), **QKV},
        lose={"q2": [1, 4], "v2": [0, 2, 3]},
    )
    assert found.free == [("f", 5), ("f", 5)]
    assert found.small.weights["sizes"].tolist() == [6, 6, 4]
    assert found.shape("w1") == (6, 16)
    assert found.shape("b1") == (16,)
    assert found.shape("w4") == (4, 6)


def test_queries_keys_and_values_in_an_axis_of_three_are_tied() -> None:
    found = prune(
        "(float[N,4,6] x) => (float y) { f = MatMul(x, w1)  g = Reshape(f, five)  h = Transpose<perm=[2,0,3,1,4]>(g)"
        " q = Gather<axis=0>(h, i0)  k = Gather<axis=0>(h, i1)  v = Gather<axis=0>(h, i2)"
        " k2 = Transpose<perm=[0,1,3,2]>(k)"
        " s = MatMul(q, k2)  p = Softmax<axis=-1>(s)  o = MatMul(p, v)  o1 = Transpose<perm=[0,2,1,3]>(o)"
        " o2 = Reshape(o1, merge)"
        " y = MatMul(o2, w4) }",
        {
            "w1": (6, 30),
            "five": [0, 4, 3, 2, 5],
            **{f"i{index}": np.asarray(index, np.int64) for index in range(3)},
            "merge": [0, 4, 10],
            "w4": (10, 6),
        },
        lose={"q": [1, 3]},
    )
    assert found.free == [("f", 5)]
    assert found.graph.groups[0].width == 6
    assert found.shape("w1") == (6, 18)
    assert found.shape("w4") == (6, 6)


def test_whole_heads_go_where_there_are_more_heads_than_width() -> None:
    found = prune(
        "(float[N,4,6] x) => (float y) { q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3)"
        " q1 = Reshape(q, split)"
        " k1 = Reshape(k, split)  v1 = Reshape(v, split)  q2 = Transpose<perm=[0,2,1,3]>(q1)"
        " k2 = Transpose<perm=[0,2,3,1]>(k1)"
        " v2 = Transpose<perm=[0,2,1,3]>(v1)  s = MatMul(q2, k2)  p = Softmax<axis=-1>(s)  o = MatMul(p, v2)"
        " o1 = Transpose<perm=[0,2,1,3]>(o)  o2 = Reshape(o1, merge)  y = MatMul(o2, w4) }",
        {"w1": (6, 10), "w2": (6, 10), "w3": (6, 10), "w4": (10, 6), "split": [0, 4, 5, 2], "merge": [0, 4, 10]},
        lose={"q2": [1, 4]},
    )
    assert found.free == [("q+k+v", 5)]
    assert found.shape("w1") == found.shape("w2") == found.shape("w3") == (6, 6)
    assert found.shape("w4") == (6, 6)


@pytest.mark.parametrize("width", [5, 2])
def test_heads_that_are_merged_with_the_batch_lose_the_same_width(width: int) -> None:
    found = prune(
        "(float[4,N,6] x) => (float y) { q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3)"
        " q1 = Reshape(q, split)  k1 = Reshape(k, split)  v1 = Reshape(v, split)"
        " q2 = Transpose<perm=[1,0,2]>(q1)  k2 = Transpose<perm=[1,2,0]>(k1)  v2 = Transpose<perm=[1,0,2]>(v1)"
        " s = MatMul(q2, k2)  p = Softmax<axis=-1>(s)  o = MatMul(p, v2)  o1 = Transpose<perm=[1,0,2]>(o)"
        " o2 = Reshape(o1, merge)  y = MatMul(o2, w4) }",
        {"w1": (6, 10), "w2": (6, 10), "w3": (6, 10), "w4": (10, 6), "split": [4, -1, width], "merge": [-1, 10]},
        lose={"q2": [1], "v2": [0]},
    )
    assert found.free == [("q+k", width), ("v", width)]
    left = 10 - 10 // width
    assert found.shape("w1") == found.shape("w2") == found.shape("w3") == (6, left)
    assert found.shape("w4") == (left, 6)


def test_an_einsum_ties_and_sums_axes_of_one_letter() -> None:
    found = prune(
        "(float[N,4,6] x) => (float y) { q = MatMul(x, w1)  k = MatMul(x, w2)  v = MatMul(x, w3)"
        ' s = Einsum<equation="bid, bjd -> bij">(q, k)  p = Softmax<axis=-1>(s)'
        ' o = Einsum<equation="bij,bjd->bid">(p, v)  o1 = Einsum<equation="bid,d->bid">(o, scale)'
        ' y = Einsum<equation="bid,de->bie">(o1, w4) }',
        {"w1": (6, 10), "w2": (6, 10), "w3": (6, 8), "scale": (8,), "w4": (8, 3)},
        lose={"q": [1, 4], "v": [0, 2, 3]},
    )
    assert found.free == [("q+k", 10), ("v", 8)]
    assert found.shape("w1") == found.shape("w2") == (6, 8)
    assert found.shape("w3") == (6, 5)
    assert found.shape("scale") == (5,)
    assert found.shape("w4") == (5, 3)


@pytest.mark.parametrize("equation", ["...d,...d->...", "bid,bid"])
def test_einsums_of_other_forms_freeze_what_they_read(equation: str) -> None:
    found = prune(
        f'(float[N,4,6] x) => (float y) {{ q = MatMul(x, w1)  y = Einsum<equation="{equation}">(q, q) }}',
        {"w1": (6, 10)},
    )
    assert found.why("q") == "an Einsum of this form is not supported (y)"


def test_keys_of_an_input_freeze_the_queries() -> None:
    found = prune(
        "(float[N,4,6] x, float[N,8,5] k) => (float y) { q = MatMul(x, w1)  s = MatMul(q, k)  y = MatMul(s, w2) }",
        {"w1": (6, 8), "w2": (5, 3)},
    )
    assert found.free == []
    assert "they meet channels that stay" in found.why("q")


def test_masks_of_products_have_the_type_of_what_they_mask() -> None:
    found = prune(
        "(float16[N,4,6] x, float[N,3] z) => (float y, float16 u) { q = MatMul(x, w1)  k = MatMul(x, w2)"
        " kt = Transpose<perm=[0,2,1]>(k)  u = MatMul(q, kt)  a = MatMul(z, w3)  y = MatMul(a, w4) }",
        {
            "w3": (3, 6),
            "w4": (6, 2),
            "w1": random(6, 8, dtype=np.float16),
            "w2": random(6, 8, dtype=np.float16, seed=1),
        },
    )
    assert found.free == [("q+k", 8), ("a", 6)]
    assert found.shape("w1") == (6, 4)


# recurrent networks


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("states", [False, True])
def test_a_recurrent_layer_loses_inputs_and_hidden_units(operator: str, directions: int, states: bool) -> None:
    gates = GATES[operator]
    direction = "bidirectional" if directions == 2 else "forward"
    given = ('r, rb, "", h0' + (", c0, peep" if operator == "LSTM" else "")) if states else "r, rb"
    found = prune(
        f"(float[5,2,4] x) => (float y) {{ a = MatMul(x, w1)"
        f' h, last = {operator}<hidden_size=6, direction="{direction}">(a, w, {given})'
        " t = Transpose<perm=[0,2,1,3]>(h)  b = Reshape(t, merge)  c = MatMul(b, w2)  d = Transpose<perm=[1,0,2]>(last)"
        " e = Reshape(d, flat)  f = MatMul(e, w3)  y = Add(c, f) }",
        {
            "w1": (4, 8),
            "w": random(directions, gates * 6, 8) * np.float32(0.3),
            "r": random(directions, gates * 6, 6) * np.float32(0.3),
            "rb": random(directions, 2 * gates * 6) * np.float32(0.3),
            "h0": (directions, 2, 6),
            "c0": (directions, 2, 6),
            "peep": random(directions, 18) * np.float32(0.3),
            "merge": [5, 2, -1],
            "w2": (directions * 6, 3),
            "flat": [2, -1],
            "w3": (directions * 6, 3),
        },
    )
    assert found.free == [("a", 8), ("h", 6)]
    assert found.shape("w") == (directions, gates * 3, 4)
    assert found.shape("r") == (directions, gates * 3, 3)
    assert found.shape("rb") == (directions, 2 * gates * 3)
    assert found.shape("w2") == (directions * 3, 3)
    assert next(item.i for item in found.nodes["h"].attribute if item.name == "hidden_size") == 3
    if states:
        assert found.shape("h0") == (directions, 2, 3)


def test_a_computed_initial_state_goes_with_the_hidden_units() -> None:
    found = prune(
        "(float[5,2,4] x, float[1,2,3] z) => (float y) { s = MatMul(z, w0)"
        ' h, last, c = LSTM<hidden_size=6>(x, w, r, rb, "", s)'
        ' _, g = GRU<hidden_size=6>(x, w1, r1, "", "", last)  y = MatMul(g, w2) }',
        {
            "w0": (3, 6),
            "w": (1, 24, 4),
            "r": (1, 24, 6),
            "rb": (1, 48),
            "w1": (1, 18, 4),
            "r1": (1, 18, 6),
            "w2": (6, 3),
        },
    )
    assert found.free == [("s+h+_", 6)]
    assert found.shape("w0") == (3, 3)


def test_an_initial_state_of_an_input_freezes_the_hidden_units() -> None:
    found = prune(
        '(float[5,2,4] x, float[1,2,6] s) => (float y) { _, g = GRU<hidden_size=6>(x, w, r, "", "", s)'
        " y = MatMul(g, w2) }",
        {"w": (1, 18, 4), "r": (1, 18, 6), "w2": (6, 3)},
    )
    assert found.why("_") == "its input 's' is computed (_)"


def test_an_initial_state_of_zeros_of_a_free_batch_is_left_out() -> None:
    found = prune(
        "(float[5,N,4] x) => (float y) { s = Shape(x)  n = Gather(s, one)  t = Concat<axis=0>(first, n, last)"
        ' z = ConstantOfShape(t)  _, g = GRU<hidden_size=6>(x, w, r, "", "", z)  y = MatMul(g, w2) }',
        {"one": [1], "first": [1], "last": [6], "w": (1, 18, 4), "r": (1, 18, 6), "w2": (6, 3)},
    )
    assert found.free == [("_", 6)]
    assert len(found.nodes["_"].input) == 3


# places, sizes and reductions


@pytest.mark.parametrize(
    ("opset", "resize"),
    [
        (17, 'Resize<mode="linear">(a, "", scales)'),
        (17, 'Resize(a, "", "", sizes)'),
        (18, 'Resize<axes=[2, 3]>(a, "", "", pair)'),
        (10, "Resize(a, scales)"),
        (9, "Upsample(a, scales)"),
    ],
)
def test_a_resized_image_keeps_its_channels(opset: int, resize: str) -> None:
    found = prune(
        f"(float[2,3,8,8] x) => (float y) {{ a = Conv(x, w1)  b = {resize}  y = Conv(b, w2) }}",
        {
            "w1": (6, 3, 1, 1),
            "scales": np.asarray([1, 1, 2, 2], np.float32),
            "sizes": [2, 6, 12, 16],
            "pair": [12, 16],
            "w2": (2, 6, 1, 1),
        },
        opset,
    )
    assert found.free == [("a", 6)]
    if "sizes" in resize:
        assert found.small.weights["sizes"].tolist() == [2, 3, 12, 16]


def test_channels_that_are_resized_stay() -> None:
    found = prune(
        '(float[2,3,8,8] x) => (float y) { a = Conv(x, w1)  b = Resize(a, "", "", sizes)  y = Conv(b, w2) }',
        {"w1": (6, 3, 1, 1), "sizes": [2, 12, 8, 8], "w2": (2, 12, 1, 1)},
    )
    assert found.why("a") == "they are resized (b)"


@pytest.mark.parametrize(("opset", "inputs"), [(17, "b, pads"), (18, 'b, two, "", axis')])
def test_padded_channels_shrink_with_what_they_are_added_to(opset: int, inputs: str) -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = AveragePool<kernel_shape=[1,1], strides=[2,2]>(a)  p = Pad({inputs})"
        " c = Conv<strides=[2,2]>(a, w2)  d = Add(c, p)  y = Conv(d, w3) }",
        {
            "w1": (6, 3, 1, 1),
            "pads": [0, 3, 0, 0, 0, 3, 0, 0],
            "two": [3, 3],
            "axis": [-3],
            "w2": (12, 6, 1, 1),
            "w3": (2, 12, 1, 1),
        },
        opset,
        {"c": [0, 2, 4, 11]},
    )
    assert found.free == [("a+c", 6), ("c", 6)]
    assert found.shape("w1") == (5, 3, 1, 1)
    assert found.shape("w2") == (8, 5, 1, 1)
    if opset == 17:
        assert found.small.weights["pads"].tolist() == [0, 1, 0, 0, 0, 2, 0, 0]
    else:
        assert found.small.weights["two"].tolist() == [1, 2]


def test_padded_places_leave_channels_free_and_mirrored_channels_do_not() -> None:
    found = prune(
        f'{IMAGE} {{ a = Conv(x, w1)  b = Pad<mode="reflect">(a, places)  c = Conv(b, w2)'
        f' d = Pad<mode="edge">(c, channels)'
        " y = Conv(d, w3) }",
        {
            "w1": (6, 3, 1, 1),
            "places": [0, 0, 1, 1, 0, 0, 1, 1],
            "w2": (4, 6, 1, 1),
            "channels": [0, 1, 0, 0, 0, 1, 0, 0],
            "w3": (2, 6, 1, 1),
        },
    )
    assert found.free == [("a", 6)]
    assert found.why("c") == "the pads mix them (d)"


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_ties_what_becomes_one_channel(mode: str) -> None:
    found = prune(
        f'{IMAGE} {{ a = Conv(x, w1)  b = DepthToSpace<blocksize=2, mode="{mode}">(a)  y = Conv(b, w2) }}',
        {"w1": (24, 3, 1, 1), "w2": (2, 6, 1, 1)},
    )
    assert found.free == [("a", 6)]
    assert found.shape("w1") == (12, 3, 1, 1)
    assert found.shape("w2") == (2, 3, 1, 1)


def test_space_to_depth_repeats_the_channels() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = SpaceToDepth<blocksize=2>(a)  y = Conv(b, w2) }}",
        {"w1": (6, 3, 1, 1), "w2": (2, 24, 1, 1)},
    )
    assert found.free == [("a", 6)]
    assert found.shape("w2") == (2, 12, 1, 1)


def test_a_tile_repeats_the_channels() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = Tile(a, repeats)  y = Conv(b, w2) }}",
        {"w1": (6, 3, 1, 1), "repeats": [1, 3, 2, 1], "w2": (2, 18, 1, 1)},
    )
    assert found.free == [("a", 6)]
    assert found.shape("w2") == (2, 9, 1, 1)


@pytest.mark.parametrize("sizes", [[1, 6, 8, 8], [1, 1, 8, 1], [3, 1, 1, 8, 8]])
def test_an_expand_keeps_its_channels(sizes: list[int]) -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = GlobalAveragePool(a)  c = Expand(b, sizes)  d = Mul(a, c)"
        f" e = ReduceMean<axes=[-1,-2], keepdims=0>(d)"
        " y = MatMul(e, w2) }",
        {"w1": (6, 3, 1, 1), "sizes": sizes, "w2": (6, 3)},
    )
    assert found.free == [("a", 6)]
    assert found.small.weights["sizes"].tolist() == [3 if size == 6 else size for size in sizes]


@pytest.mark.parametrize("keeps", [0, 1])
def test_a_reduction_of_places_hands_on_channels(keeps: int) -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  t = Transpose<perm=[0,2,3,1]>(a)  b = ReduceMean<axes=[1], keepdims={keeps}>(t)"
        f" c = MatMul(b, w2)  d = ReduceMax<axes=[-1], keepdims={keeps}>(c)  y = Sin(d) }}",
        {"w1": (6, 3, 1, 1), "w2": (6, 4)},
    )
    assert found.free == [("a", 6)]
    assert found.why("c") == "ReduceMax looks across them (d)"
    assert found.shape("w2") == (3, 4)


def test_a_reduction_with_its_axes_as_an_input_or_of_everything_is_understood() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1)  b = ReduceSum<keepdims=0>(a, axes)"
        f" c = ReduceSum<noop_with_empty_axes=1>(b)  d = MatMul(c, w2)"
        " e = ReduceSum(d)  y = Add(e, x) }",
        {"w1": (6, 3, 1, 1), "axes": [2, 3], "w2": (6, 4)},
    )
    assert found.free == [("a", 6)]
    assert found.why("d") == "ReduceSum looks across them (e)"


def test_the_places_of_maxima_in_the_whole_tensor_freeze_channels() -> None:
    found = prune(
        "(float[2,3,8] x) => (float y) { a = Conv(x, w1)  b, i = MaxPool<kernel_shape=[2], strides=[2]>(a)"
        " c = Cast<to=1>(i)  d = Add(b, c)  y = Conv(d, w2) }",
        {"w1": (6, 3, 1), "w2": (2, 6, 1)},
    )
    assert found.why("a") == "their places in the whole tensor are used (b)"


def test_searches_along_other_axes_hand_on_channels() -> None:
    found = prune(
        "(float[N,3,8] x) => (float y) { a = Conv(x, w1)  v, i = TopK<axis=2>(a, three)  b = Conv(v, w2)"
        " j = ArgMax<axis=2, keepdims=0>(b)"
        " k = Cast<to=1>(j)  c = MatMul(k, w3)  v2, i2 = TopK(c, one)  y = Identity(v2) }",
        {"w1": (6, 3, 1), "three": [3], "w2": (4, 6, 1), "w3": (4, 5), "one": [1]},
    )
    assert found.free == [("a", 6), ("b", 4)]
    assert found.why("c") == "TopK looks across them (v2)"


def test_a_region_of_interest_keeps_its_channels() -> None:
    found = prune(
        "(float[2,3,8,8] x) => (float y) { a = Conv(x, w1)"
        " b = RoiAlign<output_height=2, output_width=2>(a, rois, of)  y = Conv(b, w2) }",
        {
            "w1": (6, 3, 1, 1),
            "rois": np.asarray([[0, 0, 4, 4], [1, 1, 6, 6]], np.float32),
            "of": [0, 1],
            "w2": (2, 6, 1, 1),
        },
    )
    assert found.free == [("a", 6)]


# how files are written


def test_weights_may_be_constant_nodes() -> None:
    built = model(
        f"{IMAGE} {{ a = Conv(x, w1, b1)  y = Conv(a, w2) }}", {"w1": (6, 3, 1, 1), "b1": (6,), "w2": (2, 6, 1, 1)}
    )
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in built.graph.initializer]
    nodes += list(built.graph.node)
    del built.graph.initializer[:], built.graph.node[:]
    built.graph.node.extend(nodes)
    found = prune_network(network(built))
    assert found.free == [("a", 6)]
    assert operators(found) == ["Conv", "Conv"]
    assert found.shape("b1") == (3,)


def test_initializers_may_be_listed_as_inputs() -> None:
    built = model(f"{IMAGE} {{ a = Conv(x, w1)  y = Conv(a, w2) }}", {"w1": (6, 3, 1, 1), "w2": (2, 6, 1, 1)})
    built.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in built.graph.initializer
    )
    found = prune_network(network(built))
    assert found.small.inputs == ["x"]
    assert found.free == [("a", 6)]


def test_a_bias_that_several_nodes_share_is_cut_for_each_of_them() -> None:
    found = prune(
        f"{IMAGE} {{ a = Conv(x, w1, bias)  b = Conv(a, w2, bias)  c = Conv(b, w3, bias)  y = Conv(c, w4) }}",
        {"w1": (6, 3, 1, 1), "bias": (6,), "w2": (6, 6, 1, 1), "w3": (6, 6, 1, 1), "w4": (2, 6, 1, 1)},
        lose={"a": [0, 1], "b": [1, 2, 4], "c": [5]},
    )
    assert found.free == [("a", 6), ("b", 6), ("c", 6)]
    shapes = [[found.shape(name) for name in found.nodes[node].input[1:]] for node in "abc"]
    assert shapes == [[(4, 3, 1, 1), (4,)], [(3, 4, 1, 1), (3,)], [(5, 3, 1, 1), (5,)]]


def test_weights_of_twins_stay_those_of_both() -> None:
    found = prune(
        "(float[N,3,8,8] u, float[N,3,8,8] v) => (float y) { a = Conv(u, w1, bias)  b = Conv(v, w1, bias)"
        " c = Conv(a, w2, bias)  d = Conv(b, w2, bias)  e = Concat<axis=1>(c, d)  y = Conv(e, w3) }",
        {"w1": (6, 3, 1, 1), "bias": (6,), "w2": (6, 6, 1, 1), "w3": (2, 12, 1, 1)},
        lose={"a": [0, 1], "c": [1, 2, 4]},
    )
    assert found.free == [("a+b", 6), ("c+d", 6)]
    shapes = {name: value.shape for name, value in found.small.weights.items()}
    bias = found.nodes["c"].input[2]
    assert shapes == {"w1": (4, 3, 1, 1), "bias": (4,), "w2": (3, 4, 1, 1), bias: (3,), "w3": (2, 6, 1, 1)}
    assert found.nodes["d"].input[1:] == ["w2", bias]


def test_a_layer_that_repeats_keeps_what_goes_round() -> None:
    found = prune(
        "(float[N,6] x) => (float y) { a = MatMul(x, w1)  b = MatMul(a, w2)  c = MatMul(b, w1)  d = MatMul(c, w2)"
        " y = MatMul(d, w3) }",
        {"w1": (6, 8), "w2": (8, 6), "w3": (6, 2)},
    )
    assert found.free == [("a+c", 8)]
    assert found.why("b+d") == "its weights are those of another operator, whose channels stay (c)"
    assert {name: value.shape for name, value in found.small.weights.items()} == {
        "w1": (6, 4), "w2": (4, 6), "w3": (6, 2),
    }  # fmt: skip


TIED = "(int64[N,L] x) => (float y) { e = Gather(table, x)  a = MatMul(e, w1)  b = Relu(a)  c = MatMul(b, w2)"


@pytest.mark.parametrize(
    ("transposed", "reader"), [("t = Transpose(table)", "t"), ("s = Transpose(table)  t = Identity(s)", "s")]
)
def test_a_table_that_is_also_read_transposed_is_stored_once(transposed: str, reader: str) -> None:
    found = prune(f"{TIED} {transposed}  y = MatMul(c, t) }}", {"table": (30, 6), "w1": (6, 8), "w2": (8, 6)})
    assert found.free == [("a", 8)]
    assert found.why("e") == f"its weights are those of another operator, whose channels stay ({reader})"
    assert {name: value.shape for name, value in found.small.weights.items()} == {
        "table": (30, 6), "w1": (6, 4), "w2": (4, 6),
    }  # fmt: skip


def test_a_matrix_and_its_transpose_lose_the_same_units() -> None:
    found = prune(
        "(float[N,5] x) => (float y) { a = MatMul(x, w)  b = Relu(a)  t = Transpose(w)  y = MatMul(b, t) }",
        {"w": (5, 8)},
    )
    assert found.free == [("a", 8)]
    assert {name: value.shape for name, value in found.small.weights.items()} == {"w": (5, 4)}


def test_a_table_of_several_inputs_is_cut_alike_for_all() -> None:
    found = prune(
        "(int64[N,L] u, int64[N,L] v) => (float y) { a = Gather(table, u)  b = Gather(table, v)"
        " c = Concat<axis=2>(a, b)  y = MatMul(c, w) }",
        {"table": (30, 6), "w": (12, 3)},
    )
    assert found.free == [("a+b", 6)]
    assert {name: value.shape for name, value in found.small.weights.items()} == {"table": (30, 3), "w": (6, 3)}


def test_a_weight_that_is_transposed_for_several_operators_is_stored_once() -> None:
    found = prune(
        "(float[N,5] x) => (float y) { t = Transpose(w1)  a = MatMul(x, t)  b = Relu(a)  c = MatMul(b, w2)"
        " d = Relu(c)  u = Transpose(w1)  e = MatMul(d, u)  f = Relu(e)  y = MatMul(f, w3) }",
        {"w1": (6, 5), "w2": (6, 5), "w3": (6, 2)},
    )
    assert sorted(value.shape for value in found.small.weights.values()) == [(3, 2), (3, 5), (5, 3)]


def test_a_weight_that_is_also_read_uncut_stays_for_that() -> None:
    found = prune(
        "(float[N,5] x) => (float y, float[5,6] w1) { a = MatMul(x, w1)  y = MatMul(a, w2) }",
        {"w1": (5, 6), "w2": (6, 3)},
    )
    assert found.free == [("a", 6)]
    assert found.shape("w1") == (5, 6)
    assert found.shape(found.nodes["a"].input[1]) == (5, 3)


def test_weights_computed_by_nodes_are_constants() -> None:
    found = prune(
        "(float[N,3,8,8] x) => (float y) { r = Reshape(flat, four)  s = Mul(r, two)  a = Conv(x, s)"
        " t = Transpose(rows)"
        " i = Identity(t)  b = GlobalAveragePool(a)  c = Flatten(b)  y = Gemm(c, i) }",
        {"flat": (18,), "four": [6, 3, 1, 1], "two": np.float32(2), "rows": (4, 6)},
    )
    assert found.free == [("a", 6)]
    assert operators(found) == ["Conv", "GlobalAveragePool", "Flatten", "Gemm"]
    assert found.shape("s") == (3, 3, 1, 1)
    assert found.shape("i" if "i" in found.small.weights else "t") == (3, 4)


def test_half_precision_weights_are_cut() -> None:
    found = prune(
        "(float16[N,5] x) => (float16 y) { a = Gemm(x, w1, b1)  b = Relu(a)  y = MatMul(b, w2) }",
        {name: random(*shape, dtype=np.float16) for name, shape in (("w1", (5, 8)), ("b1", (8,)), ("w2", (8, 3)))},
    )
    assert found.free == [("a", 8)]
    assert found.small.weights["w1"].dtype == np.float16
    assert found.shape("w1") == (5, 4)


def test_identities_are_read_through() -> None:
    found = prune(
        f"{IMAGE} {{ i = Identity(x)  a = Conv(i, w1)  b = Identity(a)  c = Identity(b)  d = Dropout(c)"
        f" e = Conv(d, w2)"
        " y = Identity(e) }",
        {"w1": (6, 3, 1, 1), "w2": (2, 6, 1, 1)},
    )
    assert found.free == [("a", 6)]
    assert operators(found) == ["Conv", "Dropout", "Conv", "Identity"]


# what stays


def test_outputs_of_the_graph_stay_and_are_named() -> None:
    found = prune(
        "(float[N,3,8,8] x) => (float y, float middle) { a = Conv(x, w1)  middle = Relu(a)"
        " b = Conv(middle, w2)  y = Conv(b, w3) }",
        {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1), "w3": (2, 4, 1, 1)},
    )
    assert found.free == [("b", 4)]
    assert found.why("a") == "they are the model's output 'middle' ()"


def test_the_number_of_channels_as_an_output_of_the_graph_freezes_them() -> None:
    found = prune(
        "(float[N,3,8,8] x) => (float y, int64[4] s) { a = Conv(x, w1)  s = Shape(a)  y = Conv(a, w2) }",
        {"w1": (6, 3, 1, 1), "w2": (2, 6, 1, 1)},
    )
    assert found.why("a") == "their number is the model's output 's' (s)"


@pytest.mark.parametrize(("index", "why"), [(0, None), (2, None), (1, "their number is used in a computation (s)")])
def test_a_size_used_in_a_computation_freezes_the_axis_that_it_is_of(index: int, why: str | None) -> None:
    # the data decide a size of a, so that its shape is no constant
    found = prune(
        "(float[1,3,8] x) => (float y) { z = NonZero(x)  f = Cast<to=1>(z)  u = Unsqueeze(f, zero)"
        " a = Conv(u, w1)  s = Shape(a)"
        " n = Gather(s, index)  c = Cast<to=1>(n)  b = Mul(a, c)  y = Conv(b, w2) }",
        {"zero": [0], "w1": (6, 3, 1), "index": [index], "w2": (2, 6, 1)},
    )
    assert found.free == ([] if why else [("a", 6)])
    if why:
        assert found.why("a") == why


@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_operators_with_subgraphs_freeze_what_they_read_and_are_named(kind: str) -> None:
    outer = helper.make_node("Identity", ["a"], ["inner"])
    if kind == "If":
        branches = [
            helper.make_graph(
                [outer if number == 0 else helper.make_node("Neg", ["a"], ["inner"])],
                f"branch{number}",
                [],
                [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
            )
            for number in range(2)
        ]
        node = helper.make_node("If", ["yes"], ["b"], then_branch=branches[0], else_branch=branches[1])
    else:
        body = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["carried", "a"], ["next"])],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, ()),
                helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
                helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
            ],
            [
                helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
                helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
            ],
        )
        node = helper.make_node("Loop", ["three", "", "a"], ["b"], body=body)
    built = model(
        "(float[N,3,8,8] x, bool yes) => (float y) { a = Conv(x, w1)  b = Relu(a)  c = Conv(b, w2)  y = Conv(c, w3) }",
        {"w1": (6, 3, 1, 1), "w2": (4, 6, 1, 1), "w3": (2, 4, 1, 1), "three": np.asarray(3, np.int64)},
    )
    built.graph.node[1].CopyFrom(node)
    found = prune_network(network(built))
    assert found.free == [("c", 4)]
    assert found.why("a") == f"{kind} is not supported (b)"


def test_a_weight_that_a_subgraph_reads_too_stays_as_it_was_for_that() -> None:
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["bias"], ["inner"])],
            kind,
            [],
            [helper.make_tensor_value_info("inner", TensorProto.FLOAT, (6,))],
        )
        for kind in ("Identity", "Neg")
    ]
    built = model(
        "(float[N,5] x, bool yes) => (float y) { a = Gemm(x, w1, bias)  b = MatMul(a, w2)  s = Relu(bias)"
        " t = ReduceMean(s)"
        " u = Squeeze(t)  y = Add(b, u) }",
        {"w1": (5, 6), "bias": (6,), "w2": (6, 3)},
    )
    built.graph.node[2].CopyFrom(
        helper.make_node("If", ["yes"], ["s"], then_branch=branches[0], else_branch=branches[1])
    )
    found = prune_network(network(built))
    assert found.free == [("a", 6)]
    assert found.shape("bias") == (6,)
    assert found.shape(found.nodes["a"].input[2]) == (3,)


def test_operators_of_other_domains_freeze_what_they_read_and_are_named() -> None:
    graph = model(
        "(float[N,4,6] x) => (float y) { a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  y = MatMul(c, w3) }",
        {"w1": (6, 8), "w2": (8, 4), "w3": (4, 2)},
    )
    graph.graph.node[1].CopyFrom(helper.make_node("Trilu", ["a"], ["b"], domain="com.microsoft"))
    found = prune_network(network(graph))
    assert found.free == [("c", 4)]
    assert found.why("a") == "com.microsoft.Trilu is not supported (b)"


NUMBER = "n = ReduceMax<keepdims=0>(x)  z = Sub(n, n)  i = Cast<to=7>(z)  k = Add(i, given)"  # by the data, for us
REASONS: dict[str, tuple[str, str, dict[str, Any]]] = {  # code behind a convolution, and its constants
    "the axes of a reduction are computed": ("{NUMBER}  y = ReduceSum(a, k)", {"given": [3]}),
    "a BatchNormalization in training mode": (
        "y, b, c = BatchNormalization<training_mode=1>(a, s, s, s, s)", {"s": ones(6)}
    ),
    "the bounds of a slice are computed": ("{NUMBER}  y = Slice(a, k, end)", {"given": [0], "end": [3]}),
    "the sizes of a split are computed": ("{NUMBER}  y, b = Split<axis=1>(a, k)", {"given": [2, 4]}),
    "they are picked by indices that are computed": ("{NUMBER}  y = Gather<axis=1>(a, k)", {"given": [2, 4]}),
    "they are picked by a matrix of indices": ("y = Gather<axis=1>(a, k)", {"k": np.array([[2, 4], [1, 0]])}),
    "the pads are computed": ("{NUMBER}  y = Pad(a, k)", {"given": [0, 1, 0, 0, 0, 1, 0, 0]}),
    "the repeats of a Tile are computed": ("{NUMBER}  y = Tile(a, k)", {"given": [1, 2, 1, 1]}),
    "the sizes of a Resize are computed": ('{NUMBER}  y = Resize(a, "", "", k)', {"given": [2, 6, 9, 9]}),
    "the sizes of an Expand are computed": ("{NUMBER}  y = Expand(a, k)", {"given": [2, 6, 8, 8]}),
    "the sizes of a reshape are computed": ("{NUMBER}  y = Reshape(a, k)", {"given": [2, 12, 32]}),
    "the axes of Unsqueeze are computed, or depend on free sizes": ("{NUMBER}  y = Unsqueeze(a, k)", {"given": [0]}),
    "a product with a vector": ("v = ReduceMax<axes=[0,1,2], keepdims=0>(x)  y = MatMul(a, v)", {}),
    "a MatMul with a constant that is no matrix": ("y = MatMul(a, v)", {"v": (8,)}),
    "they are broadcast by an Einsum": ('y = Einsum<equation="nchw,nc->nc">(a, one)', {"one": (2, 1)}),
    "the weights are computed": ("w = Mul(a, a)  y = Conv(a, w)", {}),
}  # fmt: skip


@pytest.mark.parametrize("why", REASONS)
def test_what_is_frozen_is_told_with_the_reason_and_the_node(why: str) -> None:
    code, constants = REASONS[why]
    text = f"(float[2,3,8,8] x) => (float y) {{ a = Conv(x, w1)  {code.replace('{NUMBER}', NUMBER)} }}"
    graph, _ = follow(network(model(text, {"w1": (6, 3, 1, 1), **constants})))
    (told,) = {group.frozen for group in graph.groups if group.producers == ("a",)}
    assert told is not None
    assert (told.reason, told.node) == (why, "y")


def test_the_reason_is_told_before_what_follows_from_it() -> None:
    found = prune(
        "(float[N,3,8,8] x) => (float y) { a = Conv(x, w1)  b = Concat<axis=1>(a, x)  c = Conv(x, w2)  d = Add(b, c)"
        " s = Softmax<axis=1>(c)  e = Mul(d, s)  y = Conv(e, w3) }",
        {"w1": (6, 3, 1, 1), "w2": (9, 3, 1, 1), "w3": (2, 9, 1, 1)},
    )
    assert {why for names, _, why in found.frozen if "c" in names} == {"Softmax looks across them (s)"}


def test_a_single_unit_and_units_that_all_go_together_stay() -> None:
    found = prune(
        "(float[N,3,8,8] x) => (float[N,2,8,8] y) { a = Conv(x, w1)  b = Mul(a, x)  c = Conv(b, w2)"
        " d = GroupNormalization<num_groups=1>(c, s, t)  y = Conv(d, w3) }",
        {"w1": (1, 3, 1, 1), "w2": (4, 3, 1, 1), "s": (4,), "t": (4,), "w3": (2, 4, 1, 1)},
        21,
    )
    assert found.free == []
    assert found.why("c") == "all its channels go together (c)"


def test_all_units_of_a_group_or_those_of_a_frozen_one_cannot_be_removed() -> None:
    graph, _ = follow(
        network(
            model("(float[N,5] x) => (float y) { a = MatMul(x, w1)  y = MatMul(a, w2) }", {"w1": (5, 4), "w2": (4, 3)})
        )
    )
    with pytest.raises(ValueError, match="4 of 4 units"):
        graph.keep({0: [0, 1, 2, 3]})
    with pytest.raises(ValueError, match="1 of 3 units"):
        graph.keep({1: [0]})


# sizes that depend on the data


def test_sizes_that_the_data_decide_are_no_constants() -> None:
    built = network(
        model(
            "(float[2,3,4] x) => (float y) { z = NonZero(x)  s = Shape(z)  d = Cast<to=1>(s)  n = ReduceMax(d)"
            " t = Transpose(z)"
            " u = Shape(t)  r = Reshape(z, u)  a = Mul(x, n)  k = Cast<to=1>(r)  m = ReduceMax(k)  y = Add(a, m) }",
            {},
        )
    )
    static = folding.static_names(built)
    assert not static & {"s", "d", "n", "u"}


def test_macs_fall_with_the_units_that_are_left() -> None:
    graph, _ = follow(
        network(
            model(
                f"{IMAGE} {{ a = Conv(x, w1)  b = Conv<group=8>(a, w2)  y = Conv(b, w3) }}",
                {"w1": (8, 3, 1, 1), "w2": (8, 1, 1, 1), "w3": (2, 8, 1, 1)},
            )
        )
    )
    places = 2 * 64
    assert graph.macs(graph.keep({})) == places * (8 * 3 + 8 + 2 * 8)
    assert graph.macs(graph.keep({0: [0, 1]})) == places * (6 * 3 + 6 + 2 * 6)


# any graph


class Builder:
    """A graph of random operators on images (N, channels, 4, 4)."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.images: list[tuple[str, int]] = [("x", 3)]

    def below(self, limit: int) -> int:
        return int(self.generator.integers(limit))

    def choice(self, items: Sequence[Any]) -> Any:
        return items[self.below(len(items))]

    def constant(self, *shape: int) -> str:
        """Numbers of a size that keeps what is computed with them about as large as it was."""
        name = f"w{len(self.weights)}"
        fan_in = max(1, int(np.prod(shape[1:])))
        self.weights[name] = random(*shape, seed=len(self.weights)) / np.float32(np.sqrt(fan_in))
        return name

    def integers(self, *numbers: int) -> str:
        name = f"i{len(self.weights)}"
        self.weights[name] = np.asarray(numbers, np.int64)
        return name

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        names = [name, *(f"{name}_{number}" for number in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, list(inputs), names, f"{kind}_{name}", **attributes))
        return name

    def image(self) -> tuple[str, int]:
        """One of those that there are, the later ones likelier."""
        return self.images[-1 - min(self.below(len(self.images)), self.below(len(self.images)))]

    def convolve(self, name: str, channels: int, outputs: int, groups: int = 1) -> str:
        kernel = self.choice([1, 3])
        inputs = [name, self.constant(outputs, channels // groups, kernel, kernel)]
        if self.below(2):
            inputs.append(self.constant(outputs))
        return self.node("Conv", *inputs, group=groups, pads=[kernel // 2] * 4)

    def step(self) -> None:
        name, channels = self.image()
        getattr(self, f"add_{self.choice(STEPS)}")(name, channels)

    def add(self, name: str, channels: int) -> None:
        self.images.append((name, channels))

    def add_convolution(self, name: str, channels: int) -> None:
        outputs = 1 + self.below(8)
        self.add(self.convolve(name, channels, outputs), outputs)

    def add_grouped(self, name: str, channels: int) -> None:
        groups = self.choice([count for count in range(1, channels + 1) if channels % count == 0])
        outputs = groups * (1 + self.below(3))
        self.add(self.convolve(name, channels, outputs, groups), outputs)

    def add_transposed(self, name: str, channels: int) -> None:
        groups = self.choice([count for count in range(1, channels + 1) if channels % count == 0])
        each = 1 + self.below(3)
        inputs = [name, self.constant(channels, each, 1, 1), self.constant(each * groups)]
        self.add(self.node("ConvTranspose", *inputs, group=groups), each * groups)

    def add_activation(self, name: str, channels: int) -> None:
        self.add(self.node(self.choice(["Relu", "Sigmoid", "Tanh"]), name), channels)

    def add_slope(self, name: str, channels: int) -> None:
        self.add(self.node("PRelu", name, self.constant(channels, 1, 1)), channels)

    def add_normalisation(self, name: str, channels: int) -> None:
        variance = self.constant(channels)
        self.weights[variance] = np.abs(self.weights[variance])
        self.add(
            self.node("BatchNormalization", name, *(self.constant(channels) for _ in range(3)), variance), channels
        )

    def add_pooling(self, name: str, channels: int) -> None:
        kind = self.choice(["MaxPool", "AveragePool"])
        self.add(self.node(kind, name, kernel_shape=[3, 3], pads=[1] * 4), channels)

    def add_sum(self, name: str, channels: int) -> None:
        other, count = self.image()
        if count != channels:
            other = self.convolve(other, count, channels)
        self.add(self.node(self.choice(["Add", "Mul", "Max"]), name, other), channels)

    def add_bias(self, name: str, channels: int) -> None:
        self.add(self.node("Add", self.constant(channels, 1, 1), name), channels)

    def add_concatenation(self, name: str, channels: int) -> None:
        others = [self.image() for _ in range(1 + self.below(2))]
        total = channels + sum(count for _, count in others)
        if total <= 24:
            self.add(self.node("Concat", name, *(other for other, _ in others), axis=1), total)

    def add_split(self, name: str, channels: int) -> None:
        if channels > 1:
            cut = 1 + self.below(channels - 1)
            first = self.node("Split", name, self.integers(cut, channels - cut), outputs=2, axis=1)
            self.add(first, cut)
            self.add(f"{first}_1", channels - cut)

    def add_slice(self, name: str, channels: int) -> None:
        start = self.below(channels)
        end = start + 1 + self.below(channels - start)
        bounds = [
            start - channels if self.below(2) else start,
            end - channels if end < channels and self.below(2) else end,
        ]
        self.add(self.node("Slice", name, *map(self.integers, bounds), self.integers(1)), end - start)

    def add_gather(self, name: str, channels: int) -> None:
        wanted = [self.below(2 * channels) - channels for _ in range(1 + self.below(6))]
        self.add(self.node("Gather", name, self.integers(*wanted), axis=1), len(wanted))

    def add_shuffle(self, name: str, channels: int) -> None:
        groups = self.choice([count for count in range(1, channels + 1) if channels % count == 0])
        split = self.node("Reshape", name, self.integers(0, groups, channels // groups, 4, 4))
        if self.below(2):
            split = self.node("Relu", split)
        moved = self.node("Transpose", split, perm=[0, 2, 1, 3, 4])
        if self.below(2):
            moved = self.node("Sigmoid", moved)
        self.add(self.node("Reshape", moved, self.integers(0, -1, 4, 4)), channels)

    def add_mixed_reshape(self, name: str, channels: int) -> None:
        pairs = [count for count in range(1, channels + 1) if channels % count == 0]
        outer = self.choice(pairs)
        mixed = self.node("Reshape", name, self.integers(0, outer, -1, 4))
        self.add(self.node("Reshape", self.node("Tanh", mixed), self.integers(-1, channels, 4, 4)), channels)

    def add_linear(self, name: str, channels: int) -> None:
        outputs = 1 + self.below(6)
        last = self.node("Transpose", name, perm=[0, 2, 3, 1])
        product = self.node("MatMul", last, self.constant(channels, outputs))
        if self.below(2):
            product = self.node("Add", product, self.constant(outputs))
        self.add(self.node("Transpose", product, perm=[0, 3, 1, 2]), outputs)

    def add_attention(self, name: str, channels: int) -> None:
        heads, width, outputs = self.choice([1, 2]), 1 + self.below(4), 1 + self.below(4)
        flat = self.node("Reshape", name, self.integers(0, channels, 16))
        places = self.node("Transpose", flat, perm=[0, 2, 1])
        parts = (self.node("MatMul", places, self.constant(channels, heads * size)) for size in (width, width, outputs))
        mixed = self.node("MultiHeadAttention", *parts, num_heads=heads, domain="com.microsoft")
        turned = self.node("Transpose", mixed, perm=[0, 2, 1])
        self.add(self.node("Reshape", turned, self.integers(0, heads * outputs, 4, 4)), heads * outputs)

    def add_gate(self, name: str, channels: int) -> None:
        hidden = 1 + self.below(4)
        pooled = self.node("GlobalAveragePool", name)
        squeezed = self.node("Relu", self.node("Conv", pooled, self.constant(hidden, channels, 1, 1)))
        excited = self.node("Sigmoid", self.node("Conv", squeezed, self.constant(channels, hidden, 1, 1)))
        self.add(self.node("Mul", name, excited), channels)

    def add_flat(self, name: str, channels: int) -> None:
        outputs = 1 + self.below(5)
        flat = self.node("Flatten", name)
        dense = self.node(
            "Gemm", flat, self.constant(outputs * 16, channels * 16), self.constant(outputs * 16), transB=1
        )
        self.add(self.node("Reshape", dense, self.integers(0, -1, 4, 4)), outputs)

    def add_tile(self, name: str, channels: int) -> None:
        if channels <= 8:
            self.add(self.node("Tile", name, self.integers(1, 2, 1, 1)), 2 * channels)

    def add_depth_to_space(self, name: str, channels: int) -> None:
        if channels <= 4:
            mode = self.choice(["DCR", "CRD"])
            deep = self.node("Relu", self.node("SpaceToDepth", self.convolve(name, channels, channels), blocksize=2))
            self.add(self.node("DepthToSpace", deep, blocksize=2, mode=mode), channels)

    def add_pad(self, name: str, channels: int) -> None:
        before, after = self.below(3), self.below(3)
        self.add(self.node("Pad", name, self.integers(0, before, 0, 0, 0, after, 0, 0)), before + channels + after)

    def finish(self) -> onnx.ModelProto:
        """The model, whose output is a sum of products with all that nothing else reads."""
        read = {name for node in self.nodes for name in node.input}
        products = []
        for name, channels in self.images:
            if name not in read:
                pooled = self.node("ReduceMean", name, axes=[2, 3], keepdims=0)
                products.append(self.node("MatMul", pooled, self.constant(channels, 3)))
        total = self.node("Sum", *products)
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
            [helper.make_tensor_value_info(total, TensorProto.FLOAT, ["N", 3])],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)


STEPS = sorted(name.removeprefix("add_") for name in vars(Builder) if name.startswith("add_"))


def any_graph_shrinks_to_what_it_is_masked(seed: int, steps: int) -> None:
    builder = Builder(seed)
    builder.add_convolution("x", 3)
    for _ in range(steps):
        builder.step()
    graph, feeds = follow(network(builder.finish()))
    removed = {}
    for place, group in enumerate(graph.groups):
        if group.frozen is None:
            count = builder.choice([0, 1, len(group.units) // 2, len(group.units) - 1])
            removed[place] = builder.generator.permutation(len(group.units))[:count].tolist()
    keep = graph.keep(removed)
    small = surgery.shrink(graph, keep)
    check(graph, keep, small, feeds, always_matters=False)
    before, after = (sum(value.size for value in item.weights.values()) for item in (graph.network, small))
    assert (after < before) == any(removed.values())


PROPERTY = hypothesis.settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)


@hypothesis.settings(PROPERTY, max_examples=40)
@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(3, 15))
def test_any_graph_shrinks_to_what_it_is_masked(seed: int, steps: int) -> None:
    any_graph_shrinks_to_what_it_is_masked(seed, steps)


@pytest.mark.slow
@hypothesis.settings(PROPERTY, max_examples=1500)
@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(3, 15))
def test_very_many_graphs_shrink_to_what_they_are_masked(seed: int, steps: int) -> None:
    any_graph_shrinks_to_what_it_is_masked(seed, steps)
