"""What ONNX says of windows that move over places, as convolutions and pooling do."""

from collections.abc import Sequence


def same_pads(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], automatic: str
) -> tuple[list[int], list[int]]:
    """Borders before and behind along each axis, with which a window takes ceil(size / stride) places.

    Args:
        automatic: `auto_pad` as SAME_UPPER, where the larger border is the one behind, or SAME_LOWER.
    """
    begins, ends = [], []
    for size, window, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        missing = max(0, (-(-size // stride) - 1) * stride + dilation * (window - 1) + 1 - size)
        small, large = missing // 2, missing - missing // 2
        begins.append(small if automatic == "SAME_UPPER" else large)
        ends.append(large if automatic == "SAME_UPPER" else small)
    return begins, ends
