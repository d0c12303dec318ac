"""What the processor can do, read off what the system tells."""

from pathlib import Path

import pytest

from onnxprune.runtime import processor


@pytest.mark.parametrize(
    ("told", "channels", "instructions", "vectors"),
    [
        ("model name: x\nflags : fpu avx2 fma\n", 8, (), "AVX2"),
        ("flags : avx2 avx512f avx512_vnni amx_int8\n", 16, ("AVX-512 VNNI", "AMX"), "AVX-512"),
        ("Features : fp asimd asimddp i8mm\n", 8, ("dot products", "I8MM"), "NEON"),
        (None, 8, None, ""),
    ],
)
def test_flags_of_several_processors(
    told: str | None, channels: int, instructions: tuple[str, ...] | None, vectors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_text(path: Path) -> str:
        if told is None:
            raise FileNotFoundError
        return told

    processor._flags.cache_clear()
    monkeypatch.setattr(Path, "read_text", read_text)
    assert processor.vector_channels("cpu") == channels
    assert processor.vector_channels("cuda") == 8
    assert processor.int8_instructions() == instructions
    assert processor.vectors() == vectors
    monkeypatch.undo()
    processor._flags.cache_clear()
