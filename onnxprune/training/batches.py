"""Training images in batches: kept as uint8, handed out normalised and augmented, in pieces that fit into memory."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from onnxprune.common.errors import is_lack_of_memory
from onnxprune.data.dataset import Split
from onnxprune.training.device import device_of

CROP_PADDING = 2

ACTIVATION_BYTES = 2**30  # what a micro-batch may keep for its backward pass


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

    device = device_of(network)
    images = torch.zeros(2, *input_shape, device=device)
    training = network.training
    network.eval()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    network.train(training)
    return max(1, min(most, ACTIVATION_BYTES * 2 // max(1, sum(kept.values()))))


def memory_format(
    network: nn.Module, input_shape: tuple[int, int, int], *, trains: bool = False
) -> torch.memory_format:
    """How images and weights are to lie in memory: channels last, in which convolutions are quicker, unless the network
    takes `view`s of what they give, or has convolutions in three dimensions, which PyTorch refuses then.

    Args:
        trains: whether it is to be trained, which may take another way through its code, and goes back as well.
    """
    device = device_of(network)
    images = torch.zeros(2, *input_shape, device=device).contiguous(memory_format=torch.channels_last)
    tried = copy.deepcopy(network).train(trains)
    try:
        tried.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # it is no cost of whatever is being counted, and no chance of what comes
        cards = [device] if device.type == "cuda" else []
        with torch.set_grad_enabled(trains), _disable_current_modes(), torch.random.fork_rng(cards):
            answers = tried(images)
            if trains and isinstance(answers, Tensor):
                answers.sum().backward()
    except RuntimeError as error:
        if is_lack_of_memory(error):
            raise
        return torch.contiguous_format
    return torch.channels_last


class Batches:
    """Images and labels of a split on a device, handed out normalised.

    Args:
        split: uint8 images (N, C, H, W) and labels (N,).
        mean: per channel, of pixels in [0, 1]; `std` likewise.
        device: where the data lies and the batches come out.
        memory_format: how images come out; of the network that takes them, see the function of that name.
    """

    def __init__(
        self,
        split: Split,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        self.memory_format = memory_format
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
            if isinstance(value, Tensor):
                setattr(moved, name, value.to(device))
        return moved

    @property
    def device(self) -> torch.device:
        """Where it all is."""
        return self.images.device

    def take(self, index: Tensor, changes: "Changes | None" = None) -> tuple[Tensor, Tensor]:
        """Float images (n, C, H, W) and labels (n,) of the positions in `index` (n,)."""
        index = index.to(self.images.device)
        images = self.images[index]
        if changes is not None:
            images = changes.apply(images)
        floats = (images.to(torch.float32) - self._mean) * self._scale
        return floats.contiguous(memory_format=self.memory_format), self.labels[index]


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
