"""The study as a good user would write it by hand over the same libraries: what `onnxprune sweep` is measured against.

One point after the other: DataLoader with torchvision's transforms, NNI, torch.onnx.export, onnx-tool, onnxruntime.
"""

import copy
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nni
import nni.compression.pruning as pruners
import numpy as np
import onnx_tool
import onnxruntime
import torch
from nni.compression import TorchEvaluator
from nni.compression.speedup import ModelSpeedup
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

logging.getLogger("nni").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Row:
    """What the hand-written script finds of a point."""

    technique: str
    sparsity: int
    accuracy_before: float
    accuracy: float
    macs: float
    latency_ms: float
    seconds: float


def train(
    model: nn.Module, loader: DataLoader, epochs: int, rate: float, masks: dict | None = None, bf16: bool = False
) -> None:
    """SGD over a DataLoader, with autocast if `bf16`; masked weights are set to zero after every update."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * len(loader)
    warmup = max(1, int(max(0.1 * steps, min(100, steps / 2))))
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup - 1),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - warmup)),
        ],
        [warmup],
    )
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
            if masks:
                with torch.no_grad():
                    for name, module in model.named_modules():
                        if name in masks:
                            module.weight.mul_(masks[name]["weight"])
    model.eval()


def prune(model: nn.Module, technique: str, sparsity: int, loader: DataLoader, shape: tuple) -> tuple[nn.Module, dict]:
    """The pruned network, and the masks that fine-tuning must keep to."""
    model = copy.deepcopy(model)
    if sparsity == 0:
        return model, {}
    ratio = min(sparsity / 100, 0.99)  # NNI cannot take everything
    whole = {"op_types": ["Conv2d", "Linear"], "sparse_ratio": ratio}
    if technique == "weight":
        pruner = pruners.LevelPruner(model, [whole])
    elif technique == "unstructured":
        pruner = pruners.LevelPruner(model, [{**whole, "global_group_id": "all"}])
    else:
        config = [{**whole, "exclude_op_names": [list(dict(model.named_children()))[-1]]}]
        if technique == "structured":
            pruner = pruners.L1NormPruner(model, config)
        else:
            optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.01)

            def run(model: Any, optimizer: Any, training_step: Any, *_: Any) -> None:
                for batch in loader:
                    optimizer.zero_grad()
                    training_step(batch, model).backward()
                    optimizer.step()

            evaluator = TorchEvaluator(run, optimizer, lambda batch, model: F.cross_entropy(model(batch[0]), batch[1]))
            pruner = pruners.TaylorPruner(model, config, evaluator, training_steps=len(loader))
    _, masks = pruner.compress()
    pruner.unwrap_model()
    if technique in ("weight", "unstructured"):
        with torch.no_grad():
            for name, module in model.named_modules():
                if name in masks:
                    module.weight.mul_(masks[name]["weight"])
        return model, masks
    ModelSpeedup(model, torch.zeros(8, *shape), masks, graph_module=torch.fx.symbolic_trace(model)).speedup_model()
    return model.eval(), {}


def export(model: nn.Module, path: Path, shape: tuple) -> None:
    """By PyTorch's exporter as it comes."""
    torch.onnx.export(
        model, (torch.zeros(2, *shape),), str(path), verbose=False,
        input_names=["input"], output_names=["logits"], dynamic_shapes=({0: torch.export.Dim("n")},),
    )  # fmt: skip


def accuracy_in_torch(model: nn.Module, loader: DataLoader) -> float:
    """Top-1 in percent of the network, as one looks at it before fine-tuning."""
    right = total = 0
    with torch.inference_mode():
        for images, labels in loader:
            right += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
    return 100 * right / total


def accuracy(path: Path, loader: DataLoader) -> float:
    """Top-1 in percent of the ONNX file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    right = total = 0
    for images, labels in loader:
        right += int((session.run(None, {"input": images.numpy()})[0].argmax(1) == labels.numpy()).sum())
        total += len(labels)
    return 100 * right / total


def macs(path: Path, shape: tuple) -> float:
    """onnx-tool's total."""
    graph = onnx_tool.Model(str(path)).graph
    graph.graph_reorder_nodes()
    graph.shape_infer({"input": np.zeros((1, *shape), np.float32)})
    graph.profile()
    return float(graph.macs[0])


def latency(path: Path, shape: tuple, seconds: float) -> float:
    """Median milliseconds of a batch of 32 on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((32, *shape)).astype(np.float32)
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, {"input": images})
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def study(
    model: nn.Module,
    train_set: Dataset,
    test_set: Dataset,
    shape: tuple,
    *,
    batch_size: int = 256,
    epochs: int = 3,
    finetune_epochs: int = 1,
    rate: float = 0.05,
    finetune_rate: float = 0.01,
    sparsities: range = range(0, 101, 10),
    latency_seconds: float = 1.0,
    bf16: bool = False,
) -> Iterator[Row]:
    """Trains the base, then every point of four techniques; yields the base as technique "base" first."""
    train_loader = DataLoader(train_set, batch_size, shuffle=True)
    test_loader = DataLoader(test_set, 500)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"

        def measure(network: nn.Module, technique: str, sparsity: int, before: float, start: float) -> Row:
            export(network, path, shape)
            found = accuracy(path, test_loader), macs(path, shape), latency(path, shape, latency_seconds)
            return Row(technique, sparsity, before, *found, time.perf_counter() - start)

        start = time.perf_counter()
        train(model, train_loader, epochs, rate, bf16=bf16)
        yield measure(model, "base", 0, float("nan"), start)
        for technique in ("weight", "neuron", "structured", "unstructured"):
            for sparsity in sparsities:
                start = time.perf_counter()
                network, masks = prune(model, technique, sparsity, train_loader, shape)
                before = accuracy_in_torch(network, test_loader)
                train(network, train_loader, finetune_epochs, finetune_rate, masks, bf16)
                yield measure(network, technique, sparsity, before, start)
