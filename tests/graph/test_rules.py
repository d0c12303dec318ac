"""The table of the channel graph's rules."""

import pytest
from onnx import defs

from onnxprune.graph.rules import RULES, across, attention, elementwise, parts, products, reshaping, sizes


def test_an_operator_has_one_rule() -> None:
    tables = (across, attention, elementwise, parts, products, reshaping, sizes)
    assert sum(len(table.RULES) for table in tables) == len(RULES) > 100


@pytest.mark.parametrize("operator", RULES)
def test_a_rule_is_of_an_operator_that_exists(operator: str) -> None:
    of_onnxruntime = operator.startswith("com.microsoft.") or operator == "SimplifiedLayerNormalization"
    assert of_onnxruntime or defs.has(operator)


def test_what_takes_channels_on_several_inputs_is_told_from_what_does_not() -> None:
    assert all(RULES[operator].several for operator in ("Add", "Conv", "MatMul", "LSTM", "Concat", "Einsum"))
    assert not any(RULES[operator].several for operator in ("Relu", "Reshape", "Softmax", "Slice", "Expand"))
