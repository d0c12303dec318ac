"""How wide layers should be: runtimes compute convolutions in vectors of channels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DEFAULT_STEP = 8  # channels in which the cost of convolutions falls on processors with AVX2

AUTO = "auto"  # a step that is to be measured

ALIGN_FROM = 32  # channels of a layer for which its width matters

_DIGITS = 9  # of a total, after the point
_MOST_WAYS = 5_000


@dataclass(frozen=True)
class Prunable:
    """Units that are rounded together: of a layer, or of several that are coupled.

    Attributes:
        units: how many there are.
        share: of them that is to go, 0 to 1.
        width: channels of a layer that one unit takes.
        weight: what a unit counts in the network's total.
        dense: whether any width is as good: matrix products have no steps.
        gone: units that are gone already, and stay so.
    """

    units: int
    share: float
    width: int = 1
    weight: float = 1.0
    dense: bool = False
    gone: int = 0

    @property
    def exact(self) -> float:
        """How many are to stay, which need not be a whole number, nor be there still."""
        return self.units * (1 - self.share)

    def any_width(self, step: int) -> bool:
        """Whether any number of them may stay."""
        return self.dense or step == 1 or self.units * self.width < ALIGN_FROM

    def widths(self, step: int) -> list[int]:
        """The numbers of units that may stay, rising; at least one does, for no layer can be empty."""
        most = self.units - self.gone
        if self.any_width(step):
            return list(range(1, most + 1))
        step = max(1, step // math.gcd(step, self.width))
        below = [step >> shift for shift in range(step.bit_length() - 1, 0, -1)]
        return [kept for kept in (*below, *range(step, most + 1, step)) if kept < most] + [most]


def kept_units(layers: Sequence[Prunable], step: int) -> list[int]:
    """How many units of each of the layers stay, so that the network's total is nearest to what is asked for.

    By largest remainder: layers whose widths go in steps are rounded down, and then up again, those first that were
    nearest to the width above, as long as that brings the total nearer. What is still missing, or too much, is shared
    out among the layers that may have any width; where there are none, the fewest layers are rounded the other way with
    which the total is nearest.

    Args:
        step: widths of layers of 32 channels or more are multiples of it, or a half, a quarter, ... of it where less
            than one step is left; 1: any width. A layer that loses nothing keeps its own.
    """
    kept = [layer.units - layer.gone for layer in layers]
    losing = [place for place, layer in enumerate(layers) if layer.share > 0]
    stepped = [place for place in losing if not layers[place].any_width(step)]
    free = [place for place in losing if layers[place].any_width(step)]
    missing = _in_steps(layers, stepped, step, kept, alone=not free)
    _in_units(layers, free, missing, kept)
    return kept


def _in_steps(layers: Sequence[Prunable], places: Sequence[int], step: int, kept: list[int], *, alone: bool) -> float:
    """Rounds those at these places; gives how much of the total they lack.

    Args:
        alone: whether nothing else can make up for that.
    """
    missing = 0.0
    below, above = {}, {}
    for place in places:
        layer = layers[place]
        widths = layer.widths(step)
        low = max((width for width in widths if width <= layer.exact), default=widths[0])
        above[place] = min((width for width in widths if width >= max(layer.exact, low)), default=low)
        below[place] = kept[place] = low
        missing += layer.weight * (layer.exact - low)

    def remainder(place: int) -> float:
        return (layers[place].exact - kept[place]) / max(1, above[place] - kept[place])

    for place in sorted(places, key=remainder, reverse=True):
        more = layers[place].weight * (above[place] - kept[place])
        if abs(missing - more) < abs(missing):
            kept[place] = above[place]
            missing -= more
    if alone:
        for place, more in _turned(layers, below, above, kept, missing).items():
            kept[place] = above[place] + below[place] - kept[place]
            missing -= more
    return missing


def _turned(
    layers: Sequence[Prunable],
    below: Mapping[int, int],
    above: Mapping[int, int],
    kept: Sequence[int],
    missing: float,
) -> dict[int, float]:
    """The layers that, rounded the other way, bring the total nearest, the fewest of them, and how much each adds."""
    more = {place: layers[place].weight * (above[place] + below[place] - 2 * kept[place]) for place in below}
    ways: dict[float, tuple[int, ...]] = {0.0: ()}  # what can be added -> by which layers
    for place in more:
        for total, way in list(ways.items()) if len(ways) < _MOST_WAYS else ():
            other = round(total + more[place], _DIGITS)
            if other not in ways or len(way) + 1 < len(ways[other]):
                ways[other] = (*way, place)
    best = min(ways, key=lambda total: (round(abs(missing - total), _DIGITS), len(ways[total])))
    return {place: more[place] for place in ways[best]}


def _in_units(layers: Sequence[Prunable], places: Sequence[int], missing: float, kept: list[int]) -> None:
    """Gives those at these places their part and what is missing beside it."""
    total = sum(layers[place].weight * layers[place].exact for place in places)
    factor = max(0.0, 1 + missing / total) if total else 1.0
    wanted = {}
    for place in places:
        layer = layers[place]
        wanted[place] = min(factor * layer.exact, layer.units - layer.gone)
        kept[place] = max(1, math.floor(wanted[place] + 1e-9))
    left = total + missing - sum(layers[place].weight * kept[place] for place in places)
    for place in sorted(places, key=lambda place: wanted[place] - kept[place], reverse=True):
        layer = layers[place]
        if kept[place] < layer.units - layer.gone and abs(left - layer.weight) < abs(left):
            kept[place] += 1
            left -= layer.weight


def least_width(units: int, left: int, step: int) -> int:
    """The smallest width of a layer of `units` that has room for `left` of them and goes in steps."""
    return min(width for width in Prunable(units, 0.0).widths(step) if width >= max(1, left))
