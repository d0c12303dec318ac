"""What training took."""

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainingCost:
    """What a training run took.

    Attributes:
        seconds: time of the leading thread: on the processor, where that trains, so that pauses do not count.
        images: images passed forward and backward, over all epochs.
        updates: steps of the optimizer.
        peak_memory_bytes: the most resident memory the process held during it; None where that can't be read.
        epoch_losses: mean training cross-entropy of each epoch, in nats.
    """

    seconds: float
    images: int
    updates: int
    peak_memory_bytes: int | None
    epoch_losses: list[float]

    def __add__(self, later: "TrainingCost") -> "TrainingCost":
        """That of both, one after the other."""
        peaks = [cost.peak_memory_bytes for cost in (self, later) if cost.peak_memory_bytes is not None]
        return TrainingCost(
            self.seconds + later.seconds,
            self.images + later.images,
            self.updates + later.updates,
            max(peaks, default=None),
            self.epoch_losses + later.epoch_losses,
        )


@dataclass
class Spent:
    """What something other than training took; it adds up.

    Attributes:
        flops: counted, of convolutions and matrix products that PyTorch ran, forward and backward.
        seconds: as those of training.
        known: what was found by it and is remembered, which is not spent again.
    """

    flops: int = 0
    seconds: float = 0.0
    known: set[Hashable] = field(default_factory=set)

    def add(self, other: "Spent") -> None:
        """Adds what something else took."""
        self.flops += other.flops
        self.seconds += other.seconds


NO_TRAINING = TrainingCost(0.0, 0, 0, None, [])
