"""Which images of a dataset networks classify right, and what that tells of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.analysis.evaluation import right_images
from onnxprune.common.shares import SIGNIFICANT, Interval, discordant, mcnemar, paired_shares, wilson
from onnxprune.graph.network import Network
from onnxprune.reduction.samples import Samples
from onnxprune.runtime.execution import open_network, run
from onnxprune.runtime.long_work import Advance
from onnxprune.runtime.random_inputs import Inputs


@dataclass(frozen=True)
class Evidence:
    """What test images tell of networks made from one another, at 95 %.

    Attributes:
        images: how many.
        intervals: of each network's accuracy, in percent (Wilson).
        lost, gained: images that of the first and the last network only the first, or only the last, gets right.
        change: the interval of the last one's accuracy minus the first one's, in points.
        p_value: of McNemar's test that the two are right as often.
    """

    images: int
    intervals: tuple[Interval, ...]
    lost: int
    gained: int
    change: Interval
    p_value: float

    @property
    def real(self) -> bool:
        """Whether the change is beyond noise."""
        return self.p_value < SIGNIFICANT

    @classmethod
    def of(cls, right: Sequence[np.ndarray]) -> "Evidence":
        """
        Args:
            right: which of the images each network gets right (images,), at least one.
        """
        first, *_, last = right
        lost, gained = discordant(first, last)
        images = len(first)
        return cls(
            images,
            tuple(wilson(int(each.sum()), images) for each in right),
            lost,
            gained,
            paired_shares(lost, gained, images),
            mcnemar(lost, gained),
        )


def right_answers(network: Network, batches: Iterable[tuple[Inputs, np.ndarray]]) -> np.ndarray | None:
    """Which samples are right by the first output that is a row of scores (samples,); None where there is none, or not
    one for each label, or no sample.

    Equal scores rank by class index; a row that is not all finite is wrong.

    Args:
        batches: inputs with their labels (samples,); of the last inputs there may be more than labels.
    """
    right = []
    with open_network(network) as session:
        for feed, labels in batches:
            found = run(session, feed).values()
            scores = next((value for value in found if is_floating(value) and is_scores(value)), None)
            if scores is None or len(scores) < len(labels) or labels.max() >= scores.shape[1]:
                return None
            right.append(right_images(scores[: len(labels)], labels))
    return np.concatenate(right) if right else None


def accuracy(network: Network, batches: Iterable[tuple[Inputs, np.ndarray]]) -> float | None:
    """Top-1 by `right_answers`, percent; None where that is."""
    right = right_answers(network, batches)
    return None if right is None else percent_right(right)


def percent_right(right: np.ndarray) -> float:
    """Top-1 of samples that are right (samples,), percent."""
    return 100 * int(right.sum()) / len(right)


def on_test_images(networks: Sequence[Network], samples: Samples, advance: Advance) -> list[np.ndarray] | None:
    """Which test images each network gets right; None where there are none, or a network gives no scores for them."""
    if samples.test is None:
        return None
    found = []
    for number, network in enumerate(networks):
        advance("measuring accuracy", number, len(networks))
        right = right_answers(network, samples.test)
        if right is None:
            return None
        found.append(right)
    return found


def why_not_tested(samples: Samples) -> str | None:
    """Why `on_test_images` gave nothing; None without labels."""
    if samples.test is None:
        return None
    return f"no output has a score for each of the classes of {samples.dataset or samples.source}"


def accuracy_property(percent: float, properties: Mapping[str, str], samples: Samples) -> dict[str, str]:
    """The property by which a file says its accuracy on test images: none where its other properties name other data
    than these are of."""
    said = properties.get("dataset", samples.dataset) == samples.dataset
    return {"accuracy": f"{percent:.4f}"} if said else {}


def is_scores(value: np.ndarray) -> bool:
    """Whether an output is a row of scores for each sample (samples, classes)."""
    return value.ndim == 2 and value.shape[1] > 1


def is_floating(value: object) -> bool:
    """Whether an output is a tensor of floating-point numbers."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"
