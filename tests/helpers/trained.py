"""A small network that has learned something: an MLP on scikit-learn's digits, as an ONNX file, with its data."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
from pruned import model
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

_TRAINED = 1_300  # of 1,797 digits


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (images[order] / 16).astype(np.float32), labels[order].astype(np.int64)


@cache
def _weights() -> dict[str, np.ndarray]:
    images, labels = _digits()
    found = MLPClassifier((48, 32), max_iter=40, random_state=0, n_iter_no_change=100)
    with np.errstate(all="ignore"):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.fit(images[:_TRAINED], labels[:_TRAINED])
    named = {}
    for number, (weight, bias) in enumerate(zip(found.coefs_, found.intercepts_, strict=True), 1):
        named[f"w{number}"], named[f"b{number}"] = weight.astype(np.float32), bias.astype(np.float32)
    return named


def mlp(path: Path, **properties: str) -> Path:
    """Writes the network: (n, 64) pixels in [0, 1] to (n, 10) scores; hidden layers of 48 and 32."""
    built = model(
        "(float[n,64] pixels) => (float[n,10] scores) {"
        "h1 = Gemm(pixels, w1, b1) r1 = Relu(h1) h2 = Gemm(r1, w2, b2) r2 = Relu(h2) scores = Gemm(r2, w3, b3) }",
        _weights(),
    )
    onnx.helper.set_model_props(built, properties)
    onnx.save(built, path)
    return path


def unlabelled(count: int = 256) -> dict[str, np.ndarray]:
    """Inputs that it was trained on."""
    return {"pixels": _digits()[0][:count]}


def accuracy(path: Path) -> float:
    """Percent of the digits that it was not trained on that the file classifies rightly."""
    import onnxruntime

    images, labels = _digits()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    scores = session.run(None, {"pixels": images[_TRAINED:]})[0]
    return 100 * float((scores.argmax(1) == labels[_TRAINED:]).mean())


def dataset(path: Path) -> Path:
    """Writes the digits, 8x8, as an .npz file: those it was trained on, and the others as its test set."""
    images, labels = _digits()
    pictures = np.round(255 * images).astype(np.uint8).reshape(-1, 8, 8)
    parts = {"train": slice(_TRAINED), "test": slice(_TRAINED, None)}
    np.savez(
        path,
        **{f"x_{name}": pictures[part] for name, part in parts.items()},
        **{f"y_{name}": labels[part] for name, part in parts.items()},
    )
    return path


def without_labels(path: Path) -> Path:
    """Writes the same images without their labels."""
    with np.load(dataset(path)) as file:
        images = {name: file[name] for name in ("x_train", "x_test")}
    np.savez(path, **images)
    return path
