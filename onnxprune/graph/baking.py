"""Puts what surrounds a classifier into its graph: pixels go in, probabilities come out."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune.graph.images import Layout
from onnxprune.graph.metadata import Normalisation
from onnxprune.graph.nodes import rename

PICTURE, PROBABILITIES = "image", "probabilities"  # names of the input and the output
BAKED = "baked"  # of the metadata
TAKES = "uint8 pixels (batch, height, width, channels), gives probabilities"

_RESIZES_FROM = 18  # opset whose Resize has an antialiasing filter and takes axes
_PREFIX = "baked/"  # of the names of what is added
_GONE = ("normalisation", "mean", "std")  # metadata that the graph does itself


def resizes(model: onnx.ModelProto) -> bool:
    """Whether the baked model takes pictures of any size: the opset has what that needs."""
    return max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) >= _RESIZES_FROM


def bake(
    model: onnx.ModelProto,
    input_name: str,
    output_name: str,
    *,
    picture: tuple[int, int, int],
    taken: tuple[int, int, int],
    layout: Layout,
    normalisation: Normalisation,
    add_softmax: bool,
) -> onnx.ModelProto:
    """A model of the input `image`, uint8 (batch, height, width, C), grey or RGB, and the output `probabilities`
    (batch, classes).

    Pictures are resized to what the network was trained on by an antialiased bilinear filter, where the opset has one
    (else they must have that size), get a black border where the network takes more, and are normalised.

    Args:
        input_name, output_name: of the network's images, float32, and its scores.
        picture: (C, H, W) that pictures are resized to.
        taken: (C, H, W) of the network's images, no smaller.
        layout: how its input takes those.
        add_softmax: whether its output are logits.
    """
    baked = onnx.ModelProto()
    baked.CopyFrom(model)
    graph = baked.graph
    new_names = {name: f"{_PREFIX}{name}" for name in (PICTURE, PROBABILITIES)}
    rename(graph, new_names)
    input_name, output_name = (new_names.get(name, name) for name in (input_name, output_name))
    (given,) = (value for value in graph.input if value.name == input_name)
    (scores,) = (value for value in graph.output if value.name == output_name)
    before = _Chain(graph, PICTURE)
    before.add("Cast", to=TensorProto.FLOAT)
    channels, height, width = picture
    if resizes(model):
        sizes = np.asarray([height, width], np.int64)
        # as Pillow does it, at the edges too; before the transposition, which onnxruntime fails to move past it
        before.add("Resize", None, None, sizes, axes=[1, 2], mode="linear", antialias=1, exclude_outside=1)
        before.add("Round")  # as pixels are
    before.add("Transpose", perm=[0, 3, 1, 2])
    gaps = [have - size for have, size in zip(taken[1:], picture[1:], strict=True)]
    if any(gaps):
        top, left = (gap // 2 for gap in gaps)
        before.add("Pad", np.asarray([0, 0, top, left, 0, 0, gaps[0] - top, gaps[1] - left], np.int64))
    shift, deviation = (
        (255 * np.asarray(numbers, np.float32)).reshape(1, -1, 1, 1)
        for numbers in (normalisation.mean, normalisation.std)
    )
    before.add("Sub", shift)
    before.add("Div", deviation)
    before.add("Transpose", perm=list(layout.axes))
    before.add("Reshape", np.asarray([0, *layout.sizes], np.int64))
    before.nodes[-1].output[0] = input_name
    after = _Chain(graph, output_name)
    if add_softmax:
        after.add("Softmax", axis=1)
    else:
        after.add("Identity")
    after.nodes[-1].output[0] = PROBABILITIES
    nodes = [*before.nodes, *graph.node, *after.nodes]
    first = given.type.tensor_type.shape.dim[0].dim_value if given.type.tensor_type.HasField("shape") else 0
    size = (height, width) if not resizes(model) else ("height", "width")
    classes = [dim.dim_value or "classes" for dim in scores.type.tensor_type.shape.dim[1:]] or ["classes"]
    for field, values in (
        (graph.node, nodes),
        (graph.input, [helper.make_tensor_value_info(PICTURE, TensorProto.UINT8, [first or "batch", *size, channels])]),
        (
            graph.output,
            [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, [first or "batch", *classes])],
        ),
    ):
        del field[:]
        field.extend(values)
    kept = {entry.key: entry.value for entry in model.metadata_props if entry.key not in _GONE}
    del baked.metadata_props[:]
    helper.set_model_props(baked, {**kept, BAKED: TAKES})
    return baked


class _Chain:
    """Nodes one after the other, that a graph is yet to get; their constants it has already."""

    def __init__(self, graph: onnx.GraphProto, begin: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._graph = graph
        self._last = begin

    def add(self, operator: str, *constants: np.ndarray | None, **attributes: Any) -> None:
        """One more node, of the last value and these constants."""
        title = f"{_PREFIX}{self._last.removeprefix(_PREFIX)}/{operator}"
        names = []
        for number, constant in enumerate(constants):
            names.append("" if constant is None else f"{title}.{number}")
            if constant is not None:
                self._graph.initializer.append(numpy_helper.from_array(constant, names[-1]))
        self.nodes.append(helper.make_node(operator, [self._last, *names], [title], name=title, **attributes))
        self._last = title
