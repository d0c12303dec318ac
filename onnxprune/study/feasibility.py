"""Whether points can be pruned as they ask, seen on untrained networks before anything is trained."""

import contextlib
import copy
import pickle
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from onnxprune.common.errors import InputError, RunError, StorageError, described
from onnxprune.common.output import muted, printable, silenced
from onnxprune.common.temporary import temporary_folder
from onnxprune.data.dataset import Dataset, Split
from onnxprune.models import reference
from onnxprune.settings.point import Point
from onnxprune.settings.vocabulary import TECHNIQUES
from onnxprune.study.jobs import Materials

if TYPE_CHECKING:
    from torch import nn

_IMAGES = 8  # that criteria get to look at


def check_prunable(points: Sequence[Point], materials: Materials) -> None:
    """Exports each network once and asks each technique and criterion once what it would look at. Which layers keep all
    of their units, beside the classifier, and which are of no kind that is pruned, is among the notes of the materials
    then.

    Raises:
        InputError: with a line for each combination that cannot be pruned, or whose weights do not fit.
        RunError: weights cannot be downloaded.
    """
    with silenced():  # first: what is not installed is no fault of a network
        import onnxprune.bridge.export
        import onnxprune.pruning.decide  # noqa: F401
    problems: dict[str, None] = {}  # ordered, each once
    seen = set()
    of_channels = any(TECHNIQUES[point.technique].unit == "channel" for point in points)
    exported = cache(partial(_exported, of_channels))
    for point in points:
        dataset = materials.dataset(point)
        weights = None if point.weights is None else (point.weights, dataset.classes)  # whose head they decide
        network = (point.model, dataset.input_shape, len(dataset.classes), tuple(point.model_options.items()), weights)
        asked = (point.technique, point.criterion, point.granularity, point.control, point.keep, point.freeze_features)
        combination = (*network, *asked)
        if combination in seen:
            continue
        seen.add(combination)
        try:
            with muted():  # the exporter prints a whole graph past Python where it cannot go on
                untrained = exported(*network)
                _check(untrained, point, dataset)
                told = (_whole_layers(untrained, point, dataset.input_shape), _other_layers(untrained))
                if point.devices > 1:
                    _check_sendable(untrained)
            materials.notes |= {f"model '{point.model}': {note}": None for note in told if note}
        except (OSError, RunError):  # a full disk or a download that fails say nothing of the network
            raise
        except (Exception, SystemExit) as error:  # networks and criteria of other packages raise anything
            problems[f"model '{point.model}': {reference.said(point.model, error)}"] = None
    if problems:
        raise InputError("\n".join(problems))


def _check_sendable(network: "nn.Module") -> None:
    try:
        pickle.dumps(network)
    except Exception as error:  # it is the network that tells
        raise InputError(f"it cannot be sent to other processes: {described(error)}; expected --devices 1") from error


def _whole_layers(network: "nn.Module", point: Point, input_shape: tuple[int, int, int]) -> str | None:
    """What is said of layers that could lose units by their kind, and cannot by what is done with them."""
    from onnxprune.bridge.coupling import coupling

    if TECHNIQUES[point.technique].unit != "channel" or point.granularity != "unit":
        return None
    found = coupling(network, input_shape)
    layers: dict[str, list[str]] = {}
    for name, reason in found.frozen.items():
        if name not in found.heads:
            layers.setdefault(reason, []).append(name)
    if not layers:
        return None
    told = "; ".join(f"{', '.join(map(printable, names))} ({reason})" for reason, names in layers.items())
    return f"layers that keep all of their units: {told}"


def _other_layers(network: "nn.Module") -> str | None:
    """What is said of layers that no technique prunes, and of how much of the network is in them."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    others = (_ConvNd, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Bilinear, nn.Embedding, nn.EmbeddingBag)
    kinds: dict[str, list[str]] = {}
    numbers = 0
    for name, module in network.named_modules():
        if isinstance(module, others) and not isinstance(module, nn.Conv2d):
            kinds.setdefault(type(module).__name__, []).append(name)
            numbers += sum(parameter.numel() for parameter in module.parameters(recurse=False))
    if not kinds:
        return None
    share = 100 * numbers / sum(parameter.numel() for parameter in network.parameters())
    listed = "; ".join(f"{', '.join(map(printable, names))} ({kind})" for kind, names in kinds.items())
    return f"layers of kinds that are not pruned, with {share:.0f} % of the parameters: {listed}"


def _exported(
    of_channels: bool,
    model: str,
    shape: tuple[int, int, int],
    classes: int,
    options: tuple[tuple[str, object], ...],
    weights: tuple[str, tuple[str, ...]] | None,
) -> "nn.Module":
    """A network before its training, which can be exported and gives a logit a class, where there are classes.

    Args:
        of_channels: whether its channels will be asked for.
        weights: to start from, and the names of the classes.
    """
    import torch

    from onnxprune.bridge.coupling import coupling, heads
    from onnxprune.bridge.export import export, network_answers
    from onnxprune.bridge.graph_network import GraphNetwork
    from onnxprune.bridge.start import make_network
    from onnxprune.bridge.tracing import check_traced
    from onnxprune.models.copies import check_copied
    from onnxprune.training.transfer import load_weights

    network = make_network(model, shape, classes, 0, dict(options))
    if weights is not None:
        load_weights(network, *weights, lambda: heads(network, shape))
    with temporary_folder() as folder:
        path = Path(folder) / "network.onnx"
        try:
            export(network, path, shape)
        except (OSError, StorageError):
            raise
        except Exception as error:  # the exporter's own, of many kinds
            raise InputError(f"the network cannot be exported: {described(error)}") from error
        found = network_answers(network, torch.zeros(2, *shape)).shape
        if classes and found != (2, classes):
            raise InputError(f"the network gives {found} for two images, expected {(2, classes)}: a logit a class")
        if not isinstance(network, GraphNetwork):  # which is what the file says
            check_traced(network, path, shape)
            check_copied(network)
            trained = copy.deepcopy(network).train()
            trained(torch.zeros(2, *shape))
            check_copied(trained)
    if of_channels:
        with contextlib.suppress(InputError):  # told where it matters
            coupling(network, shape)  # before the parameters are asked for, which the same export tells
    return network


def _check(network: "nn.Module", point: Point, dataset: Dataset) -> None:
    import torch

    from onnxprune.bridge.coupling import heads
    from onnxprune.pruning.decide import check
    from onnxprune.pruning.request import Request
    from onnxprune.training.batches import Batches

    if point.freeze_features:
        heads(network, dataset.input_shape)
    criterion = "random" if point.control == "random" else point.criterion
    request = Request.of(point, criterion=criterion)
    images = Split(dataset.train.images[:_IMAGES], dataset.train.labels[:_IMAGES])
    check(network, request, Batches(images, dataset.mean, dataset.std, torch.device("cpu")))
