"""Speed of onnxprune against the same work written by hand, side by side; ratios, because machines are noisy.

    ONNXPRUNE_DATA=FOLDER python benchmarks/bench.py [PART...]

Without a part, all of them. The table goes to stdout, the figures to benchmarks/results.json.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))

import handwritten  # noqa: E402

import onnxprune  # noqa: E402
from onnxprune import data  # noqa: E402
from onnxprune.models import MODELS  # noqa: E402
from onnxprune.training import Batches, Recipe, train  # noqa: E402
from onnxprune.vision import torchvision_module  # noqa: E402

LIMIT = 3000


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
    """The whole study of the CNN on Fashion-MNIST: 44 points, 3 epochs and 1 of fine-tuning, batch 256."""
    dataset = data.load("fmnist")
    torch.manual_seed(0)
    network = MODELS["cnn"].build(dataset.input_shape, 10, 0)
    start = time.perf_counter()
    sets = (Pictures(dataset.train, dataset, LIMIT), Pictures(dataset.test, dataset))
    rows = list(handwritten.study(network, *sets, dataset.input_shape))
    by_hand = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        table = onnxprune.sweep(
            model="cnn", dataset="fmnist", epochs=3, finetune_epochs=1, train_limit=LIMIT, out=folder,
            learning_rate=0.05, finetune_learning_rate=0.01,
        )  # fmt: skip
        ours = time.perf_counter() - start
    gaps = [
        table[(table["technique"] == row.technique) & (table["sparsity"] == row.sparsity)]["accuracy"].item()
        - row.accuracy
        for row in rows[1:]
        if row.sparsity < 60
    ]
    return [
        Figure(
            f"44-point sweep of the CNN, {LIMIT:,} images: time by hand / onnxprune",
            by_hand / ours,
            5,
            False,
            f"{by_hand:.0f} s against {ours:.0f} s; accuracy of points under 60 %: onnxprune - by hand "
            f"{statistics.mean(gaps):+.2f} points in the mean, {min(gaps):+.2f} to {max(gaps):+.2f}",
        )
    ]


def _images_per_second(dataset: data.Dataset, batch_size: int, images: int) -> tuple[float, float]:
    """By hand, and by onnxprune: one epoch of the CNN each."""
    network = MODELS["cnn"].build(dataset.input_shape, 10, 0)
    start = time.perf_counter()
    pictures = Pictures(dataset.train, dataset, images)
    loader = torch.utils.data.DataLoader(pictures, min(batch_size, images), shuffle=True)
    handwritten.train(network, loader, 1, 0.05)
    by_hand = time.perf_counter() - start
    network = MODELS["cnn"].build(dataset.input_shape, 10, 0)
    batches = Batches(
        data.Split(dataset.train.images[:images], dataset.train.labels[:images]),
        dataset.mean, dataset.std, torch.device("cpu"),
    )  # fmt: skip
    recipe = Recipe(1, batch_size, 0.05, frozenset(), MODELS["cnn"].micro_batch, 0)
    ours = train(network, batches, recipe).seconds
    return images / by_hand, images / ours


def training() -> list[Figure]:
    """Training throughput of the CNN at each batch size."""
    dataset = data.load("fmnist")
    figures = []
    for batch_size, goal in ((32, 1.5), (256, 2), (4000, 3), (60000, 3)):
        images = len(dataset.train) if batch_size == 60000 else 12000
        rates = [_images_per_second(dataset, batch_size, images) for _ in range(3)]
        hand, ours = (statistics.median(column) for column in zip(*rates, strict=True))
        ratio = statistics.median(ours / hand for hand, ours in rates)
        detail = f"{ours:,.0f} against {hand:,.0f} images/s"
        figures.append(
            Figure(f"training of the CNN, batch {batch_size:,}: onnxprune / by hand", ratio, goal, False, detail)
        )
    return figures


PARTS: dict[str, Callable[[], list[Figure]]] = {"sweep": sweep, "training": training}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART")
    chosen = parser.parse_args().parts or list(PARTS)
    file = FOLDER / "results.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for part in chosen:
        figures = PARTS[part]()
        found[part] = [asdict(figure) for figure in figures]
        file.write_text(json.dumps(found, indent=1) + "\n")
        for figure in figures:
            met = figure.ratio <= figure.goal if figure.at_most else figure.ratio >= figure.goal
            sign = "at most" if figure.at_most else "at least"
            verdict = f"{sign} {figure.goal:g}: {'yes' if met else 'NO'}"
            print(f"{figure.what}: {figure.ratio:.2f} ({verdict}); {figure.detail}")  # noqa: T201


if __name__ == "__main__":
    main()
