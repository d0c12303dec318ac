"""Whether a file is all of its network: the exporter runs it once, and writes down what it does with those images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from onnxprune.analysis.evaluation import as_logits
from onnxprune.bridge.export import INPUT_NAME, parity
from onnxprune.common.errors import InputError, RunError, described, one_line
from onnxprune.runtime.session import open_session

_IMAGES = 3  # one more than the exporter gets
_RELATIVE = 1e-3


def check_traced(network: nn.Module, path: Path, input_shape: tuple[int, int, int]) -> None:
    """Looks whether the file that was exported computes what a classifier does, for other images and another number of
    them.

    Args:
        input_shape: (C, H, W) of one image.

    Raises:
        InputError: it does not, with the reason; or the network gives probabilities.
    """
    images = torch.randn(_IMAGES, *input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), _Followed(images):
        answers = network(images)
    try:
        session = open_session(path)
    except InputError as error:
        raise InputError(f"its exported file does not run: {str(error).removeprefix(f'{path}: ')}") from error
    try:
        (found,) = session.run(None, {INPUT_NAME: images.numpy()})
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(
            f"its exported file takes no {_IMAGES} images at a time: sizes in the network's code must follow from its "
            f"input, as x.shape[0] does, and len(x) and int(x.shape[0]) do not ({one_line(error)})"
        ) from error
    if not np.isfinite(found).all():
        raise InputError("the network's answers are no finite numbers: weights may be NaN, or never set")
    if as_logits(found) is not found:
        raise InputError("the network gives probabilities, expected logits: leave out the softmax at its end")
    try:
        parity(network, found, images)
    except RunError as error:
        raise InputError(
            f"{error}: in evaluation mode the network draws random numbers, or does what ONNX defines in another way"
        ) from None
    try:
        with torch.no_grad():
            alone = torch.cat([network(image) for image in images.split(1)])
    except Exception as error:  # the network's own, of many kinds
        raise InputError(f"it does not take a single image: {described(error)}") from error
    if alone.shape != answers.shape:
        raise InputError(
            f"it gives {tuple(alone.shape)} for {_IMAGES} images one by one, {tuple(answers.shape)} for all at once: a "
            "squeeze() takes the first axis of a single image too, unless it is told which axes to take"
        )
    if not torch.allclose(alone, answers, rtol=_RELATIVE, atol=_RELATIVE * max(1.0, float(answers.abs().max()))):
        raise InputError(
            "its answer to an image depends on the other images of a batch: in evaluation mode nothing may be computed "
            "over the first axis"
        )


class _Followed(TorchDispatchMode):
    """Refuses that Python gets to see a number that depends on the images."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self._found = {id(images): images}  # kept, so that no other tensor gets their place in memory

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        output = function(*arguments, **(keywords or {}))
        if any(id(value) in self._found for value in tree_leaves((arguments, keywords))):
            if function is torch.ops.aten._local_scalar_dense.default:
                raise InputError(
                    "what the network does next depends on the numbers in its images, which a file cannot express: "
                    "choose by torch.where, not by `if`"
                )
            self._found |= {id(value): value for value in tree_leaves(output) if isinstance(value, Tensor)}
        return output
