"""From a PyTorch network to the ONNX file that is measured and deployed, and the check that they agree."""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.onnx import TrainingMode
from torch.utils._python_dispatch import _disable_current_modes

from onnxprune.bridge.graph_network import GraphNetwork
from onnxprune.common.errors import RunError
from onnxprune.common.files import replacing
from onnxprune.training.device import device_of

OPSET = 18
INPUT_NAME = "input"
OUTPUT_NAME = "logits"
_ANSWERED_AT_ONCE = 64  # images

# that of torch.nn.utils.parametrizations.spectral_norm, of real numbers; the exporter only has `dot`
torch.onnx.register_custom_op_symbolic("aten::vdot", lambda graph, *vectors: graph.op("MatMul", *vectors), OPSET)


def export(network: nn.Module, path: Path, input_shape: tuple[int, ...], *, named: bool = False) -> None:
    """Writes `network` as a single ONNX file: float32 `input` (batch, C, H, W) to `logits` (batch, classes).

    The TorchScript exporter is used: for these networks it gives the graph of the newer one, ten times faster. The
    file passes onnx.checker with shape inference before it gets its name. A network that is an ONNX graph is written as
    that, with the inputs and outputs that it has.

    Args:
        named: nothing is folded into weights, so that all keep the names of the network's parameters.
    """
    if isinstance(network, GraphNetwork):
        network.save(path, named=named)
        return
    images = torch.zeros(2, *input_shape, device=device_of(network))
    # the exporter fails where operators are counted as they run, and what it runs is no cost of pruning
    with replacing(path) as partial, _disable_current_modes(), _of_images_alone(network):
        torch.onnx.export(
            network.eval(),
            (images,),
            str(partial),
            dynamo=False,
            do_constant_folding=not named,
            training=TrainingMode.PRESERVE if named else TrainingMode.EVAL,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_axes={INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}},
        )
        onnx.checker.check_model(str(partial), full_check=True)


@contextlib.contextmanager
def _of_images_alone(network: nn.Module) -> Iterator[None]:
    """Within the block `forward` takes nothing else: the exporter would give it the defaults of all that it takes, by
    their places, and some go by their names alone."""
    forward, own = network.forward, vars(network).get("forward")
    network.forward = lambda images: forward(images)
    try:
        yield
    finally:
        del network.forward
        if own is not None:
            network.forward = own


def network_answers(network: nn.Module, images: Tensor) -> np.ndarray:
    """Logits (N, classes), float32, of normalised images (N, C, H, W) by PyTorch; or other answers (N, numbers)."""
    with torch.no_grad():  # in inference mode operators are not those whose FLOPs can be counted
        return torch.cat([network(piece) for piece in images.split(_ANSWERED_AT_ONCE)]).cpu().numpy()


def parity(network: nn.Module, onnx_answers: np.ndarray, images: Tensor) -> float:
    """The largest absolute difference between the network's answers and those of its ONNX file on the same images.

    Args:
        onnx_answers: logits (N, classes) or other numbers (N, numbers), from onnxruntime.
        images: (N, C, H, W), normalised.

    Raises:
        RunError: they differ by more than a thousandth of the largest answer: the export is not the network.
    """
    reference = network_answers(network, images)
    difference = float(np.abs(reference - onnx_answers).max())
    allowed = 1e-3 * max(1.0, float(np.abs(reference).max()))
    if not difference <= allowed:
        raise RunError(
            f"the exported file does not compute what the network does: answers differ by {difference:.3g}, "
            f"rounding explains at most {allowed:.3g}"
        )
    return difference


def write_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Adds what a deployer needs to the file's metadata_props; values that are not strings are written as JSON, None
    takes an entry out."""
    model = onnx.load(path)
    found = {entry.key: entry.value for entry in model.metadata_props} | _as_texts(metadata)
    kept = {name: text for name, text in found.items() if metadata.get(name, "") is not None}
    onnx.helper.set_model_props(model, kept)
    with replacing(path) as partial:
        onnx.save(model, partial)


def replace_metadata(path: Path, names: Collection[str], metadata: Mapping[str, Any]) -> None:
    """Gives a file other metadata in place of those of these names, at the place of the first of them."""
    model = onnx.load(path)
    before = {entry.key: entry.value for entry in model.metadata_props}
    found: dict[str, str] = {}
    for name, text in before.items():
        found |= _as_texts(metadata) if name in names else {name: text}
    onnx.helper.set_model_props(model, found)
    with replacing(path) as partial:
        onnx.save(model, partial)


def _as_texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
