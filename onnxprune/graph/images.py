"""How an ONNX file takes images: which input, laid out in which way, of which type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnxprune.common.errors import InputError


@dataclass(frozen=True)
class Layout:
    """From images (N, C, H, W) to what a file takes: their axes in this order, then of these sizes a sample."""

    axes: tuple[int, int, int, int]
    sizes: tuple[int, ...]

    def apply(self, images: np.ndarray) -> np.ndarray:
        """The images (N, C, H, W) as (N, *sizes), in the order of C."""
        return np.ascontiguousarray(images.transpose(self.axes).reshape(len(images), *self.sizes))


@dataclass(frozen=True)
class ImageInput:
    """
    Attributes:
        name: of the input.
        sizes: that it declares for a sample; None for one that it leaves open; None for no shape at all.
        kind: its type.
    """

    name: str
    sizes: tuple[int | None, ...] | None
    kind: np.dtype

    @classmethod
    def of_value(cls, value: onnx.ValueInfoProto) -> ImageInput:
        """An input of a graph, which is a tensor."""
        tensor = value.type.tensor_type
        sizes = tuple(dim.dim_value or None for dim in tensor.shape.dim)[1:] if tensor.HasField("shape") else None
        return cls(value.name, sizes, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))

    @classmethod
    def of_session(cls, argument: Any) -> ImageInput:
        """An input of an onnxruntime session.

        Raises:
            InputError: it takes no numbers.
        """
        name = argument.type.removeprefix("tensor(").removesuffix(")")
        kind = {"float": "float32", "double": "float64"}.get(name, name)
        try:
            found = np.dtype(kind)
        except TypeError:
            raise InputError(f"the model's input {argument.name!r} is {argument.type}: expected numbers") from None
        sizes = tuple(size if isinstance(size, int) else None for size in argument.shape)[1:]
        return cls(argument.name, sizes if argument.shape else None, found)

    def layout(self, shape: tuple[int, int, int]) -> Layout:
        """How images of this shape (C, H, W) are laid out for it.

        That is (N, C, H, W), (N, H, W, C), rows (N, H, W) of one channel, or flattened (N, C * H * W), whichever first
        fits what it declares.

        Raises:
            InputError: none does.
        """
        channels, height, width = shape
        first = Layout((0, 1, 2, 3), shape)
        if self.sizes is None:
            return first
        for layout in (
            first,
            Layout((0, 2, 3, 1), (height, width, channels)),
            *([Layout((0, 1, 2, 3), (height, width))] if channels == 1 else []),
            Layout((0, 1, 2, 3), (channels * height * width,)),
        ):
            if len(layout.sizes) == len(self.sizes) and all(
                have in (None, size) for have, size in zip(self.sizes, layout.sizes, strict=True)
            ):
                return layout
        raise InputError(
            f"the model's input {self.name!r} takes {[size or 'any' for size in self.sizes]} a sample: images of "
            f"{channels}x{height}x{width} do not fit"
        )

    @property
    def shape(self) -> tuple[int | None, int | None, int | None]:
        """(C, H, W) of an image as it declares them; None for what it leaves open, all three for flattened images."""
        match self.sizes:
            case (height, width, 1 | 3 as channels) if self.sizes[0] not in (1, 3):
                return channels, height, width
            case (channels, height, width):
                return channels, height, width
            case (height, width):
                return 1, height, width
        return None, None, None

    @property
    def smallest(self) -> tuple[int, int]:
        """Height and width below which images get a border for it; 1 for what it leaves open."""
        _, height, width = self.shape
        return height or 1, width or 1

    def shapes(self, layout: Layout) -> dict[str, tuple[int, ...]] | None:
        """The input's shape for a batch of two, where it leaves sizes of a sample open; None where it does not."""
        return {self.name: (2, *layout.sizes)} if self.sizes is None or None in self.sizes else None

    def takes(self, shape: tuple[int, int, int]) -> bool:
        """Whether images of this shape (C, H, W) can be laid out for it."""
        try:
            self.layout(shape)
        except InputError:
            return False
        return True
