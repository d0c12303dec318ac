"""Values that depend on sizes and constants, by NumPy as by onnx's reference implementation."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxprune.graph.evaluation import Evaluator

SIGNED = np.array([-7, -1, 0, 5, 9], np.int64)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "opset"),
    [
        ("Add", (SIGNED, integers(3)), {}, 13),
        ("Sub", (SIGNED, integers(3)), {}, 13),
        ("Mul", (SIGNED, SIGNED), {}, 13),
        ("Div", (SIGNED, integers(2)), {}, 13),
        ("Div", (SIGNED, integers(-2)), {}, 13),
        ("Div", (SIGNED.astype(np.float32), np.float32([2])), {}, 13),
        ("Floor", (SIGNED.astype(np.float32) / 2,), {}, 13),
        ("Cast", (np.float32([-1.5, 2.5]),), {"to": TensorProto.INT64}, 13),
        ("Concat", (integers(1, 2), integers(3)), {"axis": 0}, 13),
        ("Gather", (SIGNED.reshape(5, 1), integers(-1, 0)), {"axis": 0}, 13),
        ("Shape", (np.zeros((2, 3, 4)),), {"start": 1}, 15),
        ("Shape", (np.zeros((2, 3, 4)),), {"start": -3, "end": -1}, 15),
        ("Unsqueeze", (SIGNED, integers(0, -1)), {}, 13),
        ("ConstantOfShape", (integers(2, 3),), {}, 13),
        ("ConstantOfShape", (integers(2),), {"value": numpy_helper.from_array(integers(7))}, 13),
        ("Equal", (SIGNED, integers(5)), {}, 13),
        ("Not", (SIGNED > 0,), {}, 13),
        ("Expand", (integers(1, 2).reshape(2, 1), integers(3, 1, 4)), {}, 13),
        ("Range", (np.array(-1), np.array(8), np.array(3)), {}, 13),
        ("Range", (np.float32(0), np.float32(1), np.float32(0.3)), {}, 13),
        ("Reshape", (SIGNED.reshape(1, 5), integers(0, -1, 1)), {}, 13),
        ("Size", (np.zeros((2, 3, 4)),), {}, 13),
        ("Transpose", (np.arange(6).reshape(1, 2, 3),), {}, 13),
        ("Transpose", (np.arange(6).reshape(1, 2, 3),), {"perm": [1, 0, 2]}, 13),
        ("Unsqueeze", (SIGNED,), {"axes": [1]}, 11),
        ("Slice", (SIGNED, integers(-1), integers(-(2**63)), integers(0), integers(-1)), {}, 13),
        ("Slice", (SIGNED, integers(1), integers(2**31)), {}, 13),
        ("Slice", (SIGNED,), {"starts": [1], "ends": [-1]}, 9),
        ("Slice", (SIGNED.reshape(1, 5),), {"starts": [2], "ends": [2**31], "axes": [1]}, 9),
    ],
)
def test_plain_evaluation_is_that_of_the_reference(operator, inputs, attributes, opset):
    names = [f"x{index}" for index in range(len(inputs))]
    node = helper.make_node(operator, names, ["y"], **attributes)
    opsets = [helper.make_opsetid("", opset)]
    feed = dict(zip(names, inputs, strict=True))
    function = helper.make_function("", "one", names, ["y"], [node], opsets)
    (expected,) = ReferenceEvaluator(function).run(None, feed, attributes={})
    shapes = {"y": expected.shape, **{name: value.shape for name, value in feed.items()}}
    found = Evaluator([node], opsets, feed, shapes).value("y")
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_what_depends_on_data_has_no_value_and_an_origin():
    nodes = [helper.make_node("Add", ["data", "one"], ["a"]), helper.make_node("Mul", ["a", "one"], ["b"])]
    shapes = dict.fromkeys(("data", "one", "a", "b"), (1,))
    evaluator = Evaluator(nodes, [helper.make_opsetid("", 13)], {"one": integers(1)}, shapes)
    assert evaluator.value("b") is None
    assert evaluator.origin("b") == ("data", None)
