"""One network trained by several processes, each on a GPU of its own or on some of the processor's cores.

Each does some of the micro-batches of every batch, and DistributedDataParallel (Li et al. 2020, arXiv 2006.15704) adds
up the gradients. The process that asks is the first of them; the others are fresh Python processes that it sends the
network and the data to, and that it keeps for its next training. What there is to decide, masks above all, the first
decides.
"""

import atexit
import contextlib
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from onnxprune.common.errors import RunError, one_line
from onnxprune.common.processes import start
from onnxprune.common.temporary import temporary_folder
from onnxprune.models.reference import files_run

_SECONDS_TO_ANSWER = 120  # of a helper, until it is taken for dead


@dataclass(frozen=True)
class ProcessGroup:
    """Who trains a network together.

    Attributes:
        rank: which of them this process is, from 0.
        size: how many there are.
        watched: whether masks may change between updates.
    """

    rank: int = 0
    size: int = 1
    watched: bool = False

    @contextlib.contextmanager
    def together(self, network: nn.Module) -> Iterator[nn.Module]:
        """The network as it is called in training, whose last call of a batch adds up the gradients of all.

        Statistics of BatchNorms are those of a process's own micro-batches, which count for everyone's, and in the end
        the mean.
        """
        if self.size == 1:
            yield network
            return
        norms = [each for each in network.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
        momenta = [norm.momentum for norm in norms]
        try:
            for norm in norms:
                if norm.momentum is not None:  # else the mean of all batches
                    norm.momentum = 1 - (1 - norm.momentum) ** self.size
            with warnings.catch_warnings():
                # of one channel, whose strides can be told in two ways
                warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
                yield DistributedDataParallel(network, forward_sync_buffers=False)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
        for norm in norms:
            for statistic in (norm.running_mean, norm.running_var):
                assert statistic is not None
                self.sum(statistic)
                statistic /= self.size

    def piece(self, images: int, micro_batch: int, least: int) -> int:
        """The size of a micro-batch, so that everyone has one where there are images enough for `least` each."""
        return min(micro_batch, max(least, -(-images // self.size)))

    def last(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around a call forward and backward: whether it is this process's last one of the batch."""
        return nullcontext() if last or self.size == 1 else wrapped.no_sync()  # type: ignore[operator]

    def sum(self, value: Tensor) -> Tensor:
        """That of all."""
        if self.size > 1:
            torch.distributed.all_reduce(value)
        return value

    def agree(self, masks: Mapping[str, Tensor] | None) -> Mapping[str, Tensor] | None:
        """What the first one has decided."""
        if self.size == 1 or not self.watched:
            return masks
        decided = [masks]
        torch.distributed.broadcast_object_list(decided)
        return decided[0]


SINGLE_PROCESS = ProcessGroup()


class _Helpers:
    """The other processes, connected with this one."""

    def __init__(self, devices: int, device: torch.device) -> None:
        self._folder = temporary_folder()
        meeting = Path(self._folder.name) / "meeting"
        threads = max(1, torch.get_num_threads() // devices)
        self._log = (Path(self._folder.name) / "log.txt").open("w+", encoding="utf-8")
        self._processes = [
            start(
                "onnxprune.training.helper:serve",
                environment={"OMP_NUM_THREADS": str(threads)},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                process_group=0,  # Ctrl-C is the caller's
            )
            for _ in range(1, devices)
        ]
        self._sent: Any = None
        for rank in range(1, devices):
            self._send(rank, (rank, devices, device.type, str(meeting), threads, sys.path))
        try:
            meet(0, devices, device.type, str(meeting))
        except RuntimeError as error:
            self.end()
            raise RunError(f"--devices {devices}: the processes cannot reach each other: {one_line(error)}") from None

    def begin(self, batches: Any, arguments: Mapping[str, Any]) -> None:
        """Has them train with the same arguments."""
        data = None if self._sent is batches else batches
        self._sent = batches
        for rank in range(1, len(self._processes) + 1):
            self._send(rank, files_run())
            self._send(rank, (data, arguments))

    def _send(self, rank: int, message: Any) -> None:
        stream = self._processes[rank - 1].stdin
        assert stream is not None
        try:
            pickle.dump(message, stream, pickle.HIGHEST_PROTOCOL)
            stream.flush()
        except OSError:
            raise RunError(f"--devices: the process of rank {rank} has died: {self.complaint()}") from None

    def complaint(self) -> str:
        """The last line that one of them has written."""
        self._log.flush()
        lines = Path(self._log.name).read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "without a word")

    def end(self) -> None:
        """Ends them."""
        for process in self._processes:
            process.kill()
            process.wait()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        self._log.close()
        self._folder.cleanup()


_helpers: tuple[tuple[int, str], _Helpers] | None = None


@contextlib.contextmanager
def process_group(
    devices: int, device: torch.device, batches: Any, arguments: Mapping[str, Any], watched: bool
) -> Iterator[ProcessGroup]:
    """Lets the other processes begin the same training, and this one be the first of the group during the block.

    Args:
        batches: the data, sent once for as long as they stay the same.
        arguments: of `training.loop.train`, beside those.
        watched: whether this process may change masks between updates.

    Raises:
        RunError: a process dies, or they cannot reach each other.
    """
    global _helpers
    if _helpers is None or _helpers[0] != (devices, device.type):
        dismiss()
        _helpers = ((devices, device.type), _Helpers(devices, device))
    helpers = _helpers[1]
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // devices))
    try:
        helpers.begin(batches, {**arguments, "watched": watched})
        yield ProcessGroup(0, devices, watched)
    except RunError:
        dismiss()  # they may wait for a training that is not going on
        raise
    except RuntimeError as error:
        complaint = helpers.complaint()
        dismiss()
        raise RunError(f"--devices {devices}: training together broke off: {one_line(error)}; {complaint}") from None
    except BaseException:
        dismiss()
        raise
    finally:
        torch.set_num_threads(threads)


@atexit.register
def dismiss() -> None:
    """Ends the other processes."""
    global _helpers
    if _helpers is not None:
        _helpers[1].end()
        _helpers = None


def meet(rank: int, size: int, device: str, meeting: str) -> None:
    """Connects this process with the others, at a file that all of them know."""
    if device == "cuda":
        torch.cuda.set_device(rank)
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine, whatever its name resolves to
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=_SECONDS_TO_ANSWER),
    )
