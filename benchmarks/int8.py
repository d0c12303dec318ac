"""What do int8, structured pruning, and both together keep and gain?

    python benchmarks/int8.py measure ZOO DATA RESULTS.jsonl [--only NAME]
    python benchmarks/int8.py table RESULTS.jsonl

ZOO holds ONNX files, and a zoo.json that says of each the dataset and the normalisation; DATA is what `--data-dir` is.
`measure` takes a CNN that it trains on 10,000 images of Fashion-MNIST for two epochs, and three files of the zoo. The
CNN is pruned by a study, with two epochs of fine-tuning; the files by `onnxprune prune`, without training. Each is
quantised by `onnxprune quantize`. What exists is left alone. `table` writes INT8.md beside this file.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parent))

from zoo import DATASETS, Row, add, markdown, rows

import onnxprune
from onnxprune.analysis.comparison import compare
from onnxprune.common.environment import describe
from onnxprune.common.files import compressed_bytes
from onnxprune.graph.metadata import parse
from onnxprune.graph.network import read
from onnxprune.reduction.fidelity import accuracy
from onnxprune.reduction.samples import read_samples
from onnxprune.runtime.processor import int8_instructions, vectors

CNN = "cnn on fmnist"
FILES = ("keras_sepcnn_fashion", "torch_resnet20_cifar10", "sklearn_mlp_fashion")
SPARSITY = 50
BATCHES = (1, 32)
SECONDS = 4.0
TRAINING: Row = {"train_limit": 10_000, "epochs": 2, "finetune_epochs": 2}
KINDS = ("base", "structured 50 %", "int8", "both")


def cnn(folder: Path, data: Path) -> tuple[Path, Path, Row]:
    """The base, the pruned network, and how samples are read."""
    row = onnxprune.run_experiment(
        model="cnn", dataset="fmnist", technique="structured", sparsity=SPARSITY, latency_seconds=0, out=folder,
        data_dir=data, **TRAINING,
    ).iloc[0]  # fmt: skip
    (point,) = folder.glob(f"*/{row['folder']}/model.onnx")
    return folder / "bases" / row["base_id"] / "model.onnx", point, {"data": "fmnist", "data_dir": data}


def file(folder: Path, path: Path, about: Row, data: Path) -> tuple[Path, Path, Row]:
    """Likewise, of a file of the zoo."""
    norm = about["normalisation"]
    how: Row = {key: list(np.atleast_1d(norm[key]).astype(float)) for key in ("mean", "std")}
    how |= {"data": DATASETS[about["dataset"]], "data_dir": data}
    pruned = folder / "pruned.onnx"
    onnxprune.prune(path, sparsity=SPARSITY, latency=False, output=pruned, **how)
    return path, pruned, how


def measured(base: Path, pruned: Path, how: Row, folder: Path) -> Iterator[tuple[str, Row]]:
    """A row for each kind: accuracy, bytes, and latency against the base at each batch size."""
    paths = {"base": base, KINDS[1]: pruned, "int8": folder / "int8.onnx", "both": folder / "both.onnx"}
    for source, target in ((base, paths["int8"]), (pruned, paths["both"])):
        onnxprune.quantize(source, output=target, latency=False, **how)
    # with as many samples as there must be: the test set is what is needed
    given = {name: value for name, value in how.items() if name not in ("data", "data_dir")}
    test = read_samples(how["data"], read(base), _metadata(base), count=64, data_dir=how["data_dir"], **given).test
    assert test is not None
    entries = compare(base, list(paths.values())[1:], batch_sizes=BATCHES, threads=1, seconds=SECONDS)
    for place, (kind, path) in enumerate(paths.items()):
        row: Row = {
            "accuracy": accuracy(read(path), test),
            "bytes": path.stat().st_size,
            "bytes_compressed": compressed_bytes(path),
        }
        for number, batch in enumerate(BATCHES):
            entry = entries[number * len(paths) + place]
            facts, verdict = entry.facts, entry.verdict
            row[f"batch {batch}"] = {
                "ms": entry.latency.median_ms,
                "speedup": facts and facts.speedup,
                "interval": facts and facts.interval,
                "noise": facts and facts.noise,
                "outcome": verdict and verdict.outcome,
                "reasons": verdict and verdict.reasons,
                "busy": entry.disturbance.busy,
            }
        yield kind, row


def _metadata(path: Path) -> Any:
    return parse({entry.key: entry.value for entry in read(path).model.metadata_props})


def measure(zoo: Path, data: Path, results: Path, only: str) -> None:
    about = json.loads((zoo / "zoo.json").read_text())
    for name in (CNN, *FILES):
        if only not in name or all((name, kind) in rows(results) for kind in KINDS):
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            made = cnn(folder, data) if name == CNN else file(folder, zoo / f"{name}.onnx", about[f"{name}.onnx"], data)
            found = dict(measured(*made, folder))
        for kind, row in found.items():
            add(results, name, kind, lambda row=row: {**row, **_machine()})  # type: ignore[misc]


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
                timed = row[f"batch {batch}"]
                cells.append(f"{timed['ms']:.3f}")
                cells.append("" if kind == "base" else f"{timed['speedup']:.2f}x ± {100 * timed['noise']:.0f} %")
            lines.append(cells)
        for kind in KINDS[2:]:
            for batch in BATCHES:
                timed = found[name, kind][f"batch {batch}"]
                reasons = "".join(f"\n  - {reason}" for reason in timed["reasons"])
                said.append(f"- {name}, {kind}, batch {batch}: {timed['outcome']}{reasons}")
    first = next(iter(found.values()))
    busy = any(row[f"batch {batch}"]["busy"] for row in found.values() for batch in BATCHES)
    headings = ["network", "file", "accuracy", "change", "bytes", "gzip"]
    headings += [heading for batch in BATCHES for heading in (f"ms, batch {batch}", "speedup")]
    others = " Other processes were at work meanwhile: trust ratios beyond their noise only." if busy else ""
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
            part.add_argument("--only", default="", help="networks whose names hold this")
        part.add_argument("results", type=Path)
    options = parser.parse_args()
    if options.part == "measure":
        measure(options.zoo, options.data, options.results, options.only)
    else:
        table(options.results, Path(__file__).parent / "INT8.md")


if __name__ == "__main__":
    main()
