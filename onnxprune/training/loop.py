"""Training and fine-tuning: stochastic gradient descent in bounded memory, and what it cost.

The images stay in memory as uint8 and are indexed, normalised and augmented a micro-batch at a time. A batch larger
than a micro-batch accumulates the gradients of its micro-batches, which without BatchNorm is the gradient of the
batch in one piece. With BatchNorm each micro-batch is normalised by its own statistics ("ghost batch
normalisation", Hoffer et al. 2017, arXiv 1705.08741).
"""

import contextlib
import copy
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from onnxprune.common.errors import InputError, RunError
from onnxprune.data.dataset import Split
from onnxprune.training import parallel
from onnxprune.training.memory import PeakMemory
from onnxprune.training.parallel import ALONE, Crew

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
WARMUP_SHARE = 0.1
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}  # precision -> what matrix products are computed in
CROP_PADDING = 2
ACTIVATION_BYTES = 2**30  # what a micro-batch may keep for its backward pass


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: passes over the training images; the last one may be a part.
        batch_size: images an update is computed from; more than there are means all of them.
        learning_rate: the peak of the schedule: linear warm-up over a tenth of the updates, then a cosine to zero.
        augmentation: names of the random changes made to training images, a subset of {"crop", "flip"}.
        micro_batch: images in one forward and backward pass.
        seed: decides the order of the images and the augmentation.
        precision: "fp32", or "bf16" or "fp16" for autocast (Micikevicius et al. 2018, arXiv 1710.03740). The loss is
            scaled for float16; the range of bfloat16 needs none of that (Kalamkar et al. 2019, arXiv 1905.12322).
        devices: processes that share the micro-batches of a batch; see `onnxprune.training.parallel`.
    """

    epochs: float
    batch_size: int
    learning_rate: float
    augmentation: frozenset[str]
    micro_batch: int
    seed: int
    precision: str = "fp32"
    devices: int = 1

    def updates(self, images: int) -> int:
        """Steps of the optimizer for so many training images; at least one, unless there are no epochs."""
        return math.ceil(self.epochs * math.ceil(images / min(self.batch_size, images)) - 1e-9)


@dataclass(frozen=True)
class Teacher:
    """A network whose answers another one learns (Hinton et al. 2015, arXiv 1503.02531).

    Attributes:
        network: in evaluation mode.
        weight: of its part of the loss, 0 to 1; the labels have the rest.
        temperature: that both networks' logits are divided by for it.
    """

    network: nn.Module
    weight: float
    temperature: float = 4.0

    def loss(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum over images (n, C, H, W), in nats, for logits (n, classes) and labels (n,)."""
        with torch.no_grad():
            target = F.softmax(self.network(images) / self.temperature, dim=1)
        learnt = F.cross_entropy(logits / self.temperature, target, reduction="sum") * self.temperature**2
        return (1 - self.weight) * F.cross_entropy(logits, labels, reduction="sum") + self.weight * learnt


@dataclass(frozen=True)
class TrainingCost:
    """What a training run took.

    Attributes:
        seconds: time of the leading thread: on the processor, where that trains, so that pauses do not count.
        images: images passed forward and backward, over all epochs.
        updates: steps of the optimizer.
        peak_memory_bytes: the most resident memory the process held during it; None where that can't be read.
        epoch_losses: mean training cross-entropy of each epoch, in nats.
    """

    seconds: float
    images: int
    updates: int
    peak_memory_bytes: int | None
    epoch_losses: list[float]

    def __add__(self, later: "TrainingCost") -> "TrainingCost":
        """That of both, one after the other."""
        peaks = [cost.peak_memory_bytes for cost in (self, later) if cost.peak_memory_bytes is not None]
        return TrainingCost(
            self.seconds + later.seconds,
            self.images + later.images,
            self.updates + later.updates,
            max(peaks, default=None),
            self.epoch_losses + later.epoch_losses,
        )


NO_TRAINING = TrainingCost(0.0, 0, 0, None, [])


def scaled_learning_rate(rate_at_256: float, batch_size: int, training_images: int) -> float:
    """The peak learning rate for a batch size: proportional to its square root (Krizhevsky 2014, arXiv 1404.5997).

    The batch counts as no larger than the training set, and no larger than 256: with the rule's rates beyond that the
    CNN collapses or diverges in its first updates (at batch 4000 already with twice the rate).
    """
    effective = min(batch_size, training_images, 256)
    return rate_at_256 * math.sqrt(effective / 256)


def select_device(name: str) -> torch.device:
    """The torch device of that name.

    Raises:
        InputError: "cuda" was asked for and PyTorch has no usable CUDA device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: PyTorch finds no usable CUDA device here; install a CUDA build of torch on a machine "
            "with an NVIDIA GPU, or use --device cpu"
        )
    return torch.device(name)


def seeded_generator(seed: int, purpose: str) -> torch.Generator:
    """A CPU random generator that depends on the seed and on what it is for, and on nothing else."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def fitting_micro_batch(network: nn.Module, input_shape: tuple[int, int, int], most: int) -> int:
    """The largest micro-batch, up to `most`, whose forward pass keeps at most 1 GiB for the backward pass.

    Counted on two random images (C, H, W); the network is left as it was.
    """
    parameters = {parameter.data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if tensor.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = next(network.parameters()).device
    images = torch.zeros(2, *input_shape, device=device)
    training = network.training
    network.eval()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    network.train(training)
    return max(1, min(most, ACTIVATION_BYTES * 2 // max(1, sum(kept.values()))))


class Batches:
    """Images and labels of a split on a device, handed out normalised.

    Args:
        split: uint8 images (N, C, H, W) and labels (N,).
        mean: per channel, of pixels in [0, 1]; `std` likewise.
        device: where the data lies and the batches come out.
    """

    def __init__(self, split: Split, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        self.images = torch.from_numpy(split.images).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self._mean = torch.tensor(mean, device=device).view(1, -1, 1, 1) * 255
        self._scale = 1 / (torch.tensor(std, device=device).view(1, -1, 1, 1) * 255)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Batches":
        """The same on another device."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            setattr(moved, name, value.to(device))
        return moved

    @property
    def device(self) -> torch.device:
        """Where it all is."""
        return self.images.device

    def take(self, index: Tensor, changes: "Changes | None" = None) -> tuple[Tensor, Tensor]:
        """Float images (n, C, H, W), channels last in memory, and labels (n,) of the positions in `index` (n,)."""
        index = index.to(self.images.device)
        images = self.images[index]
        if changes is not None:
            images = changes.apply(images)
        floats = (images.to(torch.float32) - self._mean) * self._scale
        return floats.contiguous(memory_format=torch.channels_last), self.labels[index]


@dataclass(frozen=True)
class Changes:
    """Random crops of images padded by two black pixels, random mirror images, or both; uint8 in, uint8 out.

    They are drawn for a whole batch, so that they do not depend on its micro-batches.

    Attributes:
        shift: (2, n), rows and columns, from 0 to 4; None: no crops.
        mirrored: (n,); None: none.
    """

    shift: Tensor | None
    mirrored: Tensor | None

    @classmethod
    def draw(cls, names: frozenset[str], count: int, generator: torch.Generator) -> "Changes":
        """Those of `count` images."""
        return cls(
            torch.randint(0, 2 * CROP_PADDING + 1, (2, count), generator=generator) if "crop" in names else None,
            torch.rand(count, generator=generator) < 0.5 if "flip" in names else None,
        )

    def part(self, which: slice) -> "Changes":
        """Those of some of the images."""
        return Changes(
            None if self.shift is None else self.shift[:, which],
            None if self.mirrored is None else self.mirrored[which],
        )

    def apply(self, images: Tensor) -> Tensor:
        """The images (n, C, H, W) changed."""
        count, _, height, width = images.shape
        if self.shift is not None:
            shift = self.shift.to(images.device)
            padded = F.pad(images, (CROP_PADDING,) * 4)
            rows = shift[0].view(-1, 1, 1) + torch.arange(height, device=images.device).view(1, -1, 1)
            columns = shift[1].view(-1, 1, 1) + torch.arange(width, device=images.device).view(1, 1, -1)
            picture = torch.arange(count, device=images.device).view(-1, 1, 1)
            images = padded.permute(0, 2, 3, 1)[picture, rows, columns].permute(0, 3, 1, 2)
        if self.mirrored is not None:
            images = torch.where(self.mirrored.to(images.device).view(-1, 1, 1, 1), images.flip(3), images)
        return images


NO_CHANGES = Changes(None, None)


@contextlib.contextmanager
def pooling_first(network: nn.Module) -> Iterator[None]:
    """Within it, max pooling comes before the ReLU that it follows elsewhere, which then has a quarter to do.

    ReLU keeps the order of numbers, so the answers are the same to the last bit; so are the gradients, as those of
    numbers that are not positive are zero either way.
    """
    pairs = [
        (block._modules, first, second)
        for block in network.modules()
        if isinstance(block, nn.Sequential)
        for (first, before), (second, after) in itertools.pairwise(block._modules.items())
        if isinstance(before, nn.ReLU) and isinstance(after, nn.MaxPool2d)
    ]

    def swap() -> None:
        for layers, first, second in pairs:
            layers[first], layers[second] = layers[second], layers[first]

    swap()
    try:
        yield
    finally:
        swap()


def accumulate_gradients(
    network: nn.Module,
    batches: Batches,
    index: Tensor,
    micro_batch: int,
    changes: Changes = NO_CHANGES,
    precision: str = "fp32",
    teacher: Teacher | None = None,
    crew: Crew = ALONE,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """Adds the gradient of the mean loss over the images in `index` (n,) to the parameters' gradients: of the
    cross-entropy with the labels, and with the teacher's answers where there is one.

    Args:
        network: as the crew wraps it.
        crew: whose first one does the first micro-batch, and so on in turn.
        scaler: multiplies the gradients, so that float16 can hold them.

    Returns:
        The loss, a scalar tensor without a graph.
    """
    device = batches.images.device
    total = torch.zeros((), device=device)
    # one context an update: within it the weights are converted once, and after it they change
    autocast = torch.autocast(device.type, _AUTOCAST.get(precision), enabled=precision in _AUTOCAST)
    with autocast, pooling_first(network):
        size = crew.piece(len(index), micro_batch)
        count = -(-len(index) // size)
        for number in range(crew.rank, max(count, crew.size), crew.size):
            # one without images of its own joins in with one that does not count
            which = slice(number * size, (number + 1) * size) if number < count else slice(0, 1)
            images, labels = batches.take(index[which], changes.part(which))
            with crew.last(network, number + crew.size >= count):
                logits = network(images)
                if teacher is None:
                    loss = F.cross_entropy(logits, labels, reduction="sum") / len(index)
                else:
                    loss = teacher.loss(images, logits, labels) / len(index)
                if number >= count:
                    loss = loss * 0
                wanted = loss * crew.size  # all of them take the mean
                (wanted if scaler is None else scaler.scale(wanted)).backward()
            total += loss.detach()
    return crew.sum(total)


def train(
    network: nn.Module,
    batches: Batches,
    recipe: Recipe,
    *,
    masks: Mapping[str, Tensor] | None = None,
    remask: Callable[[int, int], Mapping[str, Tensor] | None] | None = None,
    teacher: Teacher | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    stop_after: int | None = None,
    on_update: Callable[[int, int, Tensor], None] | None = None,
    crew: Crew | None = None,
) -> TrainingCost:
    """Trains `network` in place and leaves it in evaluation mode.

    Parameters that require no gradient, and the statistics of the BatchNorms they belong to, stay as they are.

    Args:
        masks: parameter name -> 0/1 tensor of its shape; masked weights are zero before, during and after.
        remask: called with the number of updates done, and of updates in all, when the gradients of the next one are
            there; what it returns, unless None, are the masks from then on.
        teacher: what to learn from beside the labels.
        optimizer: one that has the learning rate set, in place of our own.
        stop_after: updates after which to stop, while the learning rate goes on as if all were to come.
        on_update: called after each update with the number of updates done, of updates in all, and the loss, a
            scalar tensor.
        crew: that this process is part of; None: as many as the recipe says are called together, this one being first.

    Raises:
        RunError: the loss stopped being a number.
    """
    if crew is None and recipe.devices > 1:
        device = batches.device
        arguments = {"network": network, "recipe": recipe, "masks": masks, "teacher": teacher, "stop_after": stop_after}
        with parallel.crew(recipe.devices, device, batches, arguments, watched=remask is not None) as found:
            return train(
                network,
                batches,
                recipe,
                masks=masks,
                remask=remask,
                teacher=teacher,
                stop_after=stop_after,
                on_update=on_update,
                crew=found,
            )
    crew = crew or ALONE
    generator = seeded_generator(recipe.seed, "training order and augmentation")
    count = len(batches)
    batch_size = min(recipe.batch_size, count)
    updates = recipe.updates(count)
    last = updates if stop_after is None else min(updates, stop_after)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = optimizer or sgd(network, recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_factor(step, updates))
    scaler = torch.amp.GradScaler(batches.device.type) if recipe.precision == "fp16" else None
    held = HeldWeights(network, masks or {})
    epoch_losses = []
    network.train()
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
    clock = time.thread_time if batches.images.device.type == "cpu" else time.perf_counter
    started = clock()
    done = images = 0
    with PeakMemory() as memory, crew.together(network) as wrapped:
        while done < last:
            loss_sum = torch.zeros((), device=batches.images.device)
            seen = 0
            for index in torch.randperm(count, generator=generator).split(batch_size)[: last - done]:
                optimizer.zero_grad(set_to_none=True)
                changes = Changes.draw(recipe.augmentation, len(index), generator)
                loss = accumulate_gradients(
                    wrapped, batches, index, recipe.micro_batch, changes, recipe.precision, teacher, crew, scaler
                )
                if scaler is not None:
                    scaler.unscale_(optimizer)
                changed = crew.agree(remask(done, updates) if remask is not None else None)
                if changed is not None:
                    held = held.replaced(network, changed, optimizer)
                loss_sum += loss * len(index)
                seen += len(index)
                _step(optimizer, scaler)
                schedule.step()
                held.apply()
                done += 1
                if on_update is not None:
                    on_update(done, updates, loss)
            images += seen
            epoch_losses.append(loss_sum.item() / seen)
            # the loss is from before the last update, the weights from after it
            if not (math.isfinite(epoch_losses[-1]) and _all_finite(network)):
                raise RunError(
                    f"training diverged: loss or weights are no numbers in epoch {len(epoch_losses)} at learning "
                    f"rate {recipe.learning_rate:g}; lower --learning-rate or --finetune-learning-rate"
                )
    network.eval()
    return TrainingCost(
        seconds=clock() - started,
        images=images,
        updates=done,
        peak_memory_bytes=memory.peak_bytes,
        epoch_losses=epoch_losses,
    )


def _step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)  # not where gradients are no numbers: the scale was too large
        scaler.update()


def sgd(network: nn.Module, learning_rate: float, kind: Callable[..., Any] = torch.optim.SGD) -> torch.optim.Optimizer:
    """The optimizer of all training: Nesterov momentum and weight decay, over the parameters that require gradients."""
    optimizer: torch.optim.Optimizer = kind(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=learning_rate,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        nesterov=True,
    )
    return optimizer


def _all_finite(network: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())


def _rate_factor(step: int, updates: int) -> float:
    """The share of the peak learning rate that update number `step` (from 0) of `updates` gets."""
    warmup = max(1, int(WARMUP_SHARE * updates))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, updates - warmup)))


class HeldWeights:
    """Keeps masked weights at zero; `masks` is parameter name -> 0/1 tensor of its shape."""

    def __init__(self, network: nn.Module, masks: Mapping[str, Tensor]) -> None:
        parameters = dict(network.named_parameters())
        self._weights: list[Tensor] = [parameters[name] for name in masks]
        self._factors: list[Any] = [
            mask.to(weight.device, weight.dtype) for mask, weight in zip(masks.values(), self._weights, strict=True)
        ]
        self.apply()

    def apply(self) -> None:
        """Zeroes the masked weights, all of them in one call."""
        if self._weights:
            with torch.no_grad():
                torch._foreach_mul_(self._weights, self._factors)

    def replaced(
        self, network: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> "HeldWeights":
        """Those of other masks; a weight that was or is masked moves with no momentum of before."""
        following = HeldWeights(network, masks)
        for held in (self, following):
            for weight, factor in zip(held._weights, held._factors, strict=True):
                momentum = optimizer.state[weight].get("momentum_buffer")
                if momentum is not None:
                    momentum.mul_(factor)
        return following
