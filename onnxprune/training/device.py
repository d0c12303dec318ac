"""Where training runs, and what its chance depends on."""

import contextlib
import hashlib
import os
import pickle
import random
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from onnxprune.common.errors import InputError


def select_device(name: str) -> torch.device:
    """The torch device of that name; a GPU computes the same again in the same way, and in single precision.

    Raises:
        InputError: "cuda" was asked for and PyTorch has no usable CUDA device.
    """
    if name == "cuda":
        if not torch.cuda.is_available():
            raise InputError(
                "--device cuda: PyTorch finds no usable CUDA device here; install a CUDA build of torch on a machine "
                "with an NVIDIA GPU, or use --device cpu"
            )
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS does not repeat itself
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.allow_tf32 = False  # 10 bits, in which convolutions are no longer those of the file
    return torch.device(name)


def device_of(network: nn.Module) -> torch.device:
    """Where a network's parameters are.

    Raises:
        InputError: it has none.
    """
    for parameter in network.parameters():
        return parameter.device
    raise InputError("the network has no parameters: there is nothing to train or to prune")


def clock_of(device: torch.device) -> Callable[[], float]:
    """What tells the seconds that work takes: of this thread on a CPU, else of the wall, as a GPU works beside it."""
    return time.thread_time if device.type == "cpu" else time.perf_counter


def seeded_generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU random generator that depends on the seed and on what it is for, and on nothing else."""
    return torch.Generator().manual_seed(_number(seed, purpose))


@contextlib.contextmanager
def seeded_chance(seed: int, purpose: str, device: torch.device) -> Iterator[None]:
    """Within the block, the random numbers that a network draws itself, as its Dropout does, depend on the seed and on
    what they are for, and on nothing else; those of Python and NumPy too."""
    number, before = _number(seed, purpose), (random.getstate(), np.random.get_state())
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        random.seed(number)
        np.random.seed(number % 2**32)
        torch.manual_seed(number)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def state_of_chance() -> bytes:
    """What decides the next random numbers of PyTorch, on the CPU, of Python and of NumPy: another one once any of them
    was asked."""
    return pickle.dumps((torch.get_rng_state().numpy(), random.getstate(), np.random.get_state()))


def _number(seed: int, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:7], "big")
