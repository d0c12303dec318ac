"""Where training runs, and what its chance depends on."""

import hashlib

import torch

from onnxprune.common.errors import InputError


def select_device(name: str) -> torch.device:
    """The torch device of that name.

    Raises:
        InputError: "cuda" was asked for and PyTorch has no usable CUDA device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: PyTorch finds no usable CUDA device here; install a CUDA build of torch on a machine "
            "with an NVIDIA GPU, or use --device cpu"
        )
    return torch.device(name)


def seeded_generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU random generator that depends on the seed and on what it is for, and on nothing else."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
