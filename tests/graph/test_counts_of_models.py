"""Counts of the exported networks against PyTorch's own, dense and pruned; a new model is covered by itself."""

import numpy as np
import pytest
import torch
from fuzz import BACKEND
from one_call import prune
from torch.utils.flop_counter import FlopCounterMode

from onnxprune.bridge.export import export
from onnxprune.common.output import logged
from onnxprune.data.dataset import Split
from onnxprune.graph.counting import count
from onnxprune.models import MODELS
from onnxprune.pruning.request import Request
from onnxprune.training.batches import Batches

SHAPE = (1, 32, 32)
OPTIONS = {"batch_norm": [False, True], "stem": ["imagenet", "small"], "hidden": [128, 0]}
VARIANTS = [
    pytest.param(
        name,
        {option: value} if option else {},
        id=f"{name}-{option}-{value}",
        marks=[pytest.mark.slow] if value == "small" else [],
    )
    for name, model in MODELS.items()
    for option in model.options or [""]
    for value in (OPTIONS[option] if option else [None])
]
PRUNED = {"dense": None, "structured": ("structured", 50), "weight": ("weight", 90)}


@pytest.mark.parametrize(
    ("name", "options", "how"),
    [
        # shrinking 120 layers takes long, and what is counted in them is the same
        pytest.param(
            *variant.values,
            how,
            id=f"{how}-{variant.id}",
            marks=pytest.mark.slow if variant.values[0] == "densenet121" and how != "dense" else variant.marks,
        )
        for how in PRUNED
        for variant in VARIANTS
    ],
)
def test_macs_are_half_of_the_flops_that_torch_counts(tmp_path, name, options, how):
    network = MODELS[name].build(SHAPE, 10, 0, **options).eval()
    chosen = PRUNED[how]
    if how == "structured" and options.get("hidden") == 0:
        pytest.skip("a network of one layer has no units to remove")
    if chosen is not None:
        technique, sparsity = chosen
        images = np.random.default_rng(0).integers(0, 256, (8, *SHAPE), dtype=np.uint8)
        batches = Batches(Split(images, np.arange(8) % 10), (0.5,), (0.25,), torch.device("cpu"))
        with logged(tmp_path / "log.txt"):
            network = prune(network, Request(technique, "l1", "unit", sparsity, 8, 0), batches, SHAPE).network
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, *SHAPE))
    with logged(tmp_path / "log.txt"):
        export(network, tmp_path / "model.onnx", SHAPE)
    counts = count(tmp_path / "model.onnx")
    assert counts.macs == counter.get_total_flops() / 2 > 0
    assert counts.complete
    assert (counts.effective_macs < 0.2 * counts.macs) == (how == "weight")


def test_densenet121_of_the_paper():
    (path,) = BACKEND.rglob("light_densenet121.onnx")
    counts = count(path)
    assert counts.macs == 2_834_161_664
    assert counts.operators["Conv"].count == 121
