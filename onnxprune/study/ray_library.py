"""Ray, imported in the one place that says what to do without it."""

from onnxprune.common.errors import InputError
from onnxprune.common.output import silenced

with silenced():
    try:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    except ImportError:
        raise InputError("--executor ray needs Ray: pip install 'onnxprune[ray]'") from None

__all__ = ["NodeAffinitySchedulingStrategy", "ray"]
