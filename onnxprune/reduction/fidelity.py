"""How close a network's outputs are to those of the original."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxprune.common.errors import InputError
from onnxprune.graph.metadata import parse
from onnxprune.graph.network import Network, metadata
from onnxprune.reduction.accuracy import accuracy, is_floating, is_scores
from onnxprune.reduction.samples import Samples, SampleSource, count_samples, read_samples
from onnxprune.runtime.execution import open_network, run
from onnxprune.runtime.random_inputs import Inputs


@dataclass(frozen=True)
class Fidelity:
    """
    Attributes:
        relative_error: norm of the difference of an output, relative to the norm of the original's; of several outputs
            the root of the mean of the squares, so that each of them counts the same.
        cosine: mean cosine similarity of a sample's outputs, -1 to 1.
        agreement: percent of the samples whose highest score is at the same place; None where the first output of
            numbers is no row of scores (samples, classes).
        samples: how many were compared.
    """

    relative_error: float
    cosine: float
    agreement: float | None
    samples: int

    @property
    def percent(self) -> float:
        """What is not error: 100 where the outputs are the same, 0 where they are off by their own size or more, or are
        no numbers."""
        return 100 * max(0.0, 1 - self.relative_error) if math.isfinite(self.relative_error) else 0.0


Answers = list[dict[str, np.ndarray]]
_SAME = 1e-6  # of the largest number: answers that differ by no more are the same


def answers(network: Network, batches: Iterable[Inputs], threads: int = 0) -> Answers:
    """The outputs for each batch, those that are floating-point numbers."""
    with open_network(network, threads=threads) as session:
        return [{name: value for name, value in run(session, batch).items() if is_floating(value)} for batch in batches]


def compare_answers(original: Answers, found: Answers, batches: Sequence[Inputs]) -> Fidelity:
    """Compares the outputs for these batches.

    Raises:
        ValueError: there are none.
    """
    comparison = Comparison()
    for expected, given, batch in zip(original, found, batches, strict=True):
        comparison.add(expected, given, count_samples([batch]))
    return comparison.result()


class Comparison:
    """Outputs next to those of the original, batch by batch."""

    def __init__(self) -> None:
        self._gaps: defaultdict[str, float] = defaultdict(float)  # sums of squares, of each output
        self._sizes: defaultdict[str, float] = defaultdict(float)
        self._cosines = 0.0
        self._samples = self._same = 0
        self._scored = True
        self._first: tuple[np.ndarray, ...] | None = None
        self._varies = [False, False]  # of the original, and of what is compared with it

    @np.errstate(all="ignore")  # answers that are no numbers show in the result
    def add(self, expected: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray], samples: int) -> None:
        """Takes the outputs of a batch: name -> value, of one shape in both.

        Args:
            samples: of the batch; where an output does not have an entry for each, they are compared together.

        Raises:
            ValueError: there are none.
        """
        names = list(expected)
        apart = all(value.shape[:1] == (samples,) for value in expected.values())
        parts: list[list[np.ndarray]] = [[], []]
        for name in names:
            pair = [
                answer[name].astype(np.float64).reshape(samples if apart else 1, -1) for answer in (expected, given)
            ]
            self._gaps[name] += float(np.square(pair[0] - pair[1]).sum())
            self._sizes[name] += float(np.square(pair[0]).sum())
            for part, rows in zip(parts, pair, strict=True):
                part.append(rows)
        both = tuple(np.concatenate(part, 1) for part in parts)
        norms = [np.linalg.norm(rows, axis=1) for rows in both]
        cosines = (both[0] * both[1]).sum(1) / np.maximum(norms[0] * norms[1], 1e-30)
        self._cosines += samples * float(cosines.mean())
        self._samples += samples
        if apart:
            first = self._first or tuple(rows[0].copy() for rows in both)
            self._first = first
            for place, rows in enumerate(both):
                self._varies[place] |= bool((np.abs(rows - first[place]) > _SAME * np.abs(first[place]).max()).any())
        scores, other = expected[names[0]], given[names[0]]
        if is_scores(scores) and len(scores) == samples:
            self._same += int((scores.argmax(1) == other.argmax(1)).sum())
        else:
            self._scored = False

    @property
    def collapsed(self) -> bool:
        """Whether what was compared answers the same to every sample, and the original does not."""
        return self._varies == [True, False]

    def result(self) -> Fidelity:
        """How close they are."""
        shares = [gap / self._sizes[name] if self._sizes[name] else float(gap > 0) for name, gap in self._gaps.items()]
        return Fidelity(
            float(np.sqrt(np.mean(shares))),
            self._cosines / max(1, self._samples),
            100 * self._same / self._samples if self._scored and self._samples else None,
            self._samples,
        )


def deciding_score(network: Network, original: Network, samples: Samples) -> float | None:
    """Percent that a largest drop is told by: accuracy on validation images or, where there are none, agreement with
    the original on held-out samples; fidelity to it where the first output is no row of scores. None where there are
    labels, and no output has a score for each."""
    if samples.validation is not None:
        return accuracy(network, samples.validation)
    held_out = samples.held_out
    found = compare_answers(answers(original, held_out), answers(network, held_out), held_out)
    return found.percent if found.agreement is None else found.agreement


def samples_for(path: Path, network: Network, source: SampleSource, count: int, seed: int) -> Samples:
    """At most so many samples for the network of a file, which runs on them.

    Raises:
        InputError: they cannot be read, do not fit the network, or tell nothing of it.
    """
    samples = read_samples(
        source.data,
        network,
        parse(metadata(network.model)),
        count=count,
        mean=source.mean,
        std=source.std,
        data_dir=source.data_dir,
        seed=seed,
    )
    _check_answers(path, network, samples)
    return samples


def _check_answers(path: Path, source: Network, samples: Samples) -> None:
    """Raises an InputError where the network does not run on the samples, or gives nothing to compare."""
    try:
        (found,) = answers(source, samples.fitting[:1])
    except InputError as error:
        raise InputError(f"{samples.source}: {error}") from error
    if not found:
        raise InputError(
            f"{path}: none of its outputs is a tensor of floating-point numbers, by which samples could judge (a "
            "ZipMap? export it with zipmap=False): leave --data out"
        )
    if not all(np.isfinite(value).all() for value in found.values()):
        raise InputError(f"{samples.source}: the model's outputs for them are not finite numbers")
