"""Time as a cost: of each node of a network, and of a whole network beside another."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from onnxprune.common.temporary import temporary_folder
from onnxprune.graph.network import Network, label_of
from onnxprune.runtime.kernels import time_nodes
from onnxprune.runtime.lock import timing_lock
from onnxprune.runtime.random_inputs import Inputs
from onnxprune.runtime.runs import bound_run
from onnxprune.runtime.session import open_session
from onnxprune.runtime.timing import interleave

_SECONDS = 1.0
_LONGEST = 15.0  # of one measurement, of which a search makes several


def node_times(network: Network, feed: Inputs, threads: int) -> dict[int, float]:
    """Milliseconds of each node with weights, by its place: a fused kernel counts for the node it is named after."""
    with temporary_folder() as folder:
        path = Path(folder) / "model.onnx"
        network.save(path)
        shapes = {name: value.shape for name, value in feed.items()}
        times = time_nodes(path, shapes, threads=threads, seconds=_SECONDS)
    names = sorted(
        ((label_of(node), index) for index, node in enumerate(network.nodes)), key=lambda item: -len(item[0])
    )
    found: dict[int, float] = {}
    for name, spent in times.items():
        # a fused kernel is called after the node it began with
        place = next((index for label, index in names if label in name), None)
        if place is not None:
            found[place] = found.get(place, 0.0) + spent
    return found


def relative_latency(
    original: Network, pruned: Network, feed: Inputs, threads: int, say: Callable[[str], None]
) -> float:
    """Median latency of the pruned network over the original's, timed in turn.

    Args:
        say: gets a line where another process is timing and is waited for.
    """
    with temporary_folder() as folder:
        runs = []
        for number, network in enumerate((original, pruned)):
            path = Path(folder) / f"{number}.onnx"
            network.save(path)
            runs.append(bound_run(open_session(path, device="cpu", threads=threads), feed, "cpu"))
        with timing_lock(say):
            first, second = interleave(runs, _SECONDS, longest=_LONGEST)
    return float(np.median(second) / np.median(first))
