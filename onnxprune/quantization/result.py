"""What the quantisation of a file did, and what that cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from onnxprune.analysis.comparison import Entry
from onnxprune.common.files import compressed_bytes
from onnxprune.common.plain import plain
from onnxprune.graph.files import files_of
from onnxprune.quantization.settings import QuantizeSettings
from onnxprune.reduction.accuracy import Evidence
from onnxprune.reduction.fidelity import Fidelity

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


@dataclass(frozen=True)
class QuantizeReport:
    """
    Attributes:
        source, output: the files.
        replaced: whether there was a file by the name of the output.
        settings: what was asked for.
        before, after: sizes.
        layers: in the order of the file.
        drop: points lost of what decides (`onnxprune.reduction.fidelity.deciding_score`): accuracy on validation
            images, else agreement; None without samples, or where outputs are no scores.
        fidelity: to the original on held-out samples; None without samples.
        accuracy: None without labels.
        tested: what it is worth; None without labels.
        samples: what the samples were; None without.
        comparison: original and quantised file, timed; empty where that was not asked for, or not possible.
        not_compared: why they could not be compared, where that was asked for; None where they were.
    """

    source: Path
    output: Path
    replaced: bool
    settings: QuantizeSettings
    before: FileSize
    after: FileSize
    layers: tuple[LayerReport, ...]
    drop: float | None
    fidelity: Fidelity | None
    accuracy: Accuracy | None
    tested: Evidence | None
    samples: str | None
    comparison: tuple[Entry, ...] = ()
    not_compared: str | None = None

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
        found = plain(asdict(replace(self, comparison=())))
        del found["comparison"]
        return {**found, "converted_share": self.converted_share}
