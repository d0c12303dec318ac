"""A classifier's file with preprocessing and softmax in its graph, checked against the file that it is made of."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.checker

from onnxprune.analysis.classifier import Classifier, softmax
from onnxprune.analysis.prediction import bordered, picture_shape
from onnxprune.common.errors import InputError, RunError, one_line
from onnxprune.common.files import replacing
from onnxprune.graph import baking
from onnxprune.graph.metadata import Normalisation
from onnxprune.runtime.session import open_session

_IMAGES = 32  # random ones, that both files are run on
_TOLERANCE = 1e-4  # of a probability


@dataclass(frozen=True)
class Baked:
    """
    Attributes:
        picture: (C, H, W) that pictures are resized to.
        resizes: whether it takes pictures of any size; else they must have that one.
        difference: the largest of a probability from those of the plain file.
    """

    path: Path
    picture: tuple[int, int, int]
    resizes: bool
    difference: float


def bake(classifier: Classifier, normalisation: Normalisation, out: Path) -> Baked:
    """Writes the file, whole or not at all, after both have been run on the same random pictures.

    Raises:
        InputError: the file's images are no pictures.
        RunError: what it answers differs from the plain file's.
    """
    picture = picture_shape(classifier)
    taken = classifier.metadata.input_shape or picture
    pictures = np.random.default_rng(0).integers(0, 256, (classifier.batch or _IMAGES, *picture), np.uint8)
    images = np.stack([bordered(pixels, taken, picture) for pixels in pictures])
    layout = classifier.image.layout(taken)
    plain = onnx.load(classifier.path)
    answers = classifier.session.run(
        [classifier.output_name], {classifier.image.name: layout.apply(_normalised(images, normalisation))}
    )[0].astype(np.float64)
    ends_in_softmax = bool((answers >= 0).all() and np.allclose(answers.sum(axis=1), 1, atol=1e-3))
    model = baking.bake(
        plain,
        classifier.image.name,
        classifier.output_name,
        picture=picture,
        taken=taken,
        layout=layout,
        normalisation=normalisation,
        add_softmax=not ends_in_softmax,
    )
    expected = answers if ends_in_softmax else softmax(answers)
    with replacing(out) as partial:
        partial.write_bytes(model.SerializeToString())
        try:
            onnx.checker.check_model(str(partial), full_check=True)
            session = open_session(partial)
            found = session.run([baking.PROBABILITIES], {baking.PICTURE: pictures.transpose(0, 2, 3, 1)})[0]
        except InputError:
            raise
        except Exception as error:  # onnx's and onnxruntime's exceptions share no base class
            raise RunError(f"{out}: the preprocessing cannot be put into the file: {one_line(error)}") from error
        difference = float(np.abs(found - expected).max())
        if not difference <= _TOLERANCE:
            raise RunError(f"{out}: its probabilities differ from those of {classifier.path} by {difference:.2g}")
    return Baked(out, picture, baking.resizes(plain), difference)


def _normalised(images: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    mean, std = (
        np.asarray(numbers, np.float32).reshape(-1, 1, 1) for numbers in (normalisation.mean, normalisation.std)
    )
    return np.asarray((images.astype(np.float32) / 255 - mean) / std)
