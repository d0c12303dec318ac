"""Speed of onnxprune against the same work written by hand, side by side; ratios, because machines are noisy.

    ONNXPRUNE_DATA=FOLDER python benchmarks/bench.py [PART...]

Without a part, all of them. The table goes to stdout, the figures to benchmarks/results.json.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

import handwritten

import onnxprune
from onnxprune.bridge import measure
from onnxprune.bridge.export import export
from onnxprune.commands.columns import columns
from onnxprune.common.output import silenced
from onnxprune.common.progress import Verbosity
from onnxprune.common.torchvision import torchvision_module
from onnxprune.data import dataset as data
from onnxprune.graph.counting import count
from onnxprune.models import MODELS
from onnxprune.pruning.decide import decide
from onnxprune.pruning.remove import remove
from onnxprune.pruning.request import Request
from onnxprune.runtime.timing import compare
from onnxprune.schedules import context
from onnxprune.settings.sweep import Sweep
from onnxprune.study import latency
from onnxprune.study.controller import run_sweep
from onnxprune.training.batches import Batches
from onnxprune.training.loop import train
from onnxprune.training.recipe import Recipe

PRECISIONS = ("fp32", "bf16")
WORK = ((measure, "run_batched"), (measure, "score"), (context, "train_checked"))  # evaluating and training
TIMING = ((latency, "compare"),)


@dataclass(frozen=True)
class Figure:
    """One line of the result; `ratio` is to be at least `goal`, or at most where `at_most`."""

    what: str
    ratio: float
    goal: float
    at_most: bool
    detail: str


class Pictures(torch.utils.data.Dataset):
    """Images and labels as torchvision's datasets hand them out: a PIL image through transforms."""

    def __init__(self, split: data.Split, dataset: data.Dataset, limit: int | None = None) -> None:
        transforms = torchvision_module().transforms
        self._split = split
        self._transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(tuple(dataset.mean), tuple(dataset.std))]
        )
        self._count = min(limit or len(split), len(split))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self._split.images[index].transpose(1, 2, 0).squeeze())
        return self._transform(image), int(self._split.labels[index])


def sweep() -> list[Figure]:
    """The whole study of the CNN on Fashion-MNIST: 44 points, 3 epochs and 1 of fine-tuning, batch 256.

    Three quarters of an hour, most of it by hand, in each precision.
    """
    return _sweep_figures(None, epochs=3, precisions=PRECISIONS)


def short_sweep() -> list[Figure]:
    """The same with few images, where evaluating, timing and starting up are half of the work; by hand in fp32 only."""
    return _sweep_figures(12_000, epochs=1, precisions=("fp32",))


def _sweep_figures(limit: int | None, *, epochs: int, precisions: tuple[str, ...]) -> list[Figure]:
    """Of so many training images, None: all; against the study by hand in these precisions."""
    dataset = data.load("fmnist").sampled(limit, 0)
    by_hand = {precision: _by_hand(dataset, precision, epochs) for precision in precisions}
    ours = {precision: _own_sweep(precision, limit, epochs) for precision in PRECISIONS}
    pairs = (("fp32", "fp32"), ("bf16", "fp32"), ("bf16", "bf16"))
    return [
        _sweep_figure(f"{len(dataset.train):,} images, {own} / by hand {other}", *ours[own], *by_hand[other])
        for own, other in pairs
        if other in by_hand
    ]


def _by_hand(dataset: data.Dataset, precision: str, epochs: int) -> tuple[float, list[handwritten.Row]]:
    """Seconds and points of the study written by hand."""
    torch.manual_seed(0)
    network = MODELS["cnn"].build(dataset.input_shape, 10, 0)
    sets = (Pictures(dataset.train, dataset), Pictures(dataset.test, dataset))
    start = time.perf_counter()
    with silenced():
        _, *rows = handwritten.study(network, *sets, dataset.input_shape, epochs=epochs, bf16=precision == "bf16")
    return time.perf_counter() - start, rows


def _own_sweep(precision: str, limit: int | None, epochs: int) -> tuple[float, Any]:
    """Seconds and table of the same by onnxprune."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        table = onnxprune.sweep(
            model="cnn", dataset="fmnist", train_limit=limit, epochs=epochs, finetune_epochs=1, out=folder,
            learning_rate=0.05, finetune_learning_rate=0.01, precision=precision,
        )  # fmt: skip
        return time.perf_counter() - start, table


def _sweep_figure(what: str, seconds: float, table: Any, seconds_by_hand: float, rows: list[handwritten.Row]) -> Figure:
    gaps = [
        table[(table["technique"] == row.technique) & (table["sparsity"] == row.sparsity)]["accuracy"].item()
        - row.accuracy
        for row in rows
        if row.sparsity < 60
    ]
    return Figure(
        f"44-point sweep of the CNN, {what}: time by hand / onnxprune",
        seconds_by_hand / seconds,
        5,
        False,
        f"{seconds_by_hand:.0f} s against {seconds:.0f} s; accuracy of points under 60 %: onnxprune - by hand "
        f"{statistics.mean(gaps):+.2f} points in the mean, {min(gaps):+.2f} to {max(gaps):+.2f}",
    )


def _by_hand_rate(dataset: data.Dataset, batch_size: int, images: int) -> float:
    """Images per second of one epoch of the CNN, written by hand."""
    network = MODELS["cnn"].build(dataset.input_shape, 10, 0)
    pictures = Pictures(dataset.train, dataset, images)
    loader = torch.utils.data.DataLoader(pictures, min(batch_size, images), shuffle=True)
    start = time.perf_counter()
    handwritten.train(network, loader, 1, 0.05)
    return images / (time.perf_counter() - start)


def _plain_rate(dataset: data.Dataset, batch_size: int, images: int) -> float:
    """Images per second of one epoch of DenseNet-121 by a plain loop over tensors that are normalised already."""
    network = MODELS["densenet121"].build(dataset.input_shape, 10, 0)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # PyTorch's stubs lack it
    rows = torch.from_numpy(dataset.train.images[:images]).float() / 255
    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (dataset.mean, dataset.std))
    pixels = ((rows - mean) / std).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(dataset.train.labels[:images]).long()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    network.train()
    start = time.perf_counter()
    for chosen in torch.randperm(images).split(batch_size):
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(network(pixels[chosen]), labels[chosen]).backward()
        optimizer.step()
    return images / (time.perf_counter() - start)


def _rate(dataset: data.Dataset, batch_size: int, images: int, precision: str, model: str = "cnn") -> float:
    """The same by onnxprune, as a base is trained."""
    network = MODELS[model].build(dataset.input_shape, 10, 0)
    split = data.Split(dataset.train.images[:images], dataset.train.labels[:images])
    batches = Batches(split, dataset.mean, dataset.std, torch.device("cpu"))
    recipe = Recipe(1, batch_size, 0.05, frozenset(), MODELS[model].micro_batch, 0, precision)
    start = time.perf_counter()
    train(network, batches, recipe)
    return images / (time.perf_counter() - start)


def training() -> list[Figure]:
    """Training throughput of the CNN at each batch size."""
    dataset = data.load("fmnist")
    figures = []
    own: dict[tuple[int, str], float] = {}
    for batch_size, goal in ((32, 1.5), (256, 2), (4000, 3), (60000, 3)):
        images = len(dataset.train) if batch_size == 60000 else 12000
        rounds = [
            (_by_hand_rate(dataset, batch_size, images), *(_rate(dataset, batch_size, images, p) for p in PRECISIONS))
            for _ in range(3)
        ]
        for index, precision in enumerate(PRECISIONS, start=1):
            own[batch_size, precision] = statistics.median(rates[index] for rates in rounds)
            figures.append(
                Figure(
                    f"training of the CNN, batch {batch_size:,}, {precision}: images/s of onnxprune / by hand",
                    statistics.median(rates[index] / rates[0] for rates in rounds),
                    goal,
                    False,
                    f"{own[batch_size, precision]:,.0f} against {statistics.median(rates[0] for rates in rounds):,.0f}",
                )
            )
    return [*figures, *_densenet()] + [
        Figure(f"training of the CNN, {p}: images/s at batch 60,000 / 256", own[60000, p] / own[256, p], 0.9, False, "")
        for p in PRECISIONS
    ]


def _densenet() -> list[Figure]:
    """Training throughput of DenseNet-121 on CIFAR-10, where data are little of the work."""
    dataset, images = data.load("cifar10"), 1024
    found = []
    for batch_size in (32, 256):
        rounds = [
            (_plain_rate(dataset, batch_size, images), _rate(dataset, batch_size, images, "fp32", "densenet121"))
            for _ in range(3)
        ]
        by_hand, own = (statistics.median(rates) for rates in zip(*rounds, strict=True))
        found.append(
            Figure(
                f"training of DenseNet-121, batch {batch_size}, fp32: images/s of onnxprune / a plain loop, NHWC",
                statistics.median(own / by_hand for by_hand, own in rounds),
                1.5,
                False,
                f"{own:,.0f} against {by_hand:,.0f}",
            )
        )
    return found


def memory() -> list[Figure]:
    """The most memory that training takes: every model and its options, at every batch that fits into minutes."""
    runs: list[tuple[str, dict[str, Any], int]] = [
        ("slp", {}, 60000),
        ("cnn", {}, 60000),
        ("cnn", {"batch_norm": True}, 60000),
    ]
    runs += [("densenet121", {"stem": stem}, batch) for stem in ("imagenet", "small") for batch in (32, 256, 1000)]
    peaks = {}
    whole, test = data.load("fmnist").train, data.load("fmnist").test
    for model, options, batch_size in runs:
        settings: dict[str, Any] = {
            "model": model,
            "batch_size": batch_size,
            "train_limit": batch_size,
            "epochs": 1,
            **options,
        }
        code = "import onnxprune, sys, json; print(onnxprune.run_experiment(**json.loads(sys.argv[1]))" + (
            "['base_training_peak_memory_bytes'].item())"
        )
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "few-to-test.npz")  # training is what is looked at
            train_set: dict[str, Any] = {"x_train": whole.images[:, 0], "y_train": whole.labels}
            np.savez(file, **train_set, x_test=test.images[:64, 0], y_test=test.labels[:64])
            settings |= {"dataset": file, "sparsity": 50, "finetune_epochs": 0, "latency_seconds": 0, "out": folder}
            command = [sys.executable, "-c", code, json.dumps(settings)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[f"{model} {' '.join(map(str, options.values()))} batch {batch_size:,}"] = int(done.stdout) / 2**30
    worst = max(peaks, key=lambda name: peaks[name])
    listed = ", ".join(f"{name} {peak:.2f}" for name, peak in peaks.items())
    return [Figure("peak memory of training in GiB", peaks[worst], 4, True, listed)]


class _Clock:
    """Adds up the seconds spent in functions, the outermost of them."""

    def __init__(self, *functions: tuple[Any, str]) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._functions = functions

    def __enter__(self) -> "_Clock":
        self._originals = [getattr(module, name) for module, name in self._functions]
        for (module, name), original in zip(self._functions, self._originals, strict=True):
            setattr(module, name, self._timed(original))
        return self

    def __exit__(self, *_: object) -> None:
        for (module, name), original in zip(self._functions, self._originals, strict=True):
            setattr(module, name, original)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **settings: Any) -> Any:
            self._depth += 1
            start = time.perf_counter()
            try:
                return function(*arguments, **settings)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - start

        return timed


def _shares(runs: Path, **settings: Any) -> tuple[float, float, float]:
    """Seconds of the points of a sweep in one process, of its training and evaluating, and of its timing."""
    plan = Sweep.parse({"dataset": "fmnist", "epochs": 1, **settings})
    base = dataclasses.replace(plan, name="base", points=plan.points[:1])
    run_sweep(base, runs, workers=1, verbosity=Verbosity.QUIET)  # the base, and what is imported and made once
    with _Clock(*WORK) as working, _Clock(*TIMING) as timing:
        start = time.perf_counter()
        outcome = run_sweep(plan, runs, workers=1, verbosity=Verbosity.QUIET)
        whole = time.perf_counter() - start
    assert not outcome.failures, outcome.failures
    return whole, working.seconds, timing.seconds


def overhead() -> list[Figure]:
    """What is neither training nor evaluating: prune, shrink, export, verify, count, time, record."""
    with tempfile.TemporaryDirectory() as folder:
        whole, working, timing = _shares(
            Path(folder) / "cnn", model="cnn", train_limit=12000, finetune_epochs=1, sparsity="0:100:20"
        )
    percent = 100 * (whole - working - timing) / whole
    return [
        Figure(
            "CNN, 12,000 images: percent of a sweep that is neither training, evaluating nor timing",
            percent,
            10,
            True,
            f"with timing {100 * (whole - working) / whole:.1f}",
        ),
        *_structure(),
    ]


def _structure() -> list[Figure]:
    """Prune, shrink, export, verify, count DenseNet-121: a sweep with hardly anything to train on or to evaluate."""
    split = data.load("cifar10").test
    images = split.images.transpose(0, 2, 3, 1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "few.npz"
        np.savez(
            file, x_train=images[:256], y_train=split.labels[:256], x_test=images[256:320], y_test=split.labels[256:320]
        )
        settings: dict[str, Any] = {
            "model": "densenet121",
            "dataset": str(file),
            "epochs": 1,
            "finetune_epochs": 0,
            "latency_seconds": 0,
        }
        onnxprune.sweep(technique="weight", sparsity=0, out=folder, **settings)  # trains the base
        start = time.perf_counter()
        table = onnxprune.sweep(technique="structured", out=folder, **settings)
        seconds = time.perf_counter() - start
    what = "DenseNet-121, 11 structured points, as run by default on 64 test images: seconds"
    detail = f"{seconds / len(table):.2f} a point"
    return [Figure(what, seconds, 60, True, detail), Figure(f"{what} a point", seconds / len(table), 3, True, "")]


def reuse() -> list[Figure]:
    """A second sweep over the base of the first."""
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "model": "cnn",
            "dataset": "fmnist",
            "train_limit": 3000,
            "technique": "weight",
            "out": folder,
        }
        seconds = []
        for sparsity in (50, 60):
            start = time.perf_counter()
            onnxprune.sweep(sparsity=sparsity, **settings)
            seconds.append(time.perf_counter() - start)
        bases = len(list(Path(folder).glob("bases/*/metrics.json")))
    detail = f"the first took {seconds[0]:.1f} s, the second {seconds[1]:.1f} s"
    return [Figure("bases trained by two sweeps over one", bases, 1, True, detail)]


def speedup() -> list[Figure]:
    """What structured pruning gains when it is measured, at batch 32 on one thread."""
    figures, slowest = [], {}
    for name, dataset in (("cnn", "fmnist"), ("densenet121", "cifar10")):
        side = MODELS[name].minimum_size
        loaded = data.load(dataset).padded(side, side)
        shape, few = loaded.input_shape, data.Split(loaded.train.images[:1], loaded.train.labels[:1])
        batches = Batches(few, loaded.mean, loaded.std, torch.device("cpu"))  # the criterion looks at no image
        network = MODELS[name].build(shape, 10, 0).eval()
        with tempfile.TemporaryDirectory() as folder:
            base, other = Path(folder) / "base.onnx", Path(folder) / "other.onnx"
            export(network, base, shape)
            for sparsity in range(10, 100, 10):
                (settings,) = Sweep.one_point({"technique": "structured", "sparsity": sparsity}).points
                request = Request("structured", "l1", "unit", sparsity, settings.channel_align, 0)
                with silenced():
                    pruned = remove(network, request, decide(network, request, batches), shape)
                    export(pruned.network, other, shape)
                (found,) = compare(base, [other], shape, 32, device="cpu", threads=1, seconds=10)
                slowest[f"{name} {sparsity} %"] = found.speedup + found.noise
                theory = count(base).macs / count(other).macs
                if name == "densenet121" and sparsity == 50:
                    detail = f"{found.speedup:.2f}x of {theory:.2f}x"
                    figures.append(
                        Figure(
                            "DenseNet-121, structured 50 %: measured / theoretical speedup",
                            found.speedup / theory,
                            0.7,
                            False,
                            detail,
                        )
                    )
    worst = min(slowest, key=lambda row: slowest[row])
    figures.append(
        Figure("the slowest structured row: speedup + noise", slowest[worst], 1, False, f"{worst}, of {len(slowest)}")
    )
    return figures


PARTS: dict[str, Callable[[], list[Figure]]] = {
    part.__name__: part for part in (sweep, short_sweep, training, memory, overhead, reuse, speedup)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART")
    chosen = parser.parse_args().parts or list(PARTS)
    file = FOLDER / "results.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    table = []
    for part in chosen:
        figures = PARTS[part]()
        found[part] = [asdict(figure) for figure in figures]
        file.write_text(json.dumps(found, indent=1) + "\n")
        for figure in figures:
            met = figure.ratio <= figure.goal if figure.at_most else figure.ratio >= figure.goal
            goal = f"{'at most' if figure.at_most else 'at least'} {figure.goal:g}"
            table.append([figure.what, f"{figure.ratio:.2f}", goal, "yes" if met else "NO", figure.detail])
    print(columns(["what", ">figure", "goal", "met", "detail"], table))  # noqa: T201


if __name__ == "__main__":
    main()
