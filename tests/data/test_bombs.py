"""Files that unfold to far more than they are: told by their sizes, or stopped where these are a lie."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from onnxprune.cli import cli
from onnxprune.common import limits
from onnxprune.common.errors import InputError
from onnxprune.data import npz, pictures, tables
from onnxprune.data.dataset import Dataset, Split
from onnxprune.data.npz import read_arrays


def test_many_members_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **{f"a{number}": np.zeros(400_000, np.uint8) for number in range(4)})
    monkeypatch.setattr(npz, "_LARGE", 10**6)
    assert len(read_arrays(path, ["a0", "a1"])) == 2
    with pytest.raises(InputError, match=r"its arrays are .* MB that unpack to .* GB"):
        read_arrays(path, ["a0", "a1", "a2", "a3"])


def test_inputs_of_the_command_line_are_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros(4_000_000, np.uint8))
    monkeypatch.setattr(npz, "_LARGE", 10**6)
    done = CliRunner().invoke(cli, ["profile", "model.onnx", "--input", str(path)])
    assert done.exit_code == 2
    assert "unpack" in done.output


def test_a_head_of_400_digits_is_no_array(tmp_path: Path) -> None:
    import zipfile

    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({10**400},), }}\n".encode()
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + b"abc"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(InputError, match=r"is not an .npz file of plain arrays") as caught:
        read_arrays(tmp_path / "a.npz", ["x"])
    assert len(str(caught.value)) < 500


def test_a_picture_of_very_many_pixels_is_not_unpacked(tmp_path: Path) -> None:
    side = 20_000  # 400 million pixels in a file of a few hundred bytes

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    path = tmp_path / "bomb.png"
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    with pytest.raises(InputError, match="more than 89,478,485 pixels"):
        pictures.read_picture(path, (1, 28, 28))


def test_a_large_picture_needs_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (2100, 2000)).save(path)
    assert pictures.read_picture(path, (1, 28, 28))[1] == (2100, 2000)
    monkeypatch.setattr(pictures, "available_memory", lambda: 10**7)
    with pytest.raises(InputError, match=r"4,200,000 pixels, which take 0.1 GB"):
        pictures.read_picture(path, (1, 28, 28))


@pytest.mark.skipif(limits.resource is None, reason="no limits of memory")
def test_a_table_whose_sizes_are_a_lie_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 20_000
    picture = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([b"x" * 1_000_000]))
    table = pa.table({"image": picture, "label": [row % 2 for row in range(rows)]})
    for name in ("train", "test"):
        pq.write_table(table, tmp_path / f"{name}.parquet", store_schema=False)  # 20 GB in a file of some kilobytes
    assert (tmp_path / "train.parquet").stat().st_size < 100_000
    monkeypatch.setattr(limits, "available_memory", lambda: 500_000_000)
    with pytest.raises(InputError, match=r"train.parquet (unpacks to more memory|is not a table)"):
        tables.listed(tmp_path)


def test_borders_of_a_file_that_wants_a_million_pixels_are_refused() -> None:
    split = Split(np.zeros((2, 1, 4, 4), np.uint8), np.array([0, 1]))
    dataset = Dataset("small", split, split, split, ("a", "b"), (0.5,), (0.5,), "", 2)
    assert dataset.padded(8, 8).input_shape == (1, 8, 8)
    with pytest.raises(InputError, match=r"padded to 1,000,000x1,000,000 \(height x width\) take"):
        dataset.padded(1_000_000, 1_000_000)
