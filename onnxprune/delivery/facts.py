"""What whoever runs a deployed file must know."""

from dataclasses import dataclass

from onnxprune.analysis.classifier import Classifier
from onnxprune.common.errors import RunError
from onnxprune.data.registry import title_of
from onnxprune.graph.images import Layout
from onnxprune.graph.metadata import Normalisation
from onnxprune.models import model_title


@dataclass(frozen=True)
class Facts:
    """What whoever runs a deployed file must know."""

    input_name: str
    output_name: str
    normalisation: Normalisation
    shape: tuple[int, int, int]
    layout: Layout
    classes: tuple[str, ...]

    @classmethod
    def of(cls, classifier: Classifier) -> "Facts":
        """Read off the file's metadata.

        Raises:
            RunError: they are missing: the file is not of a sweep.
        """
        metadata = classifier.metadata
        if metadata.normalisation is None or metadata.input_shape is None or metadata.classes is None:
            raise RunError(f"{classifier.path}: its metadata lack the normalisation, the input shape or the classes")
        return cls(
            input_name=classifier.image.name,
            output_name=classifier.output_name,
            normalisation=metadata.normalisation,
            shape=metadata.input_shape,
            layout=classifier.image.layout(metadata.input_shape),
            classes=metadata.classes,
        )


def titled(column: str, value: str) -> str:
    """A value of a column as people call it: models and data of their own without the way to their files."""
    return {"model": model_title, "dataset": title_of}.get(column, str)(value)


def listed(sizes: tuple[int, ...]) -> str:
    """Numbers with commas."""
    return ", ".join(map(str, sizes))
