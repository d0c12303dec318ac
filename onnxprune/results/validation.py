"""What the validation split can decide: an accuracy of few images is known to a few points only."""

import math

from onnxprune.common.output import plural


def standard_error(accuracy: float, images: float) -> float:
    """Of an accuracy in percent of so many images, in points: binomial, and not below that of half an image wrong."""
    share = min(max(accuracy / 100, 0.5 / images), 1 - 0.5 / images)
    return 100 * math.sqrt(share * (1 - share) / images)


def blunt_limit(max_drop: float, accuracy: float, images: float) -> str | None:
    """What is to be said of a limit that validation cannot tell from chance; None where it can.

    Args:
        max_drop: points of validation accuracy that may be lost.
        accuracy: of the base on the validation split, in percent.
        images: of the validation split, which are the same for all seeds.
    """
    error = standard_error(accuracy, images)
    if max_drop >= error:
        return None
    return (
        f"a limit of {plural(max_drop, 'point')} is within the standard error, {error:.1f} points, of the base's "
        f"{accuracy:.2f} % of {images:,.0f} validation images: chance decides in part; use more images, or allow more"
    )
