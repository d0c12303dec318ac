"""The main controller: runs a plan's bases and points, and derives the table."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune import store
from onnxprune.chatter import hushed
from onnxprune.data import DATASETS, Dataset, load
from onnxprune.errors import OnnxpruneError, RunError
from onnxprune.models import MODELS
from onnxprune.progress import Reporter
from onnxprune.spec import Point, Sweep

if TYPE_CHECKING:
    import pandas as pd

    from onnxprune.base import Base

DEFAULT_RUNS = Path("experiments/runs")


@dataclass(frozen=True)
class Outcome:
    """A sweep that was run.

    Attributes:
        folder: where its results are.
        table: one row a finished point.
        failures: folder of a failed point -> reason.
    """

    folder: Path
    table: "pd.DataFrame"
    failures: dict[str, str]


def load_for(point: Point, data_dir: Path | None) -> Dataset:
    """The data of a point, padded to what its model needs."""
    return load(point.dataset, data_dir, point.train_limit).padded(MODELS[point.model].minimum_size)


def run_sweep(plan: Sweep, runs: Path = DEFAULT_RUNS, data_dir: Path | None = None) -> Outcome:
    """Runs every point of the plan that `runs` does not have yet, and writes the tables.

    A point that fails is recorded in its folder and listed in the outcome; the others go on.

    Raises:
        InputError: the data cannot be had, or the device is not there.
    """
    with hushed():
        from onnxprune.base import ensure_base
        from onnxprune.point import run_point
        from onnxprune.training import select_device

    for device in {point.device for point in plan.points}:
        select_device(device)
    first = load_for(plan.points[0], data_dir)  # before anything is written: most mistakes show here
    folder = store.make_folder(runs / plan.name)
    store.write_text(folder / store.SPEC, plan.to_toml())
    failures: dict[str, str] = {}
    bases = len({tuple(point.base_settings().items()) for point in plan.points})
    dataset, loaded = first, plan.points[0]
    base: Base | None = None
    base_id = ""
    with Reporter(total=bases + len(plan.points)) as reporter:
        for point in plan.points:
            if _data_settings(point) != _data_settings(loaded):
                dataset, loaded = load_for(point, data_dir), point
            if point.base_id(dataset.checksum) != base_id:
                base_id = point.base_id(dataset.checksum)
                _say_full_batch(point, dataset, reporter)
                try:
                    base = ensure_base(point, dataset, runs, reporter)
                except RunError as error:
                    base, failures[base_id] = None, str(error)
                    reporter.end(f"FAILED: {error}")
            point_folder = folder / point.point_id(dataset.checksum)
            if base is None:
                failures[point_folder.name] = f"its base {base_id} failed"
                continue
            try:
                run_point(point, base, dataset, point_folder, reporter)
            except OnnxpruneError as error:
                failures[point_folder.name] = str(error)
            except Exception as error:  # one point's crash must not lose the others'; its folder has the traceback
                failures[point_folder.name] = f"{type(error).__name__}: {error}"
    return Outcome(folder, store.write_tables(folder), failures)


def _data_settings(point: Point) -> tuple[Any, ...]:
    return (point.dataset, point.train_limit, MODELS[point.model].minimum_size)


def _say_full_batch(point: Point, dataset: Dataset, reporter: Reporter) -> None:
    if point.batch_size > len(dataset.train):
        reporter.say(
            f"batch size {point.batch_size:,} is more than the {len(dataset.train):,} training images: "
            "every update uses them all"
        )


def plan_cost(plan: Sweep) -> dict[str, Any]:
    """What a plan will take, counted on its untrained dense networks; no named dataset is loaded for it.

    The training FLOPs are an upper bound: networks that shrink are fine-tuned at less.
    """
    with hushed():
        from onnxprune.opcount import count_training_ops

    flops_per_image: dict[tuple[Any, ...], int] = {}
    bases: set[tuple[Any, ...]] = set()
    images = flops = 0
    for point in plan.points:
        count, shape, classes = _training_set(point)
        network_key = (point.model, shape, classes, tuple(point.model_options.items()))
        if network_key not in flops_per_image:
            network = MODELS[point.model].build(shape, classes, point.seed, **point.model_options)
            flops_per_image[network_key] = count_training_ops(network, shape).flops_per_image
        base_key = tuple(point.base_settings().items())
        epochs = (0 if base_key in bases else point.epochs) + (
            point.epochs if point.schedule == "at-init" else point.finetune_epochs
        )
        bases.add(base_key)
        images += epochs * count
        flops += epochs * count * flops_per_image[network_key]
    return {"bases": len(bases), "points": len(plan.points), "training_images": images, "training_flops": flops}


def _training_set(point: Point) -> tuple[int, tuple[int, int, int], int]:
    """Training images, the padded shape (C, H, W) of one, and the number of classes."""
    if point.dataset.endswith(".npz"):
        dataset = load_for(point, None)
        return len(dataset.train), dataset.input_shape, len(dataset.classes)
    info = DATASETS[point.dataset]
    smallest = MODELS[point.model].minimum_size
    channels, height, width = info.shape
    count = min(info.train_images, point.train_limit or info.train_images)
    return count, (channels, max(height, smallest), max(width, smallest)), len(info.classes)
