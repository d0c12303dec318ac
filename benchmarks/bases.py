"""Whether bases are trained out by their default recipes: against a small grid of learning rates, over seeds.

    ONNXPRUNE_DATA=FOLDER python -W ignore benchmarks/bases.py [MODEL:DATASET:IMAGES:BATCH...]

IMAGES is a number or `all`; a model is slp, cnn, cnn+norm or densenet121. Without cells it is all of them, which takes
a day of a large machine. What is measured is added to bases.json, and BASES.md is written again from it.
"""

import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from scaling import table

from onnxprune.bridge.activity import dead_units
from onnxprune.bridge.measure import judged_network
from onnxprune.bridge.start import build_network
from onnxprune.common.errors import RunError
from onnxprune.settings.point import Point
from onnxprune.settings.sweep import Sweep
from onnxprune.study.jobs import Materials
from onnxprune.training.setup import base_recipe, train_checked, training_batches

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "bases.json"
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the default rate
SEEDS = 3
MODELS: dict[str, dict[str, Any]] = {
    "slp": {"model": "slp"},
    "cnn": {"model": "cnn"},
    "cnn+norm": {"model": "cnn", "batch_norm": True},
    "densenet121": {"model": "densenet121", "stem": "small"},
}
BATCH_SIZES = ("32", "256", "4000", "60000")
CELLS = [
    ":".join(cell)
    for cell in itertools.product(MODELS, ("mnist", "fmnist", "cifar10"), ("1000", "10000", "all"), BATCH_SIZES)
]
MOST_OFF = 2.0  # points below the best rate of the grid
HEADING = """# Bases by their default recipes

Made by `benchmarks/bases.py`: accuracy of the base on all test images, in percent, mean over seeds (lowest in
brackets), by the model's default rate and budget of updates, and by the same budget at other rates: the best of
{factors} times the default's. `off` is how far the default is below the best; `dead` is the most hidden units without
any answer, of any seed.

{count} of {all} cells of model x dataset x images x batch were measured, and {others} others; those not in the table
were not.

"""


def _trained(point: Point, materials: Materials) -> tuple[float, int, int]:
    """Accuracy of a base on the test images, in percent; units that never answer; updates."""
    dataset = materials.dataset(point)
    network = build_network(point, dataset)
    batches = training_batches(point, dataset, network)
    how = base_recipe(point, network, dataset)
    try:
        updates = train_checked(network, batches, how).updates
    except RunError:  # it diverged
        return 100 / len(dataset.classes), -1, how.updates(len(batches))
    tested = type(dataset)(**{**vars(dataset), "validation": dataset.test})
    found = judged_network(network, tested, torch.device("cpu"), network).percent
    return found, dead_units(network, batches), updates


def measure(cell: str) -> dict[str, Any]:
    """The default and the grid on one cell."""
    model, dataset, images, batch = cell.split(":")
    settings = {**MODELS[model], "dataset": dataset, "batch_size": int(batch), "technique": "weight", "sparsity": 0}
    settings |= {} if images == "all" else {"train_limit": int(images)}
    materials = Materials(None)
    found: dict[str, list[tuple[float, int, int]]] = {}
    for seed, factor in itertools.product(range(SEEDS), FACTORS):
        (point,) = Sweep.one_point({**settings, "seed": seed}).points
        rate = factor * point.learning_rate
        (point,) = Sweep.one_point({**settings, "seed": seed, "learning_rate": rate}).points
        found.setdefault(f"{factor:g}", []).append(_trained(point, materials))
    return {"cell": cell, "updates": found["1"][0][2], "found": found}


def _trained_as(cell: str) -> str:
    """The cell with the smallest batch size of those that hold all of its images, which are trained alike."""
    *rest, images, batch = cell.split(":")
    whole = [size for size in BATCH_SIZES if images != "all" and int(size) >= int(images)]
    return ":".join([*rest, images, whole[0] if batch in whole else batch])


def _row(entry: dict[str, Any]) -> list[str]:
    means = {factor: statistics.fmean(each[0] for each in runs) for factor, runs in entry["found"].items()}
    best = max(means, key=lambda factor: means[factor])
    own = entry["found"]["1"]
    off = means[best] - means["1"]
    return [
        *entry["cell"].split(":"),
        f"{entry['updates']:,}",
        f"{means['1']:.1f} ({min(each[0] for each in own):.1f})",
        f"{means[best]:.1f} at {best}x",
        f"{off:.1f}{' (!)' if off > MOST_OFF else ''}",
        str(max(each[1] for each in own)),
    ]


def main() -> None:
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for cell in sys.argv[1:] or CELLS:
        same = _trained_as(cell)
        known[cell] = {**known[same], "cell": cell} if same in known and same != cell else measure(cell)
        RESULTS.write_text(json.dumps(known, indent=1) + "\n")
        print(*_row(known[cell]), file=sys.stderr)  # noqa: T201
    headings = ["model", "data", "images", "batch", "updates", "default", "best", "off", "dead"]
    count = len(known.keys() & set(CELLS))
    heading = HEADING.format(
        factors=", ".join(f"{factor:g}" for factor in FACTORS), count=count, all=len(CELLS), others=len(known) - count
    )
    (FOLDER / "BASES.md").write_text(heading + table(headings, (_row(entry) for entry in known.values())) + "\n")


if __name__ == "__main__":
    main()
