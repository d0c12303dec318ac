"""What a result was measured on."""

import os
import platform
import shutil
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from onnxprune.common.output import printable
from onnxprune.version import __version__

_PACKAGES = ("torch", "torchvision", "nni", "onnx", "onnxruntime-gpu", "onnxruntime", "onnx-tool", "numpy")

# what may change sums in the last digit, or how many threads make them
_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_DYNAMIC", "MKL_DYNAMIC", "MKL_CBWR"),
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "NVIDIA_TF32_OVERRIDE"),
    "CUBLAS_WORKSPACE_CONFIG",
)

# facts that may change results
DECIDING = (
    *("onnxprune_version", "python_version", "cpu", "gpu", "numeric_variables"),
    *(f"{package.replace('-', '_')}_version" for package in _PACKAGES),
)


@cache
def describe(device: str) -> dict[str, Any]:
    """Versions, processor, cores, memory in bytes and git commit; the GPU's name where `device` is "cuda"."""
    facts: dict[str, Any] = {
        "onnxprune_version": __version__,
        "git_commit": _git_commit(),
        "python_version": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cpu_cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": None,
        "numeric_variables": " ".join(
            f"{name}={printable(os.environ[name])}" for name in _VARIABLES if os.environ.get(name)
        )
        or None,
    }
    for package in _PACKAGES:
        try:
            facts[f"{package.replace('-', '_')}_version"] = version(package)
        except PackageNotFoundError:
            facts[f"{package.replace('-', '_')}_version"] = None
    if device == "cuda":
        import torch

        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def of_training(device: str) -> dict[str, Any]:
    """The same, and the threads that PyTorch trains with."""
    import torch

    return describe(device) | {"training_threads": torch.get_num_threads()}


def usable_cores() -> int:
    """Processors that this process may run on: in a container, or under taskset, not all that there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that can still be had, by the system's account and the limit of the control group, where there is one."""
    available: int = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # "max": no limit
        return available
    return min(available, max(0, limit - used))


def free_disk(path: Path) -> int:
    """Bytes free where `path` is or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _cpu_name() -> str:
    """The processor's model name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """The commit of the checkout this package runs from, with "+changes" where files differ; None outside one."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)  # fails where this is no file of it
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changes else "")


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
