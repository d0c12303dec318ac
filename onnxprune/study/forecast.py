"""How long points will take: by the pace of finished ones, or of a moment of training on made-up images."""

import glob
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from onnxprune.bridge.start import make_network
from onnxprune.common.files import read_json
from onnxprune.common.output import muted
from onnxprune.models import model_title
from onnxprune.results import store
from onnxprune.settings.budget import base_epochs, epochs_after_base
from onnxprune.settings.point import BASES, FIELDS, Point
from onnxprune.settings.vocabulary import TECHNIQUES
from onnxprune.study.estimate import images_of, shape_of
from onnxprune.study.finished import Finished
from onnxprune.study.pool import worker_count
from onnxprune.training.device import select_device
from onnxprune.training.loop import pooling_first
from onnxprune.training.onednn import answers

_MOST_RECORDS = 50  # that a pace is taken from
_PROBE_SECONDS = 0.25  # a plan of three models tries 24 trainings
_PROBE_IMAGES = 64  # an update at most: the pace of larger batches is about the same
_MEASURING = 0.15  # of an epoch's training: testing a file twice and validating it take about as long
_OVERHEAD = 1.0  # seconds of a point beside training, testing and timing: pruning, export, checks
_LEAST_SHARE = 0.15  # of the training of the whole network, for what its narrowest takes


@dataclass(frozen=True)
class Forecast:
    """
    Attributes:
        seconds: from now to the end.
        source: what it is known by.
        workers: points at a time.
        done: points that are not run again.
    """

    seconds: float
    source: str
    workers: int
    done: int


_OF_PACE = ("model", "device", "precision", "devices")  # with the options of the model, and threads


@dataclass(frozen=True)
class _Pace:
    """Of one training of a whole network: images a second, and seconds beside it."""

    images: float
    other: float


def forecast(points: Sequence[Point], finished: Finished, runs: Path, workers: int | None = None) -> Forecast:
    """How long points take on this machine.

    Args:
        finished: what is not run again.
        runs: where finished points of the same networks and data are, by whose pace others are judged.
        workers: processes that run points side by side; None: as many as a run would have.

    Raises:
        InputError: a network cannot be built, or a user's own data cannot be used.
    """
    missing = [point for point in points if finished.record(point) is None]
    bases_of = {tuple(point.base_settings().items()): point for point in missing}
    workers = max(1, worker_count(missing) if workers is None else min(workers, len(missing)))
    paces = _Paces(runs)
    bases = [paces.seconds(point, base=True) for point in bases_of.values() if not finished.has_base(point)]
    seconds = sum(bases) + sum(paces.seconds(point, base=False) for point in _made(points, missing)) / workers
    source = f"a probe of {_PROBE_SECONDS:g} s of training on random images" if paces.probed else "finished points"
    return Forecast(seconds, source, workers, len(points) - len(missing))


def _made(points: Sequence[Point], missing: Sequence[Point]) -> list[Point]:
    """Those of the missing points that make a network of their own: what loses nothing is one network, whatever the
    technique."""
    left = set(missing)
    firsts: dict[object, Point] = {}
    for point in sorted(points, key=left.__contains__):  # a finished one has made it
        if not point.sparsity:
            treatment = (*point.base_settings().items(), point.schedule, point.control == "scratch")
            firsts.setdefault(treatment, point)
    return [point for point in missing if point.sparsity or point in firsts.values()]


def _share(settings: Mapping[str, Any]) -> float:
    """What training a point takes of what it took without pruning: a network that is narrower by then takes less, as
    most of its work is between two layers."""
    shrinks = TECHNIQUES[settings["technique"]].unit == "channel" and settings.get("granularity") == "unit"
    if not shrinks or settings["schedule"] != FIELDS["schedule"].default:
        return 1.0
    return _LEAST_SHARE + (1 - _LEAST_SHARE) * (1 - settings["sparsity"] / 100) ** 2


class _Paces:
    """Those of the networks of a plan; `probed` says whether any had to be tried."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._known: dict[tuple[object, ...], _Pace] = {}
        self._tried = cache(_probed)
        self.probed = False

    def seconds(self, point: Point, *, base: bool) -> float:
        """What a point takes, or the base that it starts from."""
        count = images_of(point)
        key = (point.model, point.dataset, point.batch_size, point.threads, tuple(point.model_options.items()), base)
        if key not in self._known:
            found = _finished_pace(point, self._runs, base)
            self.probed |= found is None
            self._known[key] = found or self._probed_pace(point, count, base)
        pace = self._known[key]
        if base:
            return base_epochs(point, count) * count / pace.images + pace.other
        passes = epochs_after_base(point, count) * _share(point.settings())
        return passes * count / pace.images + pace.other + point.latency_seconds

    def _probed_pace(self, point: Point, count: int, base: bool) -> _Pace:
        """Of a network on images of its shape, whatever the dataset: a base has all cores, a point its threads."""
        size = min(point.batch_size, _PROBE_IMAGES, count)
        threads = torch.get_num_threads() if base else point.threads
        options = tuple(point.model_options.items())
        with muted():
            pace = self._tried(point.model, options, *shape_of(point), size, point.device, threads)
        return _Pace(pace, _OVERHEAD + _MEASURING * count / pace)


def _finished_pace(point: Point, runs: Path, base: bool) -> _Pace | None:
    """Of what is finished of the same network and data; None where nothing is."""
    prefix = glob.escape(f"{model_title(point.model)}-{point.dataset_title}-b{point.batch_size}-")
    column = "base_training" if base else "training"
    found = []
    folders = (runs / BASES).glob(f"{prefix}*") if base else runs.glob(f"*/{prefix}*")
    for folder in folders:
        record, config = store.finished_record(folder), read_json(folder / store.CONFIG)
        if record is None or config is None or (folder.parent.name == BASES) != base:
            continue
        decisive = {name: getattr(point, name) for name in _OF_PACE} | point.model_options
        decisive |= {} if base else {"threads": point.threads}
        same = all(config.get(name) == value for name, value in decisive.items())
        metrics, took = record["metrics"], record.get("wall_seconds")
        if same and took is not None and metrics.get(f"{column}_images_per_second"):
            beside = took - metrics[f"{column}_seconds"] - (0 if base else config["latency_seconds"])
            share = 1.0 if base else _share(config)
            found.append(_Pace(share * metrics[f"{column}_images_per_second"], max(0.0, beside)))
        if len(found) == _MOST_RECORDS:
            break
    if not found:
        return None
    return _Pace(median(pace.images for pace in found), median(pace.other for pace in found))


def _probed(
    model: str,
    options: tuple[tuple[str, object], ...],
    shape: tuple[int, int, int],
    classes: int,
    size: int,
    device_name: str,
    threads: int,
) -> float:
    """Images a second of updates on `size` random images each."""
    device = select_device(device_name)
    network = make_network(model, shape, classes, 0, dict(options)).to(device).train()
    images = torch.rand(size, *shape, device=device)
    labels = torch.randint(max(1, classes), (size,), device=device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _update(network, images[:2], labels[:2])  # the first one sets up
        begun, done = time.perf_counter(), 0
        while done == 0 or time.perf_counter() - begun < _PROBE_SECONDS:
            _update(network, images, labels)
            done += 1
        return done * size / (time.perf_counter() - begun)
    finally:
        torch.set_num_threads(before)


def _update(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    network.zero_grad()
    with pooling_first(network):  # as in training
        loss = F.cross_entropy(answers(network, images), labels)
        if loss.requires_grad:
            loss.backward()
    loss.item()  # waits for the device
