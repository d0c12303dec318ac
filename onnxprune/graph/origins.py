"""Which elements of what depends on no data are the same at every free size, and where the others come from.

That is told by the flow of values: a pad that is 0 at two sizes may be 1 at a third, so that equal numbers say nothing.
Only of the sizes of tensors themselves is it told by runs, which are made at sizes that have little in common.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import NodeProto

from onnxprune.graph.evaluation import evaluated
from onnxprune.graph.network import Network
from onnxprune.graph.nodes import operator_type

_LARGEST = 2**12  # elements of a tensor that are looked at one by one; sizes and pads have fewer
_MOVING = {  # each element of the output is one of the input, of all inputs or of the first
    "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
}  # fmt: skip
_ELEMENTWISE = {
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Div", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Sqrt", "Sub",
    "Where", "Xor",
}  # fmt: skip


class Origins:
    """What is known of the elements of static tensors.

    An element is known where it depends on no free size. Of each other it is known which element of which tensor it is:
    of the one that computed it, whatever has moved it since.
    """

    def __init__(self, network: Network, static: set[str], values: Sequence[Mapping[str, np.ndarray]]) -> None:
        """
        Args:
            static: tensors that depend on no data.
            values: of these, in runs at different free sizes.
        """
        self._values = values
        self._opsets = list(network.model.opset_import)
        self._sources: list[tuple[str, int]] = [("", 0)]
        self._free: dict[str, np.ndarray | None] = {}  # numbers of the sources, 0 of what is known; None: all are free
        for node in network.nodes:
            if all(name in static for name in node.output if name):
                self._free.update(self._of_outputs(node))

    def is_free(self, name: str) -> bool:
        """Whether any element of a static tensor, or how many there are, depends on free sizes."""
        return name in self._free

    def of(self, name: str) -> list[tuple[str, int] | None] | None:
        """The tensor and the flat index in it that each element of a vector is, None of those that are known.

        None in place of all where it is no short vector of one length.
        """
        found = self._free.get(name)
        if found is None or found.ndim != 1:
            return None
        return [self._sources[number] if number else None for number in found.tolist()]

    def _of_outputs(self, node: NodeProto) -> dict[str, np.ndarray | None]:
        """Of the outputs that are not known as a whole."""
        kind = operator_type(node)
        inputs, outputs = ([name for name in names if name] for names in (node.input, node.output))
        if kind not in ("Shape", "Size") and not any(name in self._free for name in inputs):
            return {}
        if not all(self._is_of_one_shape(name) for name in outputs):
            return dict.fromkeys(outputs)
        free = [np.ones(self._values[0][name].shape, bool) for name in outputs]
        if kind in ("Shape", "Size"):
            runs = [values[outputs[0]] for values in self._values]
            free = [np.any([run != runs[0] for run in runs], axis=0)]
        elif moved := self._moved(node):
            return {name: numbers for name, numbers in zip(outputs, moved, strict=True) if numbers.any()}
        elif kind in _ELEMENTWISE and all(self._is_of_one_shape(name) for name in inputs):
            parts = np.broadcast_arrays(free[0], *(self._numbers(name) != 0 for name in inputs))
            free = [np.any(parts[1:], axis=0)]
        return {name: self._new(name, part) for name, part in zip(outputs, free, strict=True) if part.any()}

    def _is_of_one_shape(self, name: str) -> bool:
        """Whether it is a short tensor, and of the same shape in each run."""
        runs = [run for run in (values.get(name) for values in self._values) if isinstance(run, np.ndarray)]
        alike = len(runs) == len(self._values) and len({run.shape for run in runs}) == 1
        return alike and runs[0].size <= _LARGEST and self._free.get(name, runs) is not None

    def _numbers(self, name: str) -> np.ndarray:
        """Numbers of the sources of its elements, where it is of one shape."""
        found = self._free.get(name)
        return np.zeros(self._values[0][name].shape, np.int64) if found is None else found

    def _moved(self, node: NodeProto) -> list[np.ndarray] | None:
        """What a node that moves elements makes of their numbers; None where it does not, or a free size tells how."""
        kind = operator_type(node)
        moving = list(node.input) if kind == "Concat" else list(node.input[:1])
        told = [name for name in node.input[len(moving) :] if name]
        if kind == "Cast":
            moves = {self._values[0][name].dtype for name in (*node.input, *node.output)} == {np.dtype(np.int64)}
        else:
            moves = kind in _MOVING
        if not moves or any(name in self._free for name in told) or not all(map(self._is_of_one_shape, moving)):
            return None
        feed = {name: self._values[0][name] for name in told} | {name: self._numbers(name) for name in moving}
        try:
            return evaluated(node, self._opsets, feed)
        except Exception:  # whatever onnx's implementation makes of a stranger's node: where elements go is not known
            return None

    def _new(self, name: str, free: np.ndarray) -> np.ndarray:
        """Numbers for the elements of a tensor that are free, which are their own sources."""
        numbers = np.zeros(free.shape, np.int64)
        places = np.flatnonzero(free)
        numbers.flat[places] = np.arange(len(self._sources), len(self._sources) + len(places))
        self._sources += [(name, place) for place in places.tolist()]
        return numbers
