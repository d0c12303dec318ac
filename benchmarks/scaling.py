"""How the cost of a study grows: with points, training images, workers, and rows of the table of results.

    ONNXPRUNE_DATA=FOLDER python -W ignore benchmarks/scaling.py [PART...]

Prints tables for SCALING.md. `matrix` measures a few points of each model and works out the whole matrix from them.
"""

import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil

import onnxprune
from onnxprune.common.files import read_json
from onnxprune.common.progress import Verbosity
from onnxprune.results import store
from onnxprune.results.tables import result_table, write_tables
from onnxprune.settings.sweep import Sweep
from onnxprune.study.controller import Outcome, run_sweep
from onnxprune.study.estimate import estimate

FOLDER = Path(__file__).parent
CNN = {"model": "cnn", "dataset": "fmnist", "train_limit": 3000, "epochs": 3, "finetune_epochs": 1}


def table(headings: list[str], rows: Iterable[Iterable[str]]) -> str:
    lines = ["| " + " | ".join(headings) + " |", "|" + " ---: |" * len(headings)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


class _Memory:
    """The most memory that this process and its children hold together, sampled."""

    def __enter__(self) -> "_Memory":
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        this = psutil.Process()
        while not self._ended.wait(0.2):
            total = 0
            for process in (this, *this.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.Error:  # it has just ended
                    continue
            self.peak = max(self.peak, total)


def _timed(plan: Sweep, folder: str | Path, workers: int | None = None) -> tuple[Outcome, float, float]:
    """A sweep's outcome, its seconds and its GiB; its base is trained before."""
    base = dataclasses.replace(plan, points=plan.points[:1], name="base")
    run_sweep(base, Path(folder), workers=1, verbosity=Verbosity.QUIET)
    with _Memory() as memory:
        start = time.perf_counter()
        outcome = run_sweep(plan, Path(folder), workers=workers, verbosity=Verbosity.QUIET)
        seconds = time.perf_counter() - start
    assert not outcome.failures, outcome.failures
    print(f"{len(plan.points)} points: {seconds:.0f} s, {memory.peak / 2**30:.2f} GiB", file=sys.stderr)  # noqa: T201
    return outcome, seconds, memory.peak / 2**30


def points() -> str:
    """Time and memory against the number of points."""
    rows = []
    for technique, sparsity in (("structured", "0:100:10"), (None, "0:100:10"), (None, "0:98.9:2.3")):
        settings: dict[str, Any] = {**CNN, "train_limit": 1000, "sparsity": sparsity} | (
            {"technique": technique} if technique else {}
        )
        plan = Sweep.parse(settings)
        with tempfile.TemporaryDirectory() as folder:
            _, seconds, memory = _timed(plan, folder)
        count = len(plan.points)
        rows.append([f"{count}", f"{seconds:.0f}", f"{seconds / count:.2f}", f"{memory:.2f}"])
    return table(["points", "s", "s a point", "GiB"], rows)


def images() -> str:
    """Time and memory against the number of training images."""
    rows = []
    for limit in (3000, 12000, 55000):
        plan = Sweep.parse({**CNN, "train_limit": limit, "sparsity": "0,50"})
        with tempfile.TemporaryDirectory() as folder:
            _, seconds, memory = _timed(plan, folder)
        count = len(plan.points)
        rows.append([f"{limit:,}", f"{seconds:.0f}", f"{seconds / count:.2f}", f"{memory:.2f}"])
    return table(["training images", "s", "s a point", "GiB"], rows)


def workers() -> str:
    """Time and memory against the number of workers."""
    rows = []
    for count in (1, 2):
        plan = Sweep.parse({**CNN, "train_limit": 12000, "sparsity": "0,40,80"})
        with tempfile.TemporaryDirectory() as folder:
            _, seconds, memory = _timed(plan, folder, count)
        rows.append([f"{count}", f"{seconds:.0f}", f"{seconds / len(plan.points):.2f}", f"{memory:.2f}"])
    return table(["workers", "s", "s a point", "GiB"], rows)


def tables() -> str:
    """Reading and summarising the results, derived once."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Sweep.parse({**CNN, "train_limit": 200, "sparsity": "0,50", "latency_seconds": 0})
        done = _timed(plan, folder)[0].folder
        records = [
            (read_json(path.parent / store.CONFIG), path.read_text()) for path in done.glob(f"*/{store.METRICS}")
        ]
        rows = []
        for count in (10, 1000, 100_000):
            large = Path(folder) / f"of-{count}"
            large.mkdir()
            shutil.copy(done / store.SPEC, large)
            for number in range(count):
                config, record = records[number % len(records)]
                (large / f"p{number}").mkdir()
                (large / f"p{number}" / store.CONFIG).write_text(json.dumps({**config, "seed": number}))
                (large / f"p{number}" / store.METRICS).write_text(record)
            start = time.perf_counter()
            write_tables(large)
            derived = time.perf_counter() - start
            times = []
            for _ in range(3):
                start = time.perf_counter()
                results = result_table(large)
                groups = results.groupby(["model", "dataset", "batch_size", "technique", "criterion", "sparsity"])
                groups[["accuracy", "macs", "file_bytes"]].agg(["mean", "std"])
                times.append(time.perf_counter() - start)
            rows.append([f"{len(results):,}", f"{derived:.2f}", f"{statistics.median(times):.2f}"])
    return table(["rows", "s to derive from the points", "s to read and summarise"], rows)


def matrix() -> str:
    """The whole matrix of the study, from a few measured points of each model."""
    whole = Sweep.read(FOLDER.parent / "experiments" / "full-matrix.toml").points
    rows, total = [], 0.0
    for model, dataset, limit in (("slp", "mnist", None), ("cnn", "fmnist", 12000), ("densenet121", "cifar10", 1000)):
        plan = Sweep.parse({"model": model, "dataset": dataset, "train_limit": limit, "epochs": 1, "sparsity": "0,50"})
        with tempfile.TemporaryDirectory() as folder:
            outcome, seconds, _ = _timed(plan, folder)
        results = outcome.table
        own = [point for point in whole if point.model == model]
        cost = estimate(own)
        # side by side, each on its thread: what training takes of the wall time, and the rest, which no image changes
        training = float(results["training_seconds"].sum()) / 2
        fixed = (seconds - training) / len(results)
        rate = float(results["training_images"].sum()) / training
        hours = (cost.training_images / rate + fixed * len(own)) / 3600
        total += hours
        rows.append(
            [
                model,
                f"{len(own)}",
                f"{cost.training_images / 1e6:.0f} M",
                f"{rate:,.0f}",
                f"{fixed:.1f}",
                f"{hours:.1f}",
            ]
        )
    rows.append(["all", f"{len(whole):,}", "", "", "", f"{total:.1f}"])
    return table(["model", "points", "training images", "images/s", "other s a point", "hours"], rows)


def _residual(path: Path, width: int, blocks: int) -> None:
    """Writes a network of images (n, 3, 32, 32): residual blocks of two 3x3 convolutions, random weights."""
    random = np.random.default_rng(0)
    body: list[str] = []
    weights: dict[str, np.ndarray] = {}
    pads = "<pads = [1, 1, 1, 1]>"

    def weight(*shape: int) -> str:
        name = f"w{len(weights)}"
        weights[name] = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        return name

    body.append(f"s = Conv {pads} (x, {weight(width, 3, 3, 3)}) h0 = Relu (s)")
    for number in range(blocks):
        first, second = (weight(width, width, 3, 3) for _ in range(2))
        body.append(
            f"a{number} = Conv {pads} (h{number}, {first}) r{number} = Relu (a{number}) "
            f"b{number} = Conv {pads} (r{number}, {second}) m{number} = Add (b{number}, h{number}) "
            f"h{number + 1} = Relu (m{number})"
        )
    body.append(f"p = GlobalAveragePool (h{blocks}) f = Flatten (p) y = Gemm <transB = 1> (f, {weight(10, width)})")
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[n, 3, 32, 32] x) => (float[n, 10] y) {{ {" ".join(body)} }}'
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(model, path)


def files() -> str:
    """`onnxprune prune --sparsity 50` of a residual network, 32x32 images: against width, depth and samples."""
    rows = []
    sizes = [(32, 4, 512), (64, 4, 512), (128, 4, 512), (64, 2, 512), (64, 8, 512)]
    sizes += [(64, 4, 0), (64, 4, 128), (64, 4, 2048)]
    for width, blocks, samples in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            _residual(path, width, blocks)
            images = np.random.default_rng(1).standard_normal((samples, 3, 32, 32), dtype=np.float32)
            data = {"data": {"x": images}, "samples": samples} if samples else {}
            with _Memory() as memory:
                start = time.perf_counter()
                report = onnxprune.prune(path, sparsity=50, latency=False, **data)
                seconds = time.perf_counter() - start
        row = [f"{width}", f"{2 * blocks + 1}", f"{report.before.params / 1e6:.2f} M", f"{samples:,}"]
        rows.append([*row, f"{seconds:.1f}", f"{memory.peak / 2**30:.2f}"])
    return table(["channels", "convolutions", "params", "samples", "s", "GiB, all processes"], rows)


PARTS: dict[str, Callable[[], str]] = {part.__name__: part for part in (points, images, workers, tables, matrix, files)}


def main() -> None:
    for part in sys.argv[1:] or PARTS:
        print(f"\n{PARTS[part].__doc__}\n\n{PARTS[part]()}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
