"""What a Ray cluster costs beside this machine alone, and what the whole study would take on a large one.

    ONNXPRUNE_DATA=FOLDER python -W ignore benchmarks/cluster.py [PART...]

Prints tables for SCALING.md. The cluster is two Ray nodes of one processor each on this machine.
"""

import contextlib
import heapq
import logging
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from scaling import CNN, table

from onnxprune.common.progress import Verbosity
from onnxprune.data.registry import DATASETS
from onnxprune.settings.budget import base_epochs, epochs_after_base
from onnxprune.settings.point import Point
from onnxprune.settings.sweep import Sweep
from onnxprune.study.cluster import ClusterSettings
from onnxprune.study.controller import run_sweep

FOLDER = Path(__file__).parent
SEEDS = 5
SLOTS_A_NODE = 8
# images a second of training, and the other seconds a point, of one core of the machine of SCALING.md: its `matrix`
CORE = {"slp": (169_800, 1.2), "cnn": (4_415, 3.6), "densenet121": (225, 33.6)}
TIMING = 1.0  # seconds of those in which the node's other points stand still


@contextlib.contextmanager
def _nodes() -> Iterator[Cluster]:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    try:
        yield nodes
    finally:
        nodes.shutdown()


def overhead() -> str:
    """Seconds a point takes by two local workers and by two Ray nodes, start-up left out: the slope of two sweeps."""
    seconds: dict[str, list[float]] = {"local": [], "ray": []}
    sizes = (8, 32)
    with _nodes() as nodes, tempfile.TemporaryDirectory() as folder:
        for where, how in (
            ("local", {"workers": 2}),
            ("ray", {"executor": "ray", "executor_settings": ClusterSettings(nodes.address)}),
        ):
            for count in sizes:
                step = 96 / (count / 4)
                plan = Sweep.parse(
                    {**CNN, "sparsity": [step * number for number in range(count // 4)], "latency_seconds": 0}
                )
                runs = Path(folder) / where
                run_sweep(Sweep("base", {}, plan.points[:1]), runs, workers=1, verbosity=Verbosity.QUIET)
                start = time.perf_counter()
                outcome = run_sweep(
                    Sweep(f"of-{count}", {}, plan.points),
                    runs,
                    verbosity=Verbosity.QUIET,
                    **how,
                )
                seconds[where].append(time.perf_counter() - start)
                assert len(outcome.table) == count, outcome.failures
                _say(f"{where}, {count} points: {seconds[where][-1]:.1f} s")
    slopes = {where: (times[1] - times[0]) / (sizes[1] - sizes[0]) for where, times in seconds.items()}
    rows = [[where, *(f"{value:.1f}" for value in times), f"{slopes[where]:.2f}"] for where, times in seconds.items()]
    more = f"ray / local, a point: {slopes['ray'] / slopes['local']:.2f}"
    return table(["where", *(f"s of {count} points" for count in sizes), "s a point more"], rows) + f"\n\n{more}"


def tasks() -> str:
    """Tasks a second that Ray hands out and takes back, which do nothing; two processors."""
    rows = []
    with _nodes() as nodes:
        ray.init(nodes.address, log_to_driver=False, logging_level=logging.ERROR)
        for size, name in ((0, "nothing"), (2_000_000, "2 MB, as a point of the CNN")):

            @ray.remote
            def back(size: int = size) -> bytes:
                return bytes(size)

            ray.get([back.remote() for _ in range(20)])
            start = time.perf_counter()
            count = 2000 if not size else 300
            waiting = [back.remote() for _ in range(count)]
            while waiting:
                done, waiting = ray.wait(waiting)
                ray.get(done[0])
            rows.append([name, f"{count / (time.perf_counter() - start):,.0f}"])
        ray.shutdown()
    return table(["a task hands back", "tasks/s"], rows)


@dataclass(frozen=True)
class _Task:
    seconds: float
    base: int  # which base it needs; of a base, which it is
    is_base: bool


def simulate(tasks_a_second: float = 200.0) -> str:
    """The whole study, with five seeds, on more and more slots that are each as fast as one core of this machine."""
    plan = Sweep.read(FOLDER.parent / "experiments" / "full-matrix.toml", {"seeds": SEEDS}).points
    rows = []
    for slots in (1, 2, 8, 64, 256):
        makespan, busy, longest = _simulated(plan, slots, 1 / tasks_a_second)
        rows.append(
            [
                f"{slots}",
                f"{makespan / 3600:,.2f}",
                f"{100 * busy / (slots * makespan):.0f}",
                f"{longest / 3600:.2f}",
            ]
        )
    return table(["slots", "hours", "busy %", "hours of the longest chain"], rows)


def _simulated(plan: list[Point], slots: int, handing: float) -> tuple[float, float, float]:
    """Seconds until all is done, seconds of work, and seconds of the longest base with its longest point.

    The policy is that of `onnxprune.study.cluster`: twice as many tasks in flight as slots, points before bases; the
    driver hands out one task after the other, which takes it `handing` seconds each.
    """
    bases: dict[str, int] = {}
    points: list[deque[_Task]] = []
    waiting: deque[_Task] = deque()
    for point in plan:
        rate, other = CORE[point.model]
        count = DATASETS[point.dataset].train_images
        identity = str(point.base_settings())
        if identity not in bases:
            bases[identity] = len(points)
            waiting.append(_Task(base_epochs(point, count) * count / rate + other, len(points), True))
            points.append(deque())
        number = bases[identity]
        stopped = TIMING * (min(slots, SLOTS_A_NODE) - 1) / 2  # while others on the node are timed
        points[number].append(_Task(epochs_after_base(point, count) * count / rate + other + stopped, number, False))
    longest = max(base.seconds + max(task.seconds for task in points[base.base]) for base in waiting)
    busy = sum(task.seconds for task in waiting) + sum(task.seconds for group in points for task in group)
    ready: deque[_Task] = deque()
    running: list[tuple[float, int, _Task]] = []
    flying: deque[_Task] = deque()  # handed out, waiting for a slot
    driver = clock = 0.0
    serial = 0
    while waiting or ready or flying or running:
        while len(running) + len(flying) < 2 * slots and (ready or waiting):
            flying.append((ready or waiting).popleft())
            driver = max(driver, clock) + handing
        while flying and len(running) < slots:
            task = flying.popleft()
            serial += 1
            heapq.heappush(running, (max(clock, driver) + task.seconds, serial, task))
        clock, _, task = heapq.heappop(running)
        if task.is_base:
            ready += points[task.base]
    return clock, busy, longest


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


PARTS: dict[str, Callable[[], str]] = {part.__name__: part for part in (overhead, tasks, simulate)}


def main() -> None:
    for part in sys.argv[1:] or PARTS:
        print(f"\n{PARTS[part].__doc__}\n\n{PARTS[part]()}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
