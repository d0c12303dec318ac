"""How wide a layer should be: runtimes compute in vectors of channels."""

ALIGN_FROM = 32  # channels of a layer for which its width matters


def kept_channels(units: int, share: float, align: int) -> int:
    """How many of `units` output units stay when a `share` of them is to go.

    Layers of 32 units or more keep a multiple of `align`, the nearest one, because onnxruntime's kernels lose more on
    other widths than the removal gains; where less than one would be left, a multiple of its half. At least one unit
    stays, for no layer can be empty.
    """
    if share == 0:  # nothing goes, even where the number of units is no multiple
        return units
    kept = units * (1 - share)
    if units < ALIGN_FROM or align == 1:
        return max(1, round(kept))
    step = align if kept >= align else align // 2
    return min(units, max(step, round(kept / step) * step))
