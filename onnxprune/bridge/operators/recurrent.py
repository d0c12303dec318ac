"""LSTM and GRU."""

from collections.abc import Sequence

import torch
from torch import Tensor

from onnxprune.bridge.operators.call import Call, Value, operator, tensor, together


def _recurrent(call: Call, order: Sequence[int], values: Sequence[Value]) -> tuple[Tensor, list[Tensor], int, bool]:
    """Data (time, batch, features), PyTorch's weights by direction, with the gates in its order, hidden size, biased.

    Args:
        order: where each of PyTorch's gates is among ONNX's.
    """
    data, weight, recurrence, bias = (list(values) + [None] * 4)[:4]
    if call.attribute("layout", 0) or call.attribute("direction", "forward") == "reverse" or call.attribute("clip"):
        raise call.refused("layout, direction or clip")
    if call.attribute("activations") and any(
        str(name, "utf8") not in ("Sigmoid", "Tanh") for name in call.attribute("activations")
    ):
        raise call.refused("other activations")
    steps, weights, recurrences = together(data, weight, recurrence)
    hidden = recurrences.shape[2]

    def gates(block: Tensor) -> Tensor:
        parts = block.split(hidden)
        return torch.cat([parts[place] for place in order])

    found: list[Tensor] = []
    for direction in range(weights.shape[0]):
        found += [gates(weights[direction]), gates(recurrences[direction])]
        if bias is not None:
            both = tensor(bias, steps)[direction].split(len(order) * hidden)
            found += [gates(part) for part in both]
    return steps, found, hidden, bias is not None


def _states(call: Call, steps: Tensor, directions: int, hidden: int, given: Value) -> Tensor:
    if given is None:
        return steps.new_zeros(directions, steps.shape[1], hidden)
    return tensor(given, steps)


@operator("LSTM")
def _lstm(call: Call, *values: Value) -> list[Tensor]:
    steps, weights, hidden, biased = _recurrent(call, (0, 2, 3, 1), values)
    rest = (list(values) + [None] * 8)[4:8]
    if rest[0] is not None or rest[3] is not None or call.attribute("input_forget", 0):
        raise call.refused("sequence lengths, peepholes or input_forget")
    directions = len(weights) // (4 if biased else 2)
    states = [_states(call, steps, directions, hidden, given) for given in rest[1:3]]
    answers, last, cell = torch.lstm(steps, states, weights, biased, 1, 0.0, False, directions == 2, False)
    return [_by_direction(answers, directions), last, cell]


@operator("GRU")
def _gru(call: Call, *values: Value) -> list[Tensor]:
    steps, weights, hidden, biased = _recurrent(call, (1, 0, 2), values)
    rest = (list(values) + [None] * 6)[4:6]
    if rest[0] is not None or not call.attribute("linear_before_reset", 0):
        raise call.refused("sequence lengths, or without linear_before_reset")
    directions = len(weights) // (4 if biased else 2)
    state = _states(call, steps, directions, hidden, rest[1])
    answers, last = torch.gru(steps, state, weights, biased, 1, 0.0, False, directions == 2, False)
    return [_by_direction(answers, directions), last]


def _by_direction(answers: Tensor, directions: int) -> Tensor:
    """(time, batch, directions * hidden) as ONNX has it, (time, directions, batch, hidden)."""
    time, count, width = answers.shape
    return answers.view(time, count, directions, width // directions).transpose(1, 2)
