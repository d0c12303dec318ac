"""A classifier's file with preprocessing and softmax in its graph, checked against the file that it is made of."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx.checker

from onnxprune.analysis.classifier import Classifier, scores, softmax
from onnxprune.analysis.evaluation import are_probabilities
from onnxprune.analysis.prediction import bordered, picture_shape
from onnxprune.common.errors import InputError, RunError, one_line
from onnxprune.common.files import replacing
from onnxprune.common.output import plural
from onnxprune.graph import baking
from onnxprune.graph.files import load
from onnxprune.graph.metadata import Normalisation
from onnxprune.runtime.helper import Limits, guarded, refusals, stage
from onnxprune.runtime.session import open_session
from onnxprune.runtime.sizes import SECONDS, bytes_around, run_memory

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
    classifier.check_batch(picture)
    taken = classifier.metadata.input_shape or picture
    pictures = np.random.default_rng(0).integers(0, 256, (classifier.batch or _IMAGES, *picture), np.uint8)
    images = np.stack([bordered(pixels, taken, picture) for pixels in pictures])
    layout = classifier.image.layout(taken)
    plain, _ = load(classifier.path)
    answers = scores(classifier.path, images, normalisation, len(images)).astype(np.float64)
    ends_in_softmax = are_probabilities(answers)
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
            size = bytes_around(partial)
            limits = Limits(run_memory(size, pictures.nbytes * 4), 1, True)
            with refusals(partial):
                found = guarded(f"{__name__}:probabilities_of", partial, pictures.transpose(0, 2, 3, 1), limits=limits)
        except InputError:
            raise
        except Exception as error:  # onnx's and onnxruntime's exceptions share no base class
            raise RunError(f"{out}: the preprocessing cannot be put into the file: {one_line(error)}") from error
        difference = float(np.abs(found - expected).max())
        if not difference <= _TOLERANCE:
            raise RunError(f"{out}: its probabilities differ from those of {classifier.path} by {difference:.2g}")
    return Baked(out, picture, baking.resizes(plain), difference)


def probabilities_of(path: Path, pictures: np.ndarray) -> np.ndarray:
    """What a baked file answers to pictures (N, H, W, C), in the helper process."""
    stage(f"a run on {plural(len(pictures), 'picture')}", SECONDS)
    found = open_session(path).run([baking.PROBABILITIES], {baking.PICTURE: np.ascontiguousarray(pictures)})[0]
    return np.asarray(found)
