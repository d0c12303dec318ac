"""What do int8, structured pruning, and both together keep and gain?

    python benchmarks/int8.py measure ZOO DATA FOLDER RESULTS.jsonl [--only NAME]
    python benchmarks/int8.py table RESULTS.jsonl

ZOO holds ONNX files, and a zoo.json that says of each the dataset and the normalisation; DATA is what `--data-dir` is.
`measure` takes two networks that it trains (see STUDIES), and three files of the zoo. The former are pruned by a study,
with fine-tuning; the files by `onnxprune prune`, without training. Each is quantised by `onnxprune quantize`, all files
of a network with the same unlabelled images. Files are kept in FOLDER; what exists there and
in RESULTS is left alone. `table` writes INT8.md beside this file.
"""

import argparse
import json
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parent))

from zoo import DATASETS, Row, add, markdown, rows

import onnxprune
from onnxprune.analysis.comparison import compare
from onnxprune.common.environment import describe
from onnxprune.common.files import compressed_bytes
from onnxprune.graph.metadata import parse
from onnxprune.graph.network import metadata, read
from onnxprune.reduction.accuracy import accuracy
from onnxprune.reduction.samples import Samples, read_samples
from onnxprune.runtime.processor import int8_instructions, vectors

STUDIES: dict[str, Row] = {
    "cnn on fmnist": {
        "model": "cnn", "dataset": "fmnist", "train_limit": 10_000,
    },
    "densenet121 on cifar10": {
        "model": "densenet121", "dataset": "cifar10", "train_limit": 5_000, "batch_size": 32, "epochs": 4,
        "finetune_epochs": 2,
    },
}  # fmt: skip
FILES = ("keras_sepcnn_fashion", "torch_resnet20_cifar10", "sklearn_mlp_fashion")
SPARSITY = 50
BATCHES = (1, 32)
SAMPLES = 512
SECONDS = 10.0
KINDS = ("base", "structured 50 %", "int8", "both")


class Network:
    """A network and its files, made where they are missing.

    Args:
        place: of the files.
        about: what zoo.json says of it; None for one that is trained here.
    """

    def __init__(self, name: str, place: Path, zoo: Path, data: Path, about: Row | None) -> None:
        self.paths = {kind: place / f"{number}.onnx" for number, kind in enumerate(KINDS)}
        self._data = data
        self._norm = None if about is None else about["normalisation"]
        self._dataset = STUDIES[name]["dataset"] if about is None else DATASETS[about["dataset"]]
        place.mkdir(parents=True, exist_ok=True)
        base, pruned, int8, both = self.paths.values()
        if about is None and not pruned.exists():
            self._train(STUDIES[name], place, base, pruned)
        elif not base.exists():
            shutil.copyfile(zoo / f"{name}.onnx", base)
        self.samples = self._read(base)
        batches = [*self.samples.fitting, *self.samples.held_out]
        inputs = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        if not pruned.exists():
            onnxprune.prune(base, sparsity=SPARSITY, latency=False, output=pruned, data=inputs)
        for source, target in ((base, int8), (pruned, both)):
            if not target.exists():
                onnxprune.quantize(source, output=target, latency=False, data=inputs)

    def _train(self, study: Row, place: Path, base: Path, pruned: Path) -> None:
        row = onnxprune.run_experiment(
            technique="structured", sparsity=SPARSITY, latency_seconds=0, out=place / "runs", data_dir=self._data,
            **study,
        ).iloc[0]  # fmt: skip
        (point,) = (place / "runs").glob(f"*/{row['folder']}/model.onnx")
        shutil.copyfile(place / "runs" / "bases" / row["base_id"] / "model.onnx", base)
        shutil.copyfile(point, pruned)

    def _read(self, base: Path) -> Samples:
        network = read(base)
        told = parse(metadata(network.model))
        norm = self._norm
        how: Row = {} if norm is None else {key: np.atleast_1d(norm[key]).tolist() for key in ("mean", "std")}
        return read_samples(self._dataset, network, told, count=SAMPLES, data_dir=self._data, **how)

    def kept(self, kind: str) -> Row:
        """Accuracy on the test set, and bytes."""
        path = self.paths[kind]
        assert self.samples.test is not None
        score = accuracy(read(path), self.samples.test)
        return {"accuracy": score, "bytes": path.stat().st_size, "bytes_compressed": compressed_bytes(path)}

    def speed(self, batch: int) -> Row:
        """Of all its files at a batch size, in turn."""
        base, *others = self.paths.values()
        entries = compare(base, others, batch_sizes=(batch,), threads=1, seconds=SECONDS)
        found: Row = {**_machine()}
        for kind, entry in zip(KINDS, entries, strict=True):
            facts, verdict = entry.facts, entry.verdict
            found[kind] = {
                "ms": entry.latency.median_ms,
                "speedup": facts and facts.speedup,
                "interval": facts and facts.interval,
                "noise": facts and facts.noise,
                "outcome": verdict and verdict.outcome,
                "reasons": verdict and verdict.reasons,
                "busy": entry.disturbance.busy,
            }
        return found


def measure(zoo: Path, data: Path, folder: Path, results: Path, only: str) -> None:
    about = json.loads((zoo / "zoo.json").read_text())
    for name in (*STUDIES, *FILES):
        if only in name:
            network = Network(name, folder / name.replace(" ", "-"), zoo, data, about.get(f"{name}.onnx"))
            for batch in BATCHES:
                add(results, name, f"batch {batch}", partial(network.speed, batch))
            for kind in KINDS:
                add(results, name, kind, partial(network.kept, kind))


def _machine() -> Row:
    instructions = int8_instructions()
    named = "unknown" if instructions is None else " and ".join(instructions) or "none"
    return {"cpu": describe("cpu")["cpu"], "vectors": vectors(), "int8_instructions": named}


def table(results: Path, target: Path) -> None:
    found = rows(results)
    names = list(dict.fromkeys(name for name, _ in found))
    lines, said = [], []
    for name in names:
        base = found[name, "base"]
        for kind in KINDS:
            row = found[name, kind]
            cells = [name if kind == "base" else "", kind, f"{row['accuracy']:.2f}"]
            cells.append("" if kind == "base" else f"{row['accuracy'] - base['accuracy']:+.2f}")
            cells += [f"{row['bytes']:,}", f"{row['bytes_compressed']:,}"]
            for batch in BATCHES:
                timed = found[name, f"batch {batch}"][kind]
                cells.append(f"{timed['ms']:.3f}")
                cells.append("" if kind == "base" else f"{timed['speedup']:.2f}x ± {100 * timed['noise']:.0f} %")
            lines.append(cells)
        for kind in KINDS[2:]:
            for batch in BATCHES:
                timed = found[name, f"batch {batch}"][kind]
                reasons = "".join(f"\n  - {reason}" for reason in timed["reasons"])
                said.append(f"- {name}, {kind}, batch {batch}: {timed['outcome']}{reasons}")
    timings = [found[name, f"batch {batch}"] for name in names for batch in BATCHES]
    first = timings[0]
    busy = any(timed[kind]["busy"] for timed in timings for kind in KINDS)
    headings = ["network", "file", "accuracy", "change", "bytes", "gzip"]
    headings += [heading for batch in BATCHES for heading in (f"ms, batch {batch}", "speedup")]
    others = (
        """ Other processes were at
work meanwhile: runs longer than some milliseconds are interrupted by them more often than short ones, which makes
ratios at batch 32 too large; trust those beyond their noise only."""
        if busy
        else ""
    )
    text = f"""# int8 beside pruning

Made by `int8.py`, which says how; onnxprune {onnxprune.__version__}, onnxruntime {onnxruntime.__version__}, one thread.
Processor: {first["cpu"]}, {first["vectors"]}, instructions for 8-bit products: {first["int8_instructions"]}.{others}

Accuracy is top-1 on the whole test set, in percent, *change* in points against the base. *gzip*: bytes of the file
after gzip. All four files of a network are timed in turn; *speedup* is a ratio of medians from one run, with the noise
floor: how far two sessions of the same files differed.

{markdown(headings, lines)}

## Faster or not, and why

As `onnxprune compare` says it.

{chr(10).join(said)}
"""
    target.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("measure", "table"):
        part = parts.add_parser(name)
        if name == "measure":
            part.add_argument("zoo", type=Path)
            part.add_argument("data", type=Path)
            part.add_argument("folder", type=Path)
            part.add_argument("--only", default="", help="networks whose names hold this")
        part.add_argument("results", type=Path)
    options = parser.parse_args()
    if options.part == "measure":
        measure(options.zoo, options.data, options.folder, options.results, options.only)
    else:
        table(options.results, Path(__file__).parent / "INT8.md")


if __name__ == "__main__":
    main()
