"""What is asked of the quantisation of a file, and whether that can be asked."""

from __future__ import annotations

from dataclasses import dataclass

from onnxprune.common.errors import InputError
from onnxprune.settings.values import MOST_EXACT, optional, real_number, take_numbers, whole_number

TYPES = ("int8", "float16")
_NUMBERS = {"max_drop": optional(real_number(0, 100)), "samples": whole_number(2), "seed": whole_number(0, MOST_EXACT)}
CALIBRATIONS = ("minmax", "entropy", "percentile")


@dataclass(frozen=True)
class QuantizeSettings:
    """What is asked for.

    Attributes:
        type: "int8" or "float16", of weights and of what is computed with them.
        dynamic: int8 with scales of activations that are found at run time, so that no samples are needed.
        calibration: how the range of an activation follows from samples: "minmax" takes all of it, "entropy" the part
            whose distribution changes least (Migacz 2017, 8-bit inference with TensorRT), "percentile" all but the
            furthest thousandth of a percent.
        keep: names of nodes that stay in float32.
        max_drop: points of accuracy (on a dataset's validation images) or, without labels, of agreement with the
            original's answers (on held-out samples) that may be lost; the most sensitive layers stay in float32 until
            no more is. None: all layers are quantised, whatever is lost.
        samples: at most.
        seed: of the choice of samples.

    Raises:
        InputError: a line for each value that cannot be used.
    """

    type: str = "int8"
    dynamic: bool = False
    calibration: str = "minmax"
    keep: tuple[str, ...] = ()
    max_drop: float | None = None
    samples: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        problems = take_numbers(self, _NUMBERS)
        if self.type not in TYPES:
            problems.append(f"unknown type {self.type!r}: expected {', '.join(TYPES)}")
        if self.calibration not in CALIBRATIONS:
            problems.append(f"unknown calibration {self.calibration!r}: expected {', '.join(CALIBRATIONS)}")
        if self.dynamic and self.type != "int8":
            problems.append(f"--dynamic is for int8, not for {self.type}")
        if problems:
            raise InputError("\n".join(problems))

    @property
    def calibrated(self) -> bool:
        """Whether ranges of activations are told by samples."""
        return self.type == "int8" and not self.dynamic

    def check_samples(self, has_samples: bool) -> None:
        """Raises an InputError where what is asked for needs samples, and there are none."""
        if has_samples:
            return
        if self.calibrated:
            raise InputError("static int8 finds the ranges of activations by samples: give --data, or --dynamic")
        if self.max_drop is not None:
            raise InputError("a largest drop is measured on samples: give --data")

    @property
    def title(self) -> str:
        """What is done, as in a file's name: "int8", "int8-dynamic", "float16"."""
        return f"{self.type}-dynamic" if self.dynamic else self.type
