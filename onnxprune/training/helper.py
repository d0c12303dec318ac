"""A process that helps another one train: see `onnxprune.training.parallel`."""

import contextlib
import pickle
import sys
from typing import BinaryIO

import torch

from onnxprune.common.errors import RunError
from onnxprune.models.reference import run_again
from onnxprune.training.batches import Batches
from onnxprune.training.device import select_device
from onnxprune.training.loop import train
from onnxprune.training.parallel import ProcessGroup, meet


def serve() -> None:
    """Trains what it is sent on standard input until that ends, which is when its caller does."""
    stream: BinaryIO = sys.stdin.buffer
    rank, size, kind, meeting, threads, sys.path[:] = pickle.load(stream)
    torch.set_num_threads(threads)
    meet(rank, size, kind, meeting)
    device = select_device(kind)
    if kind == "cuda":
        device = torch.device(kind, rank)
    batches: Batches | None = None
    with contextlib.suppress(EOFError):
        while True:
            run_again(pickle.load(stream))
            data, arguments = pickle.load(stream)
            if data is not None:
                batches = data.to(device)
            assert batches is not None
            watched, network, teacher = (arguments.pop(name) for name in ("watched", "network", "teacher"))
            if teacher is not None:
                teacher.network.to(device)
            with contextlib.suppress(RunError):  # the first one tells
                train(
                    network.to(device), batches, teacher=teacher, group=ProcessGroup(rank, size, watched), **arguments
                )
