"""Ray, imported in the one place that says what to do without it."""

import os

from onnxprune.common.errors import InputError
from onnxprune.common.output import silenced

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to its makers, unless the user says so

with silenced():
    try:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    except ImportError:
        raise InputError("--executor ray needs Ray: pip install 'onnxprune[ray]'") from None

__all__ = ["NodeAffinitySchedulingStrategy", "ray"]
