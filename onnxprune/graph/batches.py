"""The batch that a graph takes, where its inputs leave it open and constants within it do not."""

from math import prod
from pathlib import Path

from onnx import GraphProto, ModelProto, TensorShapeProto, numpy_helper

from onnxprune.common.errors import InputError
from onnxprune.graph.inference import infer_shapes
from onnxprune.graph.tensors import constants

_LARGEST = 2**12  # samples of a batch that is looked for
_OPEN = 64  # stands for other sizes that are open
_FEW = 16  # elements of a constant that may be a shape
_TRIED = 32  # sizes at most: each takes an inference
_ROUNDS = 16  # of loops that are followed: what is behind longer ones fits any batch


def declare_batch(path: Path, model: ModelProto) -> None:
    """Declares the first axes of the inputs fixed that are declared free, where one size alone fits the graph: exports
    may have written the batch of their example into the middle of it.

    Nothing is declared where an input has no shape.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    types = {value.name: value.type.tensor_type for value in model.graph.input if value.name not in initializers}
    firsts = [kind.shape.dim[0] for kind in types.values() if kind.shape.dim and _is_free(kind.shape.dim[0])]
    told = all(kind.HasField("shape") for kind in types.values())
    if not told or len({size.dim_param for size in firsts}) != 1:
        return

    def fits(batch: int) -> bool:
        shapes = {
            name: tuple(
                size.dim_value if not _is_free(size) else _OPEN if axis else batch
                for axis, size in enumerate(kind.shape.dim)
            )
            for name, kind in types.items()
        }
        try:
            infer_shapes(path, model, shapes, rounds=_ROUNDS)
        except InputError:
            return False
        return True

    if fits(1) and fits(2):
        return
    # one sample may be broadcast against a constant of a whole batch; of other open sizes the one here may be what does
    # not fit, whatever the batch
    others = any(map(_is_free, (size for kind in types.values() for size in kind.shape.dim[1:])))
    found = next((size for size in ([] if others else _sizes(model.graph)) if fits(size)), 1)
    if fits(found) and not fits(2 * found):  # else it may be any multiple
        for first in firsts:
            first.dim_value = found


def _is_free(size: TensorShapeProto.Dimension) -> bool:
    return not size.HasField("dim_value") or size.dim_value < 0


def _sizes(graph: GraphProto) -> list[int]:
    """Sizes from two on that the graph's constants, inputs and outputs have or tell, the smallest first."""
    values = [*graph.input, *graph.output]
    found = {dim.dim_value for value in values for dim in value.type.tensor_type.shape.dim[:1]}
    for tensor in constants(graph):
        found.update(tensor.dims)
        if tensor.data_type in (tensor.INT32, tensor.INT64) and prod(tensor.dims) <= _FEW:
            found.update(numpy_helper.to_array(tensor).flat)
    return sorted(int(size) for size in found if 2 <= size <= _LARGEST)[:_TRIED]
