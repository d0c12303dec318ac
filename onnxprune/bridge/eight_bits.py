"""The second file of a network, in 8 bits, and what is measured on it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from onnxprune.analysis.evaluation import as_logits, score
from onnxprune.bridge.export import write_metadata
from onnxprune.common.errors import InputError
from onnxprune.common.files import compressed_bytes
from onnxprune.data.dataset import Dataset
from onnxprune.graph.counting import count
from onnxprune.graph.metadata import Normalisation
from onnxprune.graph.network import metadata
from onnxprune.quantization.conversion import Converter, kinds_of
from onnxprune.quantization.preparation import prepare
from onnxprune.quantization.quantize import provenance
from onnxprune.quantization.settings import QuantizeSettings
from onnxprune.reduction.samples import as_input, batch_places
from onnxprune.runtime.session import open_session, run_batched

SETTINGS = QuantizeSettings()  # those of `onnxprune quantize`
_COLUMNS = (
    "accuracy", "top5_accuracy", "cross_entropy", "validation_accuracy", "macs", "file_bytes", "bytes_compressed",
    "collapsed",
)  # fmt: skip


def measure_int8(path: Path, target: Path, dataset: Dataset, device: torch.device, batch: int) -> dict[str, Any]:
    """Quantises the file at `path` to `target` and measures that; without the prefix, columns are those of the file.

    Ranges are found on training images, the same for all networks. Where the network cannot be quantised, there is no
    file, every column is None, and `missing` says why.

    Args:
        batch: images that are run at once.
    """
    try:
        _write(path, target, dataset)
    except InputError as error:
        return dict.fromkeys(_COLUMNS) | {"missing": str(error).removeprefix(f"{path}: ")}
    session = open_session(target, device=device.type, threads=torch.get_num_threads())
    test, validation = (
        score(as_logits(run_batched(session, split.images, dataset.mean, dataset.std, batch)), split.labels)
        for split in (dataset.test, dataset.validation)
    )
    write_metadata(target, {"accuracy": test.accuracy})
    counts = count(target)
    found = (
        test.accuracy, test.top5_accuracy, test.cross_entropy, validation.accuracy, counts.macs_by_type.get("int8", 0),
        counts.file_bytes, compressed_bytes(target), test.collapsed,
    )  # fmt: skip
    return dict(zip(_COLUMNS, found, strict=True))


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
