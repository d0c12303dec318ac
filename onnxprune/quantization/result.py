"""What the quantisation of a file did, and what that cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from onnxprune.common.files import compressed_bytes
from onnxprune.graph.files import files_of
from onnxprune.quantization.settings import QuantizeSettings
from onnxprune.reduction.output_file import FileReport

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LayerReport:
    """A product of the file.

    Attributes:
        layer: name of its node.
        operator: that does its work in the written file.
        type: that it was given: "int8", "float16", or "float32" where it stays.
        macs_share: of the file's MACs, 0 to 1.
        reason: why it stays in float32; "" where it does not.
        error_alone: relative error of the outputs where it alone is converted; None where that was not looked at.
    """

    layer: str
    operator: str
    type: str
    macs_share: float
    reason: str
    error_alone: float | None


@dataclass(frozen=True)
class FileSize:
    """Bytes of the file with its external data, and those of the file after gzip."""

    bytes: int
    bytes_compressed: int

    @classmethod
    def of(cls, path: Path) -> FileSize:
        files = files_of(path)
        return cls(sum(file.stat().st_size for file in files), sum(compressed_bytes(file) for file in files))


class Accuracy(NamedTuple):
    """Top-1 on the test images of a dataset, percent: of the original and the quantised network."""

    original: float
    quantized: float


@dataclass(frozen=True, kw_only=True)
class QuantizeReport(FileReport):
    """What the quantisation of a file did.

    Attributes:
        output: the file that was written.
        settings: what was asked for.
        before, after: sizes.
        layers: in the order of the file.
        drop: points lost of what decides (`onnxprune.reduction.fidelity.deciding_score`): accuracy on validation
            images, else agreement; None without samples, or where outputs are no scores.
        accuracy: None without labels.
    """

    output: Path
    settings: QuantizeSettings
    before: FileSize
    after: FileSize
    layers: tuple[LayerReport, ...]
    drop: float | None
    accuracy: Accuracy | None

    @property
    def converted_share(self) -> float:
        """Of the file's MACs in layers with weights, those that were converted, 0 to 1."""
        whole = sum(layer.macs_share for layer in self.layers)
        converted = sum(layer.macs_share for layer in self.layers if not layer.reason)
        return converted / whole if whole else 0.0

    def rows(self) -> list[dict[str, Any]]:
        """A row a layer."""
        return [asdict(layer) for layer in self.layers]

    def layers_table(self) -> pd.DataFrame:
        """A row a layer."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def as_json(self) -> dict[str, Any]:
        """Everything but the comparison, in plain types; null for what is not finite."""
        return {**super().as_json(), "converted_share": self.converted_share}
