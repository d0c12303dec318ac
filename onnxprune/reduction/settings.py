"""What is asked of the pruning of a file, and whether that can be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxprune.common.errors import InputError
from onnxprune.reduction.recovery import METHODS
from onnxprune.settings.values import MOST_EXACT, optional, real_number, take_numbers, whole_number

FROM_SAMPLES = ("obs", "wanda", "activation")
CRITERIA: Mapping[str, tuple[str, ...]] = {
    "structured": ("l1", "l2", "fpgm", "random", "obs", "wanda"),
    "neuron": ("obs", "activation", "wanda", "random"),
    "weight": ("l1", "l2", "random", "obs", "wanda"),
    "unstructured": ("l1", "l2", "random", "obs", "wanda"),
}
UNITS = ("structured", "neuron")
TARGETS = ("macs", "latency")
_NUMBERS = {
    "sparsity": optional(real_number(0, 100)),  # percent
    "max_drop": optional(real_number(0, 100)),  # points
    "align": whole_number(1),
    "samples": whole_number(2),
    "threads": whole_number(1),
    "seed": whole_number(0, MOST_EXACT),
}


@dataclass(frozen=True)
class PruneSettings:
    """What is asked for.

    Attributes:
        technique: "structured" or "neuron" (units go, the network shrinks), "weight" (zeros, each layer alike),
            "unstructured" (zeros, one ranking over all layers).
        criterion: None: "obs" with samples, else "l1".
        sparsity: percent of the units or weights; None where a target or a largest drop says how much.
        target: "macs" or "latency", and the share of the original's that may be left.
        max_drop: points of accuracy (on a dataset's validation images) or, without labels, of agreement with the
            original's answers (on held-out samples) that may be lost: as much as possible is taken.
        align: kept widths of convolutions are multiples of this many channels (`onnxprune.common.widths`).
        recovery: of "bias", "ridge", "match", "pairs", those that may repair the network.
        samples: at most.
        threads: of onnxruntime, for latency.
        seed: of what is drawn at random.

    Raises:
        InputError: a line for each value that cannot be used.
    """

    technique: str = "structured"
    criterion: str | None = None
    sparsity: float | None = None
    target: tuple[str, float] | None = None
    max_drop: float | None = None
    align: int = 1
    recovery: tuple[str, ...] = METHODS
    samples: int = 512
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        problems = take_numbers(self, _NUMBERS)
        if self.technique not in CRITERIA:
            problems.append(f"unknown technique {self.technique!r}: expected {', '.join(CRITERIA)}")
        elif self.criterion is not None and self.criterion not in CRITERIA[self.technique]:
            problems.append(
                f"technique {self.technique!r} does not accept criterion {self.criterion!r}: it accepts "
                f"{', '.join(CRITERIA[self.technique])}"
            )
        if sum(value is not None for value in (self.sparsity, self.target, self.max_drop)) != 1:
            problems.append("expected one of --sparsity, --target and --max-drop")
        if self.target is not None and (self.target[0] not in TARGETS or not 0 < self.target[1] <= 1):
            problems.append(
                f"target {self.target[0]}={self.target[1]:g}: expected macs or latency, and a share above 0 and up to 1"
            )
        if self.technique in ("weight", "unstructured") and self.sparsity is None and len(problems) == 0:
            problems.append(f"technique {self.technique!r} leaves the network's MACs and latency: give a sparsity")
        problems += [
            f"unknown recovery {method!r}: expected {', '.join(METHODS)}"
            for method in self.recovery
            if method not in METHODS
        ]
        if problems:
            raise InputError("\n".join(problems))

    def resolved(self, has_samples: bool) -> PruneSettings:
        """With the criterion that is used.

        Raises:
            InputError: what is asked for needs samples, and there are none.
        """
        criterion = self.criterion or ("obs" if has_samples else "l1")
        if criterion not in CRITERIA[self.technique]:
            raise InputError(f"technique {self.technique!r} judges units by samples: give --data")
        if criterion in FROM_SAMPLES and not has_samples:
            raise InputError(f"criterion {criterion!r} judges by samples: give --data")
        if self.max_drop is not None and not has_samples:
            raise InputError("a largest drop is measured on samples: give --data")
        return replace(self, criterion=criterion)

    @property
    def title(self) -> str:
        """What is done, as in a file's name: "structured-50", "structured-macs-0.5", "neuron-drop-1"."""
        if self.sparsity is not None:
            return f"{self.technique}-{self.sparsity:g}"
        if self.target is not None:
            return f"{self.technique}-{self.target[0]}-{self.target[1]:g}"
        return f"{self.technique}-drop-{self.max_drop:g}"


def parse_target(given: str | Sequence[Any]) -> tuple[str, float]:
    """ "macs=0.5", or ("macs", 0.5), as its kind and share.

    Raises:
        InputError: it is not of that form.
    """
    try:
        parts: Sequence[Any] = given.split("=") if isinstance(given, str) else given
        kind, share = parts
        return str(kind).strip(), float(share)
    except (TypeError, ValueError):
        raise InputError(f"target {given!r}: expected macs=SHARE or latency=SHARE, like macs=0.5") from None
