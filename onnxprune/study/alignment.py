"""The step of channels that points ask to have measured."""

import dataclasses

from onnxprune.common.progress import Verbosity, waiting
from onnxprune.common.widths import AUTO
from onnxprune.runtime.steps import MEASURING_STEPS, measured_step
from onnxprune.settings.sweep import Sweep


def with_measured_step(plan: Sweep, verbosity: Verbosity) -> Sweep:
    """The plan with the number that this machine's onnxruntime speaks for in place of "auto".

    It is part of what the points are from then on, of their ids and of what is written of them, so that they are the
    same wherever they are run again.
    """
    asking = [point for point in plan.points if point.channel_align == AUTO]
    if not asking:
        return plan
    with waiting(MEASURING_STEPS, verbosity):
        steps = {point: measured_step(point.latency_threads) for point in asking}
    points = [
        dataclasses.replace(point, channel_align=steps[point]) if point in steps else point for point in plan.points
    ]
    values = {**plan.values, "channel_align": next(iter(steps.values()))}
    return dataclasses.replace(plan, points=points, values=values)
