"""The step of channels that points ask to have measured."""

import contextlib
import dataclasses
from pathlib import Path

from onnxprune.common.errors import InputError
from onnxprune.common.progress import Verbosity, waiting
from onnxprune.common.widths import AUTO
from onnxprune.results import store
from onnxprune.runtime.steps import MEASURING_STEPS, measured_step
from onnxprune.settings.sweep import Sweep


def with_measured_step(plan: Sweep, continued: Path | None, verbosity: Verbosity) -> Sweep:
    """The plan with a number in place of "auto": that of the study it continues, which another measurement or machine
    need not come to, or else the one that this machine's onnxruntime speaks for.

    It is part of what the points are from then on, of their ids and of what is written of them, so that they are the
    same wherever they are run again.

    Args:
        continued: folder of the study, which may not be there yet; None: none is continued.
    """
    plan = plan if continued is None else with_recorded_step(plan, continued)
    if not _is_open(plan):
        return plan
    with waiting(MEASURING_STEPS, verbosity):
        return _with_step(plan, measured_step(plan.points[0].latency_threads))


def with_recorded_step(plan: Sweep, continued: Path) -> Sweep:
    """The plan with the number of the study that it continues in place of "auto"; as it is where there is none."""
    step = _recorded_step(continued) if _is_open(plan) else None
    return plan if step is None else _with_step(plan, step)


def _is_open(plan: Sweep) -> bool:
    return any(point.channel_align == AUTO for point in plan.points)  # all of them: a plan has one


def _with_step(plan: Sweep, step: int) -> Sweep:
    points = [dataclasses.replace(point, channel_align=step) for point in plan.points]
    return dataclasses.replace(plan, points=points, values={**plan.values, "channel_align": step})


def _recorded_step(folder: Path) -> int | None:
    """What a study's spec file says, which is written before its first point; None where it says nothing."""
    with contextlib.suppress(InputError):  # there is none, or it cannot be read: it is written anew
        step = Sweep.read(folder / store.SPEC).values.get("channel_align")
        return None if step == AUTO else step
    return None
