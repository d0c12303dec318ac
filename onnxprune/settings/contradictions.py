"""Which settings make no sense together, in words of the user's."""

from collections.abc import Iterator
from pathlib import Path

from onnxprune.data.registry import is_folder
from onnxprune.models import MODELS
from onnxprune.settings.point import Point
from onnxprune.settings.training_words import IMAGENET
from onnxprune.settings.values import shown
from onnxprune.settings.vocabulary import CRITERIA, SCHEDULES, TECHNIQUES, criteria_of


def contradictions(point: Point) -> list[str]:
    """Why these settings make no sense together; empty where they do."""
    return [
        problem
        for found in (_of_schedule, _of_control, _of_technique, _of_model, _of_training)
        for problem in found(point)
    ]


def _of_schedule(point: Point) -> Iterator[str]:
    schedule, unit = SCHEDULES[point.schedule], TECHNIQUES[point.technique].unit
    if unit not in schedule.units:
        able = ", ".join(name for name, entry in TECHNIQUES.items() if entry.unit in schedule.units)
        yield (
            f"schedule '{point.schedule}' moves single weights about: it is not for technique '{point.technique}', "
            f"but for {able}"
        )
    elif point.granularity not in schedule.granularities:
        able = ", ".join(name for name, entry in SCHEDULES.items() if point.granularity in entry.granularities)
        yield (
            f"schedule '{point.schedule}' is not for granularity '{point.granularity}', because whole layers cannot "
            f"be zero in place, but {able} are"
        )
    if point.schedule == "movement" and point.devices > 1:
        yield "schedule 'movement' trains in one process, because NNI does it: expected --devices 1"
    if point.schedule == "movement" and point.precision == "fp16":
        yield "schedule 'movement' is not for precision 'fp16', whose scaled losses its scores cannot take"
    if point.schedule == "movement" and point.finetune_epochs == 0:
        yield "schedule 'movement' needs training to see what moves: expected --finetune-epochs above 0"
    if point.schedule == "lottery" and point.granularity == "layer" and (point.rounds or 1) > 1:
        yield "schedule 'lottery' removes whole layers in one round: expected --rounds 1"


def _of_control(point: Point) -> Iterator[str]:
    schedule = SCHEDULES[point.schedule]
    if point.control in ("random", "layerwise-random") and schedule.criteria:
        yield f"control '{point.control}' is not for schedule '{point.schedule}', which is its own criterion"
    elif point.control == "random" and schedule.finds_sparsity:
        yield (
            f"control 'random' is not for schedule '{point.schedule}', which would remove another number of units by "
            "chance: take criterion random for how far that gets"
        )
    elif point.control == "scratch" and point.schedule != "one-shot":
        yield f"control 'scratch' is not for schedule '{point.schedule}' but for one-shot"
    elif point.control == "layerwise-random" and not schedule.controls:
        able = ", ".join(name for name, entry in SCHEDULES.items() if entry.controls)
        yield (
            f"control '{point.control}' is not for schedule '{point.schedule}', which decides several times, but for "
            f"{able}"
        )
    elif point.control == "layerwise-random" and point.granularity == "layer":
        yield "control 'layerwise-random' is not for granularity 'layer': a layer goes as a whole; use random"


def _of_technique(point: Point) -> Iterator[str]:
    technique = TECHNIQUES[point.technique]
    if point.compensate and (technique.unit == "weight" or point.granularity == "layer"):
        yield "compensate: it makes up for output units that are gone, of techniques neuron and structured"
    if point.granularity not in technique.granularities:
        yield f"granularity '{point.granularity}' is not for technique '{point.technique}' but for structured"
    if point.keep is not None and point.granularity == "layer":
        yield "keep: with granularity 'layer' whole layers go, and the model says which can"


def _of_model(point: Point) -> Iterator[str]:
    model, unit = MODELS[point.model], TECHNIQUES[point.technique].unit
    if model.trained:
        yield from _of_trained(point)
    elif unit == "weight" and point.criterion == "obs":
        yield "criterion 'obs' of single weights changes those that stay, which is for FILE.onnx: use l1"
    if point.granularity == "layer" and not model.removable_layers:
        able = ", ".join(name for name, entry in MODELS.items() if entry.removable_layers)
        yield f"granularity 'layer' is not for model '{point.model}', whose layers all are needed, but {able}"
    if unit == "channel" and point.model == "slp" and point.hidden == 0:
        yield (
            f"technique '{point.technique}' has nothing to prune in slp with --hidden 0: its only layer is the "
            "classifier, whose output units are the classes; use weight or unstructured"
        )
    if point.criterion == "slim" and not (model.batch_norm or ("batch_norm" in model.options and point.batch_norm)):
        yield f"criterion 'slim' needs BatchNorm, which {point.model} lacks; use cnn --batch-norm or densenet121"


def _of_trained(point: Point) -> Iterator[str]:
    """Of a network that has no weights but its own."""
    reason = f"model '{point.model}' is a trained file: it has no untrained weights"
    if not SCHEDULES[point.schedule].finetunes:
        able = ", ".join(name for name, entry in SCHEDULES.items() if entry.finetunes)
        yield f"schedule '{point.schedule}': {reason}, which this schedule starts from: expected {able}"
    if point.control == "scratch":
        yield f"control 'scratch': {reason}"
    if point.weights is not None:
        yield f"weights: {reason}, nor can it take others"
    if point.compensate:
        yield "compensate: what is left of a trained file is fitted to it anyway, biases included"
    if (point.mean is None) != (point.std is None):
        yield "mean, std: expected both or neither"


def _of_training(point: Point) -> Iterator[str]:
    if point.epochs is not None and point.updates is not None:
        yield "expected either epochs or updates, got both"
    if point.rewind_epoch and point.epochs is not None and point.rewind_epoch > point.epochs:
        yield f"rewind_epoch: expected at most the {point.epochs} epochs of the base, got {point.rewind_epoch}"
    if point.image_size is not None and not is_folder(point.dataset):
        yield f"image_size: it is for a folder of pictures, which {point.dataset} is not"
    if point.weights == IMAGENET:
        if point.model != "densenet121" or point.stem != "imagenet":
            yield "weights 'imagenet' are for densenet121 with --stem imagenet"
    elif point.weights is not None and not Path(str(point.weights)).is_file():
        yield f"weights: no such file {shown(point.weights)}; or 'imagenet' for densenet121"


def needs_labels(point: Point) -> list[str]:
    """What a point needs labels for; empty where it can do without."""
    if not MODELS[point.model].trained:
        return [f"model '{point.model}' is trained with labels; without them only a trained FILE.onnx can be studied"]
    found = []
    if point.epochs or point.updates:
        found.append("a file is trained further with labels only: leave --epochs and --updates out")
    if 0 < point.distill < 1:
        found.append("without labels the unpruned network is the only teacher: leave --distill out, or give 1")
    if point.control != "random" and CRITERIA[point.criterion].labels:
        able = ", ".join(name for name in criteria_of(point.technique) if not CRITERIA[name].labels)
        found.append(f"criterion '{point.criterion}' needs labels; {able} do not")
    return found
