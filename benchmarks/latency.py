"""Is the latency that `onnxprune profile` reports that of a bare loop around `InferenceSession.run`?

    python benchmarks/latency.py MODEL.onnx... [--batch-size 32] [--threads 1] [--rounds 7]

Both are measured in turn, round after round, in sessions with the same options. A ratio of 1 is agreement; the goal
is within 5 %.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from onnxprune.analysis.profiling import profile
from onnxprune.runtime.random_inputs import random_inputs
from onnxprune.runtime.session import open_session


def bare_loop(path: Path, batch: int | None, threads: int, seconds: float) -> float:
    """Median milliseconds of plain runs."""
    session = open_session(path, threads=threads)
    feed = random_inputs(
        session,
        {
            value.name: tuple(size if isinstance(size, int) else batch or 1 for size in value.shape)
            for value in session.get_inputs()
        },
    )
    for _ in range(20):
        session.run(None, feed)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 20:
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    sizes = (options.batch_size,) if options.batch_size else ()
    for path in options.models:
        reported, bare = [], []
        for _ in range(options.rounds):
            found = profile(path, batch_sizes=sizes, threads=options.threads, seconds=options.seconds)
            reported.append(found.latencies[0].latency.median_ms)
            bare.append(bare_loop(path, found.batch, options.threads, options.seconds))
        ratio = statistics.median(a / b for a, b in zip(reported, bare, strict=True))
        row = {
            "model": str(path),
            "batch": found.batch,
            "threads": options.threads,
            "reported_ms": statistics.median(reported),
            "bare_loop_ms": statistics.median(bare),
            "ratio": ratio,
        }
        print(json.dumps(row))  # noqa: T201


if __name__ == "__main__":
    main()
