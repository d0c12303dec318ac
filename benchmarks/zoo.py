"""How much accuracy do small classifiers of several frameworks keep when `onnxprune prune` has shrunk them?

    python benchmarks/zoo.py accuracy ZOO DATA RESULTS.jsonl [--only NAME]
    python benchmarks/zoo.py speed ZOO RESULTS.jsonl
    python benchmarks/zoo.py table RESULTS.jsonl

ZOO holds ONNX files, and a zoo.json that says of each the dataset and the normalisation; DATA is what `--data-dir` is.
`accuracy` takes 30 and 50 % of the units of each group, with three draws of samples, or half of the MACs, and half of
the single weights; `speed` times half of the units against all of them. What exists is left alone. `table` writes
ZOO.md beside this file.
"""

import argparse
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import onnxprune
from onnxprune.analysis.comparison import compare
from onnxprune.common.errors import OnnxpruneError
from onnxprune.graph import surgery
from onnxprune.graph.channels import ChannelGraph
from onnxprune.graph.metadata import parse
from onnxprune.graph.network import Network, read
from onnxprune.reduction.accuracy import accuracy
from onnxprune.reduction.importance import norms
from onnxprune.reduction.moments import Ridge
from onnxprune.reduction.preparation import prepare
from onnxprune.reduction.recovery import Effort, recover, to_fit
from onnxprune.reduction.rows import joined
from onnxprune.reduction.samples import Samples, read_samples
from onnxprune.reduction.sites import Site
from onnxprune.runtime.random_inputs import Inputs

DATASETS = {"FashionMNIST": "fmnist", "CIFAR-10": "cifar10", "MNIST": "mnist"}
SAMPLES = 512
SEEDS = (0, 1, 2)  # each draws other samples
PENALTIES = {"Conv": 1e-3}  # of the plain ridge pass, relative to the mean of the Gram matrix's diagonal
PENALTY = 1e-2  # of other operators there
CAREFUL = Effort(penalties=(1e-3,), rounds=0)
ALLOCATED = "macs=0.5"
SPEED_BATCH, SPEED_THREADS, SPEED_SHARE = 32, 1, 50
COLUMNS = ("plain", "data-free", "ridge", "careful ridge", "recovered")
DRAWN = COLUMNS[2:]  # with samples

Row = dict[str, Any]


class File:
    """A file of the zoo, pruned in several ways and scored on the test set.

    Args:
        about: what zoo.json says of it.
    """

    def __init__(self, path: Path, about: Row, data: Path) -> None:
        self.path = path
        norm = about["normalisation"]
        self._images: dict[str, Any] = {key: list(np.atleast_1d(norm[key]).astype(float)) for key in ("mean", "std")}
        self._images |= {"data_dir": data}
        self._dataset = DATASETS[about["dataset"]]
        test = self._drawn(0).test
        assert test is not None
        self._test = test

    def _drawn(self, seed: int) -> Samples:
        return read_samples(self._dataset, read(self.path), parse({}), count=SAMPLES, seed=seed, **self._images)

    def whole(self) -> float:
        return self._score(self.path)

    def pruned(self, samples: int, **settings: Any) -> Row:
        """By `onnxprune prune`; 0 samples: without data."""
        if samples:
            settings |= {"data": self._dataset, "samples": samples, **self._images}
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "pruned.onnx"
            start = sum(os.times()[:4])
            report = onnxprune.prune(self.path, channel_align=1, latency=False, output=target, **settings)
            seconds = sum(os.times()[:4]) - start
            return {
                "score": self._score(target),
                "macs": report.after.macs / report.before.macs,
                "zeros": 1 - report.after.nonzero_params / report.before.nonzero_params,
                "seconds": seconds,
            }

    def ridge(self, percent: int, seed: int, careful: bool) -> Row:
        """The least norms go, and what reads them is fitted once: what there is to beat, at the same widths."""
        graph = prepare(self.path).graph
        with tempfile.TemporaryDirectory() as folder:
            how: dict[str, Any] = {"channel_align": 1, "latency": False, "output": Path(folder) / "pruned.onnx"}
            report = onnxprune.prune(self.path, sparsity=percent, recovery=(), **how)
        removed = {
            place: np.argsort(norms(graph, group, 1), kind="stable")[: found.units - found.kept].tolist()
            for place, (group, found) in enumerate(zip(graph.groups, report.groups, strict=True))
        }
        keep = graph.keep(removed)
        network, samples = surgery.shrink(graph, keep), self._drawn(seed)
        batches = [*samples.fitting, *samples.held_out]
        if careful:
            held_out = len(samples.held_out)
            network, _ = recover(graph, keep, network, batches, held_out, ("ridge",), effort=CAREFUL)
        else:
            plain_ridge(graph, keep, network, batches)
        macs = graph.macs(keep) / graph.macs(np.ones(graph.count, bool))
        return {"score": accuracy(network, self._test), "macs": macs}

    def _score(self, path: Path) -> float:
        found = accuracy(read(path), self._test)
        assert found is not None
        return found


def plain_ridge(graph: ChannelGraph, keep: np.ndarray, network: Network, batches: Sequence[Inputs]) -> None:
    """Fits every operator that reads other values than before once, in order: W' = Y X'^T (X' X'^T + lambda I)^-1."""
    for site, parts, _ in to_fit(graph, keep, network, batches):
        rows = joined(parts)
        moments = rows.moments(rows.wanted)
        penalty = PENALTIES.get(site.kind, PENALTY) if isinstance(site, Site) else PENALTY
        nothing = np.zeros_like(site.matrix(network))
        weights = Ridge(moments, nothing, penalty, site.has_bias).weights(moments)
        site.write(network, network.nodes, weights, moments.intercept(weights) if site.has_bias else None)


def work(file: File) -> Iterator[tuple[str, Callable[[], Row]]]:
    """What is measured of a file, by name."""
    yield "whole", lambda: {"score": file.whole()}
    for percent in (30, 50):
        yield f"{percent} plain", partial(file.pruned, 0, sparsity=percent, recovery=())
        yield f"{percent} data-free", partial(file.pruned, 0, sparsity=percent)
        for seed in SEEDS:
            yield f"{percent} ridge {seed}", partial(file.ridge, percent, seed, careful=False)
            yield f"{percent} careful ridge {seed}", partial(file.ridge, percent, seed, careful=True)
            yield f"{percent} recovered {seed}", partial(file.pruned, SAMPLES, sparsity=percent, seed=seed)
    yield "zeros", partial(file.pruned, SAMPLES, sparsity=50, technique="unstructured")
    yield "allocated", partial(file.pruned, 1000, target=ALLOCATED)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def rows(results: Path) -> dict[tuple[str, str], Row]:
    found = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    return {(row["file"], row["what"]): row for row in found}


def add(results: Path, file: str, what: str, make: Callable[[], Row]) -> None:
    """Measures what is missing."""
    if (file, what) in rows(results):
        return
    start = time.perf_counter()
    row = {"file": file, "what": what, **make()}
    with results.open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    say(f"{file} {what}: {row} in {time.perf_counter() - start:.0f} s")


def measure_accuracy(zoo: Path, data: Path, results: Path, only: str) -> None:
    for name, about in json.loads((zoo / "zoo.json").read_text()).items():
        if only in name and about["dataset"] in DATASETS:
            try:
                file = File(zoo / name, about, data)
                for what, make in work(file):
                    add(results, name.removesuffix(".onnx"), what, make)
            except OnnxpruneError as error:
                say(str(error))


def speed_of(path: Path) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "pruned.onnx"
        onnxprune.prune(path, sparsity=SPEED_SHARE, recovery=(), latency=False, output=target)
        _, entry = compare(path, [target], batch_sizes=(SPEED_BATCH,), threads=SPEED_THREADS)
    assert entry.facts is not None and entry.verdict is not None
    facts = entry.facts
    return {
        "outcome": entry.verdict.outcome,
        "speedup": facts.speedup,
        "interval": facts.interval,
        "noise": facts.noise,
        "theoretical": facts.theoretical,
        "reasons": entry.verdict.reasons,
        "busy": entry.disturbance.busy,
    }


def measure_speed(zoo: Path, results: Path) -> None:
    for name in json.loads((zoo / "zoo.json").read_text()):
        try:
            add(results, name.removesuffix(".onnx"), "speed", partial(speed_of, zoo / name))
        except OnnxpruneError as error:
            say(str(error))


def markdown(headings: list[str], lines: list[list[str]]) -> str:
    rule = [" --- "] + [" ---: "] * (len(headings) - 1)
    return "\n".join(
        [f"| {' | '.join(headings)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(line)} |" for line in lines)]
    )


def table(results: Path, target: Path) -> None:
    found = rows(results)
    files = list(dict.fromkeys(file for file, _ in found))

    def mean(file: str, what: str, column: str = "score") -> float:
        """Over the draws of samples, where there are several; NaN where it was not measured."""
        names = [f"{what} {seed}" for seed in SEEDS] if what.endswith(DRAWN) else [what]
        return float(np.mean([found.get((file, name), {}).get(column, math.nan) for name in names]))

    def score(file: str, what: str) -> str:
        value = mean(file, what)
        return "-" if math.isnan(value) else f"{value:.2f}"

    def regained(file: str, share: int, bar: str) -> str:
        whole, ridge, recovered = (mean(file, what) for what in ("whole", f"{share} {bar}", f"{share} recovered"))
        return "-" if math.isnan(recovered - ridge) else f"{100 * (recovered - ridge) / (whole - ridge):.0f} %"

    lines, sparse, speeds = [], [], []
    for file in files:
        if (file, "whole") in found:
            for share in (30, 50):
                macs = mean(file, f"{share} recovered", "macs")
                line = [file, f"{share} %", "-" if math.isnan(macs) else f"{100 * macs:.0f} %", score(file, "whole")]
                line += [score(file, f"{share} {column}") for column in COLUMNS]
                lines.append([*line, *(regained(file, share, bar) for bar in ("ridge", "careful ridge"))])
            sparse.append([file, score(file, "whole"), score(file, "zeros"), score(file, "allocated")])
        if (file, "speed") in found:
            row = found[file, "speed"]
            low, high = row["interval"]
            theory = row["theoretical"]
            speeds.append(
                [
                    file,
                    row["outcome"],
                    f"{row['speedup']:.2f}x",
                    f"{low:.2f} to {high:.2f}",
                    f"{theory:.2f}x" if theory else "-",
                    f"{row['speedup'] / theory:.2f}" if theory else "-",
                ]
            )
    busy = any(row.get("busy") for row in found.values())
    text = f"""# Accuracy and speed of pruned classifiers

Small classifiers of several frameworks, pruned by onnxprune {onnxprune.__version__} without labels or
training. Accuracy is top-1 on the whole test set, in percent. Made by `zoo.py`, which says how; onnxruntime
{onnxruntime.__version__}, {platform.machine()}, {os.cpu_count()} cores.

## Units

30 and 50 % of the units of each group are gone, widths as they come (`--channel-align 1`). *Plain*: the least norms,
not repaired. *Data-free*: the same, repaired from noise. *Ridge*: the least norms, and one plain ridge regression of
what reads them, in order, with {SAMPLES} images and a penalty of {PENALTIES["Conv"]:g} of the mean of the diagonal for
convolutions, {PENALTY:g} for others. *Careful ridge*: the same with {CAREFUL.penalties[0]:g} for all, drawn to the
weights that were there instead of to zero, and kept where it helps on held-out images. *Recovered*: by
`onnxprune prune --data`, with the same {SAMPLES} images. All three fit recurrent layers too; each is the mean of
{len(SEEDS)} draws of images. *Regained*: of what ridge, and of what careful ridge, still loses.

{markdown(["file", "gone", "MACs left", "whole", *COLUMNS, "regained", "regained"], lines)}

## Single weights, and allocated units

*Zeros*: half of all weights, by one ranking (`--technique unstructured --sparsity 50`), with {SAMPLES} images.
*Allocated*: units, so that half of the MACs are left (`--target {ALLOCATED}`), with 1,000 images.

{markdown(["file", "whole", "zeros", "allocated"], sparse)}

## Speed

`onnxprune compare --batch-size {SPEED_BATCH} --threads {SPEED_THREADS}` of the file with {SPEED_SHARE} % of its units,
widths aligned to the machine's vectors, with the whole one: speedup with its 95 % interval, that of the MACs, and the
ratio of the two.{" Other processes were at work meanwhile: see the intervals." if busy else ""}

{markdown(["file", "outcome", "speedup", "interval", "in theory", "ratio"], speeds)}
"""
    target.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("accuracy", "speed", "table"):
        part = parts.add_parser(name)
        if name != "table":
            part.add_argument("zoo", type=Path)
        if name == "accuracy":
            part.add_argument("data", type=Path)
            part.add_argument("--only", default="", help="files whose names hold this")
        part.add_argument("results", type=Path)
    options = parser.parse_args()
    if options.part == "accuracy":
        measure_accuracy(options.zoo, options.data, options.results, options.only)
    elif options.part == "speed":
        measure_speed(options.zoo, options.results)
    else:
        table(options.results, Path(__file__).parent / "ZOO.md")


if __name__ == "__main__":
    main()
