"""The networks that can be studied: one module each, one line each in the registry; or the user's own, code or file.

A model's module has `build(input_shape, classes, **options)`, which returns an untrained `torch.nn.Module` that
maps images (N, C, H, W) to logits (N, classes). The built-in ones can be traced by torch.fx.
"""

import json
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxprune.common.errors import InputError
from onnxprune.common.registry import Registry
from onnxprune.models import onnx_file, reference

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Recipe:
    """How a network is trained where a point leaves it open; the fields of a point of the same names say what they are.

    Attributes:
        usual_inputs: numbers an image has at most for the learning rates to be right; they fall with the square root of
            what is more, and not at all where this is None. Steps of a first layer that sees the whole image may be the
            smaller the more inputs it has (LeCun et al. 1998, "Efficient BackProp"): by the rate that is right for
            MNIST a perceptron collapses on CIFAR-10.
        largest_batch: batch size up to which the learning rates grow with its square root.
        settling_updates: updates that a trained network takes to settle by the rate of fine-tuning, which is by default
            no shorter; see `onnxprune.training.recipe.settling_share`. 0: the rate is so small that none are needed.
        rising_updates: updates that untrained weights take to bear all of the learning rate; see
            `onnxprune.training.recipe.rising_share`. 0: they bear it from the first on.
        share_in_one_batch: of both learning rates that is right where a batch holds all images, of which there are more
            than 256, and there is this share of `rising_updates` at least. Gradients of all images have no noise, which
            otherwise keeps weights away from steep places (Cohen et al. 2021, arXiv 2103.00065): there units die.
        share_with_norm: of both learning rates that is right where `batch_norm` is asked for. PyTorch's initial weights
            make numbers smaller from layer to layer, normalisation does not: layers after it that have none see larger
            numbers, bear smaller steps (LeCun et al. 1998), and lose most of their units by larger ones.
    """

    epochs: int
    finetune_epochs: int
    learning_rate: float
    finetune_learning_rate: float
    usual_inputs: int | None = None
    largest_batch: int = 256
    settling_updates: int = 0
    rising_updates: int = 0
    share_in_one_batch: float = 1.0
    share_with_norm: float = 1.0


_CONVOLUTIONAL = Recipe(
    epochs=5, finetune_epochs=1, learning_rate=0.05, finetune_learning_rate=0.05, settling_updates=150
)


@dataclass(frozen=True)
class Model:
    """What is known of a network before PyTorch is imported.

    Attributes:
        title: its name in the literature.
        summary: one line on its structure.
        module: the module that has its `build`; or FILE.py:NAME (`onnxprune.models.reference`), or FILE.onnx
            (`onnxprune.models.onnx_file`).
        micro_batch: images a forward and backward pass takes at once; larger batches accumulate gradients. Chosen
            for speed (activations that stay near the cache) and for memory far under 4 GiB.
        recipe: the training settings of a point where it leaves them open.
        minimum_size: height and width below which images are padded with black.
        options: the fields of a point that `build` takes.
        batch_norm: whether it always normalises by batch statistics.
        removable_layers: whether whole layers can be left out of it.
        trained: whether it comes with its weights, and has no others.
        criterion: by which units of it are ranked by default; None: the technique's own default.
    """

    title: str
    summary: str
    module: str
    micro_batch: int
    recipe: Recipe
    minimum_size: int = 1
    options: tuple[str, ...] = ()
    batch_norm: bool = False
    removable_layers: bool = False
    trained: bool = False
    criterion: str | None = None

    def build(self, input_shape: tuple[int, int, int], classes: int, seed: int, **options: Any) -> "nn.Module":
        """An untrained network whose weights depend on `seed` alone; `input_shape` is (C, H, W). Of one that comes
        trained, `onnxprune.bridge.start` knows how.

        Raises:
            InputError: it is the user's own, and cannot be built.
        """
        import random

        import numpy as np
        import torch

        own = reference.is_reference(self.module)
        # before the seed: a file may draw numbers, or set a seed, when it is run, which is once in a process
        make = reference.imported(self.module) if own else import_module(self.module).build
        torch.manual_seed(seed)
        random.seed(seed)  # a user's own code may use any of them
        np.random.seed(seed % 2**32)
        if own:
            return reference.build(self.module, input_shape, classes, json.loads(options[ARGUMENTS] or "{}"))
        network: nn.Module = make(input_shape, classes, **options)
        return network


class _Models(Registry[Model]):
    """The registry, in which a reference to the user's own code and an ONNX file are names too."""

    def canonical(self, name: str) -> str:
        if onnx_file.is_file(name):
            onnx_file.source(name)
            return name
        if reference.is_reference(name):
            reference.source(name)
            return name
        if name.endswith(".py"):
            raise InputError(f"model '{name}': which class or function of it builds the network? {name}:NAME")
        try:
            return super().canonical(name)
        except InputError as error:
            raise InputError(f"{error} Your own network: FILE.py:NAME, or FILE.onnx.") from None

    def __getitem__(self, name: str) -> Model:
        if onnx_file.is_file(name):
            return _file_model(name)
        return _own_model(name) if reference.is_reference(name) else super().__getitem__(name)


def model_title(name: str) -> str:
    """A model's name as the names of files have it, the same wherever its own file is."""
    if onnx_file.is_file(name):
        return Path(name).stem
    return reference.title(name) if reference.is_reference(name) else name


def own_digest(name: str) -> str | None:
    """The SHA-256 of what a network of the user's own is made from; None for others.

    Raises:
        InputError: it is not there, or cannot be read.
    """
    if onnx_file.is_file(name):
        return onnx_file.digest(name)
    return reference.digest(name) if reference.is_reference(name) else None


def own_files(name: str) -> list[Path]:
    """The files that `own_digest` is of; none for others.

    Raises:
        InputError: likewise.
    """
    if onnx_file.is_file(name):
        return onnx_file.files(name)
    return [reference.source(name)] if reference.is_reference(name) else []


ARGUMENTS = "model_args"  # the option of networks of the user's own code
NORMALISATION = ("mean", "std")  # those of files


def _file_model(name: str) -> Model:
    return replace(
        _own_model(name),
        recipe=Recipe(epochs=0, finetune_epochs=1, learning_rate=0.001, finetune_learning_rate=0.001),
        options=NORMALISATION,
        trained=True,
        criterion="obs",
    )


def _own_model(name: str) -> Model:
    return Model(
        model_title(name),
        f"your own network, {name}",
        name,
        micro_batch=128,
        # without the CNN's share of the rate: an MLP, a residual network and a small convolutional one lose by it, as
        # much as 25 points in 30 updates (digits and Fashion-MNIST, batch 256, 3 seeds; better in 3 cases of 18)
        recipe=_CONVOLUTIONAL,
        options=(ARGUMENTS,),
        batch_norm=True,  # as far as is known: a criterion that needs it looks for itself
    )


MODELS: Registry[Model] = _Models(
    "model",
    {
        "slp": Model(
            "SLP",
            "perceptron with one hidden layer (--hidden units, 128 by default; 0 for none)",
            "onnxprune.models.slp",
            micro_batch=4096,
            recipe=Recipe(
                epochs=5,
                finetune_epochs=3,
                learning_rate=0.1,
                finetune_learning_rate=0.05,
                usual_inputs=28 * 28,
                largest_batch=512,
            ),
            options=("hidden",),
        ),
        "cnn": Model(
            "CNN",
            "two 3x3 convolutions (32 and 64) with max-pooling, then 128 units (--batch-norm: BatchNorm)",
            "onnxprune.models.cnn",
            micro_batch=128,
            recipe=replace(_CONVOLUTIONAL, rising_updates=75, share_in_one_batch=0.5, share_with_norm=0.5),
            minimum_size=4,
            options=("batch_norm",),
        ),
        "densenet121": Model(
            "DenseNet-121",
            "torchvision's DenseNet-121, images of at least 32x32 (--stem imagenet|small)",
            "onnxprune.models.densenet",
            micro_batch=256,
            recipe=_CONVOLUTIONAL,
            minimum_size=32,
            options=("stem",),
            batch_norm=True,
            removable_layers=True,
        ),
    },
    group="onnxprune.models",
)

# option of a model -> who has it
OPTIONS = {option: name for name, model in MODELS.own() for option in model.options} | {
    ARGUMENTS: "a network of your own, FILE.py:NAME",
    **dict.fromkeys(NORMALISATION, "a network of your own, FILE.onnx"),
}
