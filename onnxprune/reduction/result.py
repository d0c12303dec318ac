"""What the pruning of a file did, and what that cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from onnxprune.reduction.fidelity import Fidelity
from onnxprune.reduction.output_file import FileReport
from onnxprune.reduction.settings import PruneSettings

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class GroupReport:
    """A group of units that can only go together.

    Attributes:
        producers: the nodes that make them.
        units, kept: coupled units before and after.
        width: channels of a unit.
        frozen: why none can go; None where they can.
        frozen_by: the node that is the reason; "" where there is none.
        macs_share: of the file's MACs, in the nodes that make or read the group, 0 to 1; nodes of two groups count
            in both.
        error_added: squared error of what reads the group, for the units that went, relative to its energy, as the
            criterion estimates it from samples, before recovery; None where units are judged by weights alone.
    """

    producers: tuple[str, ...]
    units: int
    kept: int
    width: int
    frozen: str | None
    frozen_by: str
    macs_share: float
    error_added: float | None


@dataclass(frozen=True)
class LayerReport:
    """A layer's weights, and those of them that are zero."""

    layer: str
    weights: int
    zeros: int


@dataclass(frozen=True)
class Repair:
    """What was done to one operator.

    Attributes:
        method: "none", or what helped most on samples that it was not fitted to.
        before, after: squared error of its outputs on those, relative to their variance.
    """

    node: str
    method: str
    before: float
    after: float


@dataclass(frozen=True)
class Size:
    """MACs for one sample, parameters (floating-point numbers stored, and those that are not zero), bytes."""

    macs: int
    params: int
    nonzero_params: int
    bytes: int


class Accuracy(NamedTuple):
    """Top-1 on the test images of a dataset, percent: of the original, the pruned and the recovered network."""

    original: float
    plain: float
    recovered: float


@dataclass(frozen=True, kw_only=True)
class PruneReport(FileReport):
    """What the pruning of a file did.

    Attributes:
        output: the file that was written; None for a dry run.
        settings: what was asked for, with the criterion that was used.
        before, after: sizes; after is what would be left, for a dry run, without biases that recovery would add.
        groups: of units, in the order of the graph; for single weights, empty.
        layers: of single weights; for units, empty.
        check: largest difference of the shrunk network from the original with the removed units masked, relative to
            the largest value, over all outputs and all products that keep their size.
        repairs: of the operators that read something that changed.
        fidelity_plain: before recovery, as `fidelity` after it.
        accuracy: None without labels.
    """

    output: Path | None
    settings: PruneSettings
    before: Size
    after: Size
    groups: tuple[GroupReport, ...]
    layers: tuple[LayerReport, ...]
    check: float
    repairs: tuple[Repair, ...]
    fidelity_plain: Fidelity | None
    accuracy: Accuracy | None

    @property
    def recovered(self) -> Mapping[str, int]:
        """Operators by the method that repaired them."""
        return Counter(repair.method for repair in self.repairs)

    @property
    def share_gone(self) -> float:
        """Of the units that could go, or of the weights, 0 to 1."""
        free = [group for group in self.groups if group.frozen is None]
        whole = sum(group.units for group in free) + sum(layer.weights for layer in self.layers)
        gone = sum(group.units - group.kept for group in free) + sum(layer.zeros for layer in self.layers)
        return gone / whole if whole else 0.0

    def rows(self) -> list[dict[str, Any]]:
        """A row a group of units or, for single weights, a layer."""
        groups = [{**asdict(group), "producers": " ".join(group.producers)} for group in self.groups]
        return groups or [asdict(layer) for layer in self.layers]

    def groups_table(self) -> pd.DataFrame:
        """A row a group of units or, for single weights, a layer."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def as_json(self) -> dict[str, Any]:
        """Everything but the comparison, in plain types; null for what is not finite."""
        return {**super().as_json(), "share_gone": self.share_gone, "recovered": dict(self.recovered)}
