"""Whether a file is faster than its base, and why not more, by the figures."""

from dataclasses import dataclass

from onnxprune.analysis.quantised import Quantised, reasons
from onnxprune.runtime.timing import LONGEST_SECONDS, PLANNED_ROUNDS

# When a reason is given; shares and ratios that a person would call much.
_MUCH_LESS = 0.8  # of the theoretical speedup
_MANY_ZEROS = 0.2  # of the multiplications
_MUCH_MISALIGNED = 0.2  # of the MACs
_MUCH_FIXED = 0.2  # of the latency
_BEYOND = 1.1  # of the theoretical speedup


@dataclass(frozen=True)
class Facts:
    """What a verdict rests on: a file against its base, at one batch size.

    Attributes:
        speedup: median latency of the base / of the file.
        interval: its 95 % confidence interval.
        noise: how far sessions of the same file were apart, relative. A speedup within 1 +- noise is none.
        theoretical: MACs of the base / of the file; None where those of either cannot all be told, or one has none.
        bytes_ratio: bytes on disk of the base / of the file.
        zero_share: share of the file's multiplications that are by stored zeros; 0 where not all can be told.
        misaligned_share: share of its MACs in nodes whose output channels fill no vectors, and are not as many as those
            of a node of the base; likewise.
        vector: channels that fill a vector.
        traffic_ratio: bytes that all nodes read and write, base / file; None where a size is not known.
        fixed_share: share of the file's latency that a run of one trivial operator takes too.
        rounds: in which all files were timed.
        quantised: where the file has products in 8 bits, what explains its speed; None for others.
    """

    speedup: float
    interval: tuple[float, float]
    noise: float
    theoretical: float | None
    bytes_ratio: float
    zero_share: float
    misaligned_share: float
    vector: int
    traffic_ratio: float | None
    fixed_share: float
    rounds: int
    quantised: Quantised | None = None


@dataclass(frozen=True)
class Verdict:
    """`outcome` is "faster", "slower" or "no real difference"; the reasons end with what to do, if anything."""

    outcome: str
    reasons: tuple[str, ...]


def beyond_theory(low: float, theoretical: float, noise: float) -> bool:
    """Whether a speedup is more than the MACs and the noise of timing explain.

    Args:
        low: the lower end of its 95 % confidence interval.
        theoretical, noise: as in `Facts`.
    """
    return low > theoretical * (1 + noise) * _BEYOND


def judge(facts: Facts) -> Verdict:
    """What the figures say."""
    low, high = facts.interval
    if low > 1 + facts.noise:
        outcome = "faster"
    elif high < 1 - facts.noise:
        outcome = "slower"
    else:
        outcome = "no real difference"
    theory = facts.theoretical
    # of files in 8 bits, counts and traffic do not tell how fast they are: products are others, conversions are fused
    eight = facts.quantised
    short = eight is None and theory is not None and facts.speedup < _MUCH_LESS * theory
    found = [] if eight is None else reasons(eight, outcome == "faster")
    if theory is None:
        found.append(
            "what to expect is not known: not all MACs of the two files can be told, or one has none, see profile"
        )
    elif eight is None and outcome == "faster" and beyond_theory(low, theory, facts.noise):
        found.append(
            f"beyond theory: its MACs explain {theory:.2f}x only; the rest is other work that is gone, another kernel "
            "or type of numbers, or a disturbed measurement: look at it before you rely on it"
        )
    if facts.zero_share > _MANY_ZEROS:
        found.append(
            f"zeros left in place: {100 * facts.zero_share:.0f} % of its multiplications are by stored zeros, which "
            "onnxruntime still performs; prune units or filters, so that the network shrinks"
        )
    if eight is None and (short or outcome == "slower") and facts.misaligned_share > _MUCH_MISALIGNED:
        found.append(
            f"channels not aligned: {100 * facts.misaligned_share:.0f} % of its MACs are in layers whose width is no "
            f"multiple of {facts.vector}; keep multiples of {facts.vector} (--channel-align {facts.vector})"
        )
    if short and facts.fixed_share > _MUCH_FIXED:
        found.append(
            f"too small to matter: {100 * facts.fixed_share:.0f} % of its time is the fixed cost of a run; larger "
            "batches or fewer runs gain more than pruning"
        )
    if short and theory is not None and facts.traffic_ratio is not None and facts.traffic_ratio < _MUCH_LESS * theory:
        found.append(
            f"memory-bound: MACs fell {theory:.2f} times, the bytes that its nodes read and write only "
            f"{facts.traffic_ratio:.2f} times; prune the layers with the largest outputs"
        )
    if outcome != "faster" and facts.bytes_ratio > 1 / _MUCH_LESS:
        found.append(f"its file is {facts.bytes_ratio:.2f} times smaller nevertheless")
    if outcome == "no real difference" and theory is not None and not found:
        same = _MUCH_LESS < theory < 1 / _MUCH_LESS
        found.append("it does the same work" if same else "no reason was found")
    if facts.rounds < PLANNED_ROUNDS:
        found.append(
            f"few rounds: {facts.rounds} instead of {PLANNED_ROUNDS}, since runs take long and a measurement ends "
            f"after {LONGEST_SECONDS:g} s; the interval is the wider for it, and --seconds makes it longer"
        )
    return Verdict(outcome, tuple(found))
