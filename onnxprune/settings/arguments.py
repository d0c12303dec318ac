"""The settings of points as arguments of functions, for editors that complete and check them.

A test holds the names against the fields of `Point`, where each is explained and checked.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict


class _Common(TypedDict, total=False):
    """Those of which there is one value in a study."""

    name: str
    epochs: int | None
    updates: int | None
    finetune_epochs: int | None
    learning_rate: float | None
    finetune_learning_rate: float | None
    rounds: int | None
    rewind_epoch: int
    max_drop: float
    distill: float
    recalibrate: bool
    compensate: bool
    keep_dead: bool
    also: str | None
    weights: str | Path | None
    freeze_features: bool
    augment: str
    precision: str
    train_limit: int | None
    image_size: str | int | None
    hidden: int
    batch_norm: bool
    stem: str
    model_args: str | Mapping[str, Any] | None
    mean: str | float | Sequence[float] | None
    std: str | float | Sequence[float] | None
    keep: str | None
    channel_align: int | str
    threads: int
    devices: int
    device: str
    latency_batch: int
    latency_threads: int
    latency_seconds: float


class PointSettings(_Common, total=False):
    """The settings of one point."""

    model: str | Path | Callable[..., Any]
    dataset: str | Path
    batch_size: int
    technique: str
    criterion: str | None
    schedule: str
    granularity: str
    sparsity: float
    control: str
    seed: int


class SweepSettings(_Common, total=False):
    """The settings of a sweep: several values, as a list or a text with commas, give the product.

    Attributes:
        seeds: seeds 0 to N-1, or several; instead of `seed`.
        controls: comparisons that are run beside each point; instead of `control`.
        adaptive: short for `schedule="adaptive"`.
    """

    model: str | Path | Callable[..., Any] | Sequence[str | Path | Callable[..., Any]]
    dataset: str | Path | Sequence[str | Path]
    batch_size: int | str | Sequence[int]
    technique: str | Sequence[str]
    criterion: str | Sequence[str] | None
    schedule: str | Sequence[str]
    granularity: str | Sequence[str]
    sparsity: float | str | Sequence[float]
    control: str | Sequence[str]
    seed: int | str | Sequence[int]
    seeds: int | str | Sequence[int]
    controls: str | Sequence[str]
    adaptive: bool
