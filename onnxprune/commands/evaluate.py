"""`evaluate`: an ONNX file on a dataset's test set."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.commands.console import echo, prose
from onnxprune.commands.options import (
    DATA_DIR,
    DEVICE,
    IMAGE_SIZE,
    MEAN,
    STD,
    THREADS,
    PathName,
    check_measured,
    machine_readable,
    print_rows,
)
from onnxprune.common.environment import usable_cores

if TYPE_CHECKING:
    from onnxprune.analysis.assessment import Assessment
    from onnxprune.analysis.classifier import Classifier
    from onnxprune.data.dataset import Dataset
    from onnxprune.graph.metadata import Normalisation

_MOST_COLUMNS = 20  # of a confusion matrix that fits a terminal
_PAIRS = 10


@click.command()
@click.argument("model", type=PathName(path_type=Path))
@click.option(
    "--dataset", required=True, help="Data: a name of 'onnxprune datasets', FILE.npz, or a FOLDER of pictures."
)
@IMAGE_SIZE
@DATA_DIR
@MEAN
@STD
@DEVICE
@THREADS
@machine_readable
def evaluate(
    model: Path,
    dataset: str,
    image_size: tuple[int, int] | None,
    data_dir: Path | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    device: str,
    threads: int | None,
    output: str | None,
) -> None:
    """Measure the accuracy of an ONNX file on a dataset's full test set.

    Prints top-1, top-5, cross-entropy, the accuracy of each class and the confusion matrix, measured by onnxruntime.
    Pictures of a folder are resized to the size in the file's metadata, or to --image-size.

    \b
    Examples:
      onnxprune evaluate model.onnx --dataset fmnist
      onnxprune evaluate model.onnx --dataset photos
      onnxprune evaluate other.onnx --dataset cifar10 --mean 0.49,0.48,0.45 --std 0.25,0.24,0.26 --json
    """
    from onnxprune.runtime.helper import warm_up

    warm_up()
    from onnxprune.analysis.assessment import assess
    from onnxprune.analysis.classifier import open_classifier
    from onnxprune.data.registry import canonical_name

    check_measured(model)
    name = canonical_name(dataset)
    classifier = open_classifier(model, device=device, threads=threads or usable_cores())
    data = _loaded(name, data_dir, classifier, image_size)
    normalisation = _normalisation(classifier, data, mean, std)
    trained_on = classifier.metadata.dataset
    if trained_on not in (None, data.name):
        prose(f"Note: the file's metadata say it was trained on {trained_on}, not {data.name}.", err=True)
    _say_other_classes(classifier.metadata.classes, data.classes)
    found = assess(classifier, data, normalisation)
    if output == "csv":
        print_rows(_class_rows(found), output)
    elif output == "json":
        used = {"mean": list(normalisation.mean), "std": list(normalisation.std)}
        echo(json.dumps({"model": str(model), "dataset": data.name, **used, **found.as_json()}, indent=1))
    else:
        _print(classifier, data, normalisation, found)


def _loaded(name: str, data_dir: Path | None, classifier: "Classifier", size: tuple[int, int] | None) -> "Dataset":
    """The data; the pictures of a folder are brought to what the file was trained on."""
    from onnxprune.analysis.prediction import picture_shape
    from onnxprune.common.errors import InputError
    from onnxprune.common.progress import Verbosity
    from onnxprune.data.dataset import load
    from onnxprune.data.registry import is_folder

    channels = None
    if is_folder(name):
        try:
            channels, *own_size = picture_shape(classifier)
            size = size or (own_size[0], own_size[1])
        except InputError:  # what does not fit the file is told when it is run on it
            pass
    return load(name, data_dir, size=size, channels=channels, verbosity=Verbosity.NORMAL)


def _say_other_classes(trained: tuple[str, ...] | None, given: tuple[str, ...]) -> None:
    """Outputs and labels are compared by their places, whatever they are called."""
    numbers = tuple(map(str, range(len(given))))  # of data whose classes nothing names
    if trained is None or len(trained) != len(given) or given == numbers:
        return
    for place, (one, other) in enumerate(zip(trained, given, strict=True)):
        if one != other:
            prose(f"Note: output {place} of the file is {one!r}, label {place} of the data is {other!r}.", err=True)
            return


def _class_rows(found: "Assessment") -> list[dict[str, Any]]:
    """One row a true class: its accuracy, and its images by the class predicted."""
    return [
        {
            "class": name,
            "accuracy": accuracy,
            **{f"predicted {other}": n for other, n in zip(found.classes, row, strict=True)},
        }
        for name, accuracy, row in zip(found.classes, found.class_accuracy, found.confusion.tolist(), strict=True)
    ]


def _normalisation(
    classifier: "Classifier", data: "Dataset", mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> "Normalisation":
    """The options' where they are given, else that of the file's metadata.

    Raises:
        InputError: there is none.
    """
    from onnxprune.common.errors import InputError
    from onnxprune.graph.metadata import Normalisation

    recorded = classifier.metadata.normalisation
    if recorded is None:
        for problem in classifier.metadata.problems:
            prose(f"Note: {classifier.path}: {problem}", err=True)
        if mean is None or std is None:
            shown = (",".join(f"{number:.4f}" for number in numbers) for numbers in (data.mean, data.std))
            raise InputError(
                f"{classifier.path}: its metadata do not say how images are normalised: give the --mean and --std "
                "it was trained with (of {}'s training images they are --mean {} --std {}; for plain pixels / 255 give "
                "--mean 0 --std 1)".format(data.name, *shown)
            )
        return Normalisation(mean, std)
    used = Normalisation(mean or recorded.mean, std or recorded.std)
    if used != recorded:
        prose(
            f"Note: normalised by the options, mean {_listed(used.mean)} and std {_listed(used.std)}; the file's "
            f"metadata say mean {_listed(recorded.mean)} and std {_listed(recorded.std)}.",
            err=True,
        )
    return used


def _listed(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:.4g}" for number in numbers)


def _print(classifier: "Classifier", data: "Dataset", normalisation: "Normalisation", found: "Assessment") -> None:
    scores = found.scores
    known = classifier.metadata
    recorded = known.accuracy if known.dataset == data.name else None
    low, high = found.interval
    echo(f"{classifier.path} on {data.name}: {found.images:,} test images, by onnxruntime")
    if known.technique is not None and known.sparsity is not None:
        echo(f"pruned: {known.technique}, {known.sparsity:g} % asked for")
    echo(
        f"normalised: pixel / 255, minus {_listed(normalisation.mean)}, divided by {_listed(normalisation.std)}\n\n"
        f"accuracy       {scores.accuracy:6.2f} %   (95 % interval: {low:.2f} to {high:.2f} %"
        + (f"; recorded in the file: {recorded:.2f} %)\n" if recorded is not None else ")\n")
        + f"top-5          {scores.top5_accuracy:6.2f} %"
        + ("   (there are no more than 5 classes)\n" if len(found.classes) <= 5 else "\n")
        + f"cross-entropy  {scores.cross_entropy:6.4f} nats\n"
    )
    if scores.collapsed:
        echo(
            f"The network has collapsed: {scores.most_predicted:.1f} % of the images get the same prediction"
            + (", and the same scores.\n" if scores.constant else ".\n")
        )
    if found.not_finite:
        echo(f"{found.not_finite:,} images got an output that is not finite; they count as wrong.\n")
    if len(found.classes) <= _MOST_COLUMNS:
        _print_matrix(found)
    else:
        _print_classes(found)


def _percent(accuracy: float | None) -> str:
    return "     -" if accuracy is None else f"{accuracy:6.2f}"


def _print_matrix(found: "Assessment") -> None:
    names = [name if name == str(index) else f"{index} {name}"[:24] for index, name in enumerate(found.classes)]
    left = max(len("true class"), *map(len, names))
    wide = max(len(str(found.confusion.max())), len(str(len(names)))) + 2
    echo("Accuracy of each class, and its images by the class predicted (. is none):\n")
    echo(f"{'true class':{left}}  acc. %  " + "".join(f"{index:{wide}}" for index in range(len(names))))
    for name, accuracy, row in zip(names, found.class_accuracy, found.confusion.tolist(), strict=True):
        echo(f"{name:{left}}  {_percent(accuracy)}  " + "".join(f"{count or '.':>{wide}}" for count in row))


def _print_classes(found: "Assessment") -> None:
    wide = max(map(len, found.classes))
    echo("Accuracy of each class, %:\n")
    for name, accuracy in zip(found.classes, found.class_accuracy, strict=True):
        echo(f"{name:{wide}}  {_percent(accuracy)}")
    counts = found.confusion.copy()
    for index in range(len(counts)):
        counts[index, index] = 0
    echo("\nMost frequent confusions (the whole matrix: --json):\n")
    for position in counts.ravel().argsort(kind="stable")[::-1][:_PAIRS].tolist():
        true, predicted = divmod(position, len(counts))
        if counts[true, predicted]:
            echo(f"{counts[true, predicted]:6}  {found.classes[true]} taken for {found.classes[predicted]}")
