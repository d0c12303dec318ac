"""Whether points can be pruned as they ask, seen on untrained networks before anything is trained."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.common.errors import InputError, RunError, StorageError, described
from onnxprune.common.output import silenced
from onnxprune.common.temporary import temporary_folder
from onnxprune.data.dataset import Dataset, Split
from onnxprune.models import reference
from onnxprune.settings.point import Point
from onnxprune.study.jobs import Materials

if TYPE_CHECKING:
    from torch import nn

_IMAGES = 8  # that criteria get to look at


def check_prunable(points: Iterable[Point], materials: Materials) -> None:
    """Exports each network once and asks each technique and criterion once what it would look at.

    Raises:
        InputError: with a line for each combination that cannot be pruned, or whose weights do not fit.
        RunError: weights cannot be downloaded.
    """
    with silenced():  # first: what is not installed is no fault of a network
        import onnxprune.bridge.export
        import onnxprune.pruning.decide  # noqa: F401
    problems: dict[str, None] = {}  # ordered, each once
    seen = set()
    exported = cache(_exported)
    for point in points:
        dataset = materials.dataset(point)
        network = (point.model, dataset.input_shape, dataset.classes, tuple(point.model_options.items()), point.weights)
        combination = (*network, point.technique, point.criterion, point.granularity, point.control, point.keep)
        if combination in seen:
            continue
        seen.add(combination)
        try:
            with silenced():
                _check(exported(*network), point, dataset)
        except (OSError, RunError):  # a full disk or a download that fails say nothing of the network
            raise
        except Exception as error:  # networks and criteria of other packages raise anything
            problems[f"model '{point.model}': {reference.said(point.model, error)}"] = None
    if problems:
        raise InputError("\n".join(problems))


def _exported(
    model: str,
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
    options: tuple[tuple[str, object], ...],
    weights: str | None,
) -> "nn.Module":
    """A network before its training, which can be exported and gives a logit a class, where there are classes."""
    import torch

    from onnxprune.bridge.coupling import heads
    from onnxprune.bridge.export import export, network_answers
    from onnxprune.bridge.graph_network import GraphNetwork
    from onnxprune.bridge.start import make_network
    from onnxprune.bridge.tracing import check_traced
    from onnxprune.training.transfer import load_weights

    network = make_network(model, shape, len(classes), 0, dict(options))
    if weights is not None:
        load_weights(network, weights, classes, lambda: heads(network, shape))
    with temporary_folder() as folder:
        path = Path(folder) / "network.onnx"
        try:
            export(network, path, shape)
        except (OSError, StorageError):
            raise
        except Exception as error:  # the exporter's own, of many kinds
            raise InputError(f"the network cannot be exported: {described(error)}") from error
        found = network_answers(network, torch.zeros(2, *shape)).shape
        if classes and found != (2, len(classes)):
            raise InputError(f"the network gives {found} for two images, expected {(2, len(classes))}: a logit a class")
        if not isinstance(network, GraphNetwork):  # which is what the file says
            check_traced(network, path, shape)
    return network


def _check(network: "nn.Module", point: Point, dataset: Dataset) -> None:
    import torch

    from onnxprune.pruning.decide import check
    from onnxprune.pruning.request import Request
    from onnxprune.training.batches import Batches

    criterion = "random" if point.control == "random" else point.criterion
    request = Request.of(point, criterion=criterion)
    images = Split(dataset.train.images[:_IMAGES], dataset.train.labels[:_IMAGES])
    check(network, request, Batches(images, dataset.mean, dataset.std, torch.device("cpu")))
