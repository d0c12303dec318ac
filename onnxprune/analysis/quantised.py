"""Why a file in 8 bits is faster than its base, or is not."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnxprune.graph.counts import Counts
from onnxprune.runtime.kernels import KernelTime

INT8 = "int8"
_MUCH = 0.1  # of the time, or of the MACs
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_FLOAT_PRODUCTS = (
    "Conv",
    "ConvTranspose",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "GRU",
    "Gemm",
    "LSTM",
    "MatMul",
    "RNN",
)
_INT8_PRODUCTS = (
    "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat",
    "QAttention", "QGemm", "QLinearConv", "QLinearMatMul",
)  # fmt: skip


@dataclass(frozen=True)
class Quantised:
    """A file of which products are in 8 bits, against its base.

    Times are medians of latency, shared out as onnxruntime's own profiler found them in runs of their own.

    Attributes:
        share: of its MACs, those that the file has in 8 bits, 0 to 1.
        depthwise_share: of its MACs, those in 8 bits of convolutions of a channel each.
        products_ms: of a run, what products take: in the base, in the file by 8 bits, and there by floats.
        conversions_ms: what conversion between floats and 8 bits takes.
        total_ms: all of the file.
        instructions: of the processor for products of 8 bits; None where the system does not tell.
        vectors: its widest.
    """

    share: float
    depthwise_share: float
    products_ms: tuple[float, float, float]
    conversions_ms: float
    total_ms: float
    instructions: tuple[str, ...] | None
    vectors: str


def has_int8(counts: Counts) -> bool:
    """Whether a file has products in 8 bits."""
    return counts.macs_by_type.get(INT8, 0) > 0


def quantised(
    counts: Counts,
    kernels: tuple[Sequence[KernelTime], Sequence[KernelTime]],
    medians_ms: tuple[float, float],
    instructions: tuple[str, ...] | None,
    vectors: str,
) -> Quantised:
    """What the counts of a file, and the kernel times and latencies of base and file say."""
    (base, own), (base_ms, own_ms) = kernels, medians_ms
    whole = max(1, counts.macs)
    depthwise = sum(
        node.macs
        for node in counts.nodes
        if node.type == INT8 and node.groups > 1 and node.weight_shape is not None and node.weight_shape[1] == 1
    )
    return Quantised(
        share=counts.macs_by_type.get(INT8, 0) / whole,
        depthwise_share=depthwise / whole,
        products_ms=(
            base_ms * _share(base, (*_FLOAT_PRODUCTS, *_INT8_PRODUCTS)),
            own_ms * _share(own, _INT8_PRODUCTS),
            own_ms * _share(own, _FLOAT_PRODUCTS),
        ),
        conversions_ms=own_ms * _share(own, _CONVERSIONS),
        total_ms=own_ms,
        instructions=instructions,
        vectors=vectors,
    )


def _share(kernels: Sequence[KernelTime], operators: Sequence[str]) -> float:
    """Of the time of all kernels, 0 to 1."""
    return sum(kernel.share for kernel in kernels if kernel.operator in operators) / 100


def reasons(found: Quantised, faster: bool) -> list[str]:
    """What explains its speed, the largest part first."""
    base, eight, floats = found.products_ms
    said = [
        f"8 bits: {100 * found.share:.0f} % of its MACs; these products take {eight:.3f} ms, all of the base's "
        f"{base:.3f} ms"
    ]
    if found.instructions:
        said[0] += f", with the processor's {' and '.join(found.instructions)}"
    if faster:
        return said
    if found.instructions == () and found.share > _MUCH:
        said.append(
            f"no 8-bit dot products: this processor ({found.vectors or 'no vectors'}, no VNNI) widens 8-bit numbers "
            "before it adds up their products, which gains little over floats; one with VNNI would be faster"
        )
    if found.depthwise_share > _MUCH:
        said.append(
            f"depthwise: {100 * found.depthwise_share:.0f} % of its MACs are of convolutions of a channel each, which "
            "move more than they multiply"
        )
    if floats > _MUCH * found.total_ms:
        said.append(
            f"left in float: onnxruntime runs products that take {100 * floats / found.total_ms:.0f} % of the time in "
            "floats"
        )
    if found.conversions_ms > _MUCH * found.total_ms:
        said.append(
            f"conversion: {100 * found.conversions_ms / found.total_ms:.0f} % of its time is QuantizeLinear and "
            "DequantizeLinear, around operators that stay in floats"
        )
    return said
