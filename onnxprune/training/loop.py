"""Training and fine-tuning: stochastic gradient descent in bounded memory, and what it cost.

The images stay in memory as uint8 and are indexed, normalised and augmented a micro-batch at a time. A batch larger
than a micro-batch accumulates the gradients of its micro-batches, which without BatchNorm is the gradient of the
batch in one piece. With BatchNorm each micro-batch is normalised by its own statistics ("ghost batch
normalisation", Hoffer et al. 2017, arXiv 1705.08741).
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from onnxprune.common.errors import RunError
from onnxprune.training import parallel
from onnxprune.training.batches import NO_CHANGES, Batches, Changes
from onnxprune.training.cost import TrainingCost
from onnxprune.training.device import clock_of, seeded_chance, seeded_generator
from onnxprune.training.distillation import Target
from onnxprune.training.held_weights import HeldWeights
from onnxprune.training.memory import PeakMemory
from onnxprune.training.onednn import answers
from onnxprune.training.parallel import SINGLE_PROCESS, ProcessGroup
from onnxprune.training.recipe import Recipe, rate_factor, sgd
from onnxprune.training.strides import strides_taken_first

# updates done, updates in all -> parameter name -> mask from now on; None: as before
Remask = Callable[[int, int], Mapping[str, Tensor] | None]

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}  # precision -> what matrix products are computed in


@contextlib.contextmanager
def pooling_first(network: nn.Module) -> Iterator[None]:
    """Within it, blocks compute max pooling before the ReLU that it follows elsewhere, which then has a quarter to do.

    ReLU keeps the order of numbers, so the answers are the same to the last bit; so are the gradients, as those of
    numbers that are not positive are zero either way. A network that calls the layers of a block one by one, or hooks
    them, sees what each gives: for it nothing changes.
    """
    with contextlib.ExitStack() as stack:
        for block in network.modules():
            if isinstance(block, nn.Sequential) and type(block).forward is nn.Sequential.forward:
                layers = list(block)
                for place, (before, after) in enumerate(itertools.pairwise(block)):
                    if type(before) is nn.ReLU and type(after) is nn.MaxPool2d and _unseen(before) and _unseen(after):
                        layers[place : place + 2] = [after, before]
                if layers != list(block):
                    block.forward = functools.partial(_in_turn, layers)  # type: ignore[method-assign]
                    stack.callback(delattr, block, "forward")
        yield


def _in_turn(layers: Sequence[nn.Module], images: Tensor) -> Tensor:
    for layer in layers:
        images = layer(images)
    return images


def _unseen(layer: nn.Module) -> bool:
    """Whether nothing but the next layer gets what it gives."""
    return not (layer._forward_hooks or layer._forward_pre_hooks or getattr(layer, "return_indices", False))


def accumulate_gradients(
    network: nn.Module,
    batches: Batches,
    index: Tensor,
    micro_batch: int,
    *,
    changes: Changes = NO_CHANGES,
    precision: str = "fp32",
    teacher: Target | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """Adds the gradient of the mean loss over the images in `index` (n,) to the parameters' gradients: of the
    cross-entropy with the labels, and with the teacher's answers where there is one.

    Args:
        network: as the group wraps it.
        group: whose first one does the first micro-batch, and so on in turn.
        scaler: multiplies the gradients, so that float16 can hold them.

    Returns:
        The loss, a scalar tensor without a graph.
    """
    device = batches.images.device
    total = torch.zeros((), device=device)
    # one context an update: within it the weights are converted once, and after it they change
    autocast = torch.autocast(device.type, _AUTOCAST.get(precision), enabled=precision in _AUTOCAST)
    with autocast, pooling_first(network):
        least = _fewest(network)
        sizes = _parts(len(index), group.piece(len(index), micro_batch, least), least)
        count = len(sizes)
        for number in range(group.rank, max(count, group.size), group.size):
            # one without images of its own joins in with some that do not count
            start = sum(sizes[:number])
            which = slice(start, start + sizes[number]) if number < count else slice(0, least)
            images, labels = batches.take(index[which], changes.part(which))
            with group.last(network, number + group.size >= count):
                logits = answers(network, images)
                if teacher is None:
                    loss = F.cross_entropy(logits, labels, reduction="sum") / len(index)
                else:
                    loss = teacher.loss(images, logits, labels) / len(index)
                if number >= count:
                    loss = loss * 0
                wanted = loss * group.size  # all of them take the mean
                (wanted if scaler is None else scaler.scale(wanted)).backward()
            total += loss.detach()
    return group.sum(total)


def _parts(count: int, size: int, least: int) -> list[int]:
    """The sizes of as few parts of so many images as can be: each of `size` but the last; where that would be smaller
    than `least`, the one before it is smaller instead."""
    whole, rest = divmod(count, size)
    sizes = [size] * whole + [rest] * (rest > 0)
    if whole and 0 < rest < least < size:
        sizes[-2:] = [size + rest - least, least]
    return sizes


def _fewest(network: nn.Module) -> int:
    """How many images it takes at least in training: BatchNorm has no statistics of a single number."""
    return 2 if any(isinstance(each, _BatchNorm) and each.training for each in network.modules()) else 1


def train(
    network: nn.Module,
    batches: Batches,
    recipe: Recipe,
    *,
    masks: Mapping[str, Tensor] | None = None,
    remask: Remask | None = None,
    regrow: Remask | None = None,
    teacher: Target | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    start_at: int = 0,
    stop_after: int | None = None,
    on_update: Callable[[int, int, Tensor], None] | None = None,
    group: ProcessGroup | None = None,
) -> TrainingCost:
    """Trains `network` in place and leaves it in evaluation mode.

    Parameters that require no gradient, and the statistics of the BatchNorms they belong to, stay as they are.

    Args:
        masks: parameter name -> 0/1 tensor of its shape; masked weights are zero before, during and after.
        remask: called with the number of updates done, and of updates in all, before the gradients of the next one are
            computed; what it returns, unless None, are the masks from then on.
        regrow: the same, called when those gradients are there; masks that it returns take the place of the
            optimizer's step, as in RigL (Evci et al. 2020, arXiv 1911.11134, algorithm 1).
        teacher: what to learn from beside the labels.
        optimizer: one that has the learning rate set, in place of our own.
        start_at: updates that are taken as done: learning rate and order of the images go on from there.
        stop_after: updates after which to stop, while the learning rate goes on as if all were to come.
        on_update: called after each update with the number of updates done, of updates in all, and the loss, a
            scalar tensor.
        group: that this process is part of; None: as many as the recipe says are called together, this one being first.

    Raises:
        RunError: the loss stopped being a number.
    """
    if group is None and recipe.devices > 1:
        how: dict[str, Any] = {"masks": masks, "teacher": teacher, "start_at": start_at, "stop_after": stop_after}
        sent = {"network": network, "recipe": recipe, **how}
        watched = remask is not None or regrow is not None
        how |= {"remask": remask, "regrow": regrow, "on_update": on_update}
        with parallel.process_group(recipe.devices, batches.device, batches, sent, watched=watched) as found:
            return train(network, batches, recipe, **how, group=found)
    group = group or SINGLE_PROCESS
    generator = seeded_generator(recipe.seed, "training order and augmentation")
    count = len(batches)
    batch_size = min(recipe.batch_size, count)
    updates = recipe.updates(count)
    last = updates if stop_after is None else min(updates, stop_after)
    network.to(memory_format=batches.memory_format)  # type: ignore[call-overload]
    optimizer = optimizer or sgd(network, recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(start_at + step, updates))
    scaler = torch.amp.GradScaler(batches.device.type) if recipe.precision == "fp16" else None
    weights = _Weights(network, optimizer, masks or {}, scaler)
    epoch_losses = []
    in_training(network)
    clock = clock_of(batches.device)
    started = clock()
    done = images = 0
    # one that goes on draws other numbers than from its beginning, and so does every process of a group
    chance = seeded_chance(recipe.seed, f"what the network draws, {start_at}, {group.rank}", batches.device)
    with PeakMemory() as memory, strides_taken_first(network), chance, group.together(network) as wrapped:
        while done < last:
            loss_sum = torch.zeros((), device=batches.images.device)
            seen = 0
            order = torch.randperm(count, generator=generator)
            for index in order.split(_parts(count, batch_size, _fewest(network)))[: last - done]:
                changes = Changes.draw(recipe.augmentation, len(index), generator)
                if done < start_at:
                    done += 1
                    continue
                weights.begin(group.agree(remask(done, updates) if remask is not None else None))
                loss = accumulate_gradients(
                    wrapped,
                    batches,
                    index,
                    recipe.micro_batch,
                    changes=changes,
                    precision=recipe.precision,
                    teacher=teacher,
                    group=group,
                    scaler=scaler,
                )
                weights.unscale()
                loss_sum += loss * len(index)
                seen += len(index)
                weights.step(group.agree(regrow(done, updates) if regrow is not None else None))
                schedule.step()
                done += 1
                if on_update is not None:
                    on_update(done, updates, loss)
            if not seen:
                continue
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
        updates=done - start_at,
        peak_memory_bytes=memory.peak_bytes,
        epoch_losses=epoch_losses,
    )


def in_training(network: nn.Module) -> None:
    """Puts a network into the mode of training, but not its layers that are frozen: a frozen BatchNorm keeps its
    statistics too."""
    network.train()
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


class _Weights:
    """A network's weights as the optimizer moves them, those with a mask held at zero."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        masks: Mapping[str, Tensor],
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        self._network, self._optimizer, self._scaler = network, optimizer, scaler
        self._held = HeldWeights(network, masks)

    def begin(self, masks: Mapping[str, Tensor] | None) -> None:
        """Before the gradients of an update are computed; the masks from now on, None: as before."""
        self._optimizer.zero_grad(set_to_none=True)
        if masks is not None:
            self._held = self._held.replaced(self._network, masks, self._optimizer)

    def unscale(self) -> None:
        """Makes the gradients what they are without the loss being scaled."""
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)

    def step(self, masks: Mapping[str, Tensor] | None) -> None:
        """By the gradients; where there are masks from now on, these take the place of the step."""
        if masks is not None:
            self._held = self._held.replaced(self._network, masks, self._optimizer)
        elif self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)  # not where gradients are no numbers: the scale was too large
        if self._scaler is not None:
            self._scaler.update()
        self._held.apply()


def _all_finite(network: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())
