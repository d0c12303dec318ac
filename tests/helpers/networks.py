"""Small networks of every built-in model, random images for them, and requests to prune them."""

import numpy as np
import torch
from one_call import prune
from torch import Tensor, nn

from onnxprune.data.dataset import Split
from onnxprune.models import MODELS
from onnxprune.pruning.remove import Pruned
from onnxprune.pruning.request import Request
from onnxprune.settings.vocabulary import resolve_criterion
from onnxprune.training.batches import Batches

SHAPE = (1, 8, 8)
CLASSES = 4
CPU = torch.device("cpu")


def random_batches(count: int = 40, shape: tuple[int, int, int] = SHAPE) -> Batches:
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (count, *shape), dtype=np.uint8)
    channels = shape[0]
    return Batches(Split(images, np.arange(count) % CLASSES), (0.5,) * channels, (0.25,) * channels, CPU)


def build(name: str, seed: int = 0, shape: tuple[int, int, int] = SHAPE, **options: object) -> nn.Module:
    """The network with biases and BatchNorms as after training: nothing is 0 or 1 that need not be."""
    model, _, norm = name.partition("+")
    if norm:
        options["batch_norm"] = True
    network = MODELS[model].build(shape, CLASSES, seed, **options).eval()
    generator = torch.Generator().manual_seed(seed + 100)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network


def request(technique: str, criterion: str | None = None, sparsity: float = 50, **changes: object) -> Request:
    settings = {"granularity": "unit", "channel_align": 1, "seed": 0, **changes}
    criterion = resolve_criterion(technique, criterion, settings["granularity"])
    return Request(technique=technique, criterion=criterion, sparsity=sparsity, **settings)


def pruned(network: nn.Module, *arguments: object, batches: Batches | None = None, **changes: object) -> Pruned:
    return prune(network, request(*arguments, **changes), batches or random_batches(), SHAPE)


def logits(network: nn.Module, batches: Batches | None = None) -> Tensor:
    batches = batches or random_batches()
    with torch.no_grad():
        return network(batches.take(torch.arange(len(batches)))[0])
