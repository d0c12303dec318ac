"""What whoever runs a deployed file must know."""

from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxprune.analysis.classifier import Classifier
from onnxprune.common.errors import RunError
from onnxprune.data.registry import title_of
from onnxprune.graph.files import load
from onnxprune.graph.images import ImageInput, Layout
from onnxprune.graph.metadata import Metadata, Normalisation, parse
from onnxprune.graph.network import metadata
from onnxprune.models import model_title


@dataclass(frozen=True)
class Output:
    """
    Attributes:
        sizes: of an image's part; None for one that the file leaves open.
        kind: ONNX's name of its type, as FLOAT.
    """

    name: str
    sizes: tuple[int | None, ...]
    kind: str


@dataclass(frozen=True)
class Facts:
    """What whoever runs a deployed file must know.

    Attributes:
        outputs: of a classifier the one of its scores.
        classes: none where it is no classifier.
    """

    input_name: str
    outputs: tuple[Output, ...]
    normalisation: Normalisation
    shape: tuple[int, int, int]
    layout: Layout
    classes: tuple[str, ...]

    @classmethod
    def of(cls, classifier: Classifier) -> "Facts":
        """Read off the metadata of a classifier.

        Raises:
            RunError: they are missing: the file is not of a sweep.
        """
        told = classifier.metadata
        if told.classes is None:
            raise RunError(f"{classifier.path}: its metadata lack the classes")
        outputs = (Output(classifier.output_name, (len(told.classes),), "FLOAT"),)
        return cls._of(classifier.path, told, classifier.image, outputs, told.classes)

    @classmethod
    def of_file(cls, path: Path) -> "Facts":
        """Read off a file that is no classifier, whose content is known to be that of a sweep.

        Raises:
            RunError: its metadata lack something: the file is not of a sweep.
        """
        model, _ = load(path)
        outputs = tuple(
            Output(
                value.name,
                tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim)[1:],
                onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type),
            )
            for value in model.graph.output
        )
        return cls._of(path, parse(metadata(model)), ImageInput.of_value(model.graph.input[0]), outputs, ())

    @classmethod
    def _of(
        cls, path: Path, told: Metadata, image: ImageInput, outputs: tuple[Output, ...], classes: tuple[str, ...]
    ) -> "Facts":
        if told.normalisation is None or told.input_shape is None:
            raise RunError(f"{path}: its metadata lack the normalisation or the input shape")
        return cls(
            input_name=image.name,
            outputs=outputs,
            normalisation=told.normalisation,
            shape=told.input_shape,
            layout=image.layout(told.input_shape),
            classes=classes,
        )


def titled(column: str, value: str) -> str:
    """A value of a column as people call it: models and data of their own without the way to their files."""
    return {"model": model_title, "dataset": title_of}.get(column, str)(value)


def listed(sizes: tuple[int, ...]) -> str:
    """Numbers with commas."""
    return ", ".join(map(str, sizes))
