"""Inputs to judge and repair a network by: named arrays, the images of a dataset, or a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from onnxprune.common.errors import InputError
from onnxprune.data.arrays import check_images
from onnxprune.data.dataset import Dataset, Split, canonical_name, load
from onnxprune.data.npz import array_names, read_arrays
from onnxprune.data.pictures import SUFFIXES, files_in, read_picture
from onnxprune.data.registry import is_named
from onnxprune.graph.images import ImageInput
from onnxprune.graph.metadata import Metadata, Normalisation
from onnxprune.graph.network import Network
from onnxprune.runtime.random_inputs import Inputs

Data = str | Path | Mapping[str, np.ndarray]

_BATCH = 32
_MOST_VALIDATION = 2_000  # images that a search for a largest drop is decided on


@dataclass(frozen=True)
class Labelled:
    """Images with their labels, made into inputs batch by batch, so that memory stays bounded.

    Attributes:
        split: the images, uint8.
        as_inputs: what makes them inputs.
        fixed: samples of a batch, where the model says so: one that is not full is filled by its last image, again
            and again, and has fewer labels.
    """

    split: Split
    as_inputs: Callable[[np.ndarray], Inputs]
    fixed: int | None

    def __iter__(self) -> Iterator[tuple[Inputs, np.ndarray]]:
        size = self.fixed or 8 * _BATCH
        for start in range(0, len(self.split), size):
            images, labels = self.split.images[start : start + size], self.split.labels[start : start + size]
            if self.fixed is not None:
                images = np.pad(images, [(0, size - len(images)), *[(0, 0)] * (images.ndim - 1)], mode="edge")
            yield self.as_inputs(images), labels


@dataclass(frozen=True)
class Samples:
    """
    Attributes:
        fitting, held_out: inputs without labels, in batches: to judge and repair by, and for what is reported, by which
            nothing is chosen or fitted.
        validation: with labels, to decide by; `test`: for accuracy; None where there are none.
        source: what they are, for people.
        dataset: name of the data that the labels are of; None where there are none.
    """

    fitting: list[Inputs]
    held_out: list[Inputs]
    source: str
    validation: Labelled | None = None
    test: Labelled | None = None
    dataset: str | None = None


@dataclass(frozen=True)
class SampleSource:
    """Where samples come from; the fields are the arguments of `read_samples`."""

    data: Data
    data_dir: Path | None
    mean: Sequence[float] | None
    std: Sequence[float] | None


def sample_source(
    data: Data | None, data_dir: str | Path | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> SampleSource | None:
    """Of what a user gives, who may give none."""
    return None if data is None else SampleSource(data, None if data_dir is None else Path(data_dir), mean, std)


def read_samples(
    data: Data,
    network: Network,
    metadata: Metadata,
    *,
    count: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    data_dir: Path | None = None,
    seed: int = 0,
) -> Samples:
    """Reads inputs for a network.

    Args:
        data: arrays (samples, ...) of the inputs by name, or an .npz of them; a dataset by name or an .npz with its
            x_train, with or without labels and a test set; or a folder of pictures.
        count: samples at most, drawn at random by the seed; an eighth of them is held out.
        mean, std: of pixels in [0, 1], for images, where the metadata do not say them.

    Raises:
        InputError: they cannot be read, or do not fit the network's inputs.
    """
    if isinstance(data, Mapping):
        given = {name: np.asarray(array) for name, array in data.items()}
        return _from_arrays("the arrays given", given, network, count, seed)
    path = Path(data)
    arrays: dict[str, np.ndarray] = {}
    if path.suffix == ".npz" and path.is_file():
        inputs = {value.name for value in network.model.graph.input}
        names = array_names(path)
        if inputs <= set(names) or "x_train" not in names:
            given = read_arrays(path, sorted(inputs & set(names) or names))
            return _from_arrays(str(path), given, network, count, seed)
        if "y_train" not in names:
            arrays = read_arrays(path, ["x_train"])
    images = _Images(network, metadata, mean, std, str(data))
    if path.is_dir() and (isinstance(data, Path) or not is_named(data)):  # as studies do
        return _from_folder(path, images, count, seed)
    if arrays:
        pictures = check_images(arrays["x_train"], f"{path}: x_train")
        return _split(images.batches(pictures[_chosen(len(pictures), count, seed)]), str(path))
    if not path.exists() and (path.suffix or len(path.parts) > 1):
        raise InputError(f"{path}: no such file or folder")
    return _from_dataset(load(canonical_name(str(data)), data_dir), images, count, seed)


def _from_arrays(source: str, arrays: Mapping[str, np.ndarray], network: Network, count: int, seed: int) -> Samples:
    inputs = {value.name: value for value in network.model.graph.input}
    missing = [name for name in inputs if name not in arrays]
    if missing:
        raise InputError(
            f"{source}: there is no array {missing[0]!r}: expected one for each input of the model "
            f"({', '.join(inputs)}), or x_train of a dataset; there are {', '.join(arrays) or 'none'}"
        )
    fitting = {name: _fitting(f"{source}: array {name!r}", arrays[name], inputs[name]) for name in inputs}
    lengths = {len(array) for array in fitting.values() if array.ndim}
    if len(lengths) != 1:
        raise InputError(f"{source}: its arrays have different numbers of samples: {sorted(lengths)}")
    chosen = _chosen(lengths.pop(), count, seed)
    parts = batch_places(len(chosen), network.fixed_batch)
    batches = [
        {name: array[chosen[part]] if array.ndim else array for name, array in fitting.items()} for part in parts
    ]
    return _split(batches, source)


def _fitting(what: str, array: np.ndarray, value: onnx.ValueInfoProto) -> np.ndarray:
    """The array in the input's type; of an input that is one number, which has no samples, that number.

    Raises:
        InputError: its type, shape or numbers are not those of an input.
    """
    if not value.type.HasField("tensor_type"):
        raise InputError(f"{what}: the model's input {value.name!r} is no tensor")
    wanted = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    declared = [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
    if array.dtype != wanted and not np.can_cast(array.dtype, wanted, "same_kind"):
        raise InputError(f"{what} is {array.dtype}, the model takes {wanted}")
    if value.type.tensor_type.HasField("shape"):
        fits = len(declared) == array.ndim and all(
            have in (None, size) for have, size in zip(declared[1:], array.shape[1:], strict=True)
        )
    else:
        fits = array.ndim > 0
    if not fits:
        shape = [size or "any" for size in declared]
        raise InputError(f"{what} is {list(array.shape)}, the model takes {shape or 'one number, without samples'}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{what} has numbers that are not finite")
    return array.astype(wanted, copy=False)


@dataclass(frozen=True)
class _Images:
    """Turns images into inputs of a network that takes nothing else."""

    network: Network
    metadata: Metadata
    mean: Sequence[float] | None
    std: Sequence[float] | None
    data: str

    @property
    def value(self) -> onnx.ValueInfoProto:
        """The input.

        Raises:
            InputError: there are several.
        """
        values = list(self.network.model.graph.input)
        if len(values) != 1 or not values[0].type.HasField("tensor_type"):
            names = ", ".join(value.name for value in values)
            raise InputError(
                f"{self.data}: the model has {len(values)} inputs ({names}), which images alone do not feed: give an "
                ".npz with an array for each"
            )
        return values[0]

    @property
    def kind(self) -> np.dtype:
        """Type of the input."""
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.value.type.tensor_type.elem_type))

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of an image, where the metadata or the input tell."""
        if self.metadata.input_shape is not None:
            return self.metadata.input_shape
        channels, height, width = ImageInput.of_value(self.value).shape
        return (channels, height, width) if channels and height and width else None

    def normalisation(self, dataset: Dataset | None = None) -> Normalisation:
        """Of the options, else of the file's metadata.

        Raises:
            InputError: neither says it.
        """
        recorded = self.metadata.normalisation
        mean = recorded.mean if self.mean is None and recorded else self.mean
        std = recorded.std if self.std is None and recorded else self.std
        if mean is None or std is None:
            found = ""
            if dataset is not None:
                listed = (",".join(f"{number:.4f}" for number in numbers) for numbers in (dataset.mean, dataset.std))
                found = "of {}'s training images they are --mean {} --std {}; ".format(dataset.name, *listed)
            raise InputError(
                f"{self.data}: the model's metadata do not say how images are normalised: give the --mean and --std "
                f"it was trained with ({found}for plain pixels / 255 give --mean 0 --std 1)"
            )
        return Normalisation(tuple(mean), tuple(std))

    def batches(self, images: np.ndarray, dataset: Dataset | None = None) -> list[Inputs]:
        """Images (N, C, H, W), uint8, as inputs in batches."""
        convert = self.converter(dataset)
        parts = batch_places(len(images), self.network.fixed_batch)
        return [convert(images[part]) for part in parts]

    def converter(self, dataset: Dataset | None = None) -> Callable[[np.ndarray], Inputs]:
        """What makes images inputs: as they are for an input of integers, else normalised."""
        normalisation = self.normalisation(dataset) if self.kind.kind == "f" else None
        return lambda images: {self.value.name: as_input(images, self.value, normalisation)}


def _from_dataset(dataset: Dataset, images: _Images, count: int, seed: int) -> Samples:
    shape = images.shape
    if shape is not None:
        dataset = dataset.padded(*shape[1:])
    convert, fixed = images.converter(dataset), images.network.fixed_batch
    chosen = _chosen(len(dataset.train), count, seed)
    samples = _split(images.batches(dataset.train.images[chosen], dataset), f"{dataset.name}'s training images")
    few = dataset.validation.some(_MOST_VALIDATION)
    validation, test = (Labelled(split, convert, fixed) for split in (few, dataset.test))
    return Samples(samples.fitting, samples.held_out, samples.source, validation, test, dataset.name)


def _from_folder(path: Path, images: _Images, count: int, seed: int) -> Samples:
    files = files_in(path)
    if not files:
        raise InputError(f"{path}: there is no picture in it ({', '.join(sorted(SUFFIXES))})")
    shape = images.shape
    if shape is None or shape[0] not in (1, 3):
        raise InputError(
            f"{path}: the size of images is not known from the model's input {images.value.name!r} or its metadata: "
            "give an .npz with an array for it"
        )
    chosen = [files[index] for index in _chosen(len(files), count, seed)]
    return _split(images.batches(np.stack([read_picture(file, shape)[0] for file in chosen])), f"pictures of {path}")


def as_input(images: np.ndarray, value: onnx.ValueInfoProto, normalisation: Normalisation | None) -> np.ndarray:
    """Images (N, C, H, W), uint8, as an input of the model: normalised, and laid out as it declares.

    Raises:
        InputError: it takes them in no layout, or the normalisation is for other channels.
    """
    found = images
    if normalisation is not None:
        normalisation.check_channels(images.shape[1])
        mean, std = (
            np.asarray(part, np.float32).reshape(1, -1, 1, 1) for part in (normalisation.mean, normalisation.std)
        )
        found = (images.astype(np.float32) / 255 - mean) / std
    image = ImageInput.of_value(value)
    return image.layout(images.shape[1:]).apply(found).astype(image.kind, copy=False)


def _chosen(available: int, count: int, seed: int) -> np.ndarray:
    """In random order, since the last are held out and a file may be sorted by class."""
    return np.random.default_rng(seed).permutation(available)[:count]


def kept_apart(batches: int) -> int:
    """How many of so many batches others are checked by."""
    return max(1, batches // 8)


def count_samples(batches: Iterable[Inputs]) -> int:
    """Samples of all batches."""
    return sum(max((len(value) for value in feed.values() if value.ndim), default=0) for feed in batches)


def batch_places(count: int, fixed: int | None) -> list[np.ndarray]:
    """Places of each batch's samples: batches of about one size, eight of them or more where there are few samples.

    Where the model fixes their size, what does not fill one is left out.
    """
    if fixed is not None:
        return list(np.arange(count // fixed * fixed).reshape(-1, fixed))
    size = min(_BATCH, max(1, count // 8))
    return np.array_split(np.arange(count), max(1, -(-count // size)))


def _split(batches: list[Inputs], source: str) -> Samples:
    if len(batches) < 2:
        raise InputError(f"{source}: too few samples: give two batches at least, one to fit and one to check")
    held = kept_apart(len(batches))
    return Samples(batches[:-held], batches[-held:], source)
