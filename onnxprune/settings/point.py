"""One point: what is trained, pruned and measured, and the names of its results.

The fields of `Point` are the single declaration of every setting: the command line's options, the keys of a spec
file and the arguments of the Python functions are all read off them.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxprune.common.errors import InputError
from onnxprune.common.files import digest
from onnxprune.common.sent_files import sent_or_here
from onnxprune.common.widths import DEFAULT_STEP
from onnxprune.data.registry import DATASETS, canonical_name, title_of
from onnxprune.models import MODELS, OPTIONS, model_title, own_digest, own_files, reference
from onnxprune.settings.training_words import ALSO, AUGMENTATIONS, DEVICES, IMAGENET, PRECISIONS, STEMS
from onnxprune.settings.values import (
    arguments,
    channel_step,
    height_and_width,
    name_in,
    optional,
    pixel_numbers,
    plain_text,
    real_number,
    truth_value,
    whole_number,
)
from onnxprune.settings.vocabulary import CONTROLS, GRANULARITIES, SCHEDULES, TECHNIQUES

SCHEMA = 6  # part of every id: raised when the same settings come to mean another result, as by another default

MAX_NAME = 100  # characters: with what ids add it stays below the 255 that file systems allow

BASES = "bases"  # beside the sweeps' folders, so no sweep's name

# what decides a base, beside the model's own options
_BASE_SETTINGS = (
    "model",
    "dataset",
    "batch_size",
    "seed",
    "epochs",
    "updates",
    "learning_rate",
    "augment",
    "precision",
    "train_limit",
    "image_size",
    "weights",
    "freeze_features",
    "devices",
    "device",
    "also",  # which the base gets too
)

# Ids name these whatever their values. A setting that came later is named only where it differs from its default, so
# that what was finished before keeps its name.
_IN_EVERY_ID = frozenset(
    (
        *(name for name in _BASE_SETTINGS if name not in ("image_size", "updates", "also")),
        *("technique", "criterion", "schedule", "granularity", "sparsity", "control"),
        *("finetune_epochs", "finetune_learning_rate", "rounds", "rewind_epoch", "max_drop", "distill"),
        *("recalibrate", "compensate", "keep_dead", "channel_align", "hidden", "batch_norm", "stem"),
        *("threads", "latency_batch", "latency_threads", "latency_seconds"),
    )
)

BASE_FIELDS = (*_BASE_SETTINGS, *OPTIONS)


def _model_name(value: Any) -> str:
    """The canonical name of a model, or the reference to the code that builds it."""
    return reference.reference_to(value) if callable(value) else MODELS.canonical(plain_text(value))


def _dataset_name(value: Any) -> str:
    """The canonical name of data; a path is one, though a dataset has its name."""
    is_folder = isinstance(value, Path) and value.suffix != ".npz"
    return canonical_name(plain_text(os.path.join(os.curdir, value) if is_folder else value))  # noqa: PTH118 - keeps ./


def content_hash(value: Any) -> str:
    """Eight hex digits of the SHA-256 of a JSON value in canonical form."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def told(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What ids tell of settings: of a network of the user's own the name, and not how the way to it was spelled."""
    found = {name: value for name, value in settings.items() if name in _IN_EVERY_ID or value != FIELDS[name].default}
    return {**found, "model": model_title(settings["model"])} if "model" in found else found


def _setting(default: Any, help: str, parse: Callable[[Any], Any], axis: bool = False) -> Any:
    """A field of a point: its default, its help text, its check, and whether a sweep may take several values."""
    return dataclasses.field(default=default, metadata={"help": help, "parse": parse, "axis": axis})


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network, trained, pruned and measured: one row of the results.

    `Sweep` builds them, checked and normalised; the help text of each field says what it is.
    """

    model: str = _setting(
        "cnn",
        "network: " + ", ".join(MODELS) + "; FILE.py:NAME or package.module:NAME, your own code; or FILE.onnx, a "
        "trained one",
        _model_name,
        axis=True,
    )
    dataset: str = _setting(
        "digits",
        "data: " + ", ".join(DATASETS) + "; FILE.npz with x_train, y_train, x_test, y_test; or FOLDER with a folder of "
        "pictures for each class; for a FILE.onnx images without labels too",
        _dataset_name,
        axis=True,
    )
    batch_size: int = _setting(
        256, "images per training update; if there are fewer, all of them", whole_number(1), axis=True
    )
    technique: str = _setting("weight", "what is removed: " + ", ".join(TECHNIQUES), name_in(TECHNIQUES), axis=True)
    criterion: str = _setting(
        None,
        "how importance is judged; 'onnxprune techniques' lists them  [default: the technique's]",
        optional(plain_text),
        axis=True,
    )
    schedule: str = _setting(
        "one-shot", "when weights are removed: " + ", ".join(SCHEDULES), name_in(SCHEDULES), axis=True
    )
    granularity: str = _setting(
        "unit", "what structured removes: units, or whole layers (layer)", name_in(GRANULARITIES), axis=True
    )
    sparsity: float = _setting(
        50.0, "percent of units to remove; with schedule adaptive, at most", real_number(0, 100), axis=True
    )
    control: str = _setting(
        "none",
        "run a control in place of the criterion's choice: " + ", ".join(CONTROLS),
        name_in(CONTROLS),
        axis=True,
    )
    seed: int = _setting(0, "random seed of initial weights, data order and random choices", whole_number(0), axis=True)
    # None: the model's, with more where these are few updates (`onnxprune.settings.budget`)
    epochs: int | None = _setting(
        None,
        "training epochs of the unpruned network  [default: the model's, more if that is few updates]",
        optional(whole_number(0, 100_000)),
    )
    updates: int | None = _setting(
        None, "training updates of the unpruned network, instead of epochs", optional(whole_number(0, 10_000_000))
    )
    finetune_epochs: int | None = _setting(
        None,
        "training epochs after pruning  [default: the model's, more if that is few updates]",
        optional(whole_number(0, 100_000)),
    )
    # None here and in `criterion` stands for the model's and the technique's default; a plan's points have none left
    learning_rate: float = _setting(
        None,
        "peak learning rate at batch 256; it grows with the root of the batch size, up to 256, that of the slp up to "
        "512, and that of the slp falls with the root of the inputs beyond 784; the cnn has less of it in 13 to "
        "75 updates  [default: the model's]",
        optional(real_number(1e-9, 1e6)),
    )
    finetune_learning_rate: float = _setting(
        None,
        "the same for fine-tuning; but for the slp and trained files it falls in proportion with fewer updates than "
        "150 or the base's, and with --distill D to a share of 1 / (1 + 2 D)  [default: the model's]",
        optional(real_number(1e-9, 1e6)),
    )
    rounds: int = _setting(
        None,
        "steps of iterative, agp, linear, lottery and adaptive  [default: the schedule's]",
        optional(whole_number(1, 1000)),
    )
    rewind_epoch: int = _setting(0, "epoch whose weights lottery rewinds to; 0: the initial weights", whole_number(0))
    max_drop: float = _setting(
        1.0, "percentage points of validation accuracy that adaptive may lose", real_number(0, 100)
    )
    distill: float = _setting(
        0.0,
        "share of the fine-tuning loss that is distilled from the unpruned network; 0: labels only",
        real_number(0, 1),
    )
    recalibrate: bool = _setting(False, "estimate BatchNorm's statistics again after one-shot pruning", truth_value)
    compensate: bool = _setting(
        False, "add the constant outputs of removed units to the next biases; one-shot", truth_value
    )
    keep_dead: bool = _setting(False, "keep units in the exported file that no output depends on", truth_value)
    also: str | None = _setting(
        None,
        "also write and measure a second file of each network and of the base: " + ", ".join(ALSO),
        optional(name_in(ALSO)),
    )
    weights: str | None = _setting(
        None,
        "start from these weights instead of random ones: safetensors or a PyTorch state dict, such as the checkpoint "
        "of another study; or imagenet (densenet121)",
        optional(plain_text),
    )
    freeze_features: bool = _setting(False, "train only the last layer of the unpruned network", truth_value)
    augment: str = _setting(
        "none", "random changes of training images: " + ", ".join(AUGMENTATIONS), name_in(AUGMENTATIONS)
    )
    precision: str = _setting(
        "fp32",
        "number type of training: fp32, bf16 or fp16 (autocast; the exported file stays fp32); fp16 is for GPUs",
        name_in(PRECISIONS),
    )
    train_limit: int | None = _setting(
        None,
        "train on a random sample of N images only, with the classes in their proportions; the seed decides which",
        optional(whole_number(1)),
    )
    image_size: str | None = _setting(
        None,
        "HEIGHTxWIDTH that pictures of a folder are resized to, or one number for both  [default: their own]",
        optional(height_and_width),
    )
    hidden: int = _setting(128, "hidden units of the slp; 0: none", whole_number(0, 1_000_000))
    batch_norm: bool = _setting(False, "BatchNorm in the cnn", truth_value)
    stem: str = _setting("imagenet", "first layers of densenet121: imagenet or small", name_in(STEMS))
    model_args: str | None = _setting(None, "arguments for your own network: '{\"width\": 64}'", optional(arguments))
    mean: str | None = _setting(
        None,
        "mean of pixels in [0, 1], for a FILE.onnx whose metadata lack it: one number, or one per channel, "
        "separated by commas  [default: the usual ones are tried]",
        optional(pixel_numbers(-1e6)),
    )
    std: str | None = _setting(
        None, "standard deviation of those pixels, given like --mean", optional(pixel_numbers(1e-9))
    )
    keep: str | None = _setting(
        None, "layers not to prune, separated by commas: names as in the state dict", optional(plain_text)
    )
    # "auto" is a number before anything is run (`onnxprune.study.alignment`)
    channel_align: int = _setting(
        DEFAULT_STEP,
        "convolutions of 32 channels or more keep a multiple of this number, or of a half, a quarter, ... of it "
        "where fewer would be left; 1: any number; auto: measure which multiple is fast on this machine",
        channel_step,
    )
    threads: int = _setting(1, "CPU threads of each point; points run side by side", whole_number(1, 1024))
    devices: int = _setting(
        1,
        "processes that train one network together, each on its own GPU or its share of the CPU cores",
        whole_number(1, 64),
    )
    device: str = _setting("cpu", "where training and inference run: cpu or cuda", name_in(DEVICES))
    latency_batch: int = _setting(32, "images per timed inference", whole_number(1, 1_000_000))
    latency_threads: int = _setting(1, "threads of timed inference", whole_number(1, 1024))
    latency_seconds: float = _setting(
        1.0,
        "seconds of timing per point at most; it ends once the speedup is known to 2 %; 0: no timing",
        real_number(0, 86_400),
    )

    @property
    def model_options(self) -> dict[str, Any]:
        """The settings that the model's `build` takes."""
        return {name: getattr(self, name) for name in MODELS[self.model].options}

    @property
    def dataset_title(self) -> str:
        """The dataset's name, or that of its file or folder, shortened to what a folder's name can hold."""
        return title_of(self.dataset).encode()[:MAX_NAME].decode(errors="ignore")

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """(height, width) that pictures of a folder are resized to; None: their own."""
        if self.image_size is None:
            return None
        height, width = map(int, self.image_size.split("x"))
        return height, width

    @property
    def sample(self) -> tuple[int | None, int]:
        """How many training images are used, None for all, and the seed that decides which; 0 where it has no say."""
        return self.train_limit, self.seed if self.train_limit is not None else 0

    def base_settings(self) -> dict[str, Any]:
        """The settings that decide the base: equal ones share it."""
        return {name: getattr(self, name) for name in _BASE_SETTINGS} | self.model_options

    def settings(self) -> dict[str, Any]:
        """The settings that decide the point's result; those without effect on it are left out."""
        names = [
            "technique",
            "criterion",
            "schedule",
            "sparsity",
            "control",
            "keep",
            "keep_dead",
            "threads",
            "latency_batch",
            "latency_threads",
            "latency_seconds",
        ]
        names += SCHEDULES[self.schedule].settings
        if TECHNIQUES[self.technique].unit == "channel":
            names += ["granularity"]
        shrinks = TECHNIQUES[self.technique].unit == "channel" and self.granularity == "unit"
        if shrinks or not self.keep_dead:
            names += ["channel_align"]
        return self.base_settings() | {name: getattr(self, name) for name in names}

    @property
    def dead_align(self) -> int | None:
        """What widths are a multiple of once dead units have left the file; None: they stay."""
        return None if self.keep_dead else self.channel_align

    @property
    def kept_layers(self) -> tuple[str, ...]:
        """Names of the layers that lose nothing."""
        return tuple(name.strip() for name in (self.keep or "").split(",") if name.strip())

    def base_id(self, checksum: str) -> str:
        """Readable name and hash of all that decides the base, the data's checksum included."""
        title = f"{model_title(self.model)}-{self.dataset_title}-b{self.batch_size}-seed{self.seed}"
        return f"{title}-{content_hash([SCHEMA, checksum, told(self.base_settings()), *self._sources()])}"

    def point_id(self, checksum: str) -> str:
        """Readable name and hash of all that decides the point, the data's checksum included."""
        title = (
            f"{model_title(self.model)}-{self.dataset_title}-b{self.batch_size}-{self.technique}-{self.criterion}"
            f"-s{self.sparsity:g}-seed{self.seed}"
        )
        return f"{title}-{content_hash([SCHEMA, checksum, told(self.settings()), *self._sources()])}"

    def source_files(self) -> list[Path]:
        """The files that the settings name beside the data, and that decide the result: of weights and of the model.

        Raises:
            InputError: one is not there.
        """
        weights = [] if self.weights in (None, IMAGENET) else [Path(str(self.weights))]
        return weights + own_files(self.model)

    def _sources(self) -> list[str]:
        """What ids say of the files that the settings name: their content."""
        own = own_digest(self.model)
        return [*_weights_digest(self.weights), *([] if own is None else [own])]


def _weights_digest(weights: str | None) -> list[str]:
    """What ids say of a file of weights: its content, wherever it is."""
    if weights is None or weights == IMAGENET:
        return []
    found = digest(sent_or_here(weights))
    if found is None:
        raise InputError(f"cannot read the weights {weights}: they are no file, or not yours to read")
    return [found]


FIELDS = {field.name: field for field in dataclasses.fields(Point)}

AXES = tuple(name for name, field in FIELDS.items() if field.metadata["axis"])
