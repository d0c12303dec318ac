"""The second file of a network, in 8 bits, and what is measured on it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from onnxprune.bridge.export import write_metadata
from onnxprune.bridge.measure import judged
from onnxprune.common.errors import InputError
from onnxprune.common.files import compressed_bytes
from onnxprune.data.dataset import Dataset
from onnxprune.graph.counting import count
from onnxprune.graph.metadata import Normalisation
from onnxprune.graph.network import metadata
from onnxprune.quantization.conversion import Converter, kinds_of
from onnxprune.quantization.preparation import prepare
from onnxprune.quantization.quantized_network import provenance
from onnxprune.quantization.settings import QuantizeSettings
from onnxprune.reduction.samples import as_input, batch_places

SETTINGS = QuantizeSettings()  # those of `onnxprune quantize`
_ACCURACY = ("accuracy", "top5_accuracy", "cross_entropy", "validation_accuracy")
_FIDELITY = ("fidelity", "relative_error", "cosine", "agreement", "validation_fidelity")
_COSTS = ("macs", "file_bytes", "bytes_compressed", "collapsed")


def measure_int8(
    path: Path, target: Path, dataset: Dataset, device: torch.device, batch: int, original: Path
) -> dict[str, Any]:
    """Quantises the file at `path` to `target` and measures that; without the prefix, columns are those of the file.

    Ranges are found on training images, the same for all networks. Where the network cannot be quantised, there is no
    file, every column is None, and `missing` says why.

    Args:
        batch: images that are run at once.
        original: the base's file, by whose answers it is judged where there are no labels.
    """
    names = (*(_ACCURACY if dataset.labelled else _FIDELITY), *_COSTS)
    try:
        _write(path, target, dataset)
    except InputError as error:
        return dict.fromkeys(names) | {"missing": str(error).removeprefix(f"{path}: ")}
    test, validation = (
        judged(target, split, dataset, device, batch, original) for split in (dataset.test, dataset.validation)
    )
    quality = names[0]
    write_metadata(target, {name: test.columns.get(name) for name in ("accuracy", "fidelity")})
    counts = count(target)
    return {
        **test.columns,
        f"validation_{quality}": validation.percent,
        "macs": counts.macs_by_type.get("int8", 0),
        "file_bytes": counts.file_bytes,
        "bytes_compressed": compressed_bytes(target),
        "collapsed": test.collapsed,
    }


def _write(path: Path, target: Path, dataset: Dataset) -> None:
    prepared = prepare(path, kinds_of(SETTINGS))
    (value,) = prepared.source.model.graph.input
    normalisation = Normalisation(tuple(dataset.mean), tuple(dataset.std))
    images = dataset.train.images
    chosen = np.random.default_rng(SETTINGS.seed).permutation(len(images))[: SETTINGS.samples]
    batches = [
        {value.name: as_input(images[chosen[places]], value, normalisation)}
        for places in batch_places(len(chosen), prepared.source.fixed_batch)
    ]
    with Converter(prepared, SETTINGS, batches, path) as converter:
        network = converter.convert()
    kept = [layer.name for layer in prepared.layers if layer.obstacle is not None]
    properties = metadata(prepared.source.model)
    onnx.helper.set_model_props(network.model, {**properties, **provenance(path, SETTINGS, kept)})
    network.save(target)
