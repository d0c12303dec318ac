"""What the processor can do, as the system tells it."""

from functools import cache
from pathlib import Path

_INT8 = {
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX",
    "asimddp": "dot products",
    "i8mm": "I8MM",
}
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}


@cache
def _flags() -> frozenset[str]:
    """Empty where the system does not tell, as outside Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    told = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(told.partition(":")[2].split())


def vector_channels(device: str) -> int:
    """Channels of float32 that fill a vector register: 16 with AVX-512, else 8; the GPU's matrix units want 8."""
    return 16 if device == "cpu" and "avx512f" in _flags() else 8


def int8_instructions() -> tuple[str, ...] | None:
    """Instructions that add up products of 8-bit numbers; None where the system does not tell."""
    flags = _flags()
    return tuple(name for flag, name in _INT8.items() if flag in flags) if flags else None


def vectors() -> str:
    """The widest vectors it has: "AVX2"; "" where the system does not tell."""
    return next((name for flag, name in _VECTORS.items() if flag in _flags()), "")
